package raftgroup

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// hashicorp/raft refuses votes in two cases in which Raft gives them, and groups stayed without a leader for it
// (docs/decisions/0018-votes.md). Whether a vote is given is still Raft's to say, by term, log and what it has voted before: a request is only
// put in words in which it does not ask these two questions.

// openPreVote makes a request for a pre-vote one that Raft judges by term and log alone, where that is right.
func (e *engine) openPreVote(q *raft.RequestPreVoteRequest) {
	if leader, silent := e.silentLeader(); silent {
		q.Addr = []byte(leader) // Raft asks by the address whether the candidate is the leader that it has
	}
	if known := e.group.voters(e); len(known) > 0 && !slices.Contains(known, ServerID(q.ID)) {
		q.ID = []byte(known[0]) // and by the id whether it is a voter
	}
}

// openVote does the same for a vote.
func (e *engine) openVote(q *raft.RequestVoteRequest) {
	if _, silent := e.silentLeader(); silent {
		q.LeadershipTransfer = true // with it Raft does not ask whether it has a leader
	}
	if !slices.Contains(e.group.voters(e), ServerID(q.ID)) {
		q.ID = nil // without it Raft does not ask whether the candidate is a voter
	}
}

// silentLeader gives the leader that this follower knows and has heard nothing from for HeartbeatTimeout. It stands in nobody's way any
// more (Raft, thesis, 4.2.3): hashicorp/raft refuses votes for as long as it knows a leader, which is until its own timer fires, so that a group of
// three elected somebody only when the timers of both followers had. A voter that does hear from the leader refuses as ever.
func (e *engine) silentLeader() (raft.ServerAddress, bool) {
	leader, _ := e.raft.LeaderWithID()
	if leader == "" || e.raft.State() != raft.Follower || time.Since(e.raft.LastContact()) < e.group.host.config.HeartbeatTimeout {
		return "", false
	}
	return leader, true
}
