package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func list(s string) []ServerID {
	var ids []ServerID
	for f := range strings.FieldsSeq(s) {
		ids = append(ids, ServerID(f))
	}
	return ids
}

// TestNextChange is the table of the order in which members change.
func TestNextChange(t *testing.T) {
	cases := []struct {
		name                              string
		voters, learners                  string
		planVoters, planLearners, leaving string
		there                             string
		want                              string
	}{
		{"nothing to do", "1 2 3", "", "1 2 3", "", "", "1 2 3", ""},
		{"strangers stay", "1 2 3 9", "8", "1 2 3", "", "", "1 2 3", ""},
		{"a learner comes", "1 2 3", "", "1 2 3", "4", "", "1 2 3", "learner 4"},
		{"a voter comes as a learner", "1", "", "1 2 3", "", "", "1", "learner 2"},
		{"it waits until it has caught up", "1", "2 3", "1 2 3", "", "", "1 2", ""},
		{"then all together", "1", "2 3", "1 2 3", "", "", "1 2 3", "voter 2"},
		{"the second follows", "1 2", "3", "1 2 3", "", "", "1 2 3", "voter 3"},
		{"nobody leaves before", "1 2 3", "4", "1 2 4", "", "3", "1 2 3", ""},
		{"votes come first", "1 2 3", "4", "1 2 4", "", "3", "1 2 3 4", "voter 4"},
		{"then one leaves", "1 2 3 4", "", "1 2 4", "", "3", "1 2 4", "remove 3"},
		{"a learner that replaces a lost one does not hold it", "1 2 3", "5", "1 2", "5", "3", "1 2", "remove 3"},
		{"one that has left", "1 2 4", "", "1 2 4", "", "3", "1 2 4", ""},
		{"a learner leaves", "1 2 3", "4", "1 2 3", "", "4", "1 2 3", "remove 4"},
		{"a learner leaves, whoever else is waited for", "1", "2 3", "1 3", "", "2", "1", "remove 2"},
		{"one that has died meanwhile does not hold an even number", "1 2", "3", "1 2 3", "", "", "1 2", "voter 3"},
		{"who is there is first", "1 2", "3 4", "1 2 3 4", "", "", "1 2 4", "voter 4"},
		{"one that leaves and is dead goes before a vote", "1 2 3", "4", "1 2 4", "", "3", "1 2 4", "remove 3"},
		{"and the vote follows", "1 2", "4", "1 2 4", "", "3", "1 2 4", "voter 4"},
		{"nobody goes before who cannot be spared", "1 2 3", "4 5", "1 4 5", "", "2 3", "1 2 4 5", "remove 3"},
		{"the dead are too many", "1 2 3", "4", "1 2 4", "", "3", "1 4", "voter 4"},
		{"the others would be too few", "1 2 3", "", "2", "", "1 3", "1 3", ""},
		{"they would be for one, and not for the other", "1 2 3 4 5", "", "1 2 3", "", "4 5", "1 2 4", "remove 5"},
		{"the leader goes first", "1 2 3 4", "", "3 4", "", "1 2", "1 2 3 4", "hand over to 3"},
		{"to one that can", "1 3 4", "", "3 4", "", "1", "1 4", "hand over to 4"},
		{"if there is one", "1 3 4", "", "3 4", "", "1", "1", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			change, id := nextChange("1", roster{list(c.voters), list(c.learners)},
				Plan{Voters: list(c.planVoters), Learners: list(c.planLearners), Leaving: list(c.leaving)}, list(c.there))
			got := ""
			for name, f := range map[string]memberChange{"learner": (*Group).addLearner, "voter": (*Group).addVoter, "remove": (*Group).remove, "hand over to": (*Group).handOver} {
				if change != nil && fmt.Sprintf("%p", change) == fmt.Sprintf("%p", f) {
					got = name + " " + string(id)
				}
			}
			if got != c.want {
				t.Fatalf("next is %q, want %q", got, c.want)
			}
		})
	}
}

// reshape calls Reshape on whoever leads until the shape is done.
func (c *cluster) reshape(t *testing.T, p Plan, within time.Duration) {
	t.Helper()
	var err error
	var s Shape
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, n := range c.nodes {
			if r := n.replicas[7]; r != nil && r.group != nil {
				if _, ready := r.group.IsReady(); ready {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					s, err = r.group.Reshape(ctx, p)
					cancel()
					if err == nil && s.Done {
						return
					}
				}
			}
		}
	}
	t.Fatalf("not the wanted shape after %v: %+v, %v", within, s, err)
}

func ids(n ...int32) []ServerID {
	var list []ServerID
	for _, id := range n {
		list = append(list, MakeServerID(id, 1))
	}
	return list
}

// TestReshape: one replica, then three, then others, then one again; the machine and the log are whole
// all the time.
func TestReshape(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 5, options...)
			r := c.mustOpen(c.nodes[0], 7, MakeServerID(1, 1), members1())
			for _, n := range c.nodes[1:] {
				c.mustOpen(n, 7, MakeServerID(n.id, 1), nil)
			}
			c.leader(7)
			var want []string
			say := func(s string) {
				t.Helper()
				_, r := c.leader(7)
				r.propose(t, s)
				want = append(want, s)
			}
			say("alone")
			c.reshape(t, Plan{Voters: ids(1, 2, 3)}, 5*time.Second)
			if s := r.group.Status(); len(s.Voters) != 3 || len(s.Learners) != 0 {
				t.Fatalf("voters %v, learners %v", s.Voters, s.Learners)
			}
			say("three")
			c.reshape(t, Plan{Voters: ids(3, 4, 5), Leaving: ids(1, 2)}, 10*time.Second)
			_, r = c.leader(7)
			if s := r.group.Status(); len(s.Voters) != 3 || slices.Contains(s.Voters, MakeServerID(1, 1)) {
				t.Fatalf("voters %v", s.Voters)
			}
			say("others")
			c.reshape(t, Plan{Voters: ids(4), Leaving: ids(3, 5)}, 10*time.Second)
			n, r := c.leader(7)
			if s := r.group.Status(); n.id != 4 || len(s.Voters) != 1 {
				t.Fatalf("broker %d leads %v", n.id, s.Voters)
			}
			say("one")
			if got := r.machine.seen(); !slices.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
		})
	})
}

func members1() []Server { return []Server{{ID: MakeServerID(1, 1)}} }

// TestNeverTwo: a group with one voter gets the two others only when both are there.
func TestNeverTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		r := c.mustOpen(c.nodes[0], 7, MakeServerID(1, 1), members1())
		c.mustOpen(c.nodes[1], 7, MakeServerID(2, 1), nil)
		c.leader(7)
		r.propose(t, "alone")
		plan := Plan{Voters: ids(1, 2, 3)}
		for range 100 {
			s, err := r.group.Reshape(t.Context(), plan)
			if err != nil {
				t.Fatal(err)
			}
			if st := r.group.Status(); len(st.Voters) != 1 || s.Done {
				t.Fatalf("voters %v, %+v", st.Voters, s)
			}
			time.Sleep(100 * time.Millisecond)
		}
		r.propose(t, "still alone")
		c.mustOpen(c.nodes[2], 7, MakeServerID(3, 1), nil)
		c.reshape(t, plan, 5*time.Second)
	})
}

// TestReplaceADeadMember: a voter that does not come back is removed, and another takes its place.
func TestReplaceADeadMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		for _, n := range c.nodes[:3] {
			c.mustOpen(n, 7, MakeServerID(n.id, 1), members(3))
		}
		n, r := c.leader(7)
		r.propose(t, "three")
		dead := c.others(n)[0]
		if dead.id == 4 {
			dead = c.others(n)[1]
		}
		c.stop(dead)
		var voters []ServerID
		for _, o := range c.nodes[:3] {
			if o != dead {
				voters = append(voters, MakeServerID(o.id, 1))
			}
		}
		gone := []ServerID{MakeServerID(dead.id, 1)}
		// It is out before the new one has caught up: it is not even there yet.
		if s := c.look(t, Plan{Voters: voters, Learners: ids(4), Leaving: gone}, time.Second); !slices.Equal(s.Removed, gone) {
			t.Fatalf("%+v", s)
		}
		c.mustOpen(c.nodes[3], 7, MakeServerID(4, 1), nil)
		c.reshape(t, Plan{Voters: append(voters, MakeServerID(4, 1)), Leaving: gone}, 10*time.Second)
		r.propose(t, "three again")
		until(t, "the new one to follow", func() bool { return len(c.nodes[3].replicas[7].machine.seen()) == 2 })
	})
}

// TestReshapeUnderFaults: leaders are cut off, stopped and restarted while members change and commands are
// written. In the end the members are those of the plan, and every acknowledged command is there once.
func TestReshapeUnderFaults(t *testing.T) {
	steps := 0
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			c := newCluster(t, 5)
			for _, n := range c.nodes {
				bootstrap := members(3)
				if n.id > 3 {
					bootstrap = nil
				}
				c.mustOpen(n, 7, MakeServerID(n.id, 1), bootstrap)
			}
			c.leader(7)
			plans := []Plan{
				{Voters: ids(1, 2, 4), Leaving: ids(3)},
				{Voters: ids(4, 2, 5), Leaving: ids(1, 3)},
				{Voters: ids(1, 2, 3, 4, 5)},
				{Voters: ids(2, 4, 5), Leaving: ids(1, 3)},
			}
			var acked []string
			for i, p := range plans {
				done := false
				for step := 0; !done; step++ {
					if step > 400 {
						t.Fatalf("seed %d: plan %d is not reached", seed, i)
					}
					acked = append(acked, c.faultyStep(rng, fmt.Sprintf("%d-%d", i, step), step < 60)...)
					if rng.IntN(4) == 0 {
						done = c.faultyReshape(p)
					}
				}
			}
			c.net.change(func() { clear(c.net.cut) })
			for _, n := range c.nodes {
				if n.host == nil {
					c.restart(n, 7)
				}
			}
			_, r := c.leader(7)
			r.propose(t, "last")
			got := r.machine.seen()
			for _, s := range acked {
				if n := count(got, s); n != 1 {
					t.Fatalf("seed %d: acknowledged command %q is there %d times", seed, s, n)
				}
			}
			st := r.group.Status()
			slices.Sort(st.Voters)
			steps += len(acked)
			if !slices.Equal(st.Voters, ids(2, 4, 5)) || len(st.Learners) > 0 {
				t.Fatalf("seed %d: voters %v, learners %v", seed, st.Voters, st.Learners)
			}
		})
	}
	if steps < 200 {
		t.Errorf("only %d commands were acknowledged meanwhile", steps)
	}
}

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

// faultyStep breaks or mends something, lets time pass, and proposes to whoever leads.
func (c *cluster) faultyStep(rng *rand.Rand, command string, breaking bool) (acked []string) {
	n := c.nodes[rng.IntN(len(c.nodes))]
	switch k := rng.IntN(12); {
	case !breaking && n.host == nil:
		c.restart(n, 7)
	case !breaking:
		c.net.change(func() { clear(c.net.cut) })
	case n.host == nil && k < 8:
		c.restart(n, 7)
	case k == 0 && len(c.running()) > 4:
		c.stop(n)
	case k == 1:
		c.net.isolate(true, n.name, names(c.nodes)...)
	case k < 4:
		c.net.change(func() { clear(c.net.cut) })
	case k == 4:
		c.net.reset(n.name)
	}
	time.Sleep(time.Duration(50+rng.IntN(400)) * time.Millisecond)
	for _, n := range c.running() {
		if _, ready := n.replicas[7].group.IsReady(); ready {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			if _, err := n.replicas[7].group.Propose(ctx, Command{Data: []byte(command)}); err == nil {
				acked = append(acked, command)
			}
			cancel()
			return acked
		}
	}
	return nil
}

func (c *cluster) running() (list []*node) {
	for _, n := range c.nodes {
		if n.host != nil {
			list = append(list, n)
		}
	}
	return list
}

// faultyReshape has everybody who thinks to lead go on with a plan; true: one of them says that it is done.
func (c *cluster) faultyReshape(p Plan) bool {
	for _, n := range c.running() {
		if _, ready := n.replicas[7].group.IsReady(); !ready {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		s, err := n.replicas[7].group.Reshape(ctx, p)
		if err == nil && s.Done {
			err = n.replicas[7].group.Confirm(ctx)
		}
		cancel()
		if err == nil && s.Done {
			return true
		}
		var notLeader *NotLeaderError
		if err != nil && !errors.As(err, &notLeader) && OutcomeOf(err) == DidNotHappen && !errors.Is(err, ErrTransferring) && !errors.Is(err, ErrStopped) {
			var refused *refusedError
			if !errors.As(err, &refused) {
				c.t.Errorf("reshape: %v", err)
			}
		}
	}
	return false
}
