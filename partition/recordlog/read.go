package recordlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sort"

	"github.com/oncelog/oncelog/record"
)

// Chunk is what Read gives: whole batches as consumers get them.
type Chunk struct {
	// Batches lie in one buffer of the caller's own, with base offset and leader epoch set.
	Batches [][]byte
	// Bytes is the size of all of them.
	Bytes int
	// End is the offset after the last one; the offset that was asked for if there is none.
	End record.Offset
}

// Read gives whole batches from the one that holds offset from on, those that end at or below
// limit, up to maxBytes, but at least one if there is any (L14). The first may begin below from
// (L26). Without any, the chunk is empty: nothing is there yet, or not below the limit (L12).
//
// Errors: ErrOffsetOutOfRange for an offset below the log start or above the log end (L12),
// ErrNotRestored, *CorruptionError.
func (l *Log) Read(from, limit record.Offset, maxBytes int) (Chunk, error) {
	for {
		chunk, err := l.read(from, limit, maxBytes)
		// The segment was dropped between look-up and reading: look again, and find the log start
		// above from.
		if errors.Is(err, errMoved) {
			continue
		}
		return chunk, err
	}
}

func (l *Log) read(from, limit record.Offset, maxBytes int) (Chunk, error) {
	if l.closed.Load() {
		return Chunk{}, ErrClosed
	}
	l.mu.RLock()
	if err := l.readable(from); err != nil {
		l.mu.RUnlock()
		return Chunk{}, err
	}
	limit = min(limit, l.end)
	if from >= limit {
		l.mu.RUnlock()
		return Chunk{End: from}, nil
	}
	a := answer{log: l, from: from, limit: limit, maxBytes: maxBytes}
	if entries := l.fromCache(from, limit, maxBytes); len(entries) > 0 {
		a.refused = l.refused
		l.mu.RUnlock()
		l.metrics.cacheHits.Inc()
		return a.fill(entries)
	}
	_, k := l.holding(from)
	extents := l.covering(k, from, maxBytes)
	assigned := l.assigned
	a.refused = l.refused
	l.mu.RUnlock()
	l.metrics.cacheMisses.Inc()
	for len(extents) > 0 {
		for _, x := range extents {
			a.available += x.size
		}
		for _, x := range extents {
			if a.full || x.segment.first > assigned {
				return a.chunk(), nil
			}
			if err := a.scan(x, assigned); err != nil {
				if l.dropped(err, x.segment) {
					return Chunk{}, errMoved
				}
				return Chunk{}, err
			}
		}
		if len(a.ends) > 0 {
			break
		}
		// Compaction has left nothing there; what is next lies further on.
		l.mu.RLock()
		_, k := l.after(extents[len(extents)-1].segment)
		extents = l.covering(k, from, maxBytes)
		same := a.refused.len() == l.refused.len()
		l.mu.RUnlock()
		if !same {
			return Chunk{}, errMoved
		}
	}
	return a.chunk(), nil
}

// covering gives the segments that answer a read: one of which the offset is known and those after it,
// until about maxBytes are among them, and at least one batch unless compaction took it. They are taken at once, and with
// them the refusals, since both change together when the log start moves. l.mu is held.
func (l *Log) covering(k int, from record.Offset, maxBytes int) []extent {
	if k < 0 {
		return nil
	}
	extents := make([]extent, 0, 2)
	bytes := int64(0) // behind the first segment
	for i, s := range l.live.segments[k:] {
		// A segment that begins above from shows that a batch lies before it.
		if !s.based || (s.base > from && bytes > int64(maxBytes)) {
			break
		}
		if i > 0 {
			bytes += s.size
		}
		extents = append(extents, l.extentOf(s))
	}
	return extents
}

// readable checks an offset against the log's ends. l.mu is held.
func (l *Log) readable(from record.Offset) error {
	if !l.restored {
		return ErrNotRestored
	}
	if from < l.start.offset || from > l.end {
		return fmt.Errorf("%w: %d, log holds %d to %d", ErrOffsetOutOfRange, from, l.start.offset, l.end)
	}
	return nil
}

// holding finds the segment that holds an offset between log start and log end. l.mu is held.
func (l *Log) holding(from record.Offset) (extent, int) {
	segments := l.live.segments
	n := sort.Search(len(segments), func(i int) bool { return !segments[i].based })
	k := sort.Search(n, func(i int) bool { return segments[i].base > from }) - 1
	if k < 0 {
		return extent{}, -1
	}
	return l.extentOf(segments[k]), k
}

// after gives the segment that follows one. l.mu is held.
func (l *Log) after(s *segment) (extent, int) {
	k := sort.Search(len(l.live.segments), func(i int) bool { return l.live.segments[i].first > s.first })
	if k == len(l.live.segments) || !l.live.segments[k].based {
		return extent{}, -1
	}
	return l.extentOf(l.live.segments[k]), k
}

// fromCache takes the cached entries that answer a read, nil if the cache does not reach down to
// it. l.mu is held; the entries' bytes are copied later without it.
func (l *Log) fromCache(from, limit record.Offset, maxBytes int) []stored {
	first := l.cache.find(from, l.assigned)
	if first < 0 {
		return nil
	}
	entries := l.cache.entries[first:]
	n, bytes := 0, 0
	for n < len(entries) && entries[n].Index <= l.assigned && entries[n].base < limit {
		c := &entries[n]
		n++
		// The first entry may begin below from, and refused batches are left out: neither counts.
		if n == 1 || c.Records == 0 || len(l.refused.of(c.Index)) > 0 {
			continue
		}
		if bytes += len(c.Data); bytes > maxBytes {
			break
		}
	}
	taken := make([]stored, 0, n)
	for _, c := range entries[:n] {
		if c.Records > 0 {
			taken = append(taken, stored{index: c.Index, term: c.Term, base: c.base, data: c.Data})
		}
	}
	return taken
}

// stored is an entry's batches and where their offsets begin.
type stored struct {
	index record.Index
	term  record.Term
	base  record.Offset
	data  []byte
	// compacted: the batches know their offsets and their terms.
	compacted bool
}

// answer gathers batches.
type answer struct {
	log         *Log
	from, limit record.Offset
	maxBytes    int
	refused     refusals
	available   int64 // bytes on disk from the first segment on, as far as they matter
	out         []byte
	ends        []int // of the batches in out
	end         record.Offset
	full        bool
}

// fill answers from cached entries.
func (a *answer) fill(entries []stored) (Chunk, error) {
	bytes := 0
	for i := range entries {
		bytes += len(entries[i].data)
	}
	if len(entries) > 1 {
		bytes = min(bytes, max(a.maxBytes, len(entries[0].data)))
	}
	a.out = make([]byte, 0, bytes)
	a.ends = make([]int, 0, len(entries))
	for i := range entries {
		if err := a.take(&entries[i]); err != nil {
			return Chunk{}, err
		}
		if a.full {
			break
		}
	}
	return a.chunk(), nil
}

// scan answers from a segment file.
func (a *answer) scan(x extent, assigned record.Index) error {
	want := min(int64(a.maxBytes)+lookChunk, math.MaxInt32)
	c, err := a.log.openCursor(x, int(min(max(want, lookChunk), maxPooled)))
	if err != nil {
		return err
	}
	defer c.close()
	c.seekOffset(a.from, &a.refused)
	for c.more() && c.frames.next <= assigned && !a.full {
		base := c.offset(&a.refused)
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		if base >= a.limit {
			a.full = true
			break
		}
		// Whole entries below the offset need no look at their bodies.
		if h.records == 0 || base+record.Offset(h.records) <= a.from {
			c.pass(&h)
			continue
		}
		// What does not fit is not read: it lies behind the buffer, and would fill it anew.
		if len(a.out) > 0 && len(a.out)+h.dataLen() > a.maxBytes {
			a.full = true
			break
		}
		e, _, err := c.take()
		if err != nil {
			return err
		}
		if a.out == nil {
			left := a.available - (c.position - int64(len(e.Data)))
			a.out = make([]byte, 0, max(int(min(int64(a.maxBytes), left)), len(e.Data)))
		}
		if err := a.take(&stored{index: e.Index, term: e.Term, base: base, data: e.Data, compacted: e.First != 0}); err != nil {
			return corrupt(x.segment.name, c.position, e.Index, err)
		}
	}
	return nil
}

// take takes an entry's accepted batches.
func (a *answer) take(e *stored) error {
	epoch := a.log.o.LeaderEpoch(e.term)
	return eachBatch(e, a.refused.of(e.index), func(b record.Batch, at, next record.Offset) bool {
		switch {
		case next <= a.from:
			return true
		case next > a.limit, len(a.out) > 0 && len(a.out)+len(b) > a.maxBytes:
			a.full = true
			return false
		}
		start := len(a.out)
		a.out = append(a.out, b...)
		mine := record.Batch(a.out[start:])
		mine.SetBaseOffset(at)
		if e.compacted {
			epoch = a.log.o.LeaderEpoch(record.Term(b.LeaderEpoch()))
		}
		mine.SetLeaderEpoch(epoch)
		a.ends = append(a.ends, len(a.out))
		a.end = next
		return true
	})
}

func (a *answer) chunk() Chunk {
	c := Chunk{Bytes: len(a.out), End: a.end}
	if len(a.ends) == 0 {
		c.End = a.from
		return c
	}
	c.Batches = make([][]byte, len(a.ends))
	start := 0
	for i, end := range a.ends {
		c.Batches[i] = a.out[start:end:end]
		start = end
	}
	return c
}

// eachBatch calls use with each accepted batch of an entry, its base offset and the offset after
// it, until use says stop.
func eachBatch(e *stored, refused []countedRefusal, use func(b record.Batch, at, next record.Offset) bool) error {
	ordinal, at := int32(0), e.base
	for rest := e.data; len(rest) > 0; ordinal++ {
		b, r, err := record.Parse(rest)
		if err != nil {
			return differ("whole batches", err)
		}
		rest = r
		if e.compacted {
			if !use(b, b.BaseOffset(), b.LastOffset()+1) {
				return nil
			}
			continue
		}
		if len(refused) > 0 && refused[0].Ordinal == ordinal {
			refused = refused[1:]
			continue
		}
		n, err := offsetsOf(b)
		if err != nil {
			return differ("whole batches", err)
		}
		next := at + record.Offset(n)
		if !use(b, at, next) {
			return nil
		}
		at = next
	}
	return nil
}

// offset is where the next frame's records begin. For entries below the log start it is virtual
// and below the start's.
func (c *cursor) offset(refused *refusals) record.Offset {
	return c.offsetAt(block{index: c.frames.next, records: c.records}, refused)
}

func (c *cursor) offsetAt(b block, refused *refusals) record.Offset {
	return c.extent.base + record.Offset(b.records-refused.between(c.extent.segment.first, b.index))
}

// seekOffset goes to the last block that begins at or below an offset.
func (c *cursor) seekOffset(from record.Offset, refused *refusals) {
	c.seek(max(sort.Search(c.index.len(), func(k int) bool { return c.offsetAt(c.index.at(k), refused) > from })-1, 0))
}

// checksumChunk is how much Checksum reads at once.
const checksumChunk = 1 << 20

// Checksum is the CRC32C of all batches that end at or below to, from the one that holds from on,
// as consumers get them, and their number. Replicas compare it at equal offsets.
func (l *Log) Checksum(from, to record.Offset) (crc uint32, batches int64, err error) {
	for from < to {
		c, err := l.Read(from, to, checksumChunk)
		if err != nil {
			return 0, 0, err
		}
		if len(c.Batches) == 0 {
			break
		}
		for _, b := range c.Batches {
			crc = crc32.Update(crc, castagnoli, b)
		}
		batches += int64(len(c.Batches))
		from = c.End
	}
	return crc, batches, nil
}
