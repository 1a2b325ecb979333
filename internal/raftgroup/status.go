package raftgroup

import "github.com/oncelog/oncelog/record"

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
