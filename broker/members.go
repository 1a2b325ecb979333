package broker

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// movers leads the groups that this broker leads to the members that the metadata wants, and tells the
// metadata how far they are, which then takes the next step (cluster/metadata/reassign.go). Both sides look
// at what is: nothing is lost when a leader or this broker goes in the middle.
//
// Metadata that is older than a change that the leader before has made would have that taken back, and members added that were removed
// for good: their directories are gone, and nobody takes them out again. So nothing is changed before metadata has been confirmed in the
// term: what the leaders before acted on was agreed earlier than that. A turn may wait for other groups meanwhile: what it has to
// do in a term is refused in a later one.
type movers struct {
	groups func(raftgroup.GroupID) reshaper
	report func(context.Context, []cluster.GroupMembers) error
	// confirm returns once the metadata here holds all that was agreed before the call.
	confirm func(context.Context) error
	logger  *slog.Logger
	// sure has the terms in which metadata has been confirmed. Turns touch it, one at a time.
	sure map[raftgroup.GroupID]record.Term
	// done are the groups that were found to be as the metadata wants them. Turns touch it, one at a time.
	done map[raftgroup.GroupID]done
}

// done is what was found to agree: a partition, which is another one in memory when it changes, and a term.
type done struct {
	partition *metadata.Partition
	term      record.Term
}

// reshaper is what is asked of a *raftgroup.Group.
type reshaper interface {
	IsReady() (record.Term, bool)
	Reshape(ctx context.Context, p raftgroup.Plan) (raftgroup.Shape, error)
}

const (
	// moveLook is how often groups on their way are looked at.
	moveLook = 250 * time.Millisecond
	// moveIdle is how often this broker looks whether it leads such a group now.
	moveIdle = time.Second
	// moveTimeout bounds one look at one group: adding a member waits for a majority.
	moveTimeout = 10 * time.Second
	// confirmTimeout bounds one question whether the metadata is old.
	confirmTimeout = 2 * time.Second
	// movesAtOnce bounds the groups that are looked at together.
	movesAtOnce = 8
)

// turn looks once at the groups that are led here, but for those that are done, and tells what is news;
// pending: some are on their way.
func (m *movers) turn(ctx context.Context, img *metadata.Image) (pending bool) {
	var mu sync.Mutex
	var news []cluster.GroupMembers
	slots := make(chan struct{}, movesAtOnce)
	var wg sync.WaitGroup
	before, sure := m.done, m.sure
	m.done, m.sure = make(map[raftgroup.GroupID]done, len(before)), make(map[raftgroup.GroupID]record.Term)
	doubts := make(map[raftgroup.GroupID]record.Term)
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			id := raftgroup.GroupID(p.Group)
			g := m.groups(id)
			if p.Phase != metadata.Active || g == nil {
				continue
			}
			term, leads := g.IsReady()
			if !leads {
				continue
			}
			now, look := done{p, term}, sure[id] != term
			mu.Lock()
			if !look {
				m.sure[id] = term
			}
			if before[id] == now {
				m.done[id] = now
				mu.Unlock()
				continue
			}
			mu.Unlock()
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				found, ok, complete := m.move(ctx, g, t.Name, i, now, look)
				mu.Lock()
				defer mu.Unlock()
				if look && !complete {
					doubts[id] = term
				}
				if ok {
					news = append(news, found)
				}
				if complete && !p.Changing() {
					m.done[id] = now
				} else {
					pending = true
				}
			})
		}
	}
	wg.Wait()
	if len(news) > 0 {
		if err := m.report(ctx, news); err != nil && ctx.Err() == nil {
			m.logger.Warn("members not reported yet", "groups", len(news), "err", err)
		}
	}
	m.ask(ctx, doubts)
	return pending
}

// ask has the metadata confirmed for groups that are not what it says. They are changed from the next turn on.
func (m *movers) ask(ctx context.Context, doubts map[raftgroup.GroupID]record.Term) {
	if len(doubts) == 0 {
		return
	}
	asking, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := m.confirm(asking)
	switch {
	case err == nil:
		maps.Copy(m.sure, doubts)
	case ctx.Err() == nil:
		m.logger.Info("members of groups not changed yet: the metadata here may be old", "groups", len(doubts), "err", err)
	}
}

// move makes the changes of one group that can be made now, or with look none; ok: there is something to tell; complete: its
// members are those of the metadata.
func (m *movers) move(ctx context.Context, g reshaper, topic string, number int, now done, look bool) (found cluster.GroupMembers, ok, complete bool) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	p, plan := now.partition, planOf(now.partition)
	plan.Term, plan.Look = now.term, look
	shape, err := g.Reshape(ctx, plan)
	if err != nil {
		m.logger.Info("members of a group not changed yet", "topic", topic, "partition", number, "group", uint64(p.Group), "err", err)
	}
	found, ok = newsOf(p, shape)
	return found, ok, err == nil && shape.Done
}

// planOf is who shall be in a partition's group, and how.
func planOf(p *metadata.Partition) raftgroup.Plan {
	var plan raftgroup.Plan
	for _, r := range p.Replicas {
		id := raftgroup.MakeServerID(r.Broker, r.Incarnation)
		switch {
		case !r.Joining:
			plan.Voters = append(plan.Voters, id)
		case r.Created:
			plan.Learners = append(plan.Learners, id)
		}
	}
	for _, l := range p.Leaving {
		if !l.Removed {
			plan.Leaving = append(plan.Leaving, raftgroup.MakeServerID(l.Broker, l.Incarnation))
		}
	}
	return plan
}

// newsOf is what the metadata does not know yet of a group's shape.
func newsOf(p *metadata.Partition, shape raftgroup.Shape) (cluster.GroupMembers, bool) {
	news := cluster.GroupMembers{Group: p.Group}
	for _, r := range p.Replicas {
		for _, id := range shape.CaughtUp {
			if r.Joining && id == raftgroup.MakeServerID(r.Broker, r.Incarnation) {
				news.CaughtUp = append(news.CaughtUp, r.Incarnation)
			}
		}
	}
	for _, l := range p.Leaving {
		for _, id := range shape.Removed {
			if !l.Removed && id == raftgroup.MakeServerID(l.Broker, l.Incarnation) {
				news.Removed = append(news.Removed, l.Incarnation)
			}
		}
	}
	return news, len(news.CaughtUp)+len(news.Removed) > 0
}

// move follows the metadata until ctx ends.
func (p *parts) move(ctx context.Context) {
	confirm := func(ctx context.Context) error { _, err := p.cluster.Confirm(ctx); return err }
	m := &movers{report: p.cluster.ReportMembers, confirm: confirm, logger: p.logger, groups: func(id raftgroup.GroupID) reshaper {
		if g := p.raft.Group(id); g != nil {
			return g
		}
		return nil
	}}
	for {
		img := p.cluster.Image()
		every := moveIdle
		if m.turn(ctx, img) {
			every = moveLook
		}
		wait, cancel := context.WithTimeout(ctx, every)
		_, _ = p.cluster.WaitNewer(wait, img.Version())
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}
