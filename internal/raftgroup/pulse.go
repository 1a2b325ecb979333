package raftgroup

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft has a goroutine for each follower of each group that sends a heartbeat every 100 to 200 ms and waits for its answer. With
// thousands of groups that is most of what an idle broker does. So the beater, one goroutine for each other broker, sends the
// heartbeats of all groups as one message at a time of its own, and answers Raft's out of what came back (docs/decisions/0016). What
// goes over the wire, and what a follower does with it, is as if Raft had sent them.

// pulse is the heartbeats between a replica that leads here and one follower.
type pulse struct {
	engine      *engine
	id          ServerID
	incarnation uint64
	header      raft.RPCHeader // of what the follower says

	// listed and due say that the pulse is in the beater's lists. Guarded by the beater's mu.
	listed, due bool

	// mu guards what follows. Nothing blocks under it. It is taken under the beater's mu.
	mu   sync.Mutex
	term uint64 // of the leadership
	// asked is when Raft asked last. sent is when the heartbeat under way was sent, good when the newest one was that has been
	// acknowledged; zero: none is, or none has been since the last failure.
	asked, sent, good time.Time
	resp              raft.AppendEntriesResponse // to that one
	// fresh says that the follower had taken no entries since it was opened, when it answered last.
	fresh bool
	// changes counts what may have made the follower forget what it knew, or another one of it.
	changes uint64
	waiting []chan pulseAnswer // calls of Raft
}

type pulseAnswer struct {
	resp raft.AppendEntriesResponse
	err  error
}

const (
	// pulses is how many heartbeats go out in one HeartbeatTimeout. Raft itself sends 5 to 10.
	pulses = 8
	// pulseAge is how old an acknowledged heartbeat may be that answers Raft, in the time between two.
	pulseAge = 2
)

var (
	errNotLeading = errors.New("this replica does not lead in that term")
	errDeposed    = errors.New("the follower is in a later term")
)

// pulseInterval is the time between two heartbeats.
func (h *Host) pulseInterval() time.Duration { return h.config.HeartbeatTimeout / pulses }

// isGoodLocked says whether the follower has acknowledged a heartbeat that was sent not long ago.
func (p *pulse) isGoodLocked(now time.Time) bool {
	return !p.good.IsZero() && now.Sub(p.good) < pulseAge*p.engine.group.host.pulseInterval()
}

// ask asks for an answer to a heartbeat of Raft's: one that is known, or the next one. send: none is under way.
func (p *pulse) ask(term uint64, now time.Time) (got pulseAnswer, wait chan pulseAnswer, send bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case term < p.term:
		return pulseAnswer{err: errNotLeading}, nil, false
	case term > p.term:
		p.failLocked(errNotLeading)
		p.term, p.sent = term, time.Time{}
	}
	p.asked = now
	if p.isGoodLocked(now) {
		return pulseAnswer{resp: p.resp}, nil, false
	}
	wait = make(chan pulseAnswer, 1)
	p.waiting = append(p.waiting, wait)
	return pulseAnswer{}, wait, p.sent.IsZero()
}

// begin says whether a heartbeat is to be sent now, in which term, and whether the pulse goes on.
func (p *pulse) begin(now time.Time) (term uint64, send, on bool) {
	e := p.engine
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.mayBeat(); err != nil {
		p.failLocked(err)
		return 0, false, false
	}
	if len(p.waiting) == 0 && now.Sub(p.asked) > e.group.host.config.HeartbeatTimeout {
		return 0, false, false // Raft has no such follower any more.
	}
	if !p.sent.IsZero() {
		return 0, false, true // One at a time: a slow link gets no more than it answers.
	}
	p.sent = now
	return p.term, true, true
}

// mayBeat says why not, if this replica may not call itself the leader of the term. Held: mu.
func (p *pulse) mayBeat() error {
	e := p.engine
	switch {
	case e.isStopping():
		return ErrStopped
	case e.muted.Load():
		return errDiskStalled
	case e.opening.Load() || e.raft.State() != raft.Leader || e.raft.CurrentTerm() != p.term:
		return errNotLeading
	}
	return nil
}

// answered takes the answer to a heartbeat, or the reason why there is none.
func (p *pulse) answered(term uint64, sent time.Time, a *beatAck, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.term {
		return
	}
	p.sent = time.Time{}
	if err == nil && a.code != codeOK {
		err = &remoteError{code: a.code}
	}
	if err == nil && a.resp.Term > term {
		// Raft takes any answer to a heartbeat for a sign of life, and would prolong its lease by those of voters that have
		// deposed it. What is in a later term is told to it by the answer to an append, or it loses its lease.
		err = errDeposed
	}
	if err != nil {
		p.failLocked(err)
		return
	}
	if p.fresh = a.fresh; a.fresh {
		p.changes++
	}
	p.resp = a.resp
	p.resp.RPCHeader = p.header
	if p.good = sent; !a.resp.Success {
		p.good = time.Time{}
		p.changes++
	}
	p.giveLocked(pulseAnswer{resp: p.resp})
	if a.resp.Success {
		p.engine.progress.beat(p.id, term)
	}
}

// fail says that the follower is out of reach, for those who wait.
func (p *pulse) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = time.Time{}
	p.failLocked(err)
}

func (p *pulse) failLocked(err error) {
	p.good = time.Time{}
	p.changes++
	p.giveLocked(pulseAnswer{err: err})
}

func (p *pulse) giveLocked(a pulseAnswer) {
	for _, w := range p.waiting {
		w <- a // it has room for the one answer
	}
	p.waiting = nil
}

// knows says whether what the follower was told in a term still stands, if it was told after so many changes: nothing has
// changed since, and it has acknowledged a heartbeat not long ago.
func (p *pulse) knows(term, changes uint64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term == term && p.changes == changes && !p.fresh && p.isGoodLocked(now)
}

func (p *pulse) changed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changes
}
