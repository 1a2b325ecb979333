package raftgroup

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// confirmer runs the leadership checks of a group in shared rounds: who asks while a round is
// under way waits for the next one, since a round proves something only to those who asked before
// it was sent.
type confirmer struct {
	group *Group

	// mu guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	running bool
	waiting []chan error
}

// Confirm proves that at some moment after the call this replica still led: a majority of the
// voters, itself among them, was in its term when asked after the call. A later leader needs a
// vote of one of them in a later term, so that it cannot have been elected before. Raft's own
// VerifyLeader and its lease count answers to older messages and prove less. ErrNotConfirmed: no
// majority answered; it may still lead.
func (g *Group) Confirm(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &g.confirmer
	got := make(chan error, 1)
	c.mu.Lock()
	c.waiting = append(c.waiting, got)
	if !c.running {
		if !g.goroutine(c.run) {
			c.waiting = nil
			c.mu.Unlock()
			return ErrStopped
		}
		c.running = true
	}
	c.mu.Unlock()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ConfirmTerm is Confirm for one who has read something in a term (IsReady) and asks afterwards whether that was the newest. A
// leader that was deposed meanwhile, and leads again, is not told yes: what it read before knows nothing of the terms between.
func (g *Group) ConfirmTerm(ctx context.Context, term record.Term) error {
	if err := g.Confirm(ctx); err != nil {
		return err
	}
	if now, ok := g.IsReady(); !ok || now != term {
		return g.notLeader()
	}
	return nil // it led in the term before and after the round, and nobody leads twice in a term
}

// run makes rounds while somebody waits.
func (c *confirmer) run() {
	for {
		c.mu.Lock()
		waiting := c.waiting
		c.waiting = nil
		if len(waiting) == 0 {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		started := time.Now()
		err := c.round()
		c.group.metrics().confirmed(started, err)
		for _, w := range waiting {
			w <- err
		}
	}
}

// round asks all voters at once and waits for a majority.
func (c *confirmer) round() error {
	g := c.group
	term, ok := g.IsReady()
	if !ok {
		return g.notLeader()
	}
	e := g.lead.Load()
	if e == nil || e.term != term {
		return g.notLeader()
	}
	var others []raft.ServerID
	voters, yes := 0, 0
	for _, s := range e.engine.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == raft.ServerID(g.config.Self) {
			yes++
		} else {
			others = append(others, s.ID)
		}
	}
	answers := make(chan termAnswer, len(others))
	for _, id := range others {
		e.engine.transport.askTerm(id, func(a termAnswer) { answers <- a })
	}
	timer := time.NewTimer(g.host.config.ElectionTimeout)
	defer timer.Stop()
	for pending := len(others); yes <= voters/2; pending-- {
		if pending == 0 {
			return ErrNotConfirmed
		}
		select {
		case a := <-answers:
			switch {
			case a.err != nil:
			case a.term > term:
				return fmt.Errorf("a voter is in term %d: %w", a.term, g.notLeader())
			case a.term == term:
				yes++
			}
		case <-timer.C:
			return ErrNotConfirmed
		case <-e.engine.stopping:
			return ErrStopped
		}
	}
	if now, ok := g.IsReady(); !ok || now != term {
		return g.notLeader()
	}
	return nil
}

type termAnswer struct {
	term record.Term
	led  bool // it knows a leader
	err  error
}

// askTerm asks a voter for its term. done is called exactly once, maybe late, and must not block.
func (t *transport) askTerm(id raft.ServerID, done func(termAnswer)) {
	to, err := t.target(id)
	if err != nil {
		done(termAnswer{err: err})
		return
	}
	ask := func(l *link) {
		f := t.frame(frameTerm, to)
		l.ask(&f, &call{kind: frameTermAck, done: func(f *frame, err error) {
			if err == nil {
				err = answerError(f)
			}
			var term uint64
			var led bool
			if err == nil {
				term, led, err = decodeTermFlag(f.body)
			}
			done(termAnswer{raftTerm(term), led, err})
		}})
	}
	if l := to.peer.control.current(); l != nil {
		ask(l)
		return
	}
	dial := func() {
		l, err := to.peer.control.get(to.id, t.engine.stopping)
		if err != nil {
			done(termAnswer{err: err})
			return
		}
		ask(l)
	}
	if !t.host.background(dial) {
		done(termAnswer{err: ErrHostClosed})
	}
}
