package raftgroup

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// Plan says who shall be in a group.
type Plan struct {
	// Voters and Learners are those that it shall have. A voter that is no member yet becomes a learner
	// first.
	Voters, Learners []ServerID
	// Leaving are those that it shall not have. Members in none of the lists stay what they are.
	Leaving []ServerID
	// Term is the one in which the plan holds; 0: any. Who leads again after another did may have an old one.
	Term record.Term
	// Look: nothing is changed. For whoever is not sure that the plan is not an old one.
	Look bool
}

// Shape is how far a group is on its way to a plan.
type Shape struct {
	// CaughtUp are the learners and voters of the plan that have what the leader had a moment ago, and have been heard since then.
	CaughtUp []ServerID
	// Removed are those of Leaving that are no members any more, which is committed.
	Removed []ServerID
	// Done: the members are what the plan says.
	Done bool
}

// Reshape makes the changes of members that can be made now, and says how far the group is. Called again
// every moment until the shape is done, it leads to the plan, in this order:
//
//   - learners are added;
//   - when all that shall get a vote have caught up and are there, they get it, one right after the other, so that a
//     group on its way from one voter to three is one with two for no longer than it must. A voter that leaves and
//     is not there goes before: with it the group would need all of the others meanwhile;
//   - when all have their votes, this replica hands over leadership if it leaves, and its successor goes on;
//   - those that leave are removed, as long as most of those that stay are there: the group may not need them.
//
// Only the ready leader does it, and nobody else changes its members meanwhile. OutcomeOf sorts the errors;
// after any of them it may be called again.
func (g *Group) Reshape(ctx context.Context, p Plan) (Shape, error) {
	var s Shape
	if err := g.settle(ctx); err != nil {
		return s, err
	}
	for {
		e := g.engine.Load()
		if term, ready := g.IsReady(); !ready || e == nil || p.Term != 0 && p.Term != term {
			return s, g.notLeader()
		}
		m := membersOf(e)
		there := g.there(e, m)
		s = shape(m, p, there)
		if p.Look {
			return s, nil
		}
		change, id := nextChange(g.config.Self, m, p, there)
		if change == nil {
			return s, nil
		}
		if err := change(g, ctx, id); err != nil {
			return s, fmt.Errorf("member %s: %w", id, err)
		}
		g.logger.Info("members changed", "member", string(id), "voters", membersOf(e).voters, "learners", membersOf(e).learners)
	}
}

// roster is the members of a group, as this replica's Raft has them.
type roster struct{ voters, learners []ServerID }

func membersOf(e *engine) roster {
	var m roster
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			m.voters = append(m.voters, ServerID(s.ID))
		} else {
			m.learners = append(m.learners, ServerID(s.ID))
		}
	}
	return m
}

func (m *roster) has(id ServerID) bool {
	return slices.Contains(m.voters, id) || slices.Contains(m.learners, id)
}

// there are the members that have what the leader had a moment ago and have been heard since then, this one among them.
func (g *Group) there(e *engine, m roster) (list []ServerID) {
	term, commit, now := raftTerm(e.raft.CurrentTerm()), e.raft.CommitIndex(), time.Now()
	for _, id := range slices.Concat(m.voters, m.learners) {
		if id == g.config.Self || e.progress.caughtUp(id, term, commit, now, g.host.config.HeartbeatTimeout) {
			list = append(list, id)
		}
	}
	return list
}

// shape measures the group. What settle has seen committed is all that m can hold: since then only Reshape
// itself has changed members, and waited for it.
func shape(m roster, p Plan, there []ServerID) Shape {
	s := Shape{Done: true}
	for _, id := range slices.Concat(p.Voters, p.Learners) {
		if slices.Contains(there, id) {
			s.CaughtUp = append(s.CaughtUp, id)
		}
		s.Done = s.Done && m.has(id)
	}
	for _, id := range p.Voters {
		s.Done = s.Done && slices.Contains(m.voters, id)
	}
	for _, id := range p.Leaving {
		if m.has(id) {
			s.Done = false
		} else {
			s.Removed = append(s.Removed, id)
		}
	}
	return s
}

type memberChange func(g *Group, ctx context.Context, id ServerID) error

// nextChange is the next change on the way to a plan; nil: there is none, or it has to wait. It is pure.
func nextChange(self ServerID, m roster, p Plan, there []ServerID) (memberChange, ServerID) {
	for _, id := range slices.Concat(p.Learners, p.Voters) {
		if !m.has(id) {
			return (*Group).addLearner, id
		}
	}
	// Who leaves without ever having got a vote is missed by nobody: it waits for no other's vote, which may never come.
	for _, id := range p.Leaving {
		if slices.Contains(m.learners, id) && id != self {
			return (*Group).remove, id
		}
	}
	isThere := func(id ServerID) bool { return slices.Contains(there, id) }
	waiting := slices.DeleteFunc(slices.Clone(p.Voters), func(id ServerID) bool { return slices.Contains(m.voters, id) })
	if len(waiting) > 0 {
		// One voter more makes an even number odd, which takes no larger majority: that one need not be there.
		if even := len(m.voters)%2 == 0; !even && !all(waiting, isThere) {
			return nil, ""
		} else if dead := slices.IndexFunc(p.Leaving, func(id ServerID) bool { return !isThere(id) && m.canSpare(id, isThere) }); !even && dead >= 0 {
			return (*Group).remove, p.Leaving[dead]
		}
		return (*Group).addVoter, waiting[max(0, slices.IndexFunc(waiting, isThere))]
	}
	if slices.Contains(p.Leaving, self) && m.has(self) {
		if next := slices.IndexFunc(p.Voters, isThere); next >= 0 {
			return (*Group).handOver, p.Voters[next]
		}
		return nil, ""
	}
	for _, id := range p.Leaving {
		if m.canSpare(id, isThere) {
			return (*Group).remove, id
		}
	}
	return nil, ""
}

// canSpare tells whether a voter can be removed and most of the others are there, so that the group goes on.
func (m *roster) canSpare(id ServerID, isThere func(ServerID) bool) bool {
	n := 0
	for _, v := range m.voters {
		if v != id && isThere(v) {
			n++
		}
	}
	return slices.Contains(m.voters, id) && 2*n > len(m.voters)-1
}

func all(list []ServerID, f func(ServerID) bool) bool {
	return !slices.ContainsFunc(list, func(id ServerID) bool { return !f(id) })
}

func (g *Group) addLearner(ctx context.Context, id ServerID) error {
	return g.tracked(g.AddLearner(ctx, id))
}
func (g *Group) addVoter(ctx context.Context, id ServerID) error {
	return g.tracked(g.AddVoter(ctx, id))
}
func (g *Group) remove(ctx context.Context, id ServerID) error { return g.tracked(g.Remove(ctx, id)) }

// handOver ends this replica's leadership, so that it never comes to the next change.
func (g *Group) handOver(ctx context.Context, id ServerID) error {
	if err := g.TransferLeadership(ctx, id); err != nil {
		return err
	}
	return g.notLeader()
}

// tracked notes that a change has an unknown end: until settle has seen it, the members are not known to
// be committed.
func (g *Group) tracked(err error) error {
	if err != nil && OutcomeOf(err) == MayHaveHappened {
		g.unsettled.Store(true)
	}
	return err
}

// settle waits until what this leadership knows of its members is committed. A leader that is ready
// has committed what came before it; only a change of its own can be open.
func (g *Group) settle(ctx context.Context) error {
	if !g.unsettled.Load() {
		return nil
	}
	return g.await(ctx, func(e *engine) error {
		if _, ready := g.IsReady(); ready {
			f := e.raft.Barrier(changeTimeout)
			endWith(f, e.done)
			if err := f.Error(); err != nil {
				return &UncertainError{err}
			}
		}
		g.unsettled.Store(false)
		return nil
	})
}
