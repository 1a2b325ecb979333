package raftgroup

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// look calls Reshape on whoever leads for a while, and gives what it said last.
func (c *cluster) look(t *testing.T, p Plan, during time.Duration) (s Shape) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, n := range c.running() {
			if r := n.replicas[7]; r != nil {
				if _, ready := r.group.IsReady(); ready {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					s, _ = r.group.Reshape(ctx, p)
					cancel()
				}
			}
		}
	}
	return s
}

// TestDeadLearnerGetsNoVote: who had everything and died has not caught up, although nothing has been written since. With a vote
// for it, a group of one voter could not commit anything any more.
func TestDeadLearnerGetsNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		r := c.mustOpen(c.nodes[0], 7, MakeServerID(1, 1), members1())
		c.mustOpen(c.nodes[1], 7, MakeServerID(2, 1), nil)
		c.mustOpen(c.nodes[2], 7, MakeServerID(3, 1), nil)
		c.leader(7)
		r.propose(t, "alone")
		if s := c.look(t, Plan{Voters: ids(1), Learners: ids(2, 3)}, 3*time.Second); len(s.CaughtUp) != 3 {
			t.Fatalf("%+v", s)
		}
		c.stop(c.nodes[1])
		time.Sleep(2 * time.Second)
		s := c.look(t, Plan{Voters: ids(1, 2, 3)}, 5*time.Second)
		if st := r.group.Status(); !st.Ready || len(st.Voters) != 1 || slices.Contains(s.CaughtUp, MakeServerID(2, 1)) {
			t.Fatalf("leads: %t, voters %v, %+v", st.Ready, st.Voters, s)
		}
		r.propose(t, "still alone")
		c.restart(c.nodes[1], 7)
		c.reshape(t, Plan{Voters: ids(1, 2, 3)}, 5*time.Second)
		r.propose(t, "three")
	})
}

// TestVotersStayWhileTheOthersAreTooFew: voters that shall go stay as long as those that remain are no majority: the only one of
// the plan is dead.
func TestVotersStayWhileTheOthersAreTooFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.nodes {
			c.mustOpen(n, 7, MakeServerID(n.id, 1), members(3))
		}
		n, r := c.leader(7)
		r.propose(t, "three")
		dead := c.others(n)[0]
		c.stop(dead)
		var others []ServerID
		for _, o := range c.others(dead) {
			others = append(others, MakeServerID(o.id, 1))
		}
		plan := Plan{Voters: ids(dead.id), Leaving: others}
		c.look(t, plan, 10*time.Second)
		_, r = c.leader(7)
		r.propose(t, "two of three")
		if st := r.group.Status(); len(st.Voters) != 3 {
			t.Fatalf("voters %v", st.Voters)
		}
		c.restart(dead, 7)
		c.reshape(t, plan, 10*time.Second)
		n, r = c.leader(7)
		if got := r.machine.seen(); n != dead || !slices.Equal(got, []string{"three", "two of three"}) {
			t.Fatalf("broker %d leads and has %v", n.id, got)
		}
	})
}

// TestPlanOfAnEarlierTerm: a plan is not carried out by who leads again, after another that may have had a newer one.
func TestPlanOfAnEarlierTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		for _, n := range c.nodes[:3] {
			c.mustOpen(n, 7, MakeServerID(n.id, 1), members(3))
		}
		n, r := c.leader(7)
		term, _ := r.group.IsReady()
		if _, err := r.group.Reshape(t.Context(), Plan{Voters: ids(1, 2, 3), Term: term}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			to := c.nodes[n.id%3]
			until(t, "leadership to go on", func() bool {
				return r.group.TransferLeadership(t.Context(), MakeServerID(to.id, 1)) == nil
			})
			n, r = c.leader(7, to)
		}
		until(t, "it to come back", func() bool { return r.group.TransferLeadership(t.Context(), MakeServerID(n.id%3+1, 1)) == nil })
		_, r = c.leader(7, c.nodes[n.id%3])
		_, err := r.group.Reshape(t.Context(), Plan{Voters: ids(1, 2, 3), Learners: ids(4), Term: term})
		wantNotLeader(t, err)
		if st := r.group.Status(); len(st.Learners) != 0 {
			t.Fatalf("learners %v", st.Learners)
		}
	})
}
