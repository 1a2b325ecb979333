package cluster

import (
	"testing"
	"time"
)

// A controller that is about to stop hands over at once, and nobody waits for a timeout; one that does
// not lead, or is alone, has nothing to hand over.
func TestResign(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		old := r.controller()
		began := time.Now()
		if err := old.cluster.Resign(r.context(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if next := r.controller(); next == old || time.Since(began) > 500*time.Millisecond {
			t.Errorf("broker %d is the controller after %v, broker %d was", next.id, time.Since(began), old.id)
		}
		for _, n := range []*node{a, b, c} {
			if n != r.controller() {
				if err := n.cluster.Resign(r.context(time.Second)); err != nil {
					t.Errorf("broker %d resigns what it does not have: %v", n.id, err)
				}
			}
		}
	})
	onVirtualTime(t, func(r *rig) {
		alone := r.start(7)
		r.formed(1, alone)
		if err := alone.cluster.Resign(r.context(time.Second)); err != nil || r.controller() != alone {
			t.Errorf("the only broker resigns: %v", err)
		}
	})
}
