package client

import "time"

// Isolation says which records a consumer sees (Kafka: isolation.level).
type Isolation uint8

const (
	// ReadUncommitted shows every record. The default, as in Kafka.
	ReadUncommitted Isolation = iota
	// ReadCommitted shows records of committed transactions and those outside of any, up to the
	// last stable offset.
	ReadCommitted
)

// Reset says where a consumer goes on when it has no position, or one that the log no longer has
// or does not have yet (Kafka: auto.offset.reset).
type Reset uint8

const (
	// ResetLatest goes to the end. The default, as in Kafka.
	ResetLatest Reset = iota
	// ResetEarliest goes to the oldest record.
	ResetEarliest
	// ResetError stops the partition and reports OFFSET_OUT_OF_RANGE until Seek is called.
	ResetError
)

// ConsumerConfig configures a consumer. Zero fields stand for their defaults. Names in brackets are
// those of Kafka's consumer, whose defaults are the same unless said otherwise.
type ConsumerConfig struct {
	// Isolation [isolation.level]. Default ReadUncommitted.
	Isolation Isolation
	// Reset [auto.offset.reset]. Default ResetLatest.
	Reset Reset

	// MaxWait is how long a broker may hold a fetch that finds less than MinBytes
	// [fetch.max.wait.ms]. Default 500 ms, 1 ms to 1 min.
	MaxWait time.Duration
	// MinBytes is what a broker waits for [fetch.min.bytes]. Default 1, up to MaxBytes.
	MinBytes int
	// MaxBytes bounds one answer [fetch.max.bytes]; one batch above it is still given (L14).
	// Default 50 MiB, 1 KiB to 128 MiB.
	MaxBytes int
	// MaxPartitionBytes bounds what one answer holds of a partition
	// [max.partition.fetch.bytes]; one batch above it is still given. Default 1 MiB, 1 KiB to
	// 128 MiB.
	MaxPartitionBytes int
	// BufferBytes bounds what is fetched ahead of Poll. Default 64 MiB; at least
	// MaxPartitionBytes, at most 64 GiB. Answers may exceed it by one batch each.
	BufferBytes int64
	// MaxPollBytes bounds what one Poll returns, in place of Kafka's max.poll.records: batches are
	// not cut. Default 8 MiB, 1 B to 1 GiB; at least one batch is returned.
	MaxPollBytes int
	// ControlBatches shows the markers of transactions too, for tools: record.ParseMarker reads them, and Fetched.Records
	// gives them as records of which only the offset makes sense.
	ControlBatches bool
	// DisableCRC skips the check of every batch's CRC [check.crcs=false].
	DisableCRC bool
}

func (c ConsumerConfig) withDefaults() ConsumerConfig {
	orDefault(&c.MaxWait, 500*time.Millisecond)
	orDefault(&c.MinBytes, 1)
	orDefault(&c.MaxBytes, 50<<20)
	orDefault(&c.MaxPartitionBytes, 1<<20)
	orDefault(&c.BufferBytes, 64<<20)
	orDefault(&c.MaxPollBytes, 8<<20)
	return c
}

// Validate says which field is out of its range. Its error has the reason INVALID_CONFIG.
func (c ConsumerConfig) Validate() error {
	c = c.withDefaults()
	if c.Isolation > ReadCommitted {
		return invalid("Isolation", "is %d, want ReadUncommitted or ReadCommitted", c.Isolation)
	}
	if c.Reset > ResetError {
		return invalid("Reset", "is %d, want ResetLatest, ResetEarliest or ResetError", c.Reset)
	}
	return firstError(
		within("MaxWait", c.MaxWait, time.Millisecond, time.Minute),
		within("MaxBytes", c.MaxBytes, 1<<10, 128<<20),
		within("MinBytes", c.MinBytes, 1, c.MaxBytes),
		within("MaxPartitionBytes", c.MaxPartitionBytes, 1<<10, 128<<20),
		within("BufferBytes", int(c.BufferBytes), c.MaxPartitionBytes, 64<<30),
		within("MaxPollBytes", c.MaxPollBytes, 1, 1<<30),
	)
}
