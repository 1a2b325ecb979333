package client

import (
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/record"
)

// batch is records of one partition that travel together, from the first Append to the last
// callback. While it is open the lane's mutex guards it; afterwards its ledger owns it.
type batch struct {
	builder *record.Builder
	// tellings are the records whose senders want to be told, in order.
	tellings []telling
	// flushes are closed once every callback of the batch has returned.
	flushes []chan struct{}
	// callbacks says that a telling has a callback, which must run in order with all others.
	callbacks bool

	records  int32
	reserved int64     // bytes taken from the producer's buffer
	created  time.Time // first record
	deadline time.Time // created + DeliveryTimeout
	lingerAt time.Time // when an open batch is sent though not full
	urgent   bool      // somebody waits: send without linger
	// transactional: it belongs to a transaction.
	transactional bool

	// encoded says that only the identity is missing; a compressed batch gets there outside of all
	// locks, see lane.encode.
	encoded bool
	// wire is the batch as it was last sent, numbered for generation wireGen. It is never changed
	// once it was handed to gRPC, which may be reading it long after: renumbering works on a copy.
	wire    record.Batch
	wireGen uint64
	// handed and answered count attempts under any number. Equal: nothing reads wire any more. Guarded
	// by the lane's mutex, also when the batch is resolved, as encoded is (lane.hasLetGo).
	handed, answered int
	// users are who still reads a resolved batch: the one who completes futures, and the one who
	// calls callbacks.
	users atomic.Int32

	// What follows is the ledger's (ledger.go).

	base     record.Sequence // under the current identity
	attempts int             // sends under the current number
	doubtful int             // of those, how many may have been written without our being told
	live     *attempt
	verdict  verdict // of the last attempt that has ended
	acked    bool
	known    bool // certainly written, since a later one of the same epoch was
	resolved bool
	ack      ack
	err      *Error // why the last attempt failed
}

// telling is one record's sender: whom to tell, and which record of the batch it was.
type telling struct {
	delta    int32
	callback func(Result)
	future   *Future
}

// ack is what a broker said of a batch that is written.
type ack struct {
	base      record.Offset
	logStart  record.Offset
	appended  int64 // ms, -1: the topic keeps the producers' timestamps
	duplicate bool
}

// attempt is one send of one batch.
type attempt struct {
	b          *batch
	lane       *lane
	topic      string // id of the topic that is meant
	generation uint64 // of the ledger's identity
	id         uint64 // on its stream
	stream     *stream
	sentAt     time.Time
	// oldest: everything before it was resolved when it was sent.
	oldest bool
	// live: the ledger waits for its end. An attempt that was abandoned is not live, and its
	// answer, should one come, only removes doubt.
	live bool
}

// verdict is how an attempt ended, other than well.
type verdict uint8

const (
	verdictNone       verdict = iota
	verdictAgain              // did not happen; may be tried again
	verdictLost               // may have happened; try again to find out
	verdictOutOfOrder         // did not happen: the sequence is not the next one (P10)
	verdictFenced             // did not happen: the epoch is not the current one (P9)
	verdictTooLarge           // did not happen: the batch is too large (P29)
	verdictRefused            // did not happen, and never will
)

// final says that trying the same batch again is no use.
func (v verdict) final() bool { return v >= verdictTooLarge }

// definite says that the attempt certainly did not happen.
func (v verdict) definite() bool { return v != verdictLost }

// size is what the batch weighs against BatchBytes and MaxRequestBytes.
func (b *batch) size() int { return b.builder.Size() }

// stamp makes b.wire the batch under the given number.
func (b *batch) stamp(generation uint64, id identity, seq record.Sequence) {
	switch {
	case b.wire != nil && b.wireGen == generation:
		return
	case b.wire != nil && b.handed > 0:
		b.wire = append(record.Batch(nil), b.wire...)
		b.wire.Rewrite(id.pid, id.epoch, seq)
	default:
		b.wire = b.builder.Finish(id.pid, id.epoch, seq, b.transactional)
	}
	b.wireGen = generation
}

// halve cuts a batch in two, for a broker that will not take it whole. Nil when that cannot be done.
func (b *batch) halve(c *record.Compression) []*batch {
	records, err := b.wire.Records(maxMessageBytes)
	if err != nil {
		return nil
	}
	defer records.Close()
	half := (b.records + 1) / 2
	parts := make([]*batch, 2)
	for i := range parts {
		parts[i] = &batch{builder: c.NewBuilder(), created: b.created, deadline: b.deadline, lingerAt: b.lingerAt, transactional: b.transactional}
	}
	for n := int32(0); records.Next(); n++ {
		part := parts[n/half]
		r := records.Record()
		if part.builder.Append(r.Timestamp, r.Key, r.Value, r.Headers) != nil {
			return nil
		}
		part.records++
	}
	if records.Err() != nil || parts[0].records+parts[1].records != b.records || parts[1].records == 0 {
		return nil
	}
	for _, t := range b.tellings {
		part := parts[t.delta/half]
		t.delta %= half
		part.tellings = append(part.tellings, t)
	}
	for i, part := range parts {
		part.callbacks = b.callbacks
		part.encode()
		part.reserved = b.reserved * int64(i) // the last part gives all of it back
	}
	parts[1].flushes = b.flushes
	return parts
}

// encode compresses a closed batch, so that only its numbers are missing.
func (b *batch) encode() {
	if !b.encoded {
		b.builder.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, b.transactional)
		b.encoded = true
	}
}
