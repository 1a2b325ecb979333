package producer

import (
	"math"

	"github.com/oncelog/oncelog/record"
)

// Marker ends a producer's transaction on this partition (L1).
type Marker struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// CoordinatorEpoch orders the coordinators that may write markers (P21).
	CoordinatorEpoch int32
	// Commit says commit; false is abort.
	Commit bool
	// Version is the transaction version under which the marker was written: 2 for TV2, lower for TV1 (P20).
	Version int8
}

// MarkerVerdict is what the machine says to one marker.
type MarkerVerdict struct {
	// Code is Accepted, or a refusal: InvalidProducerEpoch, CoordinatorFenced, TooManyProducers or Malformed.
	Code Code
	// StoredEpoch and StoredCoordinatorEpoch are as they were before this marker; -1 if unknown.
	StoredEpoch            record.Epoch
	StoredCoordinatorEpoch int32
	// First is the first offset of the transaction that was ended, NoOffset if nothing was open here (P22).
	First record.Offset
	// Evicted is as in Verdict.
	Evicted []record.ProducerID
}

// EndTransaction decides on the marker m and, if it is accepted, takes it in at offset at: it ends the open
// transaction if there is one, raises the epoch (P22, P24), and counts as activity (P23). A marker that is not
// accepted leaves no trace. The producer's epoch is checked before the coordinator's (P21). at and now are
// as in Append.
//
// A marker of an unknown producer is remembered too, for that is what fences (P22); so it may evict, and it gets
// TooManyProducers where Append would. Markers of known producers never do, so that room always comes.
func (s *State) EndTransaction(m Marker, at record.Offset, now int64) MarkerVerdict {
	place := noSlot
	if m.ProducerID >= 0 {
		place = s.table.find(m.ProducerID)
	}
	e := s.table.peek(place)
	v := MarkerVerdict{StoredEpoch: e.epoch, StoredCoordinatorEpoch: e.coordinatorEpoch, First: record.NoOffset}
	v.Code = s.judge(&m, e, place, now)
	if v.Code != Accepted {
		return v
	}
	s.advance(at, at)
	if place == noSlot {
		v.Evicted = s.makeRoom()
		fresh := blank(m.ProducerID)
		fresh.end(&m, at, now)
		s.table.insert(fresh)
		return v
	}
	own := s.table.entries.edit(place)
	wasOpen := own.isOpen()
	v.First = own.openFrom
	own.end(&m, at, now)
	s.table.settle(place, wasOpen)
	if wasOpen && !m.Commit {
		s.aborted.add(Aborted{ProducerID: m.ProducerID, First: v.First, Last: at, LastStable: s.firstUnstable(at + 1)})
	}
	return v
}

// judge decides on a marker of the producer e.
func (s *State) judge(m *Marker, e *entry, place slot, now int64) Code {
	switch {
	case m.ProducerID < 0:
		return Malformed
	case m.Epoch < e.epoch:
		return InvalidProducerEpoch // P20
	case m.Version >= 2 && m.Epoch == e.epoch && e.isOpen() && m.Epoch != math.MaxInt16:
		return InvalidProducerEpoch // P20: TV2 ends a transaction with the next epoch only
	case m.CoordinatorEpoch < e.coordinatorEpoch:
		return CoordinatorFenced // P21
	case place == noSlot && !s.canMakeRoom(now):
		return TooManyProducers
	}
	return Accepted
}

// end takes in an accepted marker.
func (e *entry) end(m *Marker, at record.Offset, now int64) {
	e.raise(m.Epoch)
	e.coordinatorEpoch = m.CoordinatorEpoch
	e.openFrom = record.NoOffset
	e.lastMarker = at
	if m.Version < 2 {
		e.voidingMarker = at
	}
	e.touch(at, now)
}

// LastMarker is the offset of the producer's latest marker, NoOffset if there is none or the producer is not
// known. The leader notes it in Knew.Marker before it asks the coordinator (T10).
func (s *State) LastMarker(id record.ProducerID) record.Offset {
	return s.table.peek(s.table.find(id)).lastMarker
}

// HasOpen says whether the producer has a transaction open here at exactly this epoch, so that no further
// question to the coordinator is needed (T9).
func (s *State) HasOpen(id record.ProducerID, epoch record.Epoch) bool {
	e := s.table.peek(s.table.find(id))
	return e.isOpen() && e.epoch == epoch
}
