package recordlog

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// ErrNotClosed: entries that are to be compacted lie in the segment that is written to, in the raft window, or
// above the newest state snapshot.
var ErrNotClosed = errors.New("entries are not out of Raft's reach yet")

// Compaction is a round of a pass.
type Compaction struct {
	// Generation is that of the log when it was looked at to make Clean: catch-up may have put another in its place since, which
	// is compacted in another way.
	Generation uint32
	// Below bounds the batches that Clean gets: those of entries that end at or below it.
	Below record.Offset
	// Mark goes on what Clean leaves.
	Mark Mark
	// Clean says what stays of a batch, as package compaction does: nil, or a batch that is good until the next call. It gets
	// them in order, with base offset, and the term as leader epoch.
	Clean func(record.Batch) record.Batch
	// Throttle is told of bytes that were read; an error ends the round.
	Throttle func(bytes int64) error
}

// Compacted is what a round did.
type Compacted struct {
	Read, Written     int64
	Segments, Results int
}

// compactionChunk is up to which size a compacted frame gathers batches, writeChunk what is written at once.
const (
	compactionChunk = 16 << 10
	writeChunk      = 1 << 20
	pageBytes       = 4 << 10 // those that will not be written to again are given to the disk
	rewriteSuffix   = ".rewrite"
)

// Reachable says whether everything below an offset may be compacted: nil, or ErrNotClosed.
func (l *Log) Reachable(below record.Offset) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.restored {
		return ErrNotRestored
	}
	_, err := l.closedBelow(below)
	return err
}

// closedBelow gives the segments that hold offsets below one. What the state snapshot covers has its fate. l.mu is held.
func (l *Log) closedBelow(below record.Offset) ([]*segment, error) {
	segments := l.live.segments
	n := 0
	for n < len(segments) && segments[n].based && segments[n].base < below {
		n++
	}
	if n == 0 {
		return nil, nil
	}
	if last := segments[n-1].last; n == len(segments) || last > l.snapshot || last >= l.windowFirst {
		return nil, fmt.Errorf("%w: entries up to %d, of %d segments; snapshot is of %d, window begins with %d",
			ErrNotClosed, last, n, l.snapshot, l.windowFirst)
	}
	return segments[:n:n], nil
}

// EachBatch calls use with the accepted batches from the one that holds an offset on, until it wants no more or there
// are no more. Base offset is set, and leader epoch is the term. They alias a buffer. head: a batch is the first one of its
// entry, or of the compacted ones that lie together. throttle is told what is read.
func (l *Log) EachBatch(from record.Offset, throttle func(int64) error, use func(b record.Batch, head bool) (bool, error)) error {
	if l.closed.Load() {
		return ErrClosed
	}
	l.mu.RLock()
	if !l.restored {
		l.mu.RUnlock()
		return ErrNotRestored
	}
	from = max(from, l.start.offset)
	x, k := l.holding(from)
	l.mu.RUnlock()
	for more := true; k >= 0 && more; {
		var err error
		if more, err = l.eachBatchIn(x, from, throttle, use); err != nil {
			return err
		}
		l.mu.RLock()
		x, k = l.after(x.segment)
		l.mu.RUnlock()
	}
	return nil
}

func (l *Log) eachBatchIn(x extent, from record.Offset, throttle func(int64) error, use func(b record.Batch, head bool) (bool, error)) (bool, error) {
	l.mu.RLock()
	refused, assigned := l.refused, l.assigned
	x.base = x.segment.base
	l.mu.RUnlock()
	c, err := l.openCursor(x, scanChunk)
	if err != nil {
		return false, err
	}
	defer c.close()
	c.seekOffset(from, &refused)
	more := true
	for more && c.more() && c.frames.next <= assigned {
		base := c.offset(&refused)
		e, h, err := c.take()
		if err != nil {
			return false, err
		}
		if err := throttle(int64(h.length)); err != nil {
			return false, err
		}
		if c.offset(&refused) <= from || e.Records == 0 {
			continue
		}
		var failed error
		head := true
		err = eachBatch(storedOf(&e, base), refused.of(e.Index), func(b record.Batch, at, next record.Offset) bool {
			if next > from {
				situate(b, &e, at)
				more, failed = use(b, head)
			}
			head = false
			return more && failed == nil
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return false, err
		}
	}
	return more, nil
}

func storedOf(e *Entry, base record.Offset) *stored {
	return &stored{index: e.Index, term: e.Term, base: base, data: e.Data, compacted: e.First != 0}
}

// situate makes a batch know where it lies.
func situate(b record.Batch, e *Entry, at record.Offset) {
	if e.First == 0 {
		b.SetBaseOffset(at)
		b.SetLeaderEpoch(int32(min(uint64(e.Term), math.MaxInt32)))
	}
}

// Compact rewrites the segments that hold offsets below Compaction.Below, from the first one on, some neighbours at a time. Each
// time the new segment is on disk before it takes the place of the old ones, and it does so at once. Whatever ends it too soon,
// an error or a crash, leaves a whole log, of which the first part is done. One goroutine at a time calls it.
//
// Errors: ErrNotClosed, ErrNotRestored: nothing was done. *CorruptionError. Others leave the rest undone. A write that fails is no
// failure of the log, as long as it is one of the new segment.
func (l *Log) Compact(c Compaction) (done Compacted, err error) {
	if err := l.usable(); err != nil {
		return done, err
	}
	l.mu.RLock()
	if !l.restored {
		l.mu.RUnlock()
		return done, ErrNotRestored
	}
	segments, err := l.closedBelow(c.Below)
	if err == nil && l.live.generation != c.Generation {
		err = errMoved
	}
	l.mu.RUnlock()
	if err != nil {
		return done, err
	}
	for len(segments) > 0 {
		n, err := l.compactSome(segments, &c, &done)
		if err != nil {
			return done, errors.Join(err, l.findCleaned())
		}
		segments = segments[n:]
	}
	return done, l.findCleaned()
}

// compactSome makes one segment of the first ones, and says of how many.
func (l *Log) compactSome(segments []*segment, c *Compaction, done *Compacted) (n int, err error) {
	w := rewriter{log: l, compaction: c}
	if err := w.begin(segments[0]); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.discard())
		}
	}()
	limit := min(l.segmentBytes.Load(), maxSegmentBytes)
	var records int64
	for n < len(segments) {
		s := segments[n]
		// What the next one leaves is not known: the result may be half as large again as the limit.
		if n > 0 && (w.out.size+int64(w.bytes) > limit/2 || records+s.records > math.MaxInt32) {
			break
		}
		if err := w.take(s); err != nil {
			return 0, err
		}
		records += s.records
		done.Read += s.size
		n++
	}
	if err := w.finish(segments[:n]); err != nil {
		return 0, err
	}
	done.Written += w.out.size
	done.Segments += n
	done.Results++
	return n, nil
}

// rewriter writes a segment that is to replace others.
type rewriter struct {
	log        *Log
	compaction *Compaction
	file       vfs.File
	out        *segment
	temporary  string
	// pending gathers what is left of some entries, entries what is to be written.
	pending Entry
	entries []Entry
	bytes   int
	// spare are buffers of entries that were written.
	spare [][]byte
	// started is up to where the disk has begun to write.
	started int64
	start   record.Offset
}

func (w *rewriter) begin(first *segment) error {
	l := w.log
	w.out = newSegment(first.generation, first.first, l.o.Salt())
	w.temporary = w.out.name + rewriteSuffix
	l.mu.RLock()
	w.start = l.start.offset
	l.mu.RUnlock()
	h := segmentHeader{generation: w.out.generation, salt: w.out.salt, first: w.out.first, createdAt: now()}
	f, err := l.o.FS.Create(l.path(w.temporary))
	if err != nil {
		return err
	}
	w.file = f
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return errors.Join(err, w.discard())
	}
	w.out.header, w.out.chained = h.crc, h.crc
	return nil
}

// discard takes away what did not become a segment.
func (w *rewriter) discard() error {
	var err error
	if w.file != nil {
		err = w.file.Close()
		w.file = nil
	}
	return errors.Join(err, removeIfThere(w.log.o.FS, w.log.path(w.temporary)))
}

// take rewrites the frames of a segment.
func (w *rewriter) take(s *segment) error {
	l := w.log
	l.mu.RLock()
	x, refused := l.extentOf(s), l.refused
	l.mu.RUnlock()
	c, err := l.openCursor(x, scanChunk)
	if err != nil {
		return err
	}
	defer c.close()
	for c.more() {
		base := c.offset(&refused)
		e, h, err := c.take()
		if err != nil {
			return err
		}
		if err := w.compaction.Throttle(int64(h.length)); err != nil {
			return err
		}
		if end := c.offset(&refused); end > w.compaction.Below {
			if err := w.keep(&e); err != nil {
				return err
			}
			continue
		}
		if err := w.clean(&e, base, refused.of(e.Index)); err != nil {
			return corruptIfMalformed(s, c, &e, err)
		}
	}
	return w.flush() // so that no frame stands for entries of two segments
}

func corruptIfMalformed(s *segment, c *cursor, e *Entry, err error) error {
	var m *mismatch
	if errors.As(err, &m) {
		return corrupt(s.name, c.position, e.Index, err)
	}
	return err
}

// keep takes over an entry as it is.
func (w *rewriter) keep(e *Entry) error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.add(e.clone(nil))
}

// clean takes what is left of an entry.
func (w *rewriter) clean(e *Entry, base record.Offset, refused []countedRefusal) error {
	mark := w.compaction.Mark.with(e.Mark())
	p := &w.pending
	if p.First != 0 && (p.Mark() != mark || len(p.Data) >= compactionChunk || int64(p.Records)+int64(e.Records) > math.MaxInt32/2) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if p.First == 0 {
		*p = Entry{First: e.Begins(), Ext: mark.encode(), MaxTimestamp: math.MinInt64, Data: w.buffer()}
	}
	p.Index, p.Term, p.Type, p.AppendedAt = e.Index, e.Term, e.Type, e.AppendedAt
	p.Records += e.Records
	if e.Records == 0 {
		return nil
	}
	return eachBatch(storedOf(e, base), refused, func(b record.Batch, at, next record.Offset) bool {
		if next <= w.start {
			return true // deleted
		}
		situate(b, e, at)
		if kept := w.compaction.Clean(b); kept != nil {
			p.Data = append(p.Data, kept...)
			p.MaxTimestamp = max(p.MaxTimestamp, kept.MaxTimestamp())
		}
		return true
	})
}

// buffer is an empty one for the data of a frame.
func (w *rewriter) buffer() []byte {
	if n := len(w.spare); n > 0 {
		b := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return b
	}
	return make([]byte, 0, 2*compactionChunk)
}

// flush ends the frame that gathers.
func (w *rewriter) flush() error {
	if w.pending.First == 0 {
		return nil
	}
	e := w.pending
	w.pending = Entry{}
	return w.add(e)
}

func (w *rewriter) add(e Entry) error {
	w.entries = append(w.entries, e)
	if w.bytes += frameSize(len(e.Ext), len(e.Data)); w.bytes < writeChunk {
		return nil
	}
	return w.write()
}

// write writes what has come together.
func (w *rewriter) write() error {
	if len(w.entries) == 0 {
		return nil
	}
	frames := encode(w.out, w.out.first-1, w.entries, false)
	defer frames.release()
	if w.out.size+int64(w.bytes) > math.MaxUint32 {
		return fmt.Errorf("a compacted segment of more than %d bytes", int64(math.MaxUint32))
	}
	if _, err := w.file.WritevAt(frames.buffers, w.out.size); err != nil {
		return err
	}
	position := w.out.size
	for i := range frames.heads {
		w.out.add(&w.out.index, &frames.heads[i], position, w.log.o.IndexBytes)
		position += int64(frames.heads[i].length)
	}
	for i := range w.entries {
		if d := w.entries[i].Data; cap(d) >= compactionChunk && cap(d) <= 8*compactionChunk {
			w.spare = append(w.spare, d[:0])
		}
	}
	w.entries, w.bytes = w.entries[:0], 0
	// The disk works beside us, rather than all at once in the end, when others wait for their flush.
	if end := w.out.size &^ (pageBytes - 1); end > w.started {
		vfs.StartSync(w.file, w.started, end-w.started)
		w.started = end
	}
	return nil
}

// finish puts the new segment in the place of the old ones.
//
// It is on disk before it has its name, and has its name, durably, before the old ones lose theirs. If we die
// before the name is durable, opening removes it; after, it removes the old ones.
func (w *rewriter) finish(old []*segment) error {
	l := w.log
	if err := w.write(); err != nil {
		return err
	}
	if err := w.seal(old); err != nil {
		return err
	}
	if err := w.replace(old); err != nil {
		return err
	}
	// Nobody finds them any more, and appends need not wait until the file system has freed them.
	for _, o := range old {
		if err := l.removeSegment(o); err != nil {
			l.logger.Warn("compacted segment not removed", "segment", o.name, "err", err)
		}
	}
	return nil
}

// replace gives the new segment its name and its place among the others. The gate is
// held so that none of the old ones is dropped meanwhile: the log must not begin inside of the new one.
func (w *rewriter) replace(old []*segment) error {
	l := w.log
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if !l.inARow(old) {
		return errMoved
	}
	s := w.out
	if err := l.o.FS.Rename(l.path(w.temporary), l.path(s.name)); err != nil {
		return err
	}
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	k := slices.Index(l.live.segments, old[0])
	var before int64
	for _, o := range old {
		before += o.size
	}
	s.base, s.based = old[0].base, true
	blocks := s.index.all()
	s.index = sparse{}
	l.live.segments = slices.Concat(l.live.segments[:k], []*segment{s}, l.live.segments[k+len(old):])
	held := l.cache.bytes
	l.cache.forget(l.live.last()) // what it holds may be gone
	l.metrics.cacheBytes.Sub(float64(held - l.cache.bytes))
	l.metrics.bytes.Add(float64(s.size - before))
	l.mu.Unlock()
	l.forgetPlaces()
	l.writeSidecar(s, &s.summary, blocks)
	return nil
}

// inARow says whether segments still follow each other in the live chain.
func (l *Log) inARow(old []*segment) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	k := slices.Index(l.live.segments, old[0])
	return k >= 0 && k+len(old) < len(l.live.segments) && slices.Equal(l.live.segments[k:k+len(old)], old)
}

// seal makes the new segment's bytes durable and says what its name will be.
func (w *rewriter) seal(old []*segment) error {
	s, last := w.out, old[len(old)-1]
	if s.last != last.last {
		return fmt.Errorf("compacted segment ends with entry %d, not %d", s.last, last.last)
	}
	for _, o := range old {
		s.revision = max(s.revision, o.revision)
	}
	s.revision++
	s.through = s.last
	s.name = compactedName(s.generation, s.first, s.salt, s.through, s.revision)
	if err := w.file.Sync(); err != nil {
		return err
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Generation is another one after catch-up has replaced the log.
func (l *Log) Generation() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.live.generation
}

// Begins says whether an entry's first accepted batch begins at an offset, or the log ends there: a pass may end before it.
func (l *Log) Begins(o record.Offset) (begins bool, err error) {
	begins = o == l.EndOffset()
	err = l.EachBatch(o, func(int64) error { return nil }, func(b record.Batch, head bool) (bool, error) {
		begins = head && b.BaseOffset() == o
		return false, nil
	})
	return begins, err
}
