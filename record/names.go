package record

import (
	"fmt"
	"math"
)

// Offset counts records in one partition. The first record of a partition has offset 0.
type Offset int64

// NoOffset stands where an answer has no offset to give, as on every error path.
const NoOffset Offset = -1

// Index counts entries in one Raft log. It is never an Offset: refused batches,
// configuration changes and no-ops take an index and no offset (R4).
type Index uint64

// Term is a Raft term.
type Term uint64

// ProducerID names a producer for all time, across brokers and restarts (I1).
type ProducerID int64

// NoProducerID marks a batch without idempotence.
const NoProducerID ProducerID = -1

// Epoch orders the incarnations of one producer id. Clients see 0 to 32766.
type Epoch int16

// NoEpoch marks a batch without idempotence.
const NoEpoch Epoch = -1

// Sequence numbers the records of one producer in one partition. It wraps from
// 2^31-1 to 0 (P11).
type Sequence int32

// NoSequence marks a batch without idempotence.
const NoSequence Sequence = -1

// Add moves a sequence n records forward, through the wrap (P11). n is not negative.
func (s Sequence) Add(n int32) Sequence {
	if int32(s) > math.MaxInt32-n {
		return Sequence(n - (math.MaxInt32 - int32(s)) - 1)
	}
	return s + Sequence(n)
}

// Sub moves a sequence n records back, through the wrap: the inverse of Add (P11). n is not
// negative, s is a real sequence.
func (s Sequence) Sub(n int32) Sequence {
	if int32(s) < n {
		return Sequence(math.MaxInt32 - (n - int32(s)) + 1)
	}
	return s - Sequence(n)
}

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String gives "topic/partition".
func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }

// The internal topics. Their partitions are the shards of the coordinators; clients neither write nor read them.
const (
	// TransactionsTopic holds the shards for transactional ids.
	TransactionsTopic = "__transaction_state"
	// GroupsTopic holds the shards for consumer groups. A transaction that commits offsets has the group's shard among its
	// partitions.
	GroupsTopic = "__consumer_offsets"
)

// InternalTopic says whether a topic belongs to the brokers.
func InternalTopic(name string) bool { return name == TransactionsTopic || name == GroupsTopic }
