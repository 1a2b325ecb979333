package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// classicTalk drives the conversation with the members of one group of the classic protocol, as a talk does with those of KIP-848. It lives
// as long as there is somebody to talk to, at most as long as the term.
type classicTalk struct {
	l  *groupLeader
	id string

	// mu guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	conv    *classic.Conversation
	waiting map[classic.Ticket]chan classic.Effect
	tickets classic.Ticket
	timer   *time.Timer
	// bytes is what the members, and the requests that wait, hold in memory, as it was counted last in the leader's.
	bytes int64
	over  bool
}

// newClassicTalk begins a talk with the members that the group has. The leader's lock is held.
func newClassicTalk(l *groupLeader, id string) *classicTalk {
	t := &classicTalk{l: l, id: id, waiting: make(map[classic.Ticket]chan classic.Effect)}
	t.conv = classic.New(l.g.config.classic(), id, t, l.now())
	t.timer = time.AfterFunc(time.Hour, t.tick)
	return t
}

// classic are the timings and bounds of a group.
func (c *GroupsConfig) classic() classic.Config {
	out := classic.DefaultConfig()
	out.MinSessionMS, out.MaxSessionMS = int32(c.MinSessionTimeout.Milliseconds()), int32(c.MaxSessionTimeout.Milliseconds())
	out.InitialDelayMS, out.MaxMembers = c.InitialRebalanceDelay.Milliseconds(), c.Limits.MaxMembers
	return out
}

// Describe is the applied state (classic.Shard).
func (t *classicTalk) Describe() (d group.Description, ok bool) {
	t.l.s.machine.read(func(m *group.State) { d, ok = m.Describe(t.id) })
	return d, ok
}

// Summarize is the same without members (classic.Shard).
func (t *classicTalk) Summarize() (d group.Description, ok bool) {
	t.l.s.machine.read(func(m *group.State) { d, ok = m.Summarize(t.id) })
	return d, ok
}

// do lets f tell the conversation something, and carries out what comes of it. false: the talk is over, and f was not called.
func (t *classicTalk) do(f func(now int64)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	f(t.l.now())
	for _, e := range t.conv.Effects() {
		t.carryOut(e)
	}
	if t.conv.Idle() {
		t.finish()
	} else {
		t.schedule()
	}
	return true
}

func (t *classicTalk) tick() {
	t.do(func(now int64) {
		t.conv.Tick(now)
		t.count()
	})
}

// schedule sets the timer to when something is due. Held: mu.
func (t *classicTalk) schedule() {
	next := t.conv.Next()
	if next == classic.Never {
		t.timer.Stop()
		return
	}
	t.timer.Reset(time.Duration(max(0, next-t.l.now())) * time.Millisecond)
}

// count counts what the members, and the requests that wait, hold in memory. Held: mu.
func (t *classicTalk) count() {
	n := t.conv.Bytes()
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	t.setBytes(n)
}

// setBytes says what the members hold. Held: mu, and the leader's.
func (t *classicTalk) setBytes(n int64) {
	t.l.classicBytes += n - t.bytes
	t.bytes = n
	t.l.g.metrics.joining.WithLabelValues(t.l.s.spec.String()).Set(float64(t.l.classicBytes))
}

// finish makes the leader forget this talk. Held: mu.
func (t *classicTalk) finish() {
	t.over = true
	t.timer.Stop()
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	t.setBytes(0)
	if t.l.classics[t.id] == t {
		delete(t.l.classics, t.id)
	}
}

// close ends the talk with the term.
func (t *classicTalk) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.finish()
	}
}

// carryOut does what the conversation wants done. Held: mu.
func (t *classicTalk) carryOut(e classic.Effect) {
	switch e := e.(type) {
	case classic.Propose:
		t.l.background(func() { t.propose(e) })
	case classic.Joined:
		t.answer(e.Ticket, e)
	case classic.Synced:
		t.answer(e.Ticket, e)
	case classic.Left:
		t.answer(e.Ticket, e)
	}
}

// answer tells whoever waits; one who has given up hears nothing. Held: mu.
func (t *classicTalk) answer(ticket classic.Ticket, e classic.Effect) {
	if c := t.waiting[ticket]; c != nil {
		c <- e // there is room for one, and there is only one
		delete(t.waiting, ticket)
	}
}

func (t *classicTalk) propose(p classic.Propose) {
	r, err := t.l.propose(p.Command)
	if err == nil {
		t.l.g.metrics.answered(p.Command, r)
		if b := p.Command.GetBeginGeneration(); b != nil && r.Code == group.OK {
			t.l.s.logger.Info("generation began", "group", t.id, "generation", b.GetPrevious()+1, "members", len(b.GetMembers()), "protocol", b.GetProtocol())
		}
	}
	t.do(func(now int64) {
		t.conv.Proposed(now, r, asError(err))
		t.count()
	})
}

// classic lets f say something in the talk with a group of the classic protocol, which begins if there is none. found: the group has members
// already, who must be watched over whatever the bound.
func (l *groupLeader) classic(id string, found bool, f func(now int64, t *classicTalk)) *Error {
	for {
		l.mu.Lock()
		t := l.classics[id]
		switch {
		case l.over:
			l.mu.Unlock()
			return l.s.notLeading(nil)
		case t == nil && !found && len(l.classics) >= l.g.config.Limits.MaxGroups:
			l.mu.Unlock()
			return groupAnswer(id, group.Result{Code: group.TooManyGroups})
		case t == nil:
			t = newClassicTalk(l, id)
			l.classics[id] = t
		}
		l.mu.Unlock()
		if t.do(func(now int64) { f(now, t) }) {
			return nil
		}
	}
}

// withClassic lets f look at the talk with a group, if there is one.
func (l *groupLeader) withClassic(id string, f func(now int64, t *classicTalk)) {
	l.mu.Lock()
	t := l.classics[id]
	l.mu.Unlock()
	if t != nil {
		t.do(func(now int64) { f(now, t) })
	}
}

// ask brings a request into a group's talk and waits for the answer: until ctx ends, or the term does. A talk begins only for
// whoever joins: nil, if there is none for others.
func (l *groupLeader) ask(ctx context.Context, id string, joins bool, request func(now int64, t *classicTalk, ticket classic.Ticket)) (classic.Effect, *Error) {
	answer := make(chan classic.Effect, 1)
	var in *classicTalk
	var ticket classic.Ticket
	say := func(now int64, t *classicTalk) {
		t.tickets++
		in, ticket = t, t.tickets
		t.waiting[ticket] = answer
		request(now, t, ticket)
	}
	if !joins {
		l.withClassic(id, say)
	} else if err := l.classic(id, false, say); err != nil {
		return nil, err
	}
	if in == nil {
		return nil, nil
	}
	l.g.metrics.streams.Inc()
	defer l.g.metrics.streams.Dec()
	select {
	case e := <-answer:
		return e, nil
	case <-l.ctx.Done():
		e := l.s.notLeading(l.ctx.Err())
		e.Outcome = raftgroup.MayHaveHappened
		return nil, e
	case <-ctx.Done():
		in.mu.Lock()
		delete(in.waiting, ticket)
		in.mu.Unlock()
		e := refused(CodeRequestTimedOut, "group %q had no answer in time", id)
		e.Outcome, e.Cause = raftgroup.MayHaveHappened, ctx.Err()
		return nil, e
	}
}
