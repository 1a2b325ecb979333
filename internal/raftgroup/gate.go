package raftgroup

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// The gate. Raft's main goroutine does not wait for the disk: entries are queued, and Raft takes
// them for stored. What must not be believed before they are on disk is held back here
// (docs/decisions/0008-durable-gate.md argues that this is all):
//
//   - a follower's answer to an append, until its log is on disk through the append's last entry;
//   - on the leader, that answer's way to Raft, until its own log is on disk that far. Raft counts
//     the leader's own match when it has stored an entry, but commits nothing without a follower's;
//   - apply, and so state snapshots and what readers see, until the entries are on disk here.
//
// Where Raft commits without a follower, in groups of one voter, nothing is queued.

// mayQueue says whether entries may be stored before they are on disk.
func (s *guardedLog) mayQueue(logs []*raft.Log) bool {
	e := s.engine
	if !e.group.host.config.QueueLogs || e.opening.Load() {
		return false
	}
	// With a change of members, the group may become one of a single voter, which commits on its own: also what
	// was queued before.
	return !changesMembers(logs) && len(e.group.voters(e)) > 1
}

// holdAnswer passes a follower's answer to an append on to the leader once the log is on disk through
// its last entry. The answer never leaves if the entries are cut off first, the log fails, the
// engine is stopped, or this replica has seen a later term meanwhile: then it may have voted for
// somebody who has other entries.
func (e *engine) holdAnswer(last uint64, resp *raft.AppendEntriesResponse, reply func(code uint16)) {
	e.group.logs.awaitDurable(last, func(err error) {
		if err != nil || e.isStopping() || e.raft.CurrentTerm() != resp.Term {
			reply(codeUnavailable)
			return
		}
		reply(codeOK)
	})
}

// lastAppended gives the last entry of an append that Raft has taken; 0: the answer says nothing of
// any entry.
func lastAppended(cmd any, r raft.RPCResponse) (uint64, *raft.AppendEntriesResponse) {
	q, isAppend := cmd.(*raft.AppendEntriesRequest)
	resp, _ := r.Response.(*raft.AppendEntriesResponse)
	if !isAppend || r.Error != nil || resp == nil || !resp.Success || len(q.Entries) == 0 {
		return 0, nil
	}
	return q.Entries[len(q.Entries)-1].Index, resp
}

// awaitDurable waits until the log is on disk through an index. It fails when it will never be, or
// the engine is stopped.
func (e *engine) awaitDurable(index uint64) error {
	logs := e.group.logs
	if logs.durable() >= index {
		return nil
	}
	told := make(chan error, 1)
	logs.awaitDurable(index, func(err error) { told <- err })
	select {
	case err := <-told:
		return err
	case <-e.stopping:
		return ErrStopped
	}
}

const (
	// diskWatch is how often the disks are looked at; maxStall is how long a write may take before
	// this replica gives up leading.
	diskWatch = 250 * time.Millisecond
	maxStall  = 2 * time.Second
)

var errDiskStalled = errors.New("the disk of this replica does not answer")

// watch has replicas give up leading whose disk does not answer, and ends connections with directories that were replaced. Heartbeats do not touch the
// disk: without this, a leader whose disk hangs would stay one and commit nothing.
func (h *Host) watch() {
	ticker := time.NewTicker(diskWatch)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, g := range h.Groups() {
				g.watchDisk()
			}
			h.endReplaced()
		case <-h.ctx.Done():
			return
		}
	}
}

// watchDisk mutes a replica while its disk does not answer: it sends nothing that asks for anything.
// A leader loses its lease by that, its followers elect another, and this replica does not stand
// for election. Answers still go out as far as the disk lets them.
func (g *Group) watchDisk() {
	e := g.engine.Load()
	if e == nil {
		return
	}
	stalled := e.log.stalled() > maxStall
	if e.muted.Load() == stalled || stalled && len(g.voters(e)) < 2 {
		return
	}
	if !stalled {
		e.muted.Store(false)
		g.logger.Info("disk answers again")
		return
	}
	leads := e.raft.State() == raft.Leader
	g.metrics().stalls.Inc()
	g.logger.Warn("disk does not answer; giving up leadership until it does", "for", e.log.stalled().Round(time.Millisecond), "leads", leads)
	if !leads {
		e.muted.Store(true)
		return
	}
	// A voter that stands for election now spares the group the wait for its timeout.
	successor := g.successor(e)
	e.muted.Store(true)
	g.goroutine(func() {
		if successor.peer != nil {
			_, _ = e.transport.askTarget(successor, frameTimeoutNow, frameTimeoutNowAck, nil)
		}
	})
}

// successor picks another voter, which differs from group to group.
func (g *Group) successor(e *engine) target {
	var others []ServerID
	for _, v := range g.voters(e) {
		if v != g.config.Self {
			others = append(others, v)
		}
	}
	if len(others) == 0 {
		return target{}
	}
	to, err := e.transport.target(raft.ServerID(others[uint64(g.config.ID)%uint64(len(others))]))
	if err != nil {
		return target{}
	}
	return to
}

// stalled is for how long a write to the log has been under way.
func (s *guardedLog) stalled() time.Duration {
	stalled := s.engine.group.logs.stalled()
	if since := s.storing.Load(); since != 0 {
		stalled = max(stalled, time.Duration(time.Now().UnixNano()-since))
	}
	return stalled
}
