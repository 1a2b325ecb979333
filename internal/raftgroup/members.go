package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// changeTimeout bounds how long a membership change waits to be taken up by Raft where the
// caller's context does not.
const changeTimeout = 10 * time.Second

// AddVoter makes a server a voter, also one that is a learner. Only the ready leader does it, one
// change at a time. OutcomeOf sorts the errors.
func (g *Group) AddVoter(ctx context.Context, id ServerID) error {
	return g.change(ctx, id, func(r *raft.Raft, timeout time.Duration) raft.Future {
		return r.AddVoter(raft.ServerID(id), raft.ServerAddress(id), 0, timeout)
	})
}

// AddLearner makes a server a member without a vote. A voter stays one.
func (g *Group) AddLearner(ctx context.Context, id ServerID) error {
	return g.change(ctx, id, func(r *raft.Raft, timeout time.Duration) raft.Future {
		return r.AddNonvoter(raft.ServerID(id), raft.ServerAddress(id), 0, timeout)
	})
}

// Remove removes a server from the group. A leader may remove itself; it then steps down once
// the change is committed. The last voter cannot be removed.
func (g *Group) Remove(ctx context.Context, id ServerID) error {
	return g.change(ctx, id, func(r *raft.Raft, timeout time.Duration) raft.Future {
		return r.RemoveServer(raft.ServerID(id), 0, timeout)
	})
}

func (g *Group) change(ctx context.Context, id ServerID, do func(*raft.Raft, time.Duration) raft.Future) error {
	if _, _, err := ParseServerID(id); err != nil {
		return &refusedError{err}
	}
	if _, ready := g.IsReady(); !ready {
		return g.notLeader()
	}
	timeout := changeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	return g.await(ctx, func(e *engine) error {
		f := do(e.raft, timeout)
		handed := endWith(f, e.done)
		if err := f.Error(); err != nil {
			return g.sortError(err, handed)
		}
		return nil
	})
}

// closeTo is how long a voter may take to reach what is committed now before leadership is not handed
// to it, and closeCheck how often that is looked at.
const (
	closeTo    = time.Second
	closeCheck = 10 * time.Millisecond
)

// TransferLeadership hands leadership to a voter; empty: to the one that is furthest. It returns
// when this replica has stepped down, or with the reason why it did not. A voter that lags, or does not
// answer, is refused before anything happens: from its start on, a transfer that fails stops the group's
// writes for as long as an election takes. One that could not begin, because the connection to the voter was just lost, is tried again.
func (g *Group) TransferLeadership(ctx context.Context, to ServerID) error {
	for pause := firstTransferPause; ; pause *= 2 {
		err := g.transfer(ctx, to)
		if !errors.Is(err, errNotBroughtUp) || pause > lastTransferPause {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// firstTransferPause is how long after a transfer that could not begin it is tried again: proposals are refused during each. It doubles, up to
// lastTransferPause.
const (
	firstTransferPause = 20 * time.Millisecond
	lastTransferPause  = 160 * time.Millisecond
)

// transfer hands leadership over, or fails, once.
func (g *Group) transfer(ctx context.Context, to ServerID) error {
	if _, ready := g.IsReady(); !ready {
		return g.notLeader()
	}
	if to == g.config.Self {
		return nil
	}
	if to != "" {
		s := g.Status()
		found := false
		for _, v := range s.Voters {
			found = found || v == to
		}
		if !found {
			return &refusedError{fmt.Errorf("%s is not a voter of group %d", to, g.config.ID)}
		}
		if err := g.waitForClose(ctx, to); err != nil {
			return err
		}
	}
	return g.await(ctx, func(e *engine) error {
		g.proposals.pause()
		defer g.proposals.resume()
		next := e.nextLeader()
		defer next.forget()
		var f raft.Future
		if to == "" {
			f = e.raft.LeadershipTransfer()
		} else {
			f = e.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to))
		}
		handed := endWith(f, e.done)
		if err := f.Error(); err != nil {
			return g.sortTransferError(err, handed)
		}
		next.wait()
		return nil
	})
}

// nextLeaderWait is how long after it has stepped down a replica waits to hear who leads: callers that are told so go there at once.
const nextLeaderWait = 100 * time.Millisecond

// nextLeader notices when another replica leads.
type nextLeader struct {
	of       *engine
	heard    chan raft.Observation
	observer *raft.Observer
}

func (e *engine) nextLeader() nextLeader {
	n := nextLeader{of: e, heard: make(chan raft.Observation, 1)}
	self := raft.ServerID(e.group.config.Self)
	n.observer = raft.NewObserver(n.heard, false, func(o *raft.Observation) bool {
		l, ok := o.Data.(raft.LeaderObservation)
		return ok && l.LeaderID != "" && l.LeaderID != self
	})
	e.raft.RegisterObserver(n.observer)
	return n
}

func (n nextLeader) forget() { n.of.raft.DeregisterObserver(n.observer) }

// wait returns when it is known who leads, or after nextLeaderWait.
func (n nextLeader) wait() {
	timer := time.NewTimer(nextLeaderWait)
	defer timer.Stop()
	select {
	case <-n.heard:
	case <-timer.C:
	case <-n.of.done:
	}
}

// notBroughtUp is Raft's text when it could not send the voter what it lacks, its pipeline having just ended for instance: it
// tells nobody to stand for election then, and the leader goes on.
const notBroughtUp = "replication failed"

var errNotBroughtUp = errors.New("the voter could not be sent what it lacks")

func (g *Group) sortTransferError(err error, handed bool) error {
	if err.Error() == notBroughtUp {
		return &refusedError{errNotBroughtUp}
	}
	return g.sortError(err, handed)
}

// waitForClose waits until a voter has what is committed now.
func (g *Group) waitForClose(ctx context.Context, id ServerID) error {
	e := g.engine.Load()
	if e == nil {
		return ErrStopped
	}
	term, commit := raftTerm(e.raft.CurrentTerm()), e.raft.CommitIndex()
	deadline := time.NewTimer(closeTo)
	defer deadline.Stop()
	check := time.NewTicker(closeCheck)
	defer check.Stop()
	for !e.progress.has(id, term, commit) {
		select {
		case <-check.C:
		case <-deadline.C:
			return &refusedError{fmt.Errorf("%s has not reached index %d of group %d within %v", id, commit, g.config.ID, closeTo)}
		case <-e.done:
			return ErrStopped
		case <-ctx.Done():
			return &refusedError{ctx.Err()}
		}
	}
	return nil
}

// await runs f beside the caller, who leaves when ctx ends: then it may have happened.
func (g *Group) await(ctx context.Context, f func(*engine) error) error {
	if err := ctx.Err(); err != nil {
		return &refusedError{err}
	}
	e := g.engine.Load()
	if e == nil {
		return ErrStopped
	}
	got := make(chan error, 1)
	if !g.goroutine(func() { got <- f(e) }) {
		return ErrStopped
	}
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return &UncertainError{ctx.Err()}
	}
}
