package producer

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// Batch is what the machine must know of a record batch. All of it comes from the batch's header,
// except Coordinator and Knew, which the leader adds and the entry carries (R3a).
type Batch struct {
	// ProducerID is the producer's id. Below 0 (record.NoProducerID): no idempotence, always accepted, nothing kept.
	ProducerID record.ProducerID
	// Epoch is the producer's epoch. record.NoEpoch with an id is kept like any other, but orders nothing: see Append.
	Epoch record.Epoch
	// BaseSequence and LastSequence number the first and last record, through the wrap (P11).
	// Both are record.NoSequence without a producer id and when Coordinator is set.
	BaseSequence, LastSequence record.Sequence
	// Records is how many offsets the batch takes, at least 1.
	Records int32
	// MaxTimestamp is the batch's largest timestamp in ms, kept to answer a duplicate (P6).
	MaxTimestamp int64
	// Transactional says that the batch belongs to a transaction.
	Transactional bool
	// Coordinator marks a batch written by the group coordinator and not by a client: it gets the
	// epoch and verification checks, but no sequence check and no deduplication (P17).
	Coordinator bool
	// Knew is what only the leader could know. It matters for transactional batches only.
	Knew Knew
}

// Knew is what the leader knew of a transactional batch when it proposed it (R3a). It travels in the
// entry so that every replica, whoever leads later, decides alike. The zero value says: not verified.
type Knew struct {
	// Verified says that the transaction coordinator confirmed the partition for this transaction (T9).
	Verified bool
	// Version is the client's transaction version: 2 for TV2, anything lower for TV1 (T13).
	Version int8
	// Marker is State.LastMarker of the producer as it was before the coordinator was asked (T10).
	// A later marker voids the verification. record.NoOffset: there was none.
	Marker record.Offset
	// LowestSequence is the lowest first sequence that was ever submitted for verification at this
	// epoch (P15). record.NoSequence: not known, P15 is not checked.
	LowestSequence record.Sequence
}

// NoTimestamp stands where a verdict has no timestamp to give.
const NoTimestamp int64 = -1

// Verdict is what the machine says to one batch.
type Verdict struct {
	// Code is the decision. Every code but Accepted and Duplicate is a refusal that did not happen.
	Code Code
	// Base and Last are the batch's first and last offset: its own when accepted by Append, the
	// original's when a duplicate (P6), record.NoOffset otherwise.
	Base, Last record.Offset
	// Timestamp is the original's max timestamp when a duplicate (P6), else NoTimestamp.
	Timestamp int64
	// Expected is the sequence that would have been taken, when the code is OutOfOrderSequence,
	// else record.NoSequence. Got is the batch's first sequence.
	Expected, Got record.Sequence
	// StoredEpoch is the producer's epoch as it was before this batch, record.NoEpoch if unknown.
	StoredEpoch record.Epoch
	// Evicted lists the producers that were forgotten to make room for this one, longest idle
	// first. It is nil but for the first batch of a new producer, and always nil from Check.
	Evicted []record.ProducerID
}

// Refused says whether the batch is neither newly accepted nor a duplicate.
func (v Verdict) Refused() bool { return v.Code != Accepted && v.Code != Duplicate }

// Message says in one sentence why the batch b got this verdict, for an error that a client reads.
func (v Verdict) Message(b Batch) string {
	who := fmt.Sprintf("producer %d epoch %d", b.ProducerID, b.Epoch)
	switch v.Code {
	case Accepted:
		return who + ": accepted"
	case Duplicate:
		return fmt.Sprintf("%s: sequences %d to %d were written before, at offset %d", who, b.BaseSequence, b.LastSequence, v.Base)
	case OutOfOrderSequence:
		return fmt.Sprintf("%s: expected sequence %d, got %d", who, v.Expected, v.Got)
	case InvalidProducerEpoch:
		return fmt.Sprintf("%s: a higher epoch %d has been seen", who, v.StoredEpoch)
	case InvalidTxnState:
		if b.Transactional {
			return who + ": no transaction is open here and the verification is missing or void"
		}
		return who + ": a plain batch while its transaction is open here"
	case TooManyProducers:
		return who + ": the partition remembers as many producers as it may, and cannot forget those with open transactions or active lately"
	case Malformed:
		return fmt.Sprintf("%s: impossible header: %d records, sequences %d to %d", who, b.Records, b.BaseSequence, b.LastSequence)
	}
	return fmt.Sprintf("%s: %s", who, v.Code)
}

// Code is a decision of the machine.
type Code uint8

// The decisions. The zero Code is none of them.
const (
	// Accepted: new; Append has taken it in.
	Accepted Code = iota + 1
	// Duplicate: exactly this batch is one of the producer's last five (P5).
	Duplicate
	// OutOfOrderSequence: not the next sequence (P7, P10, P12, P14, P15).
	OutOfOrderSequence
	// InvalidProducerEpoch: a higher epoch has been seen (P8, P9, P20).
	InvalidProducerEpoch
	// InvalidTxnState: a transactional batch that is not verified (P8), or a plain one while the
	// producer has a transaction open here (P16).
	InvalidTxnState
	// CoordinatorFenced: a marker of a coordinator that has been replaced (P21).
	CoordinatorFenced
	// TooManyProducers: a new producer, Limits.MaxProducers are known and not enough of them may be
	// forgotten: a transaction is open, or they are idle for less than Limits.MinIdle. To be retried
	// later, like a throttle.
	TooManyProducers
	// Malformed: numbers that no valid batch has. The listener refuses such batches (P28), so in an
	// entry it means that validation was left out.
	Malformed
)

// String is the name of Kafka's error where there is one.
func (c Code) String() string {
	switch c {
	case Accepted:
		return "ACCEPTED"
	case Duplicate:
		return "DUPLICATE"
	case OutOfOrderSequence:
		return "OUT_OF_ORDER_SEQUENCE_NUMBER"
	case InvalidProducerEpoch:
		return "INVALID_PRODUCER_EPOCH"
	case InvalidTxnState:
		return "INVALID_TXN_STATE"
	case CoordinatorFenced:
		return "TRANSACTION_COORDINATOR_FENCED"
	case TooManyProducers:
		return "TOO_MANY_PRODUCERS"
	case Malformed:
		return "MALFORMED"
	}
	return fmt.Sprintf("CODE_%d", uint8(c))
}
