package broker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// simGroup is the group of a simCluster as its leader in a term has it.
type simGroup struct {
	s    *simCluster
	term record.Term
	// waits is called before a plan is looked at.
	waits func()
}

func (g *simGroup) IsReady() (record.Term, bool) { return g.term, true }

func (g *simGroup) Reshape(_ context.Context, p raftgroup.Plan) (raftgroup.Shape, error) {
	if g.waits != nil {
		g.waits()
	}
	if p.Term != g.term {
		return raftgroup.Shape{}, errors.New("another term")
	}
	for !p.Look && g.s.change(p) {
	}
	s := raftgroup.Shape{Done: true}
	for _, id := range p.Voters {
		s.Done = s.Done && g.s.members[id]
	}
	for _, id := range p.Learners {
		_, member := g.s.members[id]
		s.Done = s.Done && member
	}
	for _, id := range p.Leaving {
		_, member := g.s.members[id]
		s.Done = s.Done && !member
	}
	return s, nil
}

// A leader whose broker has old metadata does not bring back members that the leader before it has removed: their replicas are gone, and
// no metadata would ever name them again as members that have to go.
func TestOldMetadataBringsNobodyBack(t *testing.T) {
	s := newSimCluster(t)
	s.settle()
	s.reassign(1, 2, 4)
	s.reconcile(4)
	old := s.state.Image() // the replica on 4 is there and has no vote yet, the one on 3 has
	s.settle()
	members := maps.Clone(s.members)

	img, confirmed, cutOff := old, 0, errors.New("the controller is not heard")
	g := &simGroup{s: s, term: 1}
	m := &movers{
		groups: func(raftgroup.GroupID) reshaper { return g },
		report: func(context.Context, []cluster.GroupMembers) error { return nil },
		confirm: func(context.Context) error {
			if cutOff == nil {
				confirmed++
				img = s.state.Image()
			}
			return cutOff
		},
		logger: slog.New(slog.DiscardHandler),
	}
	turns := func() (pending bool) {
		for range 3 {
			pending = m.turn(t.Context(), img)
		}
		return pending
	}
	if pending := turns(); !pending || !maps.Equal(s.members, members) {
		t.Fatalf("on old metadata members became %v, and were %v", s.members, members)
	}
	cutOff = nil
	if pending := turns(); pending || confirmed != 1 || !maps.Equal(s.members, members) {
		t.Fatalf("confirmed %d times, members became %v, and were %v", confirmed, s.members, members)
	}

	// What is agreed later in the term is newer than what has been confirmed.
	goOn := func(brokers ...int32) {
		t.Helper()
		s.reassign(brokers...)
		for range 3 {
			s.reconcileAll()
			img = s.state.Image()
			m.turn(t.Context(), img)
		}
		if _, ok := s.members[serverOn(s, 3)]; !ok {
			t.Fatalf("the replica on 3 did not join: %v", s)
		}
	}
	goOn(1, 2, 3)
	if confirmed != 1 {
		t.Fatalf("confirmed %d times", confirmed)
	}
	s.settle()
	g.term++
	goOn(1, 4, 3)
	if confirmed != 2 {
		t.Fatalf("confirmed %d times", confirmed)
	}

	// A turn that has waited for so long that another has led meanwhile is of an old term, too.
	s.settle()
	s.reassign(1, 2, 4)
	s.reconcile(2)
	img = s.state.Image()
	g.waits = func() {
		s.settle()
		members = maps.Clone(s.members)
		g.term, g.waits = g.term+2, nil
	}
	if m.turn(t.Context(), img); !maps.Equal(s.members, members) {
		t.Fatalf("members became %v, and were %v", s.members, members)
	}
}

// serverOn names the partition's replica on a broker in its group.
func serverOn(s *simCluster, broker int32) raftgroup.ServerID {
	r, ok := s.partition().Replica(broker)
	if !ok {
		r = metadata.Replica{Broker: broker}
	}
	return raftgroup.MakeServerID(r.Broker, r.Incarnation)
}
