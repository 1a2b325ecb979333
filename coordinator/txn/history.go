package txn

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// HistoryLength is how many events are kept of each id.
const HistoryLength = 16

// EventKind says what happened to a transactional id.
type EventKind uint8

// The kinds of events, as they are written (never renumber).
const (
	// Initialised: a producer took the id over, or took it up again.
	Initialised EventKind = 1
	// Fenced: a producer took the id over while a transaction was open, which was aborted.
	Fenced EventKind = 2
	// TimedOut: a transaction was open for too long and was aborted.
	TimedOut EventKind = 3
	// AbortedByOperator: an operator had a transaction aborted.
	AbortedByOperator EventKind = 4
	// BatchRefused: a partition refused a batch, the first one at this epoch.
	BatchRefused EventKind = 5
)

var eventNames = [...]string{"", "initialised", "fenced", "timed out", "aborted by operator", "batch refused"}

// String says it in words.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return "unknown"
}

// Event is one line of a history.
type Event struct {
	Kind EventKind
	// TimeMS is the leader's time, ms since 1970.
	TimeMS int64
	// ProducerID and Epoch are the new ones with Initialised, else those that were hit.
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// Client caused it; zero: the coordinator itself.
	Client Client
	// Refused is set with BatchRefused.
	Refused *RefusedBatch
}

// Client is a client as its connection and its requests show it.
type Client struct {
	// ID is what it calls itself, Address where it comes from.
	ID, Address string
}

// RefusedBatch is what a partition had against a batch.
type RefusedBatch struct {
	record.TopicPartition
	// Code is Kafka's name of the error.
	Code string
	// Expected is the sequence that would have been right, Received the one that came; NoSequence where
	// that was not the reason.
	Expected, Received record.Sequence
}

// remember adds an event and lets the oldest go. The old slice is shared and stays as it is.
func remember(history []Event, e Event) []Event {
	if drop := len(history) + 1 - HistoryLength; drop > 0 {
		history = history[drop:]
	}
	return append(slices.Clip(history), e)
}

// note enters the first refused batch of an epoch. A batch of anyone but the present producer, or the one
// before, is no news.
func note(t *Transaction, c *statev1.NoteRefusal, now int64) Result {
	id, epoch := record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch())
	switch {
	case t == nil || id != t.ProducerID && id != t.PreviousProducerID:
		return refuse(t, InvalidProducerIDMapping)
	case slices.ContainsFunc(t.History, func(e Event) bool {
		return e.Kind == BatchRefused && e.ProducerID == id && e.Epoch == epoch
	}):
		return unchanged(t)
	}
	next := *t
	next.History = remember(t.History, Event{
		Kind: BatchRefused, TimeMS: now, ProducerID: id, Epoch: epoch,
		Refused: &RefusedBatch{
			TopicPartition: record.TopicPartition{Topic: c.GetTopic(), Partition: c.GetPartition()},
			Code:           c.GetCode(),
			Expected:       record.Sequence(c.GetExpectedSequence()), Received: record.Sequence(c.GetReceivedSequence()),
		},
	})
	return changed(&next)
}

func clientOf(c *statev1.ClientRef) Client {
	return Client{ID: c.GetClientId(), Address: c.GetAddress()}
}
