package recordlog

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// Catch-up: a peer installs a state snapshot here, and the entries below it are pulled first.
//
// Why nothing is thrown away early: this replica has acknowledged the entries that it holds, and a
// majority may count on them. As long as the new snapshot is not durable, they must survive a
// crash, or this replica could vote for a leader that lacks what was committed. Therefore
// AppendCatchUp cuts only what conflicts with the peer's committed entries, which was never
// committed, and Reset builds the new log beside the old one. Restore puts it in place, or Open
// if we died before, in both cases after the snapshot is durable.

// Reset begins a log beside the present one, for a peer whose log starts above our end. The
// following AppendCatchUp go there, beginning with entry next; the present log stays what Raft
// and readers see. It takes the present one's place in Restore of a layout that needs it. Another
// Reset begins anew; DiscardCatchUp, an Append by Raft and Open without such a snapshot throw it away. start is the
// peer's log start.
func (l *Log) Reset(next record.Index, start record.Offset) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if next == 0 || start < 0 {
		return fmt.Errorf("%w: reset to entry %d, offset %d", ErrInvalidEntry, next, start)
	}
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.discard(); err != nil {
		return err
	}
	c := &chain{generation: l.meta.decision.generation + 1, begin: next}
	if err := l.roll(c, next); err != nil {
		return err
	}
	l.mu.Lock()
	l.staged = c
	l.mu.Unlock()
	return nil
}

// DiscardCatchUp throws away what was pulled since Reset, if anything.
func (l *Log) DiscardCatchUp() error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.discard()
}

func (l *Log) discard() error {
	if l.staged == nil {
		return nil
	}
	gone := l.staged.segments
	l.mu.Lock()
	l.staged = nil
	l.mu.Unlock()
	l.forgetPlaces()
	// From the last one on, so that what a crash leaves is a whole beginning; Open removes it.
	for i := len(gone) - 1; i >= 0; i-- {
		if err := l.removeSegment(gone[i]); err != nil {
			return l.fail(err)
		}
	}
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		return l.fail(err)
	}
	return nil
}

// AppendCatchUp takes committed entries from a peer, in order, and returns when they are on disk.
// What the log holds already with the same term is skipped; from the first entry with another term
// on, the log's tail is cut off, unless it is assigned (ErrApplied). The raft window does not grow
// by them until the log is opened again: Raft does not know of them. Raft must not append
// meanwhile.
//
// Errors: as Append.
func (l *Log) AppendCatchUp(entries []Entry) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if err := l.check(entries); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	c := &l.live
	if l.staged != nil {
		c = l.staged
	}
	for len(entries) > 0 && entries[0].Index <= c.last() {
		e := &entries[0]
		if e.First != 0 {
			return fmt.Errorf("%w: entry %d is compacted, and the log holds it", ErrGap, e.Index)
		}
		k := c.find(e.Index)
		if k < 0 {
			return fmt.Errorf("%w: got entry %d, log begins with %d", ErrGap, e.Index, c.begin)
		}
		l.mu.RLock()
		x := l.extentOf(c.segments[k])
		l.mu.RUnlock()
		term, err := l.termIn(x, e.Index)
		if err != nil {
			return err
		}
		if term != e.Term {
			if err := l.cutConflict(c, e.Index, term, e.Term); err != nil {
				return err
			}
			break
		}
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	if entries[0].Begins() != c.last()+1 {
		return fmt.Errorf("%w: got entry %d, want %d", ErrGap, entries[0].Begins(), c.last()+1)
	}
	if term, _ := c.tail(); entries[0].Term < term {
		return fmt.Errorf("%w: entry %d is of term %d, the one before of term %d", ErrInvalidEntry, entries[0].Index, entries[0].Term, term)
	}
	return l.write(c, entries, fromPeer)
}

// cutConflict cuts the tail from an entry that the peer committed in another term.
func (l *Log) cutConflict(c *chain, i record.Index, ours, theirs record.Term) error {
	l.mu.RLock()
	kept := max(l.assigned, l.snapshot)
	l.mu.RUnlock()
	if c == &l.live && i <= kept {
		return fmt.Errorf("%w: entry %d is of term %d here and of term %d at the peer, entries up to %d stay", ErrApplied, i, ours, theirs, kept)
	}
	return l.cut(c, i)
}

// adoptStaged puts what catch-up built in the place of the live log. The gate is held, and the
// state snapshot that needs it is durable.
//
// The decision does it: it names the other generation. If we die before, Open finds the snapshot
// beyond the live log's end and does the same. If we die after, Open removes the old files.
func (l *Log) adoptStaged() error {
	if err := l.meta.decide(l.staged.generation, l.staged.begin); err != nil {
		return l.fail(err)
	}
	l.forgetPlaces()
	l.mu.Lock()
	old := l.live.segments
	l.live, l.staged = *l.staged, nil
	l.cuts++
	l.windowLast = l.live.last()
	l.windowFirst = l.windowLast + 1
	change := l.cache.bytes
	l.cache.clear()
	l.metrics.cacheBytes.Sub(float64(change))
	// Offsets are unknown until the layout is taken over.
	l.restored, l.assigned, l.end, l.start = false, 0, 0, startPoint{floating: true}
	l.metrics.refused.Sub(float64(l.refused.len()))
	l.refused = refusals{}
	window, last := l.windowFirst, l.live.last()
	l.mu.Unlock()
	l.durable.advance(last)
	l.note(last, window)
	if err := l.findCleaned(); err != nil {
		return err
	}
	for _, s := range old {
		if err := l.removeSegment(s); err != nil {
			l.logger.Warn("replaced segment not removed", "segment", s.name, "err", err)
		}
	}
	l.logger.Info("catch-up replaced the log", "dir", l.o.Dir, "begin", uint64(l.live.begin), "last", uint64(last))
	return nil
}

// EntriesForPeer reads entries from..through for a peer's catch-up, below the raft window too, up
// to maxBytes of data but at least one. It may give fewer; the first may be compacted, and begin below from.
// ErrNotFound: from is outside the log, or not on disk yet, or compaction has left one entry of those around through.
func (l *Log) EntriesForPeer(from, through record.Index, maxBytes int) ([]Entry, error) {
	if l.closed.Load() {
		return nil, ErrClosed
	}
	var entries []Entry
	err := l.at(from, peerReader, func(c *cursor) error {
		entries = entries[:0]
		bytes := 0
		for c.more() && c.frames.next <= through {
			h, err := c.header()
			if err != nil {
				return c.damage(err)
			}
			if len(entries) > 0 && bytes+h.dataLen() > maxBytes {
				return nil
			}
			if h.index > through {
				return fmt.Errorf("%w: entries up to %d are compacted, beyond %d", ErrNotFound, h.index, through)
			}
			e, _, err := c.take()
			if err != nil {
				return err
			}
			bytes += len(e.Data)
			entries = append(entries, e.clone(nil))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}
