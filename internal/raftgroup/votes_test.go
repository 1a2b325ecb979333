package raftgroup

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Who has heard nothing of the leader for HeartbeatTimeout votes for the first that asks: a hung leader is replaced when the timer of one
// follower fires, not when those of both have.
func TestFirstToMissAHungLeaderIsElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 40
		c := newCluster(t, 3)
		led := make(map[GroupID]*node)
		for g := GroupID(10); g < 10+groups; g++ {
			c.openAll(g)
			led[g], _ = c.leader(g)
		}
		hung := led[10]
		c.net.isolate(true, hung.name, names(c.nodes)...)
		missed, elected := make(map[GroupID]time.Time), make(map[GroupID]time.Duration)
		of := 0
		for g := range led {
			if led[g] == hung {
				of++
			}
		}
		until(t, "leaders of all groups", func() bool {
			for g, n := range led {
				if _, done := elected[g]; done || n != hung {
					continue
				}
				for _, m := range c.others(hung) {
					r := m.replicas[g].group
					if id, _ := r.Leader(); id == "" && missed[g].IsZero() {
						missed[g] = time.Now()
					}
					if _, ready := r.IsReady(); ready {
						elected[g] = 0
						if !missed[g].IsZero() {
							elected[g] = time.Since(missed[g])
						}
					}
				}
			}
			return len(elected) == of
		})
		late := 0
		for _, took := range elected {
			if took > 300*time.Millisecond {
				late++
			}
		}
		if late > of/4 {
			t.Errorf("%d of %d groups had no leader 300 ms after it was missed: %v", late, of, elected)
		}
	})
}

// A follower that alone hears nothing of the leader gets no votes, however long that lasts.
func TestLeaderThatTheOthersHearStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		term, _ := r.group.IsReady()
		c.net.isolate(true, n.name, c.others(n)[0].name)
		time.Sleep(time.Minute)
		if now, ok := r.group.IsReady(); !ok || now != term {
			t.Errorf("leadership of term %d was lost: %+v", term, r.group.Status())
		}
		r.propose(t, "on")
		c.net.isolate(false, n.name, c.others(n)[0].name)
		c.agree(7, []string{"on"})
	})
}

// A voter that was away while the members changed votes for one that it does not know: the majority of the latest members is enough.
func TestVoteForACandidateThatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		three := members(3)
		for i, n := range c.nodes[:3] {
			c.mustOpen(n, 7, three[i].ID, three)
		}
		first, r := c.leader(7, c.nodes[:3]...)
		r.propose(t, "one")
		followers := slices.DeleteFunc(slices.Clone(c.nodes[:3]), func(n *node) bool { return n == first })
		away, gone, fresh := followers[0], followers[1], c.nodes[3]
		c.stop(away)
		id := MakeServerID(fresh.id, 1)
		c.mustOpen(fresh, 7, id, nil)
		if err := r.group.AddLearner(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		until(t, "the learner to follow", func() bool { return len(fresh.replicas[7].machine.seen()) > 0 })
		if err := r.group.AddVoter(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := r.group.Remove(t.Context(), MakeServerID(gone.id, 1)); err != nil {
			t.Fatal(err)
		}
		r.propose(t, "two")
		c.stop(gone)
		c.stop(first)
		c.restart(away, 7)
		_, r = c.leader(7, away, fresh)
		r.propose(t, "three")
		c.agree(7, []string{"one", "two", "three"})
	})
}
