package client

import (
	"time"

	"github.com/oncelog/oncelog/record"
)

// Acks says when a record counts as written (Kafka: acks).
type Acks uint8

const (
	// AcksAll: a majority of replicas has fsynced it (acks=all). The default.
	AcksAll Acks = iota
	// AcksLeader is answered exactly as AcksAll, because an offset exists only then: stronger than
	// acks=1 in Kafka (R12).
	AcksLeader
	// AcksNone: nobody answers (acks=0). Records may be lost without a word; every outcome is
	// Unknown. It cannot be combined with idempotence, which it switches off.
	AcksNone
)

// String gives "all", "leader" or "none".
func (a Acks) String() string {
	switch a {
	case AcksAll:
		return "all"
	case AcksLeader:
		return "leader"
	case AcksNone:
		return "none"
	default:
		return "invalid"
	}
}

// NoLinger, as ProducerConfig.Linger, sends every record as soon as there is room in flight.
const NoLinger time.Duration = -1

// ProducerConfig configures a producer. Zero fields stand for their defaults; the zero value is an
// idempotent producer that waits for a majority. Names in brackets are those of Kafka's producer,
// whose defaults are the same unless said otherwise.
type ProducerConfig struct {
	// Acks says what to wait for [acks]. Default AcksAll.
	Acks Acks
	// DisableIdempotence gives up deduplication: retries may then write records twice and out of
	// order [enable.idempotence=false]. Default false.
	DisableIdempotence bool

	// Linger is how long a batch that is not full waits for more records [linger.ms]. Default 5 ms,
	// up to 1 min; NoLinger for none.
	Linger time.Duration
	// BatchBytes is the size at which a batch counts as full [batch.size]. Default 128 KiB, 1 KiB to
	// 64 MiB. Kafka's is 16 KiB; a batch is one Raft entry and one share of an fsync here, so larger
	// ones pay. Memory is taken as records come, not per batch.
	BatchBytes int
	// MaxRequestBytes bounds one record and one batch, uncompressed [max.request.size]. Default
	// 1 MiB, 1 KiB to 128 MiB. The topic's max.message.bytes bounds them too, at the broker.
	MaxRequestBytes int
	// Compression of batches [compression.type]. Default none.
	Compression record.Codec
	// CompressionLevel of that codec; 0 is its default.
	CompressionLevel int

	// MaxInFlight is how many batches of one partition may be on their way [
	// max.in.flight.requests.per.connection]. Default 5. With idempotence at most 5, the number
	// that brokers remember per producer (P5); without, at most 1000, and more than 1 may reorder.
	MaxInFlight int
	// DeliveryTimeout is when a record's outcome is reported at the latest, retries included
	// [delivery.timeout.ms]. Default 2 min; at least RequestTimeout plus Linger, at most 24 h.
	DeliveryTimeout time.Duration
	// RequestTimeout is how long one batch may go unanswered before its connection is given up
	// [request.timeout.ms]. Default: that of the client, 30 s. 100 ms to 10 min.
	RequestTimeout time.Duration

	// BufferBytes bounds the memory for records that are not resolved [buffer.memory]. Default
	// 32 MiB; at least MaxRequestBytes, at most 64 GiB.
	BufferBytes int64
	// MaxBlock bounds how long Send waits for room in the buffer or for metadata [max.block.ms].
	// Default 1 min, 1 ms to 24 h. Send's context may end sooner.
	MaxBlock time.Duration

	// Partitioner picks the partition of records that name none [partitioner.class]. Default: by
	// the hash of the key as Kafka does; without a key, one partition at a time, changed after
	// every BatchBytes.
	Partitioner Partitioner
}

// Bounds of ProducerConfig that other values depend on.
const (
	maxInFlightIdempotent = 5
	maxInFlightPlain      = 1000
)

func (c ProducerConfig) withDefaults(base Config) ProducerConfig {
	orDefault(&c.Linger, 5*time.Millisecond)
	orDefault(&c.BatchBytes, 128<<10)
	orDefault(&c.MaxRequestBytes, 1<<20)
	orDefault(&c.MaxInFlight, 5)
	orDefault(&c.DeliveryTimeout, 2*time.Minute)
	orDefault(&c.RequestTimeout, base.RequestTimeout)
	orDefault(&c.BufferBytes, 32<<20)
	orDefault(&c.MaxBlock, time.Minute)
	if c.Acks == AcksNone {
		c.DisableIdempotence = true
	}
	return c
}

// Validate says which field is out of its range, given the client's Config. Its error has the
// reason INVALID_CONFIG.
func (c ProducerConfig) Validate(base Config) error {
	c = c.withDefaults(base.withDefaults())
	if c.Acks > AcksNone {
		return invalid("Acks", "is %d, want AcksAll, AcksLeader or AcksNone", c.Acks)
	}
	if c.Compression > record.CodecZstd {
		return invalid("Compression", "is %v, want none, gzip, snappy, lz4 or zstd", c.Compression)
	}
	if !c.DisableIdempotence && c.MaxInFlight > maxInFlightIdempotent {
		return invalid("MaxInFlight", "is %d, want 1 to %d with idempotence: brokers remember the last %d batches of a producer, and a retry of an older one could not be recognised",
			c.MaxInFlight, maxInFlightIdempotent, maxInFlightIdempotent)
	}
	if c.Linger != NoLinger {
		if err := within("Linger", c.Linger, 0, time.Minute); err != nil {
			return err
		}
	}
	return firstError(
		within("BatchBytes", c.BatchBytes, 1<<10, 64<<20),
		within("MaxRequestBytes", c.MaxRequestBytes, 1<<10, 128<<20),
		within("MaxInFlight", c.MaxInFlight, 1, maxInFlightPlain),
		within("RequestTimeout", c.RequestTimeout, 100*time.Millisecond, 10*time.Minute),
		within("DeliveryTimeout", c.DeliveryTimeout, c.RequestTimeout+max(c.Linger, 0), 24*time.Hour),
		within("BufferBytes", int(c.BufferBytes), c.MaxRequestBytes, 64<<30),
		within("MaxBlock", c.MaxBlock, time.Millisecond, 24*time.Hour),
	)
}
