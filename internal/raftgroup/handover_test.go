package raftgroup

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A command that comes while leadership is handed over is not refused before it is known who leads, and then its caller is told.
func TestCommandsWaitForAHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		for _, a := range c.nodes {
			for _, b := range c.nodes {
				c.net.setDelay(a.name, b.name, 5*time.Millisecond)
			}
		}
		to := c.others(n)[1]
		over := make(chan error)
		go func() { over <- r.group.TransferLeadership(t.Context(), MakeServerID(to.id, 1)) }()
		var refused atomic.Int64
		for done := false; !done; {
			select {
			case err := <-over:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			case <-time.After(time.Millisecond):
			}
			began := time.Now()
			r.group.ProposeAsync(Command{Data: []byte("x")}, func(_ any, err error) {
				var notLeader *NotLeaderError
				switch {
				case err == nil:
				case !errors.As(err, &notLeader) || OutcomeOf(err) != DidNotHappen:
					t.Errorf("a command is told %v after %v", err, time.Since(began))
				case notLeader.Leader == MakeServerID(to.id, 1):
					refused.Add(1)
				default:
					t.Errorf("after %v it is not said who leads: %v", time.Since(began), err)
				}
			})
		}
		synctest.Wait()
		if refused.Load() == 0 {
			t.Error("no command came in time; the test shows nothing")
		}
	})
}
