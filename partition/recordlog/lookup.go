package recordlog

import (
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// Who reads entries in order has a place of its own, so that Raft and apply, which follow each
// other over the same entries after a start, do not disturb each other.
const (
	raftReader = iota
	applyReader
	fateReader
	peerReader
	readers
)

// place is where entry index begins, for readers that go on from the entry before.
type place struct {
	segment  *segment
	cuts     uint64
	index    record.Index
	position int64
	records  int64
}

// Entry gives an entry of the raft window; outside of it ErrNotFound. From the cache, Data and Ext
// are what Append was given; they must not be changed. A damaged frame gives a *CorruptionError.
func (l *Log) Entry(i record.Index) (Entry, error) {
	if err := l.inWindow(i); err != nil {
		return Entry{}, err
	}
	return l.entry(i, raftReader, nil)
}

// EntryInto is Entry for the applier; what has to be read from the disk is put into what room gives then, if that is enough.
func (l *Log) EntryInto(i record.Index, room func() []byte) (Entry, error) {
	if err := l.inWindow(i); err != nil {
		return Entry{}, err
	}
	return l.entry(i, applyReader, room)
}

// inWindow says why Raft cannot have an entry.
func (l *Log) inWindow(i record.Index) error {
	if l.closed.Load() {
		return ErrClosed
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if i < l.windowFirst || i > l.windowLast {
		return fmt.Errorf("%w: %d is outside the raft window", ErrNotFound, i)
	}
	return nil
}

// cachedEntry gives an entry from the cache.
func (l *Log) cachedEntry(i record.Index) (Entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := l.cache.get(i)
	if c == nil {
		l.metrics.cacheMisses.Inc()
		return Entry{}, false
	}
	l.metrics.cacheHits.Inc()
	return c.Entry, true
}

// entry gives an entry of the live log, inside the window or not.
func (l *Log) entry(i record.Index, reader int, room func() []byte) (Entry, error) {
	if e, ok := l.cachedEntry(i); ok {
		return e, nil
	}
	var e Entry
	err := l.at(i, reader, func(c *cursor) error {
		got, _, err := c.take()
		if err == nil {
			var into []byte
			if room != nil {
				into = room()
			}
			e = got.clone(into)
		}
		return err
	})
	return e, err
}

// Head gives an entry of the raft window as Entry does, but without Ext and Data if Data is longer
// than most and does not lie in memory; left is then how long Data is. The frame's body is not read,
// and not checked.
func (l *Log) Head(i record.Index, most int) (e Entry, left int, err error) {
	if err := l.inWindow(i); err != nil {
		return Entry{}, 0, err
	}
	if c, ok := l.cachedEntry(i); ok {
		return c, 0, nil
	}
	err = l.at(i, raftReader, func(c *cursor) error {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		if left = h.dataLen(); left > most {
			e = h.bare()
			c.pass(&h)
			return nil
		}
		left = 0
		got, _, err := c.take()
		if err == nil {
			e = got.clone(nil)
		}
		return err
	})
	return e, left, err
}

// clone copies envelope and data out of a buffer, into room if there is enough.
func (e Entry) clone(room []byte) Entry {
	n := len(e.Ext)
	if len(room) < n+len(e.Data) {
		room = make([]byte, n+len(e.Data))
	}
	copy(room, e.Ext)
	end := n + copy(room[n:], e.Data)
	if e.Ext != nil {
		e.Ext = room[:n:n]
	}
	e.Data = room[n:end:end]
	return e
}

// at calls use with a cursor before entry i of the live log, and again if the log was truncated
// meanwhile. ErrNotFound: the log does not hold it.
func (l *Log) at(i record.Index, reader int, use func(*cursor) error) error {
	for {
		l.mu.RLock()
		k := l.live.find(i)
		if k < 0 {
			begin, last := l.live.begin, l.live.last()
			l.mu.RUnlock()
			return fmt.Errorf("%w: log holds %d to %d, not %d", ErrNotFound, begin, last, i)
		}
		x := l.extentOf(l.live.segments[k])
		l.mu.RUnlock()
		err := l.within(x, i, reader, use)
		if !errors.Is(err, errMoved) && !l.dropped(err, x.segment) {
			return err
		}
	}
}

// dropped says whether an error comes from a segment that retention removed meanwhile.
func (l *Log) dropped(err error, s *segment) bool {
	if err == nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, have := range l.live.segments {
		if have == s {
			return false
		}
	}
	return true
}

// nearby is how many entries a reader in order may leave out.
const nearby = 4

// within calls use with a cursor before entry i of a segment. It begins where the last look-up
// ended, if that was just before i, since Raft and apply read one entry after the other.
func (l *Log) within(x extent, i record.Index, reader int, use func(*cursor) error) error {
	c, err := l.openCursor(x, lookChunk)
	if err != nil {
		return err
	}
	defer c.close()
	p := l.near[reader].Load()
	if p != nil && p.segment == x.segment && p.cuts == x.cuts && p.index <= i && i-p.index <= nearby && p.position < x.size {
		c.position, c.frames.next, c.records = p.position, p.index, p.records
		if reader != peerReader {
			c.chunk = nextChunk // one entry is wanted, not what follows it
		}
	} else {
		c.seek(c.index.holding(i))
	}
	if err := c.passTo(i); err != nil {
		return err
	}
	if err := use(c); err != nil {
		return err
	}
	if c.more() {
		l.near[reader].Store(&place{segment: x.segment, cuts: x.cuts, index: c.frames.next, position: c.position, records: c.records})
	}
	return nil
}

// LastIndex is the index of the last entry on disk, inside the raft window or not; 0 for an empty
// log. While a catch-up after Reset goes on, it is the last entry that was pulled.
func (l *Log) LastIndex() record.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pulled().last()
}

// StartIndex is the lowest index that the log holds or, while it is empty, will hold. While a
// catch-up after Reset goes on, it is that of Reset.
func (l *Log) StartIndex() record.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pulled().begin
}

// pulled is the chain that catch-up adds to. l.mu is held.
func (l *Log) pulled() *chain {
	if l.staged != nil {
		return l.staged
	}
	return &l.live
}

// Term gives the term of an entry that LastIndex and StartIndex enclose, inside the raft window or
// not; else ErrNotFound.
func (l *Log) Term(i record.Index) (record.Term, error) {
	if l.closed.Load() {
		return 0, ErrClosed
	}
	l.mu.RLock()
	if l.staged != nil {
		x, ok := l.stagedExtent(i)
		l.mu.RUnlock()
		if !ok {
			return 0, fmt.Errorf("%w: %d is not among the pulled entries", ErrNotFound, i)
		}
		return l.termIn(x, i)
	}
	if c := l.cache.get(i); c != nil {
		defer l.mu.RUnlock()
		return c.Term, nil
	}
	l.mu.RUnlock()
	var term record.Term
	err := l.at(i, raftReader, func(c *cursor) error {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		term = h.term
		return nil
	})
	return term, err
}

// AppendedAt is when the leader appended an entry of the live log, inside the raft window or not,
// unix ns; 0: unknown. ErrNotFound: the log does not hold it.
func (l *Log) AppendedAt(i record.Index) (int64, error) {
	if l.closed.Load() {
		return 0, ErrClosed
	}
	var at int64
	err := l.at(i, peerReader, func(c *cursor) error {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		at = h.appendedAt
		return nil
	})
	return at, err
}

// termIn gives the term of entry i of a segment.
func (l *Log) termIn(x extent, i record.Index) (record.Term, error) {
	var term record.Term
	err := l.within(x, i, peerReader, func(c *cursor) error {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		term = h.term
		c.pass(&h)
		return nil
	})
	return term, err
}

func (l *Log) stagedExtent(i record.Index) (extent, bool) {
	k := l.staged.find(i)
	if k < 0 {
		return extent{}, false
	}
	return l.extentOf(l.staged.segments[k]), true
}

// forgetPlaces is called when frames vanish.
func (l *Log) forgetPlaces() {
	for i := range l.near {
		l.near[i].Store(nil)
	}
}
