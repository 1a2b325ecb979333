package raftgroup

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// The roles in Status.
const (
	RoleLeader    = "leader"
	RoleFollower  = "follower"
	RoleCandidate = "candidate"
	RoleLearner   = "learner"
	RoleStopped   = "stopped"
)

// Status is what an operator wants to know of a group. Its fields are read one after another and
// may be of slightly different moments.
type Status struct {
	ID   GroupID
	Name string
	Self ServerID
	Role string
	Term record.Term
	// CommitIndex is what this replica knows to be committed; a follower of an idle group learns
	// it up to twice CommitTimeout late.
	CommitIndex  record.Index
	AppliedIndex record.Index
	// FirstIndex and LastIndex span the log that Raft can still read; 0, 0 when it is empty.
	FirstIndex, LastIndex record.Index
	// SnapshotIndex is that of the newest state snapshot; 0: none.
	SnapshotIndex record.Index
	// Leader is empty when unknown.
	Leader   ServerID
	Voters   []ServerID
	Learners []ServerID
	// Ready: leader that has applied its leader-start (R1).
	Ready bool
	// Problem is why the group is stopped; empty while it runs.
	Problem string
}

// Status describes the group.
func (g *Group) Status() Status {
	s := Status{ID: g.config.ID, Name: g.config.Name, Self: g.config.Self, Role: RoleStopped, Problem: g.Problem()}
	s.AppliedIndex = g.config.Machine.Applied()
	s.SnapshotIndex = g.snapshots.newest()
	e := g.engine.Load()
	if e == nil {
		return s
	}
	r := e.raft
	self := raft.Nonvoter
	for _, m := range r.GetConfiguration().Configuration().Servers {
		if m.ID == raft.ServerID(g.config.Self) {
			self = m.Suffrage
		}
		if m.Suffrage == raft.Voter {
			s.Voters = append(s.Voters, ServerID(m.ID))
		} else {
			s.Learners = append(s.Learners, ServerID(m.ID))
		}
	}
	switch state := r.State(); {
	case state == raft.Leader:
		s.Role = RoleLeader
	case state == raft.Candidate:
		s.Role = RoleCandidate
	case state == raft.Shutdown:
	case self != raft.Voter:
		s.Role = RoleLearner
	default:
		s.Role = RoleFollower
	}
	s.Leader, s.Term = g.Leader()
	s.CommitIndex = raftIndex(r.CommitIndex())
	first, _ := g.logs.FirstIndex()
	s.FirstIndex, s.LastIndex = raftIndex(first), raftIndex(r.LastIndex())
	_, s.Ready = g.IsReady()
	return s
}

// Problem is why the replica is out of service; empty: it is not.
func (g *Group) Problem() string {
	g.problemMu.Lock()
	defer g.problemMu.Unlock()
	return g.problem
}

// Member is a replica of a group as the group's leader knows it.
type Member struct {
	ID    ServerID
	Voter bool
	// LastIndex is the last entry that it is known to have; 0 before it has acknowledged any in this term.
	LastIndex record.Index
	// Heard is when it acknowledged anything last, Level when it last had all that it had been told to be committed;
	// zero before it did in this term.
	Heard, Level time.Time
}

// Members tells how far all replicas of the group are. Only its leader knows, once it is ready.
func (g *Group) Members() (Status, []Member, error) {
	s, e := g.Status(), g.engine.Load()
	if !s.Ready || e == nil {
		return s, nil, g.notLeader()
	}
	now := time.Now()
	var list []Member
	for i, ids := range [][]ServerID{s.Voters, s.Learners} {
		for _, id := range ids {
			m := Member{ID: id, Voter: i == 0, LastIndex: s.LastIndex, Heard: now, Level: now}
			if id != g.config.Self {
				var last uint64
				last, m.Heard, m.Level = e.progress.of(id, s.Term)
				m.LastIndex = raftIndex(last)
			}
			list = append(list, m)
		}
	}
	return s, list, nil
}
