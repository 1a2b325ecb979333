package producer

import (
	"math"

	"github.com/oncelog/oncelog/record"
)

// window is how many batches of each producer are remembered (P1).
const window = 5

// kept is one remembered batch (P2). First sequence and first offset are derived.
type kept struct {
	lastSequence record.Sequence
	// delta is the number of records less one: last offset minus first offset.
	delta      int32
	lastOffset record.Offset
	// timestamp is the batch's max timestamp in ms.
	timestamp int64
}

func (k kept) firstOffset() record.Offset { return k.lastOffset - record.Offset(k.delta) }

// firstSequence steps back from the last sequence through the wrap (P11).
func (k kept) firstSequence() record.Sequence {
	first := int64(k.lastSequence) - int64(k.delta)
	if first < 0 {
		first += math.MaxInt32 + 1
	}
	return record.Sequence(first)
}

// entry is all that is remembered of one producer (P1).
type entry struct {
	id record.ProducerID
	// lastTimestamp is the largest leader's time, in ms, of its accepted batches and markers (P23, P25).
	// It never goes back, though the stamps of two leaders may.
	lastTimestamp int64
	// touched is the last offset of its latest accepted batch or marker. It orders the idle list and
	// belongs to no other producer.
	touched record.Offset
	// openFrom is the first offset of its open transaction, NoOffset if none is open.
	openFrom record.Offset
	// lastMarker is the offset of its latest marker, voidingMarker of the latest one that voids a
	// verification begun before it for a batch of the current epoch: any but a TV2 marker of that same
	// epoch (T10, R3a). NoOffset if none. voidingMarker <= lastMarker <= touched.
	lastMarker, voidingMarker record.Offset
	// coordinatorEpoch is that of the latest marker, -1 if none (P21).
	coordinatorEpoch int32
	epoch            record.Epoch
	// batches is a ring of the latest accepted batches at this epoch: count of them, the newest at newest.
	newest, count uint8
	batches       [window]kept
}

// unknown stands for a producer that is not remembered. It is never written.
var unknown = blank(record.NoProducerID)

// blank is a producer before its first batch or marker.
func blank(id record.ProducerID) entry {
	return entry{
		id: id, lastTimestamp: math.MinInt64, touched: record.NoOffset, openFrom: record.NoOffset,
		lastMarker: record.NoOffset, voidingMarker: record.NoOffset,
		coordinatorEpoch: -1, epoch: record.NoEpoch,
	}
}

// isOpen says whether a transaction is open.
func (e *entry) isOpen() bool { return e.openFrom != record.NoOffset }

// batch gives the i-th remembered batch, 0 the oldest, i < count.
func (e *entry) batch(i int) *kept {
	return &e.batches[(int(e.newest)+window+1-int(e.count)+i)%window]
}

// lastSequence is that of the newest batch at this epoch, NoSequence if there is none.
func (e *entry) lastSequence() record.Sequence {
	if e.count == 0 {
		return record.NoSequence
	}
	return e.batches[e.newest].lastSequence
}

// duplicate finds the remembered batch with exactly b's epoch and sequences (P5), nil if none.
func (e *entry) duplicate(b *Batch) *kept {
	if b.Epoch != e.epoch {
		return nil
	}
	for i := range int(e.count) {
		k := &e.batches[(int(e.newest)+window-i)%window] // newest first: retries are mostly of late
		if k.lastSequence == b.LastSequence && k.delta == b.Records-1 {
			return k
		}
	}
	return nil
}

// verified says whether b's verification still holds: no marker that voids it came since (P8, T10, R3a).
// b's epoch is not below the stored one.
func (e *entry) verified(b *Batch) bool {
	if !b.Knew.Verified {
		return false
	}
	if b.Epoch > e.epoch { // every marker so far is of a lower epoch than b
		return e.lastMarker <= b.Knew.Marker
	}
	return e.voidingMarker <= b.Knew.Marker
}

// expects decides on b's first sequence (P10 to P15). If it is wrong, expected is what would be right.
// b's epoch is not below the stored one.
func (e *entry) expects(b *Batch) (expected record.Sequence, ok bool) {
	switch {
	case e.epoch == record.NoEpoch: // nothing known to be in order with (P13)
		if b.Transactional && b.Knew.Version >= 2 && e.count == 0 && b.BaseSequence != 0 {
			return 0, false // P14
		}
		if b.Transactional && !(e.isOpen() && b.Epoch == e.epoch) &&
			b.Knew.LowestSequence >= 0 && After(b.BaseSequence, b.Knew.LowestSequence) {
			return b.Knew.LowestSequence, false // P15
		}
		return b.BaseSequence, true
	case b.Epoch > e.epoch: // P12
		return 0, b.BaseSequence == 0
	default: // P10; 0 if only a marker is known of this epoch (P14)
		expected = e.lastSequence().Add(1)
		return expected, b.BaseSequence == expected
	}
}

// After says whether sequence a comes later than b, counting round the wrap (P11): the shorter way decides.
func After(a, b record.Sequence) bool {
	ahead := (int64(a) - int64(b)) & math.MaxInt32
	return ahead != 0 && ahead <= math.MaxInt32/2
}

// raise moves to epoch if it is higher, and then forgets the batches (P4).
func (e *entry) raise(epoch record.Epoch) {
	if epoch <= e.epoch {
		return
	}
	e.epoch = epoch
	e.newest, e.count = 0, 0
	e.batches = [window]kept{}
	e.voidingMarker = e.lastMarker // all markers so far are of lower epochs
}

// take remembers the accepted batch b at base.
func (e *entry) take(b *Batch, base record.Offset, now int64) {
	e.raise(b.Epoch)
	last := base + record.Offset(b.Records-1)
	if !b.Coordinator {
		if e.count > 0 {
			e.newest = (e.newest + 1) % window
		}
		if e.count < window {
			e.count++
		}
		e.batches[e.newest] = kept{lastSequence: b.LastSequence, delta: b.Records - 1, lastOffset: last, timestamp: b.MaxTimestamp}
	}
	if b.Transactional && !e.isOpen() {
		e.openFrom = base
	}
	e.touch(last, now)
}

// touch notes an accepted batch or marker that ends at last.
func (e *entry) touch(last record.Offset, now int64) {
	e.touched = last
	e.lastTimestamp = max(e.lastTimestamp, now)
}
