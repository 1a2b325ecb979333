package recordlog

import (
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// AdvanceStart moves the log start up (L26, R13). The applier calls it for the replicated command;
// an offset at or below the start changes nothing. Records below are gone for readers at once.
// Their disk space is freed in whole segments: those wholly below the start, not above the newest
// state snapshot, below the raft window, not held and not the last one; what cannot go now goes
// later, as snapshot and window move on.
//
// The start itself becomes durable with the next state snapshot; until then the command is replayed
// after a restart. What must be durable before segments vanish is where the log now begins.
//
// Errors: ErrOffsetOutOfRange above the log end, ErrNotRestored, or a failure to read or write.
func (l *Log) AdvanceStart(to record.Offset) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.RLock()
	restored, start, end := l.restored, l.start.offset, l.end
	l.mu.RUnlock()
	switch {
	case !restored:
		return ErrNotRestored
	case to > end:
		return fmt.Errorf("%w: log start to %d, log ends at %d", ErrOffsetOutOfRange, to, end)
	case to <= start:
		return nil
	}
	point := startPoint{offset: to, floating: true}
	if to < end {
		var err error
		if point, err = l.pointOf(to); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.setStart(point)
	l.mu.Unlock()
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.dropSegments()
}

// pointOf finds the entry that holds an offset between log start and log end.
func (l *Log) pointOf(to record.Offset) (startPoint, error) {
	l.mu.RLock()
	x, k := l.holding(to)
	refused := l.refused
	assigned := l.assigned
	l.mu.RUnlock()
	for k >= 0 && x.segment.first <= assigned {
		point, found, err := l.pointIn(x, to, &refused)
		if errors.Is(err, errMoved) {
			return l.pointOf(to)
		}
		if err != nil || found {
			return point, err
		}
		l.mu.RLock()
		x, k = l.after(x.segment) // the applier alone changes bases and refusals, and we are it
		l.mu.RUnlock()
	}
	return startPoint{}, fmt.Errorf("%w: no entry holds offset %d", ErrUnexpectedFate, to)
}

func (l *Log) pointIn(x extent, to record.Offset, refused *refusals) (startPoint, bool, error) {
	c, err := l.openCursor(x, lookChunk)
	if err != nil {
		return startPoint{}, false, err
	}
	defer c.close()
	c.seekOffset(to, refused)
	for c.more() {
		base := c.offset(refused)
		h, err := c.header()
		if err != nil {
			return startPoint{}, false, c.damage(err)
		}
		c.pass(&h)
		if c.offset(refused) > to {
			return startPoint{offset: to, index: h.first(), base: base}, true, nil
		}
	}
	return startPoint{}, false, nil
}

// SetSnapshotIndex says that a state snapshot of this index, newer than the one before, is durable.
// Entries up to it are never cut off again, and segments below it may be dropped.
func (l *Log) SetSnapshotIndex(i record.Index) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	l.snapshot = max(l.snapshot, i)
	l.mu.Unlock()
	if err := l.dropSegments(); err != nil {
		return err
	}
	l.noteKnown()
	return nil
}

// noteKnown leaves a sidecar of the segment that is written to, as far as the snapshot reaches, so that the
// next start need not read what lies below. A failure costs no more than that. The gate is held.
func (l *Log) noteKnown() {
	l.mu.RLock()
	snapshot, k := l.snapshot, l.live.find(l.snapshot)
	l.mu.RUnlock()
	if k < 0 || k < len(l.live.segments)-1 {
		return
	}
	known, index, err := l.summaryBelow(&l.live, k, snapshot+1)
	if err != nil {
		l.logger.Warn("sidecar not written; the next start reads more", "segment", l.live.segments[k].name, "err", err)
		return
	}
	l.writeSidecar(l.live.segments[k], &known, index.all())
}

// Hold keeps the segments with entry from and above from being dropped, as long as a peer pulls
// them. The caller bounds how long.
type Hold struct {
	log  *Log
	from record.Index
}

// Hold makes a hold. It does not bring back what is gone.
func (l *Log) Hold(from record.Index) *Hold {
	h := &Hold{log: l, from: from}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds[h] = struct{}{}
	return h
}

// Release ends the hold. What it kept goes with the next move of start, snapshot or window.
func (h *Hold) Release() {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	delete(h.log.holds, h)
}

// droppable is how many of the first segments may go. l.mu is held.
func (l *Log) droppable() int {
	if !l.restored {
		return 0
	}
	below := l.start.index
	if l.start.floating {
		below = l.assigned + 1
	}
	below = min(below, l.snapshot+1, l.windowFirst)
	for h := range l.holds {
		below = min(below, h.from)
	}
	n := 0
	for n+1 < len(l.live.segments) && l.live.segments[n+1].first <= below {
		n++
	}
	return n
}

// dropSegments removes the segments that nobody needs. The gate is held.
//
// The decision that the log begins later is durable before the first file goes. If we die in
// between, opening removes the rest. The removals themselves need no sync: what comes back after
// a crash is removed again.
func (l *Log) dropSegments() error {
	l.mu.RLock()
	n := l.droppable()
	window, last := l.windowFirst, l.live.last()
	l.mu.RUnlock()
	if n == 0 {
		return nil
	}
	begin := l.live.segments[n].first
	if err := l.meta.decide(l.live.generation, begin); err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	gone := l.live.segments[:n]
	l.live.segments = l.live.segments[n:len(l.live.segments):len(l.live.segments)]
	l.live.begin = begin
	for _, s := range gone {
		l.metrics.bytes.Sub(float64(s.size))
	}
	l.mu.Unlock()
	l.note(last, window)
	for _, s := range gone {
		if err := l.dropSegment(s); err != nil {
			// They are no part of the log any more; the next opening tries again.
			l.logger.Warn("dropped segment not removed", "segment", s.name, "err", err)
		}
	}
	return nil
}

// SegmentInfo describes a segment, for whoever decides about retention (L28).
type SegmentInfo struct {
	FirstIndex, LastIndex record.Index
	// Base is the segment's first offset, End the one after its last, as far as they are assigned.
	Base, End record.Offset
	// MaxTimestamp is at least the largest timestamp of its records, ms; MinInt64: no records.
	MaxTimestamp int64
	Bytes        int64
	// Active: entries are still written to it.
	Active bool
}

// Segments lists the segments whose offsets are known, in order. Below the log start, offsets are
// approximate.
func (l *Log) Segments() []SegmentInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var list []SegmentInfo
	for k, s := range l.live.segments {
		if !s.based {
			break
		}
		info := SegmentInfo{FirstIndex: s.first, LastIndex: s.last, Base: s.base, End: l.end, MaxTimestamp: s.maxTimestamp,
			Bytes: s.size, Active: k == len(l.live.segments)-1}
		if !info.Active && l.live.segments[k+1].based {
			info.End = l.live.segments[k+1].base
		}
		list = append(list, info)
	}
	return list
}

// Roll begins a new segment if the last one is not empty, so that retention can drop the old one
// (L28, L30).
func (l *Log) Roll() error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if s := l.live.active(); s == nil || s.empty() {
		return nil
	}
	return l.roll(&l.live, l.live.last()+1)
}
