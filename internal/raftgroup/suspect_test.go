package raftgroup

import (
	"testing"
	"testing/synctest"
	"time"
)

// A process that is being killed loses its connections before its port is closed: others still get through to it, and lose
// that connection, too.
func TestLeaderDiesSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		c.net.change(func() { c.net.dying[n.name] = time.Now().Add(100 * time.Millisecond) })
		c.stop(n)
		died := time.Now()
		_, r = c.leader(7, c.others(n)...)
		if took := time.Since(died); took > 700*time.Millisecond {
			t.Errorf("new leader after %v", took)
		}
		r.propose(t, "after")
		c.restart(n, 7)
		c.agree(7, []string{"before", "after"})
	})
}
