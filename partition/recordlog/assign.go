package recordlog

import (
	"fmt"
	"sort"

	"github.com/oncelog/oncelog/record"
)

// Fate is what apply decided about one batch of an entry (R3, R4).
type Fate struct {
	// Base is the batch's first offset. Not looked at if it is refused.
	Base record.Offset
	// Records is how many offsets the batch takes or, if it is refused, would have taken.
	Records int32
	// Refused: the batch took an index and gets no offset; readers skip it.
	Refused bool
}

// Refusal is a refused batch.
type Refusal struct {
	Index   record.Index
	Ordinal int32 // among the batches of the entry, from 0
	Records int32 // offsets that it would have taken
}

// refusals are the refused batches at and above the log start's entry, in order. Elements are never
// changed, so that readers may keep a copy of the slice. Guarded by Log.mu.
type refusals struct {
	list []countedRefusal
}

type countedRefusal struct {
	Refusal
	before int64 // records of all refusals before this one, since the log was opened
}

func (r *refusals) len() int { return len(r.list) }

func (r *refusals) add(f Refusal) {
	var before int64
	if n := len(r.list); n > 0 {
		before = r.list[n-1].before + int64(r.list[n-1].Records)
	}
	r.list = append(r.list, countedRefusal{Refusal: f, before: before})
}

// from gives the position of the first refusal at or above an index.
func (r *refusals) from(i record.Index) int {
	return sort.Search(len(r.list), func(k int) bool { return r.list[k].Index >= i })
}

// between is how many records were refused in entries from..to-1.
func (r *refusals) between(from, to record.Index) int64 {
	a, b := r.from(from), r.from(to)
	if a >= b {
		return 0
	}
	return r.list[b-1].before + int64(r.list[b-1].Records) - r.list[a].before
}

// of gives the refusals of one entry.
func (r *refusals) of(i record.Index) []countedRefusal {
	a := r.from(i)
	b := a
	for b < len(r.list) && r.list[b].Index == i {
		b++
	}
	return r.list[a:b]
}

// startPoint is the log start: the first offset that consumers may read, and its entry.
type startPoint struct {
	offset record.Offset
	// floating: nothing was accepted at or above the start yet, so that its entry is still to come.
	floating bool
	// index is the entry that holds offset, base the entry's first offset. Not if floating.
	index record.Index
	base  record.Offset
}

// Assign says what became of entry i: one fate for each of its batches, nil for an entry without
// records. It is called in order of index, once for each; entries without records may be left out.
// The bases must go on from the log's end without a gap. The entry must be on disk: what readers and
// state snapshots are made of does not vanish with a crash.
//
// Errors: ErrUnexpectedFate: log and state machine disagree, the replica must stop. ErrNotFound,
// ErrNotDurable, ErrNotRestored, or that the entry cannot be read. Nothing was assigned.
func (l *Log) Assign(i record.Index, fates []Fate) error {
	if l.closed.Load() {
		return ErrClosed
	}
	l.mu.RLock()
	assigned, restored, end := l.assigned, l.restored, l.end
	from := max(assigned+1, l.live.begin, l.snapshot+1) // below it compaction may have made one of several
	queued := i > l.live.last() && i <= l.windowLast
	l.mu.RUnlock()
	if !restored {
		return ErrNotRestored
	}
	if queued {
		return fmt.Errorf("%w: entry %d", ErrNotDurable, i)
	}
	if i <= assigned {
		return fmt.Errorf("%w: entry %d has its fate already", ErrUnexpectedFate, i)
	}
	for ; from < i; from++ {
		records, err := l.recordsOf(from)
		if err != nil {
			return err
		}
		if records > 0 {
			return fmt.Errorf("%w: entry %d has records and was left out", ErrUnexpectedFate, from)
		}
	}
	records, err := l.recordsOf(i)
	if err != nil {
		return err
	}
	refused, next, err := decide(i, records, fates, end)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.assign(i, refused, end, next, len(refused) < len(fates))
	l.mu.Unlock()
	return nil
}

// recordsOf gives how many offsets an entry's batches would take. The batches are not read: whoever
// assigns them has.
func (l *Log) recordsOf(i record.Index) (int32, error) {
	l.mu.RLock()
	if c := l.cache.get(i); c != nil {
		defer l.mu.RUnlock()
		return c.Records, nil
	}
	l.mu.RUnlock()
	var records int32
	err := l.at(i, fateReader, func(c *cursor) error {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		records = h.records
		c.pass(&h)
		return nil
	})
	return records, err
}

// decide compares fates with an entry's records. It gives the refusals and the new end.
func decide(i record.Index, records int32, fates []Fate, end record.Offset) ([]Refusal, record.Offset, error) {
	var refused []Refusal
	left := int64(records)
	for k := range fates {
		f := &fates[k]
		switch {
		case f.Records <= 0 || int64(f.Records) > left:
			return nil, end, fmt.Errorf("%w: batch %d of entry %d has %d records, of %d in the entry %d are left", ErrUnexpectedFate, k, i, f.Records, records, left)
		case f.Refused:
			refused = append(refused, Refusal{Index: i, Ordinal: int32(k), Records: f.Records})
		case f.Base != end:
			return nil, end, fmt.Errorf("%w: batch %d of entry %d has base offset %d, log ends at %d", ErrUnexpectedFate, k, i, f.Base, end)
		default:
			end += record.Offset(f.Records)
		}
		left -= int64(f.Records)
	}
	if left > 0 {
		return nil, end, fmt.Errorf("%w: entry %d has %d records, %d of them in no batch with a fate", ErrUnexpectedFate, i, records, left)
	}
	return refused, end, nil
}

// assign publishes the fate of an entry. l.mu is held.
func (l *Log) assign(i record.Index, refused []Refusal, end, next record.Offset, accepted bool) {
	// Segments that begin in what is assigned now begin at the end as it was.
	k := l.live.find(i)
	for s := k; s >= 0 && !l.live.segments[s].based; s-- {
		l.live.segments[s].base, l.live.segments[s].based = end, true
	}
	for j := max(l.assigned+1, l.live.begin); j <= i; j++ {
		if c := l.cache.get(j); c != nil {
			c.base = end
		}
	}
	if accepted && l.start.floating {
		l.start = startPoint{offset: l.start.offset, index: i, base: end}
	}
	for _, f := range refused {
		if l.start.floating {
			// Below the log start: not remembered. The bases of the segments make up for it, as in forgetRefusals.
			for _, s := range l.live.segments[:k+1] {
				s.base -= record.Offset(f.Records)
			}
			continue
		}
		l.refused.add(f)
		l.metrics.refused.Inc()
	}
	l.assigned, l.end = i, next
}

// EndOffset is the offset after the last assigned record; the log's end for consumers.
func (l *Log) EndOffset() record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end
}

// StartOffset is the first offset that consumers may read (L26).
func (l *Log) StartOffset() record.Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.start.offset
}

// AssignedIndex is the last entry that has its fate.
func (l *Log) AssignedIndex() record.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.assigned
}
