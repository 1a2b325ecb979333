package producer

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// DefaultMaxProducers is the bound where Limits gives none. One producer takes about 220 bytes.
const DefaultMaxProducers = 100_000

// Limits bounds what clients can make a State remember. All replicas must use the same values, and
// change them at the same entry, or they would evict differently.
type Limits struct {
	// MaxProducers is the largest number of producers remembered; 0 or less means DefaultMaxProducers.
	MaxProducers int
	// MinIdle is how long a producer must have been idle, by the leaders' clocks, before another one takes its place, in
	// ms; 0: not at all. A full partition refuses newcomers rather than forget whom it may still hear from.
	MinIdle int64
}

func (l Limits) maxProducers() int {
	if l.MaxProducers <= 0 {
		return DefaultMaxProducers
	}
	return l.MaxProducers
}

// State is what one partition remembers of its producers and transactions (P1, L5, L8).
//
// It is not safe for concurrent use, with these exceptions: Check, LastStable, Aborted, Describe, LastMarker,
// HasOpen, Idle, AppendTo and the plain accessors may run at the same time as each other, except on a
// fresh clone (see Clone). A clone and its original are independent.
type State struct {
	limits Limits
	table  table
	// aborted lists the aborted transactions whose marker is at or above logStart (L8).
	aborted abortedIndex
	// logStart is the partition's log start as last told, never going back (L6).
	logStart record.Offset
	// end is the lowest offset that the next batch or marker can have.
	end record.Offset
}

// New makes the state of an empty partition.
func New(limits Limits) *State { return &State{limits: limits, table: newTable()} }

// Len is how many producers are remembered, for the metric that goes with Limits.MaxProducers.
func (s *State) Len() int { return s.table.len() }

// OpenTransactions is how many of them have a transaction open; these cannot be evicted or expire.
func (s *State) OpenTransactions() int { return s.table.open.n }

// Append decides on the batch b and, if it is accepted, takes it in at offset base. now is the leader's time
// from the entry in ms; it may go back between leaders. base must not be below the end of what was
// appended before (that is the caller's broken invariant, and panics).
//
// A refused batch leaves no trace at all. A duplicate changes nothing either. The order of the checks is
// Kafka's: duplicate (P5), epoch then verification of a transaction's first batch (P8), epoch (P9),
// sequence (P10 to P15), plain batch inside a transaction (P16), and last room for a new producer.
//
// A producer with an id but epoch -1 is kept as Kafka keeps it: exact duplicates are found, but its sequences
// are not held to any order (P28, P13).
func (s *State) Append(b Batch, base record.Offset, now int64) Verdict {
	v, at := s.decide(&b, now)
	if v.Code != Accepted {
		return v
	}
	v.Base, v.Last = base, base+record.Offset(b.Records-1)
	s.advance(v.Base, v.Last)
	if b.ProducerID < 0 {
		return v
	}
	if at == noSlot {
		v.Evicted = s.makeRoom()
		e := blank(b.ProducerID)
		e.take(&b, base, now)
		s.table.insert(e)
		return v
	}
	e := s.table.entries.edit(at)
	wasOpen := e.isOpen()
	e.take(&b, base, now)
	s.table.settle(at, wasOpen)
	return v
}

// Check says what Append would say, without changing anything. A leader asks it before it proposes, and may
// use the answer in two ways only (R3): report a Duplicate, once its leadership is confirmed (R1),
// or go on and propose. Any refusal is a guess, because batches in flight may be applied first; it may be told to a
// client only when nothing is in flight here and leadership was confirmed after the call.
// For batches in flight see Speculation.
func (s *State) Check(b Batch, now int64) Verdict {
	v, _ := s.decide(&b, now)
	return v
}

// decide is the one place where a batch's fate is decided. It also gives the producer's slot.
func (s *State) decide(b *Batch, now int64) (Verdict, slot) {
	v := Verdict{
		Code: Accepted, Base: record.NoOffset, Last: record.NoOffset, Timestamp: NoTimestamp,
		Expected: record.NoSequence, Got: b.BaseSequence, StoredEpoch: record.NoEpoch,
	}
	if !b.wellFormed() {
		v.Code = Malformed
		return v, noSlot
	}
	if b.ProducerID < 0 {
		return v, noSlot
	}
	at := s.table.find(b.ProducerID)
	e := s.table.peek(at)
	v.StoredEpoch = e.epoch
	if !b.Coordinator { // P5, P6
		if k := e.duplicate(b); k != nil {
			v.Code, v.Base, v.Last, v.Timestamp = Duplicate, k.firstOffset(), k.lastOffset, k.timestamp
			return v, at
		}
	}
	if b.Epoch < e.epoch { // P9, and before the verification in P8
		v.Code = InvalidProducerEpoch
		return v, at
	}
	if b.Transactional && !(e.isOpen() && b.Epoch == e.epoch) && !e.verified(b) { // P8
		v.Code = InvalidTxnState
		return v, at
	}
	if !b.Coordinator { // P10 to P15, P17
		if expected, ok := e.expects(b); !ok {
			v.Code, v.Expected = OutOfOrderSequence, expected
			return v, at
		}
	}
	if e.isOpen() && !b.Transactional { // P16
		v.Code = InvalidTxnState
		return v, at
	}
	if at == noSlot && !s.canMakeRoom(now) {
		v.Code = TooManyProducers
	}
	return v, at
}

// wellFormed says whether b's numbers fit each other, so that nothing below can overflow.
func (b *Batch) wellFormed() bool {
	switch {
	case b.Records < 1:
		return false
	case b.ProducerID < 0:
		return !b.Transactional
	case b.Coordinator:
		return b.BaseSequence == record.NoSequence && b.LastSequence == record.NoSequence
	default:
		return b.BaseSequence >= 0 && b.LastSequence == b.BaseSequence.Add(b.Records-1)
	}
}

// advance moves the end behind a batch or marker at first to last.
func (s *State) advance(first, last record.Offset) {
	if first < s.end || last < first {
		panic(fmt.Sprintf("producer: offsets %d to %d appended below the end %d", first, last, s.end))
	}
	s.end = last + 1
}

// canMakeRoom says whether one more producer can be remembered, if need be by evicting idle ones.
func (s *State) canMakeRoom(now int64) bool {
	excess := s.table.len() + 1 - s.limits.maxProducers()
	if excess > s.table.idle.n {
		return false
	}
	for at := s.table.idle.head; excess > 0; excess-- {
		// A clock that has gone back protects nobody: it may stay back for long.
		if idle := now - s.table.entries.at(at).lastTimestamp; idle >= 0 && idle < s.limits.MinIdle {
			return false
		}
		at = s.table.links.at(at).next
	}
	return true
}

// makeRoom evicts until one more producer can be remembered: those longest idle, that is, whose latest
// batch or marker lies lowest in the log. More than one goes only after the limit was lowered.
func (s *State) makeRoom() []record.ProducerID {
	excess := s.table.len() + 1 - s.limits.maxProducers()
	if excess <= 0 {
		return nil
	}
	evicted := make([]record.ProducerID, 0, excess)
	for range excess {
		evicted = append(evicted, s.table.entries.at(s.table.idle.head).id)
		s.table.remove(s.table.idle.head)
	}
	return evicted
}

// Clone makes an independent copy. It costs O(n/32) pointer copies; afterwards each side copies a page of 32
// producers when it first changes one of them. Clone counts as a change of the original: nothing may run
// at the same time on it. The copy may then be read, and even changed, while the original is changed. The
// copy's index of ids is built by its first call of Append, Check, EndTransaction, Expire, LastMarker,
// HasOpen or Describe; until one of these has returned, no two calls may run on the copy at the same time.
func (s *State) Clone() *State {
	c := *s
	c.table = s.table.clone()
	c.aborted = s.aborted.clone()
	return &c
}
