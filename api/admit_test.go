package api

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/sasl"
)

// demandingRig is one whose callers have to prove that they are alice.
func demandingRig(t *testing.T, change func(*frontdoor.GuardConfig)) *rig {
	c, err := sasl.Derive(sasl.ScramSHA256, "secret", sasl.NewSalt(), sasl.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	alice := &metadata.Credential{User: "alice", Mechanism: metadata.ScramSHA256, Salt: c.Salt, Iterations: c.Iterations, StoredKey: c.StoredKey, ServerKey: c.ServerKey}
	return newRig(t, func(c *Config) {
		cluster := c.Cluster.(*fakeCluster)
		cluster.ruled.Store(cluster.img.WithAccess([]*metadata.Credential{alice},
			[]acl.Rule{{Type: acl.Topic, Name: "t", Pattern: acl.Literal, Principal: "User:alice", Host: "*", Operation: acl.All, Permission: acl.Allow}}))
		g := frontdoor.GuardConfig{Image: cluster.Image, Enforce: true, Mechanisms: map[string][]string{"grpc.default": {sasl.Plain}}}
		if change != nil {
			change(&g)
		}
		c.Guard = frontdoor.NewGuard(g)
	})
}

// login gives what calls of alice show.
func (r *rig) login() context.Context {
	r.t.Helper()
	s, err := clientv1.NewAuthServiceClient(r.conn).Authenticate(r.ctx())
	if err == nil {
		err = s.Send(&clientv1.AuthenticateRequest{Mechanism: sasl.Plain, Message: []byte("\x00alice\x00secret")})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := s.Recv()
	if err != nil || a.Token == "" {
		r.t.Fatalf("login: %v, %v", a, err)
	}
	if _, err := s.Recv(); err != io.EOF {
		r.t.Fatalf("login ends with %v", err)
	}
	return grpcmetadata.AppendToOutgoingContext(r.ctx(), "authorization", "Bearer "+a.Token)
}

// Of who has proven nothing, no request is read; who has may ask for what its rights allow.
func TestCallsWithoutProofAreNotRead(t *testing.T) {
	t.Parallel()
	r := demandingRig(t, nil)
	large := &clientv1.GetMetadataRequest{Topics: []string{strings.Repeat("x", 2<<20)}}
	for what, ctx := range map[string]context.Context{
		"nothing":          r.ctx(),
		"another's token":  grpcmetadata.AppendToOutgoingContext(r.ctx(), "authorization", "Bearer abcd"),
		"something else":   grpcmetadata.AppendToOutgoingContext(r.ctx(), "authorization", "Basic abcd"),
		"an empty token":   grpcmetadata.AppendToOutgoingContext(r.ctx(), "authorization", "Bearer "),
		"an empty heading": grpcmetadata.AppendToOutgoingContext(r.ctx(), "authorization", ""),
	} {
		_, err := r.admin.GetMetadata(ctx, large)
		if e, _, ok := clientv1.ErrorOf(err); !ok || status.Code(err) != codes.Unauthenticated || e.Reason != frontdoor.ReasonUnauthenticated || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			t.Errorf("%s: %v", what, err)
		}
		stream, err := r.client.Produce(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, a stream: %v", what, err)
		}
	}
	if got := r.metric(r.server.metrics.turnedAway); got != 10 {
		t.Errorf("%v calls are counted as turned away", got)
	}
	if got := r.metric(r.server.metrics.requests.WithLabelValues(clientv1.AdminService_GetMetadata_FullMethodName, codes.Unauthenticated.String())); got != 0 {
		t.Errorf("%v calls came further than the door", got)
	}
	ctx := r.login()
	a, err := r.admin.GetMetadata(ctx, &clientv1.GetMetadataRequest{Topics: []string{"t", "orders"}})
	if err != nil || a.Topics[0].Error != nil || a.Topics[1].Error.GetMetadata()["principal"] != "User:alice" {
		t.Errorf("alice sees %v, %v", a, err)
	}
	if _, err := r.admin.GetMetadata(ctx, large); status.Code(err) != codes.OK {
		t.Errorf("a large request of alice: %v", err)
	}
}

// A connection on which nobody has proven anything may ask what anybody may ask, for ever, but have only so much under way.
func TestConnectionsWithoutProofAreBounded(t *testing.T) {
	t.Parallel()
	r := demandingRig(t, nil)
	health := healthpb.NewHealthClient(r.conn)
	// Each alone is far below the limit. The server may learn of a call's end only when the next has begun.
	for range 20 {
		if _, err := health.Check(r.ctx(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", maxUnprovenBytes/8)}); status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
	}
	watch := func() error {
		w, err := health.Watch(r.ctx(), &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = w.Recv()
		return err
	}
	for i := range maxUnprovenCalls + 1 {
		if err := watch(); (status.Code(err) == codes.ResourceExhausted) != (i == maxUnprovenCalls) {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	other := r.dial(r.listener)
	health = healthpb.NewHealthClient(other)
	if _, err := health.Check(r.ctx(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", 2<<20)}); status.Code(err) != codes.Unavailable {
		t.Errorf("a large request without proof: %v", err)
	}
	if got := r.metric(r.server.metrics.connectionsCut.WithLabelValues(cutTooMuch)); got != 1 {
		t.Errorf("%v connections were cut", got)
	}
	r.conn = other
	if _, err := clientv1.NewAdminServiceClient(other).GetMetadata(r.login(), &clientv1.GetMetadataRequest{}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxUnprovenCalls {
		if err := watch(); err != nil {
			t.Fatalf("watch %d of alice: %v", i, err)
		}
	}
	if _, err := health.Check(r.ctx(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", 2<<20)}); status.Code(err) != codes.NotFound {
		t.Errorf("a large request of alice: %v", err)
	}
}

// Who may call without proof is ANONYMOUS then, not the broker itself.
func TestCallersWithoutProofAreAnonymous(t *testing.T) {
	t.Parallel()
	r := demandingRig(t, nil)
	d := door{r.server, "default"}
	for method := range open {
		ctx, err := d.admit(context.Background(), &tap.Info{FullMethodName: method})
		if err != nil {
			t.Fatal(err)
		}
		if by, ok := ctx.Value(callerKey{}).(frontdoor.Caller); !ok || by.Principal() != "User:ANONYMOUS" {
			t.Errorf("%s: %+v", method, by)
		}
	}
	if by := callerOf(context.Background()); by.Principal() != "User:ANONYMOUS" {
		t.Errorf("without a door: %+v", by)
	}
}

// silent is a client that opens a stream and says nothing more.
type silent struct {
	grpc.ServerStream
	ctx   context.Context
	over  atomic.Bool
	after atomic.Int32 // uses of the stream after its end
}

func (s *silent) Context() context.Context { return s.ctx }

func (s *silent) Recv() (*clientv1.AuthenticateRequest, error) {
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

func (s *silent) Send(*clientv1.AuthenticateResponse) error {
	if s.over.Load() {
		s.after.Add(1)
	}
	return nil
}

// said is a client that says one thing.
type said struct {
	silent
	msg  *clientv1.AuthenticateRequest
	when time.Duration
	once atomic.Bool
}

func (s *said) Recv() (*clientv1.AuthenticateRequest, error) {
	if s.once.CompareAndSwap(false, true) {
		time.Sleep(s.when)
		return s.msg, nil
	}
	return s.silent.Recv()
}

// A proof that is not given in time ends, whatever the client is about, and nothing uses its stream afterwards.
func TestAProofThatTakesTooLong(t *testing.T) {
	r := demandingRig(t, nil)
	for what, c := range map[string]*said{
		"silence":                    {when: time.Hour},
		"a wrong message in the end": {when: frontdoor.LoginTime - frontdoor.LoginDelay/2, msg: &clientv1.AuthenticateRequest{Mechanism: sasl.Plain, Message: []byte("x")}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c.ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}})
			svc := &service{Server: &Server{c: r.server.c, metrics: r.server.metrics}, listener: "default"}
			start := time.Now()
			err := svc.Authenticate(c)
			c.over.Store(true)
			if took := time.Since(start); took != frontdoor.LoginTime || status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s: %v after %v", what, err, took)
			}
			cancel()
			time.Sleep(2 * time.Hour)
			if n := c.after.Load(); n > 0 {
				t.Errorf("%s: the stream is used %d times after its end", what, n)
			}
		})
	}
}
