package txn

import (
	"math"
	"slices"
	"strings"

	"github.com/oncelog/oncelog/record"
)

// Status is where a transactional id is in its life (3.1). The numbers are Kafka's.
type Status uint8

// The states. Kafka's Dead and PrepareEpochFence have no place here: forgetting an id, and fencing with the abort
// that goes with it, are one command each.
const (
	// Empty: owned by a producer, no transaction since.
	Empty Status = 0
	// Ongoing: a transaction is open.
	Ongoing Status = 1
	// PrepareCommit and PrepareAbort: it is decided, and not all partitions have their markers.
	PrepareCommit Status = 2
	PrepareAbort  Status = 3
	// CompleteCommit and CompleteAbort: all partitions have their markers.
	CompleteCommit Status = 4
	CompleteAbort  Status = 5
)

var statusNames = [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"}

// String is Kafka's name of the state.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "Unknown"
}

// ParseStatus reads what String gives.
func ParseStatus(name string) (Status, bool) {
	i := slices.Index(statusNames[:], name)
	return Status(i), i >= 0
}

// Ending says that the outcome is decided and markers are on their way. Until they have all been written the id is
// closed to its producer (T1, T24).
func (s Status) Ending() bool { return s == PrepareCommit || s == PrepareAbort }

// idle: no transaction is open or ending.
func (s Status) idle() bool { return s == Empty || s == CompleteCommit || s == CompleteAbort }

// The epochs at the end of their range.
const (
	// lastEpoch is the last epoch that a client ever has.
	lastEpoch record.Epoch = math.MaxInt16 - 1
	// fencingEpoch is above it: only markers carry it (T20).
	fencingEpoch record.Epoch = math.MaxInt16
)

// Transaction is all that is known of one transactional id (T2, I18). It never changes once it is in a State: a change
// replaces it. What it holds is shared and must not be written to.
type Transaction struct {
	// ID is the transactional id.
	ID string
	// Version is the Raft index of the command that last moved it on. Adding partitions does not move it on, and
	// neither does an event: so the adds of one transaction can be computed side by side.
	Version uint64
	// ProducerID and Epoch are those of the producer that owns the id; while it is Ending, those on the markers.
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// PreviousProducerID is the one before, as long as its owner may not have heard of the new one (I6, T19).
	PreviousProducerID record.ProducerID
	// NextProducerID takes over with epoch 0 when the markers are written (T20); NoProducerID: no change.
	NextProducerID record.ProducerID
	// LastEpoch is the epoch from which Epoch was raised by its own producer, or by the server under TV2: whoever shows it
	// asks again for an answer that was lost (I10, T19). NoEpoch: nobody may.
	LastEpoch record.Epoch
	// TimeoutMS is how long a transaction may be open.
	TimeoutMS int32
	Status    Status
	// ClientVersion is the transaction version of the latest add or end: 1, 2, or 0 before there was one.
	ClientVersion int8
	// Partitions are in the transaction, sorted; empty when none is open or ending.
	Partitions []record.TopicPartition
	// StartMS is when the latest transaction began, -1 if there was none since the producer took over.
	StartMS int64
	// UpdatedMS is the leader's time of the latest change.
	UpdatedMS int64
	// History is what happened to the id, oldest first.
	History []Event
}

// LastEvent is the latest event of the history, nil if there is none.
func (t *Transaction) LastEvent() *Event {
	if t == nil || len(t.History) == 0 {
		return nil
	}
	return &t.History[len(t.History)-1]
}

// version is 0 for an id that is not known.
func (t *Transaction) version() uint64 {
	if t == nil {
		return 0
	}
	return t.Version
}

// owner says whether a producer is the one that owns the id now.
func (t *Transaction) owner(id record.ProducerID, epoch record.Epoch) bool {
	return id == t.ProducerID && epoch == t.Epoch && epoch != fencingEpoch
}

// exhausted: no epoch is left that could be given to a client (I11).
func (t *Transaction) exhausted() bool { return t.Epoch >= lastEpoch }

// has finds a partition in the transaction.
func (t *Transaction) has(tp record.TopicPartition) bool {
	_, ok := slices.BinarySearchFunc(t.Partitions, tp, comparePartitions)
	return ok
}

func comparePartitions(a, b record.TopicPartition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}
