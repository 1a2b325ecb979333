package raftgroup

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplication(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			started := time.Now()
			c.openAll(7)
			_, r := c.leader(7)
			t.Logf("leader after %v", time.Since(started))
			var want []string
			for i := range 100 {
				want = append(want, fmt.Sprintf("command %d", i))
				r.propose(t, want[i])
			}
			c.agree(7, want)
		})
	})
}

// Raft says "replication failed" of a transfer before it tells anybody to stand for election, and nowhere else.
func TestTransferToOneThatWasNotBroughtUp(t *testing.T) {
	var g Group
	for text, want := range map[string]Outcome{"replication failed": DidNotHappen, "failed to make TimeoutNow RPC": MayHaveHappened} {
		if got := OutcomeOf(g.sortTransferError(errors.New(text), true)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
