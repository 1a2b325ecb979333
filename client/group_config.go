package client

import (
	"context"
	"regexp"
	"time"

	"github.com/oncelog/oncelog/record"
)

// GroupConfig configures a member of a consumer group. Zero fields stand for their defaults. Names in brackets are those of
// Kafka's consumer.
type GroupConfig struct {
	// ConsumerConfig is about what is read. Reset says where a partition begins that the group has committed no offset for.
	ConsumerConfig
	// GroupID names the group [group.id], 1 to 1,024 bytes. Required.
	GroupID string
	// InstanceID names this member over its restarts [group.instance.id]: when it closes and comes back within the session
	// timeout of the brokers, it has the partitions that it had. Empty: it leaves when it closes.
	InstanceID string
	// Topics are read by the group, shared out among its members. Those that do not exist yet are read once they do.
	Topics []string
	// Pattern adds every topic whose whole name it matches, RE2. Topics or a Pattern is required.
	Pattern string
	// Assignor shares partitions out [group.remote.assignor]: "uniform", the default, or "range".
	Assignor string
	// Rack is told to the brokers [client.rack].
	Rack string

	// MaxPollInterval is the longest time between two calls of Poll [max.poll.interval.ms]: whoever takes longer leaves the group
	// until it polls again, since it may hang. It is also how long others wait for partitions that this member is to give
	// back. Default 5 min, 1 s to 1 h.
	MaxPollInterval time.Duration
	// AutoCommit commits what Poll has returned, at the next Poll and when partitions are given back
	// [enable.auto.commit, whose default is true]. Default: only Commit and its variants do.
	AutoCommit bool
	// AutoCommitInterval is the time between two such commits [auto.commit.interval.ms]. Default 5 s, 1 ms to 1 h.
	AutoCommitInterval time.Duration

	// OnAssigned is told of partitions that this member has got, and that have their position: what the group has
	// committed. It may Seek. Nil: nobody.
	OnAssigned func(context.Context, []record.TopicPartition)
	// OnRevoked is told of partitions that this member is about to give back: their records are not read any more, and nobody else
	// reads them before it returns. It may commit. Nil: nobody.
	OnRevoked func(context.Context, []record.TopicPartition)
	// OnLost is told of partitions that this member had, and others may have by now: it was taken for dead. Commits for them are
	// refused. Nil: nobody.
	//
	// All three are called by Poll, or by Close, and must not call either.
	OnLost func([]record.TopicPartition)
}

func (c GroupConfig) withDefaults() GroupConfig {
	c.ConsumerConfig = c.ConsumerConfig.withDefaults()
	orDefault(&c.MaxPollInterval, 5*time.Minute)
	orDefault(&c.AutoCommitInterval, 5*time.Second)
	nobody := func(context.Context, []record.TopicPartition) {}
	if c.OnAssigned == nil {
		c.OnAssigned = nobody
	}
	if c.OnRevoked == nil {
		c.OnRevoked = nobody
	}
	if c.OnLost == nil {
		c.OnLost = func([]record.TopicPartition) {}
	}
	return c
}

// Validate says which field is out of its range. Its error has the reason INVALID_CONFIG.
func (c GroupConfig) Validate() error {
	if err := c.ConsumerConfig.Validate(); err != nil {
		return err
	}
	if n := len(c.GroupID); n < 1 || n > 1024 {
		return invalid("GroupID", "has %d bytes, want 1 to 1024", n)
	}
	if n := len(c.InstanceID); n > 1024 {
		return invalid("InstanceID", "has %d bytes, want at most 1024", n)
	}
	if len(c.Topics) == 0 && c.Pattern == "" {
		return invalid("Topics", "is empty, and so is Pattern; want something to read")
	}
	if len(c.Topics) > 1000 {
		return invalid("Topics", "has %d names, want at most 1000; use Pattern", len(c.Topics))
	}
	if _, err := regexp.Compile(c.Pattern); err != nil {
		return invalid("Pattern", "is no regular expression of RE2: %v", err)
	}
	c = c.withDefaults()
	return firstError(
		within("MaxPollInterval", c.MaxPollInterval, time.Second, time.Hour),
		within("AutoCommitInterval", c.AutoCommitInterval, time.Millisecond, time.Hour),
	)
}

// GroupMember names a member of a group as it is now. It goes with offsets that are committed in a transaction: the brokers refuse them
// once the member is a member no more, or has lost their partitions.
type GroupMember struct {
	GroupID, MemberID, InstanceID string
	// Epoch is the member's; below 0: nobody in particular, and no member is checked.
	Epoch int32

	// topics are the ids of the topics that it reads, by name: an offset in one that was deleted is none in the next one of its name. Never changed.
	topics *map[string]string
}

// topicID is the id of a topic that the member reads; empty: it is not known.
func (m GroupMember) topicID(name string) string {
	if m.topics == nil {
		return ""
	}
	return (*m.topics)[name]
}
