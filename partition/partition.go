// Package partition hosts this broker's replicas: each is one Raft group whose state is a log of
// batches.
//
// The walk of a produce request: Host.Produce finds the replica, admission (produce.go) orders it
// among what is in flight and proposes it, Raft orders and stores it (recordlog), apply.go decides
// its fate and its offset, and the answer returns through the proposal. The walk of a fetch:
// Host.Fetch (fetch.go) waits and collects, read.go bounds each partition by high watermark or
// last stable offset, recordlog copies stored bytes once.
package partition

import (
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// TopicID names a topic for all time; a topic created again under the same name has another.
type TopicID [16]byte

// ReplicaSpec says which replica of which partition this broker holds.
type ReplicaSpec struct {
	record.TopicPartition
	TopicID TopicID
	Group   raftgroup.GroupID
	// Self is this replica's identity: broker and incarnation.
	Self raftgroup.ServerID
	// Voters are the members the group begins with; used once, when the group has no state.
	Voters []raftgroup.Server
	Config Config
}

// Config is a topic's configuration as far as its partitions act on it.
type Config struct {
	// MaxMessageBytes bounds one batch (max.message.bytes), at least record.HeaderSize.
	MaxMessageBytes int
	// LogAppendTime: the leader's clock replaces the producer's timestamps (P30).
	LogAppendTime bool
	// TimestampBeforeMax and TimestampAfterMax bound how far a record's timestamp may lie from
	// the leader's clock, in ms; math.MaxInt64 for no bound (P29).
	TimestampBeforeMax, TimestampAfterMax int64
	// Compacted: records need a key (P29), and the last one of each is kept.
	Compacted bool
	// DirtyRatio is how much of a compacted log must be uncompacted before it is compacted again, MinCompactionLagMS
	// and MaxCompactionLagMS how long a record stays so at least and at most, DeleteRetentionMS how long tombstones stay.
	DirtyRatio                                                float64
	MinCompactionLagMS, MaxCompactionLagMS, DeleteRetentionMS int64
	// Deletes: old records go by time and size (cleanup.policy holds delete).
	Deletes bool
	// RetentionMS and RetentionBytes bound what is kept, -1: no bound (L28).
	RetentionMS, RetentionBytes int64
	// SegmentMS is the age at which a segment is closed (L30).
	SegmentMS int64
	// SegmentBytes is the size at which a segment is closed.
	SegmentBytes int64
	// ProducerExpiration is how long an idle producer is remembered (P25).
	ProducerExpiration time.Duration
	// MaxProducers bounds the producers one partition remembers.
	MaxProducers int
}

// DefaultConfig holds Kafka's defaults where Kafka has the setting.
func DefaultConfig() Config {
	const never = 1<<63 - 1
	return Config{
		MaxMessageBytes:    1048588,
		TimestampBeforeMax: never,
		TimestampAfterMax:  int64(time.Hour / time.Millisecond),
		Deletes:            true,
		RetentionMS:        int64(7 * 24 * time.Hour / time.Millisecond),
		RetentionBytes:     -1,
		SegmentMS:          int64(7 * 24 * time.Hour / time.Millisecond),
		SegmentBytes:       64 << 20,
		ProducerExpiration: 24 * time.Hour,
		MaxProducers:       10_000,
		DirtyRatio:         0.5,
		MaxCompactionLagMS: never,
		DeleteRetentionMS:  int64(24 * time.Hour / time.Millisecond),
	}
}

// ProduceRequest asks for one batch to be appended.
type ProduceRequest struct {
	record.TopicPartition
	// TopicID is the topic that is meant; zero: whichever has the name.
	TopicID TopicID
	// Batch has been validated by the listener with the partition's Limits. The partition keeps
	// it: the caller must not touch it again.
	Batch record.Batch
	// TransactionalID is that of the producer's transaction if the batch has the transactional bit, else
	// empty. Version is the transaction version that the client speaks, 1 or 2 (T13).
	TransactionalID string
	Version         int8
	// Timeout is how long to wait for the outcome; 0: DefaultProduceTimeout.
	Timeout time.Duration
}

// DefaultProduceTimeout bounds a produce request that names no timeout.
const DefaultProduceTimeout = 30 * time.Second

// ProduceResult says where a batch lies. With an error BaseOffset and LogAppendTime are -1.
type ProduceResult struct {
	BaseOffset record.Offset
	// LogStart is the log start offset; with errors too, unless the partition is not led here (P33).
	LogStart record.Offset
	// LogAppendTime is in ms since 1970; -1 where the topic keeps the producer's timestamps.
	LogAppendTime int64
	// Duplicate: the batch had been appended before, at BaseOffset (P6).
	Duplicate bool
}
