package partition

import (
	"errors"
	"testing"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
)

// TestDuplicateInFlightSharesTheOutcome holds F14: a batch that comes again while the first one is on its way is told nothing before the first
// one is, and then what the first one is told. The disk decides when that is, and whether it is written.
func TestDuplicateInFlightSharesTheOutcome(t *testing.T) {
	for _, c := range []struct {
		name string
		disk error
	}{{"written", nil}, {"the disk fails", errors.New("input/output error")}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.mustProduce(batch(5, 0, 0, 3), 0)
			reached, goOn := make(chan struct{}, 1), make(chan struct{})
			r.disk.OnBefore(func(op vfs.Op) error {
				if op.Kind != vfs.OpSync {
					return nil
				}
				select {
				case reached <- struct{}{}:
				default:
				}
				<-goOn
				return c.disk
			})
			t.Cleanup(func() { r.disk.OnBefore(nil) })
			first := r.send(batch(5, 0, 3, 2))
			<-reached
			// What is answered out of hand is answered before send returns.
			again, other := r.send(batch(5, 0, 3, 2)), r.send(batch(6, 0, 0, 1))
			if len(first)+len(again)+len(other) != 0 {
				t.Error("somebody was answered before the disk had anything")
			}
			close(goOn)
			a, b := await(t, first), await(t, again)
			if c.disk == nil {
				if a.err != nil || b.err != nil || a.BaseOffset != 3 || b.BaseOffset != 3 || a.Duplicate || !b.Duplicate {
					t.Fatalf("original %+v, duplicate %+v", a, b)
				}
				return
			}
			for _, o := range []outcome{a, b} {
				var e *Error
				if !errors.As(o.err, &e) || e.Outcome != raftgroup.MayHaveHappened {
					t.Errorf("told %+v, want that it may have happened", o)
				}
			}
		})
	}
}
