package recordlog

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/oncelog/oncelog/record"
)

// The queue is what Raft has appended and what is not on disk yet: the entries between the last one
// on disk and the end of the raft window. They lie in the cache, which lets none of them go. Disk
// space for all of them is reserved behind the end of the last segment, so that a full disk is
// refused when an entry comes, and not found out when it is written.
//
// Whoever holds the gate may write it out. Otherwise a goroutine does, which lives as long as
// there is something in the queue: one write and one sync for everything that has gathered.

// maxQueued bounds the bytes in the queue. Beyond it, Queue waits for the disk.
const maxQueued = 16 << 20

// Queue appends entries as Append does and may return before they are on disk: Window and Entry
// give them at once, AwaitDurable tells when they are on disk. Nothing that anybody outside of
// this replica may rely on (an acknowledgement, a state snapshot) may be made of them before.
// What cannot be queued is appended as by Append: entries behind an empty window, and those for
// which no disk space is reserved.
//
// Errors: as Append. What is queued and cannot be written later makes the log fail (Failed).
func (l *Log) Queue(entries []Entry) error {
	if err := l.usable(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if err := l.check(entries); err != nil {
		return err
	}
	if l.enqueue(entries) {
		return nil
	}
	return l.appendNow(entries)
}

// enqueue puts checked entries into the queue, if they continue the window and have their space;
// else it changes nothing.
func (l *Log) enqueue(entries []Entry) bool {
	bytes, records := sizes(entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mayQueue(entries, bytes, records) {
		return false
	}
	l.windowLast = entries[len(entries)-1].Index
	l.queued.add(bytes, records)
	l.metrics.queued.Add(float64(bytes))
	l.remember(entries)
	if !l.syncing {
		l.syncing = true
		l.spawn(l.syncQueue)
	}
	return true
}

// mayQueue says whether entries can be queued. l.mu is held.
func (l *Log) mayQueue(entries []Entry, bytes, records int64) bool {
	s := l.live.active()
	if s == nil || l.noReserve || l.staged != nil || l.closed.Load() || l.failure.Load() != nil {
		return false
	}
	if l.windowFirst > l.windowLast || l.windowLast < l.live.last() {
		return false // what lies behind the window must be cut off first
	}
	if entries[0].Index != l.windowLast+1 || entries[0].Term < l.lastTerm() {
		return false
	}
	q := &l.queued
	return q.bytes+bytes <= maxQueued && s.size+q.bytes+bytes <= s.reserved &&
		s.records+q.records+records <= math.MaxInt32
}

// lastTerm is the term of the last entry, on disk or not. l.mu is held.
func (l *Log) lastTerm() record.Term {
	if c := l.cache.get(l.windowLast); c != nil {
		return c.Term
	}
	term, _ := l.live.tail()
	return term
}

// queueSize is what the queue adds up to.
type queueSize struct{ bytes, records int64 }

func (q *queueSize) add(bytes, records int64) {
	q.bytes += bytes
	q.records += records
}

// sizes are the bytes that entries take on disk, and their records.
func sizes(entries []Entry) (bytes, records int64) {
	for i := range entries {
		bytes += int64(frameSize(len(entries[i].Ext), len(entries[i].Data)))
		records += int64(entries[i].Records)
	}
	return bytes, records
}

// remember puts entries into the cache. l.mu is held.
func (l *Log) remember(entries []Entry) {
	before := l.cache.bytes
	l.cache.push(entries, l.live.last())
	l.metrics.cacheBytes.Add(float64(l.cache.bytes - before))
}

// spawn runs f in a goroutine that Close waits for.
func (l *Log) spawn(f func()) {
	if l.o.background != nil {
		l.o.background(f)
		return
	}
	l.owned.Add(1)
	go func() {
		defer l.owned.Done()
		f()
	}()
}

// syncQueue writes the queue out until it is empty.
func (l *Log) syncQueue() {
	for {
		l.lock()
		err := l.usable()
		if err == nil {
			err = l.flush()
		}
		if err == nil {
			err = l.settle()
		}
		l.unlock()
		l.mu.Lock()
		if err != nil || l.queued.bytes == 0 {
			l.syncing = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// flush writes out what is in the queue now, by one write and one sync. The gate is held. An error
// has made the log fail: these entries were taken, and Raft counts on them.
func (l *Log) flush() error {
	entries := l.takeQueued()
	if len(entries) == 0 {
		return nil
	}
	defer l.giveBack()
	err := l.write(&l.live, entries, fromQueue)
	if errors.Is(err, ErrNoSpace) || errors.Is(err, ErrNoFiles) {
		// It was reserved. A file system that does not keep its word is as good as broken, and a segment without bounds is none.
		err = l.fail(err)
	}
	return err
}

// takeQueued copies what is in the queue. The gate is held; it is good until the next call.
func (l *Log) takeQueued() []Entry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	l.taken = l.taken[:0]
	if l.queued.bytes == 0 {
		return nil
	}
	for i := l.live.last() + 1; i <= l.windowLast; i++ {
		l.taken = append(l.taken, l.cache.get(i).Entry)
	}
	return l.taken
}

// giveBack lets go of the entries that takeQueued gave.
func (l *Log) giveBack() {
	clear(l.taken)
	if cap(l.taken) > maxTaken {
		l.taken = nil
	}
}

// maxTaken is how many entries takeQueued keeps room for.
const maxTaken = 4096

// dropQueued forgets the queued entries from an index on. They have never been near the disk: the
// gate is held, so that nobody writes them. Who waits for them has been told.
func (l *Log) dropQueued(from record.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from = max(from, l.live.last()+1)
	if from > l.windowLast || l.queued.bytes == 0 {
		return
	}
	var gone queueSize
	for i := from; i <= l.windowLast; i++ {
		e := &l.cache.get(i).Entry
		gone.add(int64(frameSize(len(e.Ext), len(e.Data))), int64(e.Records))
	}
	l.windowLast = from - 1
	l.queued.add(-gone.bytes, -gone.records)
	l.metrics.queued.Sub(float64(gone.bytes))
	before := l.cache.bytes
	l.cache.truncate(from)
	l.metrics.cacheBytes.Sub(float64(before - l.cache.bytes))
}

// reserveAhead is how much disk space to have reserved behind a segment's end: what lets appends
// go on without waiting, and little for a log that has grown little.
func (l *Log) reserveAhead() int64 { return min(max(l.appended/2, minReserve), maxReserve) }

const (
	minReserve = 16 << 10
	maxReserve = 4 << 20
)

// topUp reserves more behind the segment's end when less than half of what should be is left.
// Failing to is no error: the next append that finds no room says so. The gate is held.
func (l *Log) topUp(h *handle, s *segment) {
	l.mu.RLock()
	free := s.reserved - s.size - l.queued.bytes
	l.mu.RUnlock()
	ahead := l.reserveAhead()
	if l.noReserve || free >= ahead/2 {
		return
	}
	from := max(s.reserved, s.size)
	if h.Reserve(from, ahead-free) != nil {
		return
	}
	l.mu.Lock()
	s.reserved = from + ahead - free
	l.mu.Unlock()
}

// Stalled is for how long the write or sync that is under way has been; 0: none is.
func (l *Log) Stalled() time.Duration {
	began := l.busySince.Load()
	if began == 0 {
		return 0
	}
	return max(time.Duration(now()-began), 1)
}

// OnFailure has told called, once, when the log fails: at once if it has. It must not block, nor
// call a method of the log that writes. Only the last one set is called.
func (l *Log) OnFailure(told func(error)) {
	l.mu.Lock()
	l.onFailure = told
	l.mu.Unlock()
	if err := l.Failed(); err != nil && told != nil {
		l.tellFailure(err)
	}
}

// tellFailure calls what OnFailure set, if it has not been called.
func (l *Log) tellFailure(err error) {
	l.mu.Lock()
	told := l.onFailure
	l.onFailure = nil
	l.mu.Unlock()
	if told != nil {
		told(fmt.Errorf("record log %s: %w", l.o.Dir, err))
	}
}
