package coordinator

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// Topic is a topic as groups see it.
type Topic struct {
	Name       string
	ID         group.TopicID
	Partitions int32
}

// Topics is what the cluster's metadata says of topics. Its methods may be called from any goroutine; Topic and All answer
// at once, from what this broker has heard.
type Topics interface {
	// Topic gives the topic that has a name now.
	Topic(name string) (Topic, bool)
	// All gives every topic, internal ones too, sorted by name.
	All() []Topic
	// WaitNewer waits for newer metadata than that of a version, and gives its version. 0 is older than all.
	WaitNewer(ctx context.Context, version uint64) (uint64, error)
	// Confirm returns once this broker has heard of all that was agreed before the call.
	Confirm(ctx context.Context) error
}

// Joiner asks the coordinators of transactions, here or on another broker.
type Joiner interface {
	// JoinTransaction returns nil once the partition is in the producer's transaction: under TV2 it joins by this question,
	// under TV1 the producer must have added it before (T8). Errors are *Error.
	JoinTransaction(ctx context.Context, j Joining) error
}

// Joining asks for a shard of groups, a partition of the transaction like any other (T15, T16), to be in a transaction.
type Joining struct {
	record.TopicPartition
	TransactionalID string
	Producer        Producer
	// Version is the client's transaction version, 1 or 2.
	Version int8
}

// GroupsConfig is what the group coordinator needs.
type GroupsConfig struct {
	Host         *Host
	Topics       Topics
	Transactions Joiner
	// SessionTimeout is for how long a member may be silent (group.consumer.session.timeout.ms). 0: 45 seconds.
	SessionTimeout time.Duration
	// HeartbeatInterval is how often members are told to be heard (group.consumer.heartbeat.interval.ms). 0: 5 seconds.
	HeartbeatInterval time.Duration
	// Settle is from a change of members, subscriptions or topics to new assignments, so that members who come together are
	// dealt with together. 0: 100 ms.
	Settle time.Duration
	// MinSessionTimeout and MaxSessionTimeout bound what members of the classic protocol may ask for
	// (group.min.session.timeout.ms, group.max.session.timeout.ms). 0: 6 seconds, 30 minutes.
	MinSessionTimeout, MaxSessionTimeout time.Duration
	// InitialRebalanceDelay is for how long the first of them waits for others (group.initial.rebalance.delay.ms). Below 0: not at all.
	// 0: 3 seconds.
	InitialRebalanceDelay time.Duration
	// OffsetsRetention is how long an offset is kept that no member needs (offsets.retention.minutes). 0: 7 days.
	OffsetsRetention time.Duration
	// OffsetsRetentionCheck is how often a leader looks for such offsets (offsets.retention.check.interval.ms). 0: 10 minutes.
	OffsetsRetentionCheck time.Duration
	// ProducerExpiration is how long a producer is remembered whose transactions have committed offsets. 0: 1 day.
	ProducerExpiration time.Duration
	// RequestTimeout bounds a request whose context has no deadline. 0: 30 seconds.
	RequestTimeout time.Duration
	// Limits bound what clients can make one shard remember; zero fields: group.DefaultLimits.
	Limits     group.Limits
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c *GroupsConfig) setDefaults() {
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 45*time.Second)
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, 5*time.Second)
	c.Settle = cmp.Or(c.Settle, 100*time.Millisecond)
	c.MinSessionTimeout = cmp.Or(c.MinSessionTimeout, 6*time.Second)
	c.MaxSessionTimeout = cmp.Or(c.MaxSessionTimeout, 30*time.Minute)
	c.InitialRebalanceDelay = max(cmp.Or(c.InitialRebalanceDelay, 3*time.Second), 0)
	c.OffsetsRetention = cmp.Or(c.OffsetsRetention, 7*24*time.Hour)
	c.OffsetsRetentionCheck = cmp.Or(c.OffsetsRetentionCheck, 10*time.Minute)
	c.ProducerExpiration = cmp.Or(c.ProducerExpiration, 24*time.Hour)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 30*time.Second)
	d := group.DefaultLimits()
	c.Limits = group.Limits{
		MaxGroups: cmp.Or(c.Limits.MaxGroups, d.MaxGroups), MaxMembers: cmp.Or(c.Limits.MaxMembers, d.MaxMembers),
		MaxOffsets: cmp.Or(c.Limits.MaxOffsets, d.MaxOffsets), MaxProducers: cmp.Or(c.Limits.MaxProducers, d.MaxProducers),
		MaxBytes: cmp.Or(c.Limits.MaxBytes, d.MaxBytes),
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Groups answers what concerns consumer groups, as far as this broker leads their shards. Its methods may be called
// from many goroutines. Errors are *Error.
type Groups struct {
	config  GroupsConfig
	host    *Host
	metrics *groupMetrics
	// computing bounds how many assignments are computed at once: they take only the processor.
	computing chan struct{}

	// mu guards shards. Nothing blocks under it.
	mu     sync.RWMutex
	shards map[*shard]*groupShard
}

// maxComputing is how many assignments a broker computes at once.
const maxComputing = 2

// NewGroups makes the host serve group shards.
func NewGroups(c GroupsConfig) *Groups {
	c.setDefaults()
	g := &Groups{
		config: c, host: c.Host, metrics: newGroupMetrics(c.Registerer), computing: make(chan struct{}, maxComputing), shards: make(map[*shard]*groupShard),
	}
	c.Host.serve(KindGroups, g)
	return g
}

// open makes the machine of a shard (service).
func (g *Groups) open(s *shard) raftgroup.StateMachine {
	gs := newGroupShard(s)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shards[s] = gs
	return &gs.machine
}

// closed forgets a shard (service).
func (g *Groups) closed(s *shard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.shards, s)
}

func (g *Groups) shardOf(s *shard) *groupShard {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.shards[s]
}

// led gives the shards that are open here. Some of them may be led by others.
func (g *Groups) led() []*groupShard {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var list []*groupShard
	for s, gs := range g.shards {
		select {
		case <-s.opened:
			list = append(list, gs)
		default:
		}
	}
	return list
}

func (g *Groups) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, g.config.RequestTimeout)
}
