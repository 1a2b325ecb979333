package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// balancer hands partitions, and shards of the coordinators, that this broker leads back to their
// preferred leaders, the first of their replicas. Placement spreads those evenly; after a restart, the broker that was away leads
// nothing, and the others too much. Kafka calls it auto.leader.rebalance.enable.
type balancer struct {
	self     int32
	interval time.Duration
	// preferred is the broker that shall lead a group; false: the group is unknown.
	preferred func(raftgroup.GroupID) (int32, bool)
	// heard is when a broker was last heard of.
	heard    func(broker int32) time.Time
	led      func() []ledGroup
	transfer func(ctx context.Context, tp record.TopicPartition, to int32) error
	logger   *slog.Logger

	// looked is when the last look was, seen has the preferred leaders that had been heard of since the
	// one before; tried when a group was last offered.
	looked time.Time
	seen   map[int32]bool
	tried  map[raftgroup.GroupID]time.Time
}

const (
	// offerAgain is how long a group is left alone after it was offered: a preferred leader that does not
	// manage to take it, or gives it away again since its disk is slow, is not pressed. A refusal before
	// anything happened has cost no writer anything, and counts for nothing.
	offerAgain = 30 * time.Second
	// transferTimeout bounds one hand-over. The group takes no writes meanwhile.
	transferTimeout = 2 * time.Second
)

// ledGroup is a partition, or a shard, that this broker leads and is ready to.
type ledGroup struct {
	tp    record.TopicPartition
	group raftgroup.GroupID
}

// offer is one to be handed to a broker.
type offer struct {
	ledGroup
	to int32
}

// led lists what this broker leads.
func (p *parts) led() []ledGroup {
	var list []ledGroup
	add := func(tp record.TopicPartition, group raftgroup.GroupID, s raftgroup.Status) {
		if s.Role == raftgroup.RoleLeader && s.Ready {
			list = append(list, ledGroup{tp, group})
		}
	}
	for _, g := range p.partitions.Groups() {
		add(g.Spec.TopicPartition, g.Spec.Group, g.Raft)
	}
	for _, g := range p.coordinators.Groups() {
		add(record.TopicPartition{Topic: g.Spec.Kind.Topic(), Partition: g.Spec.Number}, g.Spec.Group, g.Raft)
	}
	return list
}

// run balances until ctx ends.
func (b *balancer) run(ctx context.Context) {
	ticker := time.NewTicker(b.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, o := range b.look(now) {
				b.hand(ctx, o)
			}
		}
	}
}

// look says what to hand over now: what this broker leads and another one is preferred for that was
// heard of in the last two intervals both. One that has just died, or has just come up, gets nothing.
func (b *balancer) look(now time.Time) []offer {
	settled, tried, since := b.seen, b.tried, b.looked
	b.looked = now
	b.seen, b.tried = make(map[int32]bool), make(map[raftgroup.GroupID]time.Time)
	var offers []offer
	for _, g := range b.led() {
		to, ok := b.preferred(g.group)
		if !ok || to == b.self || !b.heard(to).After(since) {
			continue
		}
		b.seen[to] = true
		at, before := tried[g.group]
		switch {
		case before && now.Sub(at) < offerAgain:
			b.tried[g.group] = at
		case settled[to]:
			b.tried[g.group] = now
			offers = append(offers, offer{g, to})
		}
	}
	return offers
}

func (b *balancer) hand(ctx context.Context, o offer) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	if err := b.transfer(ctx, o.tp, o.to); err != nil {
		if partition.OutcomeOf(err) == raftgroup.DidNotHappen {
			delete(b.tried, o.group)
		}
		b.logger.Info("preferred leader did not take over", "topic", o.tp.Topic, "partition", o.tp.Partition, "to", o.to, "err", err)
		return
	}
	b.logger.Info("handed over to the preferred leader", "topic", o.tp.Topic, "partition", o.tp.Partition, "to", o.to)
}
