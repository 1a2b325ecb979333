package coordinator

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/session"
	"github.com/oncelog/oncelog/internal/timeofday"
	"github.com/oncelog/oncelog/record"
)

// groupLeader is what one leadership of a group shard has to do: the talks with members, expiry, topics that are gone. All of it starts
// from the applied state and ends with the term.
type groupLeader struct {
	g    *Groups
	s    *groupShard
	ctx  context.Context
	term record.Term
	// begun is when the term began; times of talks are ms since then.
	begun time.Time
	// work are the goroutines that propose and compute for talks.
	work sync.WaitGroup

	// mu guards what follows. Nothing blocks under it. Whoever holds a talk's lock may take it, not the other way round.
	mu      sync.Mutex
	talks   map[string]*talk
	tickets session.Ticket
	// classics are the talks with groups of the classic protocol, classicBytes what their members, and
	// the requests that wait for a proposal, hold in memory.
	classics     map[string]*classicTalk
	classicBytes int64
	over         bool
}

const (
	// groupLook is how often a leader looks at bounds, metrics and members that nobody talks to.
	groupLook = 10 * time.Second
	// mostExpired is how many groups are expired in one look at the state.
	mostExpired = 1000
	// talkRetry is the pause after a proposal of a talk that failed.
	talkRetry = 200 * time.Millisecond
)

// lead does the coordinator's work of one term (service).
func (g *Groups) lead(ctx context.Context, s *shard, term record.Term) {
	gs := g.shardOf(s)
	l := &groupLeader{g: g, s: gs, ctx: ctx, term: term, begun: time.Now(), talks: make(map[string]*talk), classics: make(map[string]*classicTalk)}
	l.findMembers()
	gs.leader.Store(l)
	l.work.Go(l.watchTopics)
	l.run()
	gs.leader.CompareAndSwap(l, nil)
	l.end()
	l.work.Wait()
	g.metrics.forget(gs)
}

// run looks after clocks and bounds until the term ends.
func (l *groupLeader) run() {
	look := time.NewTicker(groupLook)
	defer look.Stop()
	expiry := time.NewTicker(l.g.config.OffsetsRetentionCheck)
	defer expiry.Stop()
	var offsets, producers timeofday.Marks[record.Index]
	next := l.s.machine.Applied() + 1
	offsets.Note(time.Now(), next, 0)
	producers.Note(time.Now(), next, 0)
	l.setLimits()
	l.g.metrics.observe(l.s)
	for {
		select {
		case <-look.C:
			l.setLimits()
			l.findMembers()
			l.g.metrics.observe(l.s)
		case <-expiry.C:
			next := l.s.machine.Applied() + 1
			l.expireOffsets(uint64(offsets.Note(time.Now(), next, min(l.g.config.OffsetsRetention, timeofday.IdleWatch))))
			l.expireProducers(uint64(producers.Note(time.Now(), next, min(l.g.config.ProducerExpiration, timeofday.IdleWatch))))
		case <-l.ctx.Done():
			return
		}
	}
}

// propose has a command applied in this term.
func (l *groupLeader) propose(c *statev1.GroupCommand) (group.Result, *Error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.g.config.RequestTimeout)
	defer cancel()
	return l.s.proposeCommand(ctx, l.term, c)
}

// setLimits makes the configured bounds part of the state (R5). A failure is left to the next look.
func (l *groupLeader) setLimits() {
	var have group.Limits
	l.s.machine.read(func(m *group.State) { have = m.Limits() })
	if want := l.g.config.Limits; want != have {
		c := &statev1.GroupCommand{Command: &statev1.GroupCommand_Limits{Limits: group.LimitsToProto(want)}}
		if _, err := l.propose(c); err != nil && l.ctx.Err() == nil {
			l.s.logger.Warn("limits not agreed", "err", err)
		}
	}
}

// expireOffsets forgets offsets that nobody has needed for long, and groups that are left with none; apply checks each again (G29, R5).
// Ages are judged without jumps of the clock, and only what was written below an index goes: that was the end of the log when this leader
// had begun to watch, for a while by its own time. 0: it has not watched for long enough.
func (l *groupLeader) expireOffsets(below uint64) {
	if below == 0 {
		return
	}
	now, _ := l.g.host.clock.Judge(l.s.logger)
	c := &statev1.ExpireOffsets{CutoffMs: now.Add(-l.g.config.OffsetsRetention).UnixMilli(), BelowIndex: below, NowMs: now.UnixMilli()}
	for l.ctx.Err() == nil {
		var due []string
		l.s.machine.read(func(m *group.State) { due = m.Expirable(c, c.NowMs, mostExpired) })
		expired := 0
		for _, id := range due {
			if l.s.classicGathers(id) { // what its members read is known only when they have gathered
				continue
			}
			expired++
			r, err := l.propose(&statev1.GroupCommand{GroupId: id, Command: &statev1.GroupCommand_ExpireOffsets{ExpireOffsets: c}})
			if err != nil {
				if l.ctx.Err() == nil {
					l.s.logger.Warn("old offsets not forgotten", "group", id, "err", err)
				}
				return
			}
			l.g.metrics.expired.WithLabelValues("offsets").Add(float64(r.Removed))
		}
		if len(due) < mostExpired || expired == 0 {
			return
		}
	}
}

// expireProducers forgets producers whose transactions have not reached this shard for long (P25).
func (l *groupLeader) expireProducers(below uint64) {
	if below == 0 {
		return
	}
	now, _ := l.g.host.clock.Judge(l.s.logger)
	c := &statev1.GroupCommand{Command: &statev1.GroupCommand_ExpireProducers{ExpireProducers: &statev1.ExpireGroupProducers{
		CutoffMs: now.Add(-l.g.config.ProducerExpiration).UnixMilli(), BelowIndex: below}}}
	l.proposeIfDue(c, "producers")
}

// proposeIfDue proposes a command that forgets something, if it would.
func (l *groupLeader) proposeIfDue(c *statev1.GroupCommand, what string) {
	var r group.Result
	l.s.machine.read(func(m *group.State) { r = m.Check(l.g.host.nowMS(), c) })
	if !r.Changed {
		return
	}
	r, err := l.propose(c)
	if err != nil {
		if l.ctx.Err() == nil {
			l.s.logger.Warn("not forgotten yet", "what", what, "err", err)
		}
		return
	}
	l.g.metrics.expired.WithLabelValues(what).Add(float64(r.Removed))
}

// watchTopics tells talks of other topics, and has the offsets of topics that are gone forgotten.
func (l *groupLeader) watchTopics() {
	var version uint64
	var known []Topic
	forget := true // of those that went while nobody led
	for {
		newer, err := l.g.config.Topics.WaitNewer(l.ctx, version)
		if err != nil {
			return
		}
		version = newer
		topics := l.g.config.Topics.All()
		if slices.Equal(topics, known) {
			continue
		}
		forget = forget || anyGone(known, topics)
		known = topics
		for _, t := range l.allTalks() {
			t.do(func(now int64) { t.conv.TopicsChanged(now) })
		}
		if forget {
			forget = !l.forgetTopics()
		}
	}
}

func anyGone(before, after []Topic) bool {
	there := make(map[group.TopicID]bool, len(after))
	for _, t := range after {
		there[t.ID] = true
	}
	return slices.ContainsFunc(before, func(t Topic) bool { return !there[t.ID] })
}

// forgetTopics deletes the offsets of topics that exist no more (G30), on metadata that is known to hold all that there are. It says whether
// that was found out.
func (l *groupLeader) forgetTopics() bool {
	var held []group.TopicID
	l.s.machine.read(func(m *group.State) { held = m.TopicIDs() })
	if len(held) == 0 {
		return true
	}
	if err := l.g.config.Topics.Confirm(l.ctx); err != nil {
		return false
	}
	there := make(map[group.TopicID]bool)
	for _, t := range l.g.config.Topics.All() {
		there[t.ID] = true
	}
	held = slices.DeleteFunc(held, func(id group.TopicID) bool { return there[id] })
	for some := range slices.Chunk(held, group.MaxForgotten) {
		cmd := &statev1.ForgetTopics{}
		for _, id := range some {
			cmd.TopicIds = append(cmd.TopicIds, id[:])
		}
		l.proposeIfDue(&statev1.GroupCommand{Command: &statev1.GroupCommand_ForgetTopics{ForgetTopics: cmd}}, "offsets of deleted topics")
	}
	return true
}

// now is the time of talks.
func (l *groupLeader) now() int64 { return time.Since(l.begun).Milliseconds() }

// findMembers sees to it that every member has somebody who watches over its session: those that were there before this term, and those
// that came by a proposal whose outcome was not known.
func (l *groupLeader) findMembers() {
	var groups []group.Description
	l.s.machine.read(func(m *group.State) { groups = m.List() })
	for _, d := range groups {
		switch {
		case d.Phase == group.PhaseEmpty:
		case d.Kind == group.KindConsumer:
			_ = l.talk(d.ID, func(now int64, t *talk) { t.findMembers(now) })
		case d.Kind == group.KindClassic:
			_ = l.classic(d.ID, true, func(int64, *classicTalk) {}) // it begins with the members that are there
		}
	}
}

// talk lets f say something in the talk with a group's members, which begins if there is none.
func (l *groupLeader) talk(id string, f func(now int64, t *talk)) *Error {
	for {
		l.mu.Lock()
		if l.over {
			l.mu.Unlock()
			return l.s.notLeading(nil)
		}
		t := l.talks[id]
		if t == nil {
			t = newTalk(l, id)
			l.talks[id] = t
		}
		l.mu.Unlock()
		if t.do(func(now int64) { f(now, t) }) {
			return nil
		}
	}
}

func (l *groupLeader) allTalks() []*talk {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*talk, 0, len(l.talks))
	for _, t := range l.talks {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *talk) int { return cmp.Compare(a.id, b.id) })
	return list
}

// ticket names a stream.
func (l *groupLeader) ticket() session.Ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tickets++
	return l.tickets
}

// background runs f as part of this term, unless that is over.
func (l *groupLeader) background(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.work.Go(f)
	return true
}

// end ends all talks. Those who wait are told that another broker leads.
func (l *groupLeader) end() {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	for _, t := range l.allTalks() {
		t.close()
	}
	for _, t := range l.allClassics() {
		t.close()
	}
}

func (l *groupLeader) allClassics() []*classicTalk {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.classics))
}
