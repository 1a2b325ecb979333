package coordinator

import (
	"maps"
	"sync"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/session"
)

// talk drives the conversation with one group's members: it brings in time and events, and carries out what comes of them. It lives as
// long as there is somebody to talk to, at most as long as the term.
type talk struct {
	l  *groupLeader
	id string

	// mu guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	conv    *session.Conversation
	streams map[session.Ticket]*stream
	timer   *time.Timer
	// sees is what members may be assigned of what their patterns match, by member, as they were heard last. One that is not there has not been
	// heard since this broker leads, or may see all.
	sees map[string]func(topic string) bool
	// over: nobody is there any more, and the leader has forgotten this talk.
	over bool
}

// stream is one member's stream, or question, as it waits to be told something.
type stream struct {
	// news is signalled when something is to be told.
	news chan struct{}

	// mu guards what is to be told. Nothing blocks under it.
	mu   sync.Mutex
	next *Assigned
	end  *session.End
}

// tell leaves something to be told; what was left before and not told yet is overtaken.
func (s *stream) tell(next *Assigned, end *session.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.end = next, end
	select {
	case s.news <- struct{}{}:
	default: // it has not looked yet
	}
}

// take gives what is to be told: an assignment once, the end for ever.
func (s *stream) take() (next *Assigned, end *session.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, end = s.next, s.end
	s.next = nil
	return next, end
}

// newTalk begins a talk with the members that the group has. The leader's lock is held.
func newTalk(l *groupLeader, id string) *talk {
	t := &talk{l: l, id: id, streams: make(map[session.Ticket]*stream)}
	c := l.g.config
	config := session.Config{SessionMS: c.SessionTimeout.Milliseconds(), SettleMS: c.Settle.Milliseconds(), RetryMS: talkRetry.Milliseconds()}
	t.conv = session.New(config, id, t, t.members(), l.now())
	t.timer = time.AfterFunc(time.Hour, t.tick)
	return t
}

func (t *talk) members() []*group.Member {
	var d group.Description
	t.l.s.machine.read(func(m *group.State) { d, _ = m.Describe(t.id) })
	return d.Members
}

// Check, Member and Epochs are the applied state (session.Shard).
func (t *talk) Check(c *statev1.GroupCommand) (r group.Result) {
	t.l.s.machine.read(func(m *group.State) { r = m.Check(t.l.g.host.nowMS(), c) })
	return r
}

// Member gives a member.
func (t *talk) Member(id string) (found *group.Member) {
	t.l.s.machine.read(func(m *group.State) { found = m.Member(t.id, id) })
	return found
}

// seesAs notes what a member may see. Held: mu.
func (t *talk) seesAs(r *MemberRequest) {
	switch {
	case r.Sees == nil || r.Epoch < group.JoinEpoch:
		delete(t.sees, r.MemberID)
		return
	case r.Epoch != group.JoinEpoch && t.Member(r.MemberID) == nil:
		return // nobody
	case t.sees == nil:
		t.sees = make(map[string]func(string) bool)
	case len(t.sees) >= 2*t.l.g.config.Limits.MaxMembers:
		maps.DeleteFunc(t.sees, func(id string, _ func(string) bool) bool { return t.Member(id) == nil })
	}
	t.sees[r.MemberID] = r.Sees
}

// Epochs gives the epochs of group and targets.
func (t *talk) Epochs() (epoch, assignment int32) {
	t.l.s.machine.read(func(m *group.State) { epoch, assignment = m.Epochs(t.id) })
	return epoch, assignment
}

// do lets f tell the conversation something, and carries out what comes of it. false: the talk is over, and f was not called.
func (t *talk) do(f func(now int64)) bool {
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
		return true
	}
	t.schedule()
	return true
}

func (t *talk) tick() { t.do(t.conv.Tick) }

// schedule sets the timer to when something is due. Held: mu.
func (t *talk) schedule() {
	next := t.conv.Next()
	if next == session.Never {
		t.timer.Stop()
		return
	}
	t.timer.Reset(time.Duration(max(0, next-t.l.now())) * time.Millisecond)
}

// finish makes the leader forget this talk. Held: mu.
func (t *talk) finish() {
	t.over = true
	t.timer.Stop()
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	if t.l.talks[t.id] == t {
		delete(t.l.talks, t.id)
	}
}

// close ends the talk with the term.
func (t *talk) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.finish()
	}
}

func (t *talk) findMembers(now int64) { t.conv.Found(now, t.members()) }

// carryOut does what the conversation wants done. Held: mu.
func (t *talk) carryOut(e session.Effect) {
	switch e := e.(type) {
	case session.Propose:
		t.l.background(func() { t.propose(e) })
	case session.Compute:
		t.l.background(t.compute)
	case session.Push:
		if s := t.streams[e.Ticket]; s != nil {
			next := t.named(e.Assignment)
			s.tell(&next, nil)
		}
	case session.End:
		if s := t.streams[e.Ticket]; s != nil {
			s.tell(nil, &e)
		}
	}
}

func (t *talk) propose(p session.Propose) {
	r, err := t.l.propose(p.Command)
	if err == nil {
		t.l.g.metrics.answered(p.Command, r)
		if p.Command.GetFence() != nil && r.Removed > 0 {
			t.l.g.metrics.fenced.Add(float64(r.Removed))
			t.l.s.logger.Info("members fenced", "group", t.id, "members", r.Removed)
		}
	}
	t.do(func(now int64) { t.conv.Proposed(now, p.Key, r, asError(err)) })
}

// compute has targets computed, a few at a time on this broker.
func (t *talk) compute() {
	select {
	case t.l.g.computing <- struct{}{}:
	case <-t.l.ctx.Done():
		return
	}
	begun := time.Now()
	targets := t.targets()
	<-t.l.g.computing
	t.l.g.metrics.computed.Observe(time.Since(begun).Seconds())
	t.do(func(now int64) { t.conv.Computed(now, targets) })
}
