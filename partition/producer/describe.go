package producer

import "github.com/oncelog/oncelog/record"

// Description is what a partition remembers of one producer, for people to read.
type Description struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// CoordinatorEpoch is that of the latest marker, -1 if none.
	CoordinatorEpoch int32
	// LastTimestamp is the leader's time, in ms, of the latest batch or marker.
	LastTimestamp int64
	// OpenFrom is the first offset of the open transaction, NoOffset if none.
	OpenFrom record.Offset
	// LastMarker is the offset of the latest marker, NoOffset if none.
	LastMarker record.Offset
	// LastSequence is the latest sequence of this epoch, NoSequence if none.
	LastSequence record.Sequence
	// Batches are the remembered batches, oldest first, at most five.
	Batches []BatchDescription
	// Refused is the first batch of this epoch that the leader refused. It is no part of the state, and set by
	// whoever leads; nil: none since it leads.
	Refused *Refused
}

// Refused is a batch that was not written.
type Refused struct {
	// TimeMS is the leader's time, ms since 1970.
	TimeMS int64
	// Code is Kafka's name of the error.
	Code string
	// Expected and Received are NoSequence where sequences were not the reason.
	Expected, Received record.Sequence
}

// BatchDescription is one remembered batch (P2).
type BatchDescription struct {
	FirstSequence, LastSequence record.Sequence
	FirstOffset, LastOffset     record.Offset
	// Timestamp is the batch's max timestamp in ms.
	Timestamp int64
}

// Describe describes the producers ids, in that order, leaving out those not known. Without ids it describes all: first
// those with an open transaction, oldest transaction first, then the others, latest active first. At most max
// are given (none if max is below 1); truncated says that there were more.
func (s *State) Describe(ids []record.ProducerID, max int) (found []Description, truncated bool) {
	add := func(at slot) bool {
		if len(found) >= max {
			truncated = true
			return false
		}
		found = append(found, s.table.entries.at(at).describe())
		return true
	}
	if len(ids) > 0 {
		for _, id := range ids {
			if at := s.table.find(id); at != noSlot && !add(at) {
				break
			}
		}
		return found, truncated
	}
	for at := s.table.open.head; at != noSlot && !truncated; at = s.table.links.at(at).next {
		add(at)
	}
	for at := s.table.idle.tail; at != noSlot && !truncated; at = s.table.links.at(at).prev {
		add(at)
	}
	return found, truncated
}

func (e *entry) describe() Description {
	d := Description{
		ProducerID: e.id, Epoch: e.epoch, CoordinatorEpoch: e.coordinatorEpoch, LastTimestamp: e.lastTimestamp,
		OpenFrom: e.openFrom, LastMarker: e.lastMarker, LastSequence: e.lastSequence(),
		Batches: make([]BatchDescription, e.count),
	}
	for i := range d.Batches {
		k := e.batch(i)
		d.Batches[i] = BatchDescription{
			FirstSequence: k.firstSequence(), LastSequence: k.lastSequence,
			FirstOffset: k.firstOffset(), LastOffset: k.lastOffset, Timestamp: k.timestamp,
		}
	}
	return d
}
