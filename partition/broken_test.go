package partition

import (
	"context"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
)

// TestBrokenInvariant: a command that apply cannot read stops the replica, and says so. Nobody who asks for its status, or for anything
// else, waits for ever.
func TestBrokenInvariant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	r.mustProduce(keyed(7, 0, 0, false, "k", "a"), 0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	replica := r.host.replica(testTP)
	if _, err := replica.group.Propose(ctx, raftgroup.Command{Meta: []byte{commandVersion, 250}}); err == nil {
		t.Fatal("a command that nobody knows was applied")
	}
	answered := make(chan GroupStatus, 1)
	go func() {
		_ = r.host.producers()
		s := r.host.Groups()[0]
		for s.Problem == "" && ctx.Err() == nil { // raftgroup is being told
			waitTick(ctx)
			s = r.host.Groups()[0]
		}
		answered <- s
	}()
	select {
	case s := <-answered:
		if s.Problem == "" || s.HighWater != 1 {
			t.Fatalf("status %+v, want the reason, and the log as it was", s)
		}
	case <-ctx.Done():
		t.Fatal("the status is not answered")
	}
	if _, err := replica.ready(); err == nil {
		t.Fatal("it still leads")
	}
	if _, err := replica.Snapshot(); err == nil {
		t.Fatal("what is half applied gets into a snapshot")
	}
}
