package recordlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// smallBody is up to which size a body is copied behind its header instead of being a buffer of
// its own in the vectored write.
const smallBody = 2 << 10

// Window gives Raft's view: the first and last entry of the raft window; 0, 0: it is empty.
func (l *Log) Window() (first, last record.Index) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.windowFirst > l.windowLast {
		return 0, 0
	}
	return l.windowFirst, l.windowLast
}

// Append writes entries behind the raft window's last one, by one vectored write and one
// fdatasync, and returns when they are on disk. If the window is empty, they begin above the
// snapshot and the assigned entries and no later than right behind the log's last entry. What the
// log holds at or above the first of them and outside the window is cut off first: a tail that
// Raft has given up. Data and Ext are kept by reference in the cache and must not change.
//
// Errors: ErrGap, ErrInvalidEntry, ErrNoSpace, ErrNoFiles: nothing was written. ErrFailed: may have happened.
func (l *Log) Append(entries []Entry) error {
	if err := l.usable(); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if err := l.check(entries); err != nil {
		return err
	}
	return l.appendNow(entries)
}

// appendNow appends checked entries behind the queue and returns when they are on disk.
func (l *Log) appendNow(entries []Entry) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	first := entries[0].Index
	if err := l.makeRoom(first); err != nil {
		return err
	}
	if l.staged != nil {
		// Raft goes on with the log as it is: the catch-up was given up.
		if err := l.discard(); err != nil {
			return err
		}
	}
	if term, _ := l.live.tail(); entries[0].Term < term {
		return fmt.Errorf("%w: entry %d is of term %d, the one before of term %d", ErrInvalidEntry, first, entries[0].Term, term)
	}
	return l.write(&l.live, entries, fromRaft)
}

// makeRoom checks that Raft may append at an index, and cuts off what lies there outside its window.
func (l *Log) makeRoom(first record.Index) error {
	l.mu.RLock()
	kept, last := max(l.assigned, l.snapshot, l.live.begin-1), l.live.last()
	low, high := kept+1, last+1
	if l.windowFirst <= l.windowLast {
		low, high = max(low, l.windowLast+1), l.windowLast+1
	}
	l.mu.RUnlock()
	if first < low || first > high {
		return fmt.Errorf("%w: got entry %d, want %d to %d", ErrGap, first, low, high)
	}
	if first > last {
		return nil
	}
	return l.cut(&l.live, first)
}

// check looks at entries before anything is written, and fills in what Classify says.
func (l *Log) check(entries []Entry) error {
	total, term := 0, record.Term(0)
	next := entries[0].Begins()
	for i := range entries {
		e := &entries[i]
		if e.Begins() != next || e.Index < next {
			return fmt.Errorf("%w: got entry %d after %d", ErrGap, e.Begins(), next-1)
		}
		next = e.Index + 1
		if e.Term < term {
			return fmt.Errorf("%w: entry %d is of term %d, the one before of term %d", ErrInvalidEntry, e.Index, e.Term, term)
		}
		term = e.Term
		if len(e.Data) > l.o.MaxEntryBytes || len(e.Ext) > maxExtBytes {
			return fmt.Errorf("%w: entry %d has %d bytes of data (at most %d) and %d of envelope (at most %d)",
				ErrInvalidEntry, e.Index, len(e.Data), l.o.MaxEntryBytes, len(e.Ext), maxExtBytes)
		}
		if total += frameSize(len(e.Ext), len(e.Data)); total > maxAppendBytes {
			return fmt.Errorf("%w: more than %d bytes at once", ErrInvalidEntry, maxAppendBytes)
		}
		if e.First != 0 {
			if err := checkCompacted(e); err != nil {
				return err
			}
			continue
		}
		if l.o.Classify != nil {
			e.Records, e.MaxTimestamp = l.o.Classify(e.Ext, e.Data)
		}
		if err := checkRecords(e); err != nil {
			return err
		}
	}
	return nil
}

// checkRecords makes sure that Data holds batches of as many records as the entry says.
func checkRecords(e *Entry) error {
	if e.Records == 0 {
		e.MaxTimestamp = 0
		return nil
	}
	var n int64
	for rest := e.Data; len(rest) > 0; {
		b, r, err := record.Parse(rest)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrInvalidEntry, e.Index, err)
		}
		k, err := offsetsOf(b)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrInvalidEntry, e.Index, err)
		}
		n += int64(k)
		e.MaxTimestamp = max(e.MaxTimestamp, b.MaxTimestamp())
		rest = r
	}
	if n != int64(e.Records) {
		return fmt.Errorf("%w: entry %d says %d records, its batches hold %d", ErrInvalidEntry, e.Index, e.Records, n)
	}
	return nil
}

// offsetsOf is how many offsets a batch takes.
func offsetsOf(b record.Batch) (int32, error) {
	d := b.LastOffsetDelta()
	if d < 0 || d == math.MaxInt32 {
		return 0, fmt.Errorf("batch has last offset delta %d", d)
	}
	return d + 1, nil
}

// source is where entries come from that are to be written.
type source uint8

const (
	fromRaft  source = iota // become visible once they are on disk
	fromQueue               // are visible already, and their space is reserved
	fromPeer                // catch-up: Raft does not see them
)

// write appends checked entries to a chain: makes a new segment if the last one is full, reserves
// the space, writes, syncs, publishes. The gate is held.
func (l *Log) write(c *chain, entries []Entry, from source) error {
	bytes, records := sizes(entries)
	if err := l.rollIfFull(c, entries[0].Begins(), bytes, records, from); err != nil {
		return err
	}
	s := c.active()
	h, err := l.files.acquire(s)
	if err != nil && from != fromQueue && vfs.OutOfFiles(err) {
		return fmt.Errorf("%w: %w", ErrNoFiles, err)
	}
	if err != nil {
		return l.fail(err)
	}
	defer l.files.release(h)
	if from != fromQueue {
		if err := l.reserve(h, s, bytes); err != nil {
			return err
		}
	}
	frames := encode(s, c.last(), entries, from != fromPeer)
	defer frames.release()
	// If we die from here to the end of the sync, any part of the frames may be there. None was
	// acknowledged; recovery keeps those that are whole and in order and cuts the rest.
	n, err := h.WritevAt(frames.buffers, s.size)
	if err != nil {
		return l.writeFailed(h, s, n, err)
	}
	began := time.Now()
	if err := h.Sync(); err != nil {
		return l.fail(err)
	}
	took := time.Since(began)
	l.unsettled = false
	l.metrics.fsync.Observe(took.Seconds())
	l.trouble.synced(took)
	l.metrics.entries.Observe(float64(len(entries)))
	l.metrics.written.Add(float64(bytes))
	l.appended += bytes
	l.publish(c, s, entries, frames.heads, from)
	if from == fromQueue {
		l.topUp(h, s)
	}
	if from == fromPeer {
		return nil
	}
	return l.writeAhead(h, s, bytes)
}

// rollIfFull begins a new segment if the last one is full. Neither a full disk nor too many open files keep queued entries
// from being written: they have their place in the segment as it is.
func (l *Log) rollIfFull(c *chain, first record.Index, bytes, records int64, from source) error {
	s := c.active()
	fits := s != nil && s.size+bytes <= math.MaxUint32 && s.records+records <= math.MaxInt32
	if s != nil && (s.empty() || s.size < l.segmentBytes.Load() && fits) {
		return nil
	}
	err := l.roll(c, first)
	if from == fromQueue && (errors.Is(err, ErrNoSpace) || fits && errors.Is(err, ErrNoFiles)) {
		return nil
	}
	return err
}

// reserve takes disk space ahead, so that a full disk refuses an append before a byte of it is
// written.
func (l *Log) reserve(h *handle, s *segment, bytes int64) error {
	if l.noReserve || s.size+bytes <= s.reserved {
		return nil
	}
	ahead := l.reserveAhead()
	err := h.Reserve(s.size, bytes+ahead)
	if vfs.IsFull(err) {
		ahead = 0
		err = h.Reserve(s.size, bytes)
	}
	if vfs.IsFull(err) {
		l.refusedForSpace()
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		s.reserved = s.size + bytes + ahead
	} else {
		l.noReserve = true // writing tells whether the disk works
	}
	return nil
}

// refusedForSpace counts an append that a full disk refused. It removes the spares: not under mu.
func (l *Log) refusedForSpace() {
	if l.o.Spares != nil {
		l.o.Spares.Clear()
	}
	l.metrics.noSpace.Inc()
	l.trouble.full.Store(now())
}

// writeFailed ends a write that failed. Only lack of space is bearable, and only if the file can be
// set back durably, so that nothing of the entries can come back.
func (l *Log) writeFailed(h *handle, s *segment, n int64, cause error) error {
	if !vfs.IsFull(cause) {
		return l.fail(cause)
	}
	if n > 0 {
		if err := h.Truncate(s.size); err != nil {
			return l.fail(errors.Join(cause, err))
		}
		if err := h.Sync(); err != nil {
			return l.fail(errors.Join(cause, err))
		}
		l.mu.Lock()
		s.reserved, s.written = s.size, 0
		l.mu.Unlock()
	}
	l.refusedForSpace()
	return fmt.Errorf("%w: %w", ErrNoSpace, cause)
}

// frameBatch is what one vectored write is made of. Batches are pooled.
type frameBatch struct {
	heads   []frameHeader
	copied  []byte   // frame headers, envelopes, padding and small bodies
	buffers [][]byte // pieces of copied and large bodies, in order
}

var batchPool = sync.Pool{New: func() any { return new(frameBatch) }}

// release gives the batch back without the entries' memory.
func (b *frameBatch) release() {
	clear(b.buffers)
	if cap(b.copied) <= maxPooled {
		batchPool.Put(b)
	}
}

// encode makes the frames of entries that follow the segment's last one; synced is the last index
// on disk. Headers, envelopes, padding and small bodies are copied into one buffer, large bodies
// referenced. trusted: the checksums of the batches have been compared with their bytes before they came here, and stand for them;
// DESIGN.md says why they have.
func encode(s *segment, synced record.Index, entries []Entry, trusted bool) *frameBatch {
	copied := 0
	for i := range entries {
		copied += frameHeaderSize + len(entries[i].Ext) + frameAlign
		if n := len(entries[i].Data); n <= smallBody {
			copied += n
		}
	}
	b := batchPool.Get().(*frameBatch)
	b.heads, b.buffers = b.heads[:0], b.buffers[:0]
	if cap(b.copied) < copied {
		b.copied = make([]byte, 0, copied+copied/4)
	}
	out := b.copied[:0] // never moves below, so that buffers may point into it
	begin := 0          // of the piece of out that is no buffer yet
	var zeros [frameAlign]byte
	chained := s.chained
	for i := range entries {
		e := &entries[i]
		h := frameHeader{
			length: frameSize(len(e.Ext), len(e.Data)), previous: chained, typ: e.Type, kind: kindEntry,
			records: e.Records, index: e.Index, term: e.Term, synced: synced,
			appendedAt: e.AppendedAt, maxTimestamp: e.MaxTimestamp, ext: len(e.Ext),
		}
		if e.First != 0 {
			h.kind, h.synced = kindCompacted, e.First-1
		}
		h.padding = h.length - frameHeaderSize - len(e.Ext) - len(e.Data)
		h.body = sum(sumData(sum(s.seed, e.Ext), e, trusted), zeros[:h.padding])
		at := len(out)
		out = out[:at+frameHeaderSize]
		h.put(out[at:], s.seed)
		chained = h.crc
		out = append(out, e.Ext...)
		if len(e.Data) <= smallBody {
			out = append(out, e.Data...)
		} else {
			b.buffers = append(b.buffers, out[begin:], e.Data)
			begin = len(out)
		}
		out = append(out, zeros[:h.padding]...)
		b.heads = append(b.heads, h)
	}
	if begin < len(out) {
		b.buffers = append(b.buffers, out[begin:])
	}
	b.copied = out
	return b
}

// sumData is the CRC of an entry's data after bytes whose CRC is before. Batches that are trusted are not read again.
func sumData(before uint32, e *Entry, trusted bool) uint32 {
	if trusted && e.Records > 0 && e.First == 0 {
		return record.SumAll(before, e.Data)
	}
	return sum(before, e.Data)
}

// HoldsBatches says whether the data of an entry with this envelope is record batches, which its leader has validated.
func (l *Log) HoldsBatches(ext, data []byte) bool {
	if l.o.Classify == nil {
		return false
	}
	records, _ := l.o.Classify(ext, data)
	return records > 0
}

// publish makes synced entries a part of the log, visible, and tells who waited for them.
func (l *Log) publish(c *chain, s *segment, entries []Entry, heads []frameHeader, from source) {
	l.mu.Lock()
	before := s.size
	position := s.size
	for i := range heads {
		s.add(&s.index, &heads[i], position, l.o.IndexBytes)
		position += int64(heads[i].length)
	}
	live := c == &l.live
	if live {
		empty := l.windowFirst > l.windowLast
		switch {
		case from == fromQueue:
			bytes, records := sizes(entries)
			l.queued.add(-bytes, -records)
			l.metrics.queued.Sub(float64(bytes))
			held := l.cache.bytes
			l.cache.evict(s.last)
			l.metrics.cacheBytes.Sub(float64(held - l.cache.bytes))
		case from == fromRaft && empty:
			l.windowFirst, l.windowLast = entries[0].Index, s.last
		case from == fromRaft:
			l.windowLast = s.last
		case empty:
			l.windowFirst, l.windowLast = s.last+1, s.last
		}
		if from != fromQueue {
			l.remember(entries)
		}
		l.metrics.bytes.Add(float64(s.size - before))
	}
	first, last := l.windowFirst, s.last
	l.mu.Unlock()
	if live {
		l.durable.advance(last)
		l.note(last, first)
	}
}

// note leaves the mark. Nothing depends on it, so a failure only counts.
func (l *Log) note(synced, window record.Index) {
	if err := l.meta.note(synced, window); err != nil {
		l.metrics.failures.Inc()
		l.logger.Warn("mark not written", "dir", l.o.Dir, "err", err)
	}
}

// roll begins a new segment at index first. The gate is held.
func (l *Log) roll(c *chain, first record.Index) error {
	old := c.active()
	s := newSegment(c.generation, first, l.o.Salt())
	term, chained := c.tail()
	header := segmentHeader{generation: c.generation, salt: s.salt, first: first, createdAt: now(), previous: chained}
	var err error
	f := l.recycle(old, s, &header)
	encoded := header.encode()
	s.header, s.chained, s.lastTerm = header.crc, header.crc, term
	if f == nil {
		if f, err = l.o.FS.Create(l.path(s.name)); err != nil {
			if vfs.IsFull(err) {
				l.refusedForSpace()
				return fmt.Errorf("%w: %w", ErrNoSpace, err)
			}
			if vfs.OutOfFiles(err) {
				return fmt.Errorf("%w: %w", ErrNoFiles, err)
			}
			return l.fail(err)
		}
		// If we die before the header and the name are durable, the file is gone, or it is the last one,
		// shorter than a header or with a wrong one, and is removed. No frame is written before.
		if _, err = f.WriteAt(encoded, 0); err == nil {
			err = f.Sync()
		}
	}
	if err == nil {
		err = l.o.FS.SyncDir(l.o.Dir)
	}
	if err != nil {
		return l.rollFailed(f, s, err, vfs.IsFull(err))
	}
	h, err := l.files.adopt(s, f)
	if err != nil {
		return l.fail(err)
	}
	defer l.files.release(h)
	if err := l.begin(c, s, h); err != nil {
		l.files.forget(s)
		return l.rollFailed(nil, s, err, true)
	}
	if old != nil {
		l.releaseReserved(old)
		l.writeSidecar(old, &old.summary, old.index.all())
		l.mu.Lock()
		old.index = sparse{} // from the sidecar from now on
		l.mu.Unlock()
	}
	return nil
}

// begin makes a new segment the last of its chain, once there is space in it for all that is
// queued: queued entries always have their place behind the last segment's end.
func (l *Log) begin(c *chain, s *segment, h *handle) error {
	for {
		l.mu.RLock()
		need := l.queued.bytes
		l.mu.RUnlock()
		if need > 0 {
			if err := h.Reserve(s.size, need+l.reserveAhead()); err != nil {
				return err
			}
		}
		l.mu.Lock()
		if need > 0 {
			s.reserved = max(s.reserved, s.size+need+l.reserveAhead())
		}
		if l.queued.bytes > 0 && s.size+l.queued.bytes > s.reserved {
			l.mu.Unlock()
			continue // more has come in meanwhile
		}
		c.segments = append(c.segments[:len(c.segments):len(c.segments)], s)
		if c == &l.live {
			l.metrics.bytes.Add(float64(s.size))
		}
		l.mu.Unlock()
		return nil
	}
}

// rollFailed takes a half-made segment away if the log can go on without. f is open, or nil.
func (l *Log) rollFailed(f io.Closer, s *segment, cause error, bearable bool) error {
	var err error
	if f != nil {
		err = f.Close()
	}
	if !bearable || err != nil {
		return l.fail(errors.Join(cause, err))
	}
	if err := l.o.FS.Remove(l.path(s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.fail(errors.Join(cause, err))
	}
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		return l.fail(errors.Join(cause, err))
	}
	l.refusedForSpace()
	return fmt.Errorf("%w: %w", ErrNoSpace, cause)
}

// releaseReserved gives back disk space that was reserved behind a segment's end.
func (l *Log) releaseReserved(s *segment) {
	if s.reserved <= s.size {
		return
	}
	l.mu.Lock()
	s.reserved = 0
	l.mu.Unlock()
	h, err := l.files.acquire(s)
	if err == nil {
		err = h.Truncate(s.size) // to the size it has: frees what lies behind, changes no byte
		l.files.release(h)
	}
	if err != nil {
		l.logger.Warn("reserved space not given back", "segment", s.name, "err", err)
	}
}

// TrimWindow moves the raft window's begin behind an index; if that is the last one or beyond, the
// window becomes empty. Only the window: the records stay. The move is not synced: if it is lost,
// the window is larger after the next start, by entries that Raft has seen and may see again.
// Segments below log start, snapshot and window are dropped.
func (l *Log) TrimWindow(through record.Index) error {
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.mu.Lock()
	if l.windowFirst <= l.windowLast && through >= l.windowFirst {
		if through >= l.windowLast {
			// Empty. The begin goes to the log's end, which is where appending goes on, unless the
			// log's tail is given up.
			l.windowLast = l.live.last()
			l.windowFirst = l.windowLast + 1
		} else {
			l.windowFirst = through + 1
		}
	}
	window, last := l.windowFirst, l.live.last()
	l.mu.Unlock()
	l.note(last, window)
	return l.dropSegments()
}
