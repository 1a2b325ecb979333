package api

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// A connection on which nobody proves anything is closed, as Kafka's is, once nothing has been under way on it for as long as a proof may take. Who
// watches the health, looks at it now and then, or has proven who it is, stays.
func TestIdleConnectionsWithoutProofAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := demandingRig(t, nil)
		dialled := func() *grpc.ClientConn {
			c := r.dial(r.listener)
			c.Connect()
			synctest.Wait()
			if s := c.GetState(); s != connectivity.Ready {
				t.Fatalf("a connection is %v at once", s)
			}
			return c
		}
		check := func(c *grpc.ClientConn) {
			t.Helper()
			if _, err := healthpb.NewHealthClient(c).Check(r.ctx(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		silent, asking, watching, proven := dialled(), dialled(), dialled(), dialled()
		w, err := healthpb.NewHealthClient(watching).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		r.conn = proven
		if _, err := clientv1.NewAdminServiceClient(proven).GetMetadata(r.login(), &clientv1.GetMetadataRequest{}); err != nil {
			t.Fatal(err)
		}
		states := func(when string, want ...connectivity.State) {
			t.Helper()
			synctest.Wait()
			for i, c := range []*grpc.ClientConn{silent, asking, watching, proven} {
				if s := c.GetState(); s != want[i] {
					t.Errorf("%s: connection %d is %v, want %v", when, i, s, want[i])
				}
			}
		}
		time.Sleep(maxUnprovenIdle - time.Second)
		check(asking)
		states("before the time", connectivity.Ready, connectivity.Ready, connectivity.Ready, connectivity.Ready)
		time.Sleep(2 * time.Second)
		states("after it", connectivity.Idle, connectivity.Ready, connectivity.Ready, connectivity.Ready)
		time.Sleep(maxUnprovenIdle)
		states("after twice", connectivity.Idle, connectivity.Idle, connectivity.Ready, connectivity.Ready)
		if got := r.metric(r.server.metrics.connectionsCut.WithLabelValues(cutIdle)); got != 2 {
			t.Errorf("%v connections are counted as cut", got)
		}
		if log := r.logged.String(); strings.Count(log, `msg="connection closed" reason=idle detail="no proof within 15s`) != 2 {
			t.Errorf("the log says %s", log)
		}
		check(silent) // by another connection
	})
}
