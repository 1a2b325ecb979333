package raftgroup

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/record"
)

// leadership is one term of this replica as the leader.
type leadership struct {
	term   record.Term
	engine *engine
	ctx    context.Context
	cancel context.CancelFunc
	// ready is set once this leadership's leader-start has been applied.
	ready atomic.Bool
}

// transferRetry is how long a leader-start waits while leadership is being handed over.
const transferRetry = 20 * time.Millisecond

// leaderChanged follows Raft's own notice. It runs on the group's supervisor and must not block.
func (g *Group) leaderChanged(e *engine, leads bool) {
	if !leads {
		g.endLeadership()
		return
	}
	// The term is read after the notice: if leadership has been lost by now, it may be a later one.
	// Then nothing gets through in it, or Raft gained that one too and says so again.
	term := raftTerm(e.raft.CurrentTerm())
	if e.raft.State() != raft.Leader {
		return
	}
	g.endLeadership()
	l := &leadership{term: term, engine: e}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	g.lead.Store(l)
	g.metrics().leaderChanges.Inc()
	g.logger.Info("elected leader", "term", uint64(term))
	g.startLeading(l)
}

// startLeading proposes the leader-start (R1), again if Raft refuses it while leadership is being
// handed over and the handing over then fails.
func (g *Group) startLeading(l *leadership) {
	p := &proposal{
		command: Command{Term: l.term, AppendTime: time.Now().UnixMilli()},
		kind:    KindLeaderStart, size: envelopeSize,
	}
	p.done = func(_ any, err error) {
		if err == nil || g.lead.Load() != l {
			return
		}
		g.logger.Debug("leader-start failed", "term", uint64(l.term), "err", err)
		g.goroutine(func() {
			timer := time.NewTimer(transferRetry)
			defer timer.Stop()
			select {
			case <-timer.C:
				g.startLeading(l)
			case <-l.ctx.Done():
			}
		})
	}
	if err := g.proposals.admit(p); err != nil {
		g.logger.Debug("leader-start not proposed", "term", uint64(l.term), "err", err)
	}
}

// leaderStarted is told by apply of every leader-start. If it is this leadership's own, the
// replica is ready.
func (g *Group) leaderStarted(term record.Term, index record.Index) {
	g.eventMu.Lock()
	defer g.eventMu.Unlock()
	l := g.lead.Load()
	if l == nil || l.term != term || l.ready.Load() {
		return
	}
	l.ready.Store(true)
	g.logger.Info("ready to lead", "term", uint64(term), "index", uint64(index))
	g.emitLocked(LeadershipEvent{Term: term, Ready: true, Index: index, Context: l.ctx})
}

// endLeadership ends what was begun in a term.
func (g *Group) endLeadership() {
	g.eventMu.Lock()
	defer g.eventMu.Unlock()
	l := g.lead.Swap(nil)
	if l == nil {
		return
	}
	l.cancel()
	g.logger.Info("no longer leader", "term", uint64(l.term))
	if l.ready.Load() {
		g.emitLocked(LeadershipEvent{Term: l.term})
	}
}

// emitLocked queues an event for OnLeadership, which is called from a goroutine that lives while
// there are events. Held: eventMu.
func (g *Group) emitLocked(e LeadershipEvent) {
	if g.config.OnLeadership == nil {
		return
	}
	g.events = append(g.events, e)
	if !g.telling {
		g.telling = g.goroutine(g.tell)
	}
}

func (g *Group) tell() {
	for {
		g.eventMu.Lock()
		if len(g.events) == 0 {
			g.telling = false
			g.eventMu.Unlock()
			return
		}
		e := g.events[0]
		g.events = g.events[1:]
		g.eventMu.Unlock()
		g.config.OnLeadership(e)
	}
}

// Leader gives the leader as far as this replica knows (empty: unknown) and this replica's term.
func (g *Group) Leader() (ServerID, record.Term) {
	e := g.engine.Load()
	if e == nil {
		return "", 0
	}
	_, id := e.raft.LeaderWithID()
	return ServerID(id), raftTerm(e.raft.CurrentTerm())
}

// IsReady says whether this replica leads and has applied its own leader-start (R1), and in which
// term. It may be wrong about "leads" as long as nobody has told the replica otherwise: Confirm
// proves it.
func (g *Group) IsReady() (record.Term, bool) {
	l := g.lead.Load()
	if l == nil || !l.ready.Load() || l.engine.raft.State() != raft.Leader || raftTerm(l.engine.raft.CurrentTerm()) != l.term {
		return 0, false
	}
	return l.term, true
}

// TermContext gives a context that ends with ctx, or as soon as this replica is known not to lead
// in a term any more; at once if it does not lead in it now.
func (g *Group) TermContext(ctx context.Context, term record.Term) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	l := g.lead.Load()
	if l == nil || l.term != term {
		cancel()
		return ctx, cancel
	}
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
