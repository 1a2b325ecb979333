package recordlog

import (
	"fmt"
	"math"

	"github.com/oncelog/oncelog/record"
)

// TruncateTail cuts off the entries from an index on, durably before it returns: none of them ever
// comes back. Refused (ErrApplied) for entries that are assigned or in the snapshot.
func (l *Log) TruncateTail(from record.Index) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.RLock()
	kept, last := max(l.assigned, l.snapshot, l.live.begin-1), max(l.live.last(), l.windowLast)
	l.mu.RUnlock()
	if from > last {
		return nil
	}
	if from <= kept {
		return fmt.Errorf("%w: cut from %d, entries up to %d stay", ErrApplied, from, kept)
	}
	l.durable.cut(from)
	l.dropQueued(from)
	if from > l.live.last() {
		return nil
	}
	return l.cut(&l.live, from)
}

// cut removes the frames from an index on. The gate is held, and c holds the index.
//
// The order: the decision first, which voids the mark that says these entries are on disk. Then
// what is published, so that nobody looks there any more. Then whole segments, the last one first
// and each durably, so that there never is a gap. Last the segment that holds the index, which is
// set back and synced. If we die anywhere in between, the log is a whole one that ends at or above
// index-1, and Raft cuts again.
func (l *Log) cut(c *chain, from record.Index) error {
	k := c.find(from)
	s := c.segments[k]
	kept, index, err := l.summaryBelow(c, k, from)
	if err != nil {
		return err // reading failed, nothing was changed
	}
	if c == &l.live {
		l.durable.cut(from)
		if err := l.meta.decide(c.generation, c.begin); err != nil {
			return l.fail(err)
		}
	}
	removed := c.segments[k+1:]
	l.forgetPlaces()
	l.mu.Lock()
	l.cuts++
	gone := s.size - kept.size
	for _, r := range removed {
		gone += r.size
	}
	s.summary, s.index, s.reserved, s.written = kept, index, 0, 0
	c.segments = c.segments[: k+1 : k+1]
	if c == &l.live {
		l.windowLast = min(l.windowLast, from-1)
		l.windowFirst = min(l.windowFirst, from)
		change := l.cache.bytes
		l.cache.truncate(from)
		l.metrics.cacheBytes.Add(float64(l.cache.bytes - change))
		l.metrics.bytes.Sub(float64(gone))
	}
	window := l.windowFirst
	l.mu.Unlock()
	l.files.dropIndex(s)
	for i := len(removed) - 1; i >= 0; i-- {
		if err := l.removeSegment(removed[i]); err != nil {
			return l.fail(err)
		}
		if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
			return l.fail(err)
		}
	}
	if err := l.setBack(s); err != nil {
		return l.fail(err)
	}
	if c == &l.live {
		l.note(from-1, window)
	}
	return nil
}

// setBack truncates a segment's file to its summary's size, durably.
func (l *Log) setBack(s *segment) error {
	if err := removeIfThere(l.o.FS, l.path(s.sidecar())); err != nil {
		return err
	}
	h, err := l.files.acquire(s)
	if err != nil {
		return err
	}
	defer l.files.release(h)
	if err := h.Truncate(s.size); err != nil {
		return err
	}
	return h.Sync()
}

// summaryBelow works out what segment k adds up to without the entries from an index on.
func (l *Log) summaryBelow(c *chain, k int, from record.Index) (summary, sparse, error) {
	s := c.segments[k]
	fresh := newSegment(s.generation, s.first, s.salt)
	out := fresh.summary
	out.chained = s.header
	if k > 0 {
		out.lastTerm = c.segments[k-1].lastTerm
	}
	if from == s.first {
		return out, sparse{}, nil
	}
	l.mu.RLock()
	x := l.extentOf(s)
	l.mu.RUnlock()
	cur, err := l.openCursor(x, lookChunk)
	if err != nil {
		return out, sparse{}, err
	}
	defer cur.close()
	keep := cur.index.holding(from - 1)
	var index sparse
	for k := range keep {
		b := cur.index.at(k)
		index.blocks = append(index.blocks, b)
		out.maxTimestamp = max(out.maxTimestamp, b.maxTimestamp)
	}
	cur.seek(keep)
	out.records = cur.records
	for cur.frames.next < from {
		position := cur.position
		h, err := cur.header()
		if err != nil {
			return out, sparse{}, cur.damage(err)
		}
		out.add(&index, &h, position, math.MaxInt32)
		cur.pass(&h)
	}
	return out, index, nil
}
