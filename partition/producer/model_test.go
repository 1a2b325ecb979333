package producer

import (
	"math"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// model is a second implementation of the rules, written to be obvious and not to be fast. It keeps no state but the
// history: everything that was accepted, per producer, in order. Each question is answered by reading the
// history again. Nothing in it is shared with the real machine but the types of the questions and answers.
type model struct {
	max      int
	minIdle  int64
	stories  map[record.ProducerID][]event
	ended    []Aborted // aborted transactions that had data, in marker order; LastStable is not filled in
	logStart record.Offset
	time     int // counts accepted events
}

// event is one accepted batch or marker.
type event struct {
	time   int
	now    int64
	marker bool
	epoch  record.Epoch

	batch      Batch         // of a batch
	base, last record.Offset // of both

	coordinatorEpoch int32 // of a marker
	version          int8
}

func newModel(max int, minIdle int64) *model {
	return &model{max: max, minIdle: minIdle, stories: make(map[record.ProducerID][]event)}
}

func (m *model) known(id record.ProducerID) bool { return len(m.stories[id]) > 0 }

// epoch is the highest epoch in the story; -1 without a story.
func (m *model) epoch(id record.ProducerID) record.Epoch {
	e := record.NoEpoch
	for _, ev := range m.stories[id] {
		e = max(e, ev.epoch)
	}
	return e
}

// lastFive are the client's latest five batches at the current epoch, oldest first (P1, P4).
func (m *model) lastFive(id record.ProducerID) []event {
	current := m.epoch(id)
	var five []event
	for _, ev := range m.stories[id] {
		if !ev.marker && ev.epoch == current && !ev.batch.Coordinator {
			five = append(five, ev)
		}
	}
	if len(five) > 5 {
		five = five[len(five)-5:]
	}
	return five
}

// open is the first offset of transactional data after the last marker, -1 if there is none.
func (m *model) open(id record.ProducerID) record.Offset {
	from := record.NoOffset
	for _, ev := range m.stories[id] {
		if ev.marker {
			from = record.NoOffset
		} else if ev.batch.Transactional && from == record.NoOffset {
			from = ev.base
		}
	}
	return from
}

func (m *model) lastMarker(id record.ProducerID) (event, bool) {
	for _, ev := range slices.Backward(m.stories[id]) {
		if ev.marker {
			return ev, true
		}
	}
	return event{}, false
}

// voided says whether a marker after the position that the leader noted ended the verification of b (T10).
func (m *model) voided(b Batch) bool {
	for _, ev := range m.stories[b.ProducerID] {
		excused := ev.version >= 2 && ev.epoch == b.Epoch
		if ev.marker && ev.last > b.Knew.Marker && !excused {
			return true
		}
	}
	return false
}

// append is State.Append by the book.
func (m *model) append(b Batch, base record.Offset, now int64) Verdict {
	v := Verdict{
		Code: Accepted, Base: -1, Last: -1, Timestamp: -1, Expected: -1, Got: b.BaseSequence, StoredEpoch: -1,
	}
	if b.Records <= 0 || b.ProducerID < 0 && b.Transactional {
		v.Code = Malformed
		return v
	}
	if b.ProducerID >= 0 {
		if b.Coordinator && (b.BaseSequence != -1 || b.LastSequence != -1) ||
			!b.Coordinator && (b.BaseSequence < 0 || int64(b.LastSequence) != (int64(b.BaseSequence)+int64(b.Records)-1)%(1<<31)) {
			v.Code = Malformed
			return v
		}
		v.StoredEpoch = m.epoch(b.ProducerID)
		if m.refuse(b, &v) {
			return v
		}
		if !m.known(b.ProducerID) {
			evicted, ok := m.evict(now)
			if !ok {
				v.Code = TooManyProducers
				return v
			}
			v.Evicted = evicted
		}
	}
	v.Base, v.Last = base, base+record.Offset(b.Records)-1
	if b.ProducerID >= 0 {
		m.add(b.ProducerID, event{now: now, epoch: b.Epoch, batch: b, base: v.Base, last: v.Last})
	}
	return v
}

// refuse goes through P5 to P17 in order and says whether one of them decides.
func (m *model) refuse(b Batch, v *Verdict) bool {
	id := b.ProducerID
	current := m.epoch(id)
	five := m.lastFive(id)
	if !b.Coordinator && b.Epoch == current { // P5
		for _, old := range five {
			if old.batch.BaseSequence == b.BaseSequence && old.batch.LastSequence == b.LastSequence {
				v.Code, v.Base, v.Last, v.Timestamp = Duplicate, old.base, old.last, old.batch.MaxTimestamp
				return true
			}
		}
	}
	ongoing := m.open(id) != -1 && b.Epoch == current
	if b.Transactional && !ongoing { // P8
		if b.Epoch < current {
			v.Code = InvalidProducerEpoch
			return true
		}
		if !b.Knew.Verified || m.voided(b) {
			v.Code = InvalidTxnState
			return true
		}
	}
	if b.Epoch < current { // P9
		v.Code = InvalidProducerEpoch
		return true
	}
	if !b.Coordinator { // P10 to P15
		wrong := func(expected record.Sequence) bool {
			v.Code, v.Expected = OutOfOrderSequence, expected
			return true
		}
		nothingKnown := current == -1
		if nothingKnown && b.Transactional {
			if b.Knew.Version >= 2 && len(five) == 0 && b.BaseSequence != 0 {
				return wrong(0) // P14
			}
			lowest := int64(b.Knew.LowestSequence)
			way := (int64(b.BaseSequence) - lowest + 1<<31) % (1 << 31) // from the lowest up to b's
			if !ongoing && lowest >= 0 && way > 0 && way < 1<<30 {
				return wrong(b.Knew.LowestSequence) // P15
			}
		}
		if !nothingKnown && b.Epoch > current && b.BaseSequence != 0 {
			return wrong(0) // P12
		}
		if !nothingKnown && b.Epoch == current {
			next := int64(0)
			if len(five) > 0 {
				next = (int64(five[len(five)-1].batch.LastSequence) + 1) % (1 << 31)
			}
			if int64(b.BaseSequence) != next {
				return wrong(record.Sequence(next)) // P10
			}
		}
	}
	if !b.Transactional && m.open(id) != -1 { // P16
		v.Code = InvalidTxnState
		return true
	}
	return false
}

func (m *model) add(id record.ProducerID, ev event) {
	m.time++
	ev.time = m.time
	m.stories[id] = append(m.stories[id], ev)
}

// evict forgets those longest idle until one more has room, or forgets none and says no: nobody goes who was
// active within minIdle, unless by a clock that was ahead of now.
func (m *model) evict(now int64) (evicted []record.ProducerID, ok bool) {
	type candidate struct {
		id   record.ProducerID
		last int
	}
	var idle []candidate
	n := 0
	for id, story := range m.stories {
		if len(story) == 0 {
			continue
		}
		n++
		if m.open(id) == -1 {
			idle = append(idle, candidate{id, story[len(story)-1].time})
		}
	}
	if n-len(idle)+1 > m.max {
		return nil, false
	}
	slices.SortFunc(idle, func(a, b candidate) int { return a.last - b.last })
	for _, c := range idle[:max(0, n+1-m.max)] {
		if last := m.lastTimestamp(c.id); last <= now && last+m.minIdle > now {
			return nil, false
		}
	}
	for ; n+1 > m.max; n-- {
		evicted = append(evicted, idle[0].id)
		delete(m.stories, idle[0].id)
		idle = idle[1:]
	}
	return evicted, true
}

// end is State.EndTransaction by the book.
func (m *model) end(k Marker, at record.Offset, now int64) MarkerVerdict {
	v := MarkerVerdict{StoredEpoch: -1, StoredCoordinatorEpoch: -1, First: -1}
	if k.ProducerID < 0 {
		v.Code = Malformed
		return v
	}
	current, open := m.epoch(k.ProducerID), m.open(k.ProducerID)
	v.StoredEpoch = current
	if last, ok := m.lastMarker(k.ProducerID); ok {
		v.StoredCoordinatorEpoch = last.coordinatorEpoch
	}
	good := k.Epoch >= current // P20
	if k.Version >= 2 {
		good = k.Epoch > current || k.Epoch == current && (open == -1 || k.Epoch == 32767)
	}
	switch {
	case !good:
		v.Code = InvalidProducerEpoch
		return v
	case k.CoordinatorEpoch < v.StoredCoordinatorEpoch: // P21
		v.Code = CoordinatorFenced
		return v
	}
	if !m.known(k.ProducerID) {
		evicted, ok := m.evict(now)
		if !ok {
			v.Code = TooManyProducers
			return v
		}
		v.Evicted = evicted
	}
	v.Code, v.First = Accepted, open
	if open != -1 && !k.Commit {
		m.ended = append(m.ended, Aborted{ProducerID: k.ProducerID, First: open, Last: at})
	}
	m.add(k.ProducerID, event{now: now, marker: true, epoch: k.Epoch, base: at, last: at, coordinatorEpoch: k.CoordinatorEpoch, version: k.Version})
	return v
}

// lastTimestamp is the highest stamp of the story.
func (m *model) lastTimestamp(id record.ProducerID) int64 {
	last := int64(math.MinInt64)
	for _, ev := range m.stories[id] {
		last = max(last, ev.now)
	}
	return last
}

// expirable says whether the producer may be forgotten (P25).
func (m *model) expirable(id record.ProducerID, cutoff int64, below record.Offset) bool {
	for _, ev := range m.stories[id] {
		if ev.last >= below {
			return false
		}
	}
	return m.known(id) && m.open(id) == -1 && m.lastTimestamp(id) <= cutoff
}

func (m *model) expire(candidates []Expirable, cutoff int64, below record.Offset) int {
	n := 0
	for _, c := range candidates {
		if m.expirable(c.ProducerID, cutoff, below) && m.epoch(c.ProducerID) == c.Epoch {
			delete(m.stories, c.ProducerID)
			n++
		}
	}
	return n
}

// idle lists all that may be forgotten, by their latest event.
func (m *model) idle(cutoff int64, below record.Offset) []Expirable {
	var found []Expirable
	for id := range m.stories {
		if m.expirable(id, cutoff, below) {
			found = append(found, Expirable{id, m.epoch(id)})
		}
	}
	latest := func(id record.ProducerID) int { return m.stories[id][len(m.stories[id])-1].time }
	slices.SortFunc(found, func(a, b Expirable) int { return latest(a.ProducerID) - latest(b.ProducerID) })
	return found
}

// lastStable is the lowest first offset of an open transaction, but not below the log start nor above highWatermark.
func (m *model) lastStable(highWatermark record.Offset) record.Offset {
	stable := highWatermark
	for id := range m.stories {
		if open := m.open(id); open != -1 && open < stable {
			stable = open
		}
	}
	return min(max(stable, m.logStart), highWatermark)
}

// aborted is L9 to the letter.
func (m *model) aborted(from, upTo record.Offset) []Aborted {
	var found []Aborted
	for _, a := range m.ended {
		if a.Last >= m.logStart && a.Last >= from && a.First < upTo {
			found = append(found, a)
		}
	}
	return found
}

func (m *model) describe(id record.ProducerID) Description {
	d := Description{
		ProducerID: id, Epoch: m.epoch(id), CoordinatorEpoch: -1, LastTimestamp: m.lastTimestamp(id),
		OpenFrom: m.open(id), LastMarker: -1, LastSequence: -1, Batches: []BatchDescription{},
	}
	if last, ok := m.lastMarker(id); ok {
		d.CoordinatorEpoch, d.LastMarker = last.coordinatorEpoch, last.last
	}
	for _, ev := range m.lastFive(id) {
		d.LastSequence = ev.batch.LastSequence
		d.Batches = append(d.Batches, BatchDescription{
			FirstSequence: ev.batch.BaseSequence, LastSequence: ev.batch.LastSequence,
			FirstOffset: ev.base, LastOffset: ev.last, Timestamp: ev.batch.MaxTimestamp,
		})
	}
	return d
}
