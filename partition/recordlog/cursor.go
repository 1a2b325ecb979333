package recordlog

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

const (
	// lookChunk is how much a look-up reads at once, nextChunk one whose place is known, scanChunk a
	// scan.
	lookChunk = 64 << 10
	nextChunk = 4 << 10
	scanChunk = 512 << 10
	// maxPooled is the largest buffer that goes back to the pool.
	maxPooled = 4 << 20
)

var bufferPool = sync.Pool{New: func() any { return new([]byte) }}

// frames reads the frames of one segment in order, through one buffer. What it gives is good until
// the next call. It checks CRCs, lengths and the order of indexes and terms.
type frames struct {
	file     io.ReaderAt
	seed     uint32
	position int64        // of the next frame
	end      int64        // where the frames end
	next     record.Index // expected
	chunk    int
	buf      *[]byte
	at       int64 // position of the buffer's first byte
	have     int   // bytes in the buffer
}

func newFrames(file io.ReaderAt, s *segment, position, end int64, next record.Index, chunk int) *frames {
	return &frames{file: file, seed: s.seed, position: position, end: end, next: next, chunk: chunk, buf: bufferPool.Get().(*[]byte)}
}

// close gives the buffer back.
func (f *frames) close() {
	if f.buf != nil && cap(*f.buf) <= maxPooled {
		bufferPool.Put(f.buf)
	}
	f.buf = nil
}

// more says whether there is another frame.
func (f *frames) more() bool { return f.position < f.end }

// bytes gives n bytes at off, from the buffer if they are there.
func (f *frames) bytes(off int64, n int) ([]byte, error) {
	if off+int64(n) > f.end {
		return nil, differ(fmt.Sprintf("%d bytes", n), fmt.Sprintf("%d bytes to the end", f.end-off))
	}
	if off < f.at || off+int64(n) > f.at+int64(f.have) {
		want := int(min(int64(max(n, f.chunk)), f.end-off))
		if cap(*f.buf) < want {
			*f.buf = make([]byte, want)
		}
		b := (*f.buf)[:want]
		f.at, f.have = off, 0
		if err := readFull(f.file, b, off); err != nil {
			return nil, err
		}
		*f.buf, f.have = b, want
	}
	from := int(off - f.at)
	return (*f.buf)[from : from+n : from+n], nil
}

// header reads the next frame's header without moving on.
func (f *frames) header() (frameHeader, error) {
	b, err := f.bytes(f.position, frameHeaderSize)
	if err != nil {
		return frameHeader{}, err
	}
	h, err := decodeFrameHeader(b, f.seed)
	if err != nil {
		return frameHeader{}, err
	}
	if h.first() != f.next {
		return frameHeader{}, differ(fmt.Sprintf("entry %d", f.next), fmt.Sprintf("entry %d", h.first()))
	}
	if f.position+int64(h.length) > f.end {
		return frameHeader{}, differ(fmt.Sprintf("a frame of %d bytes", h.length), fmt.Sprintf("%d bytes to the end", f.end-f.position))
	}
	return h, nil
}

// skip moves past a frame whose header was read. Its body is not checked.
func (f *frames) skip(h *frameHeader) {
	f.position += int64(h.length)
	f.next = h.index + 1
}

// body reads the body of the frame whose header was read, and moves on.
func (f *frames) body(h *frameHeader) ([]byte, error) {
	// Header and body together, so that a frame costs one read.
	b, err := f.bytes(f.position, h.length)
	if err != nil {
		return nil, err
	}
	b = b[frameHeaderSize:]
	if err := h.checkBody(b, f.seed); err != nil {
		return nil, err
	}
	f.skip(h)
	return b, nil
}

// entry reads the next frame as an entry that aliases the buffer.
func (f *frames) entry() (Entry, frameHeader, error) {
	h, err := f.header()
	if err != nil {
		return Entry{}, h, err
	}
	b, err := f.body(&h)
	if err != nil {
		return Entry{}, h, err
	}
	return h.entry(b), h, nil
}

// extent is what a reader may see of a segment, taken under Log.mu.
type extent struct {
	segment *segment
	summary
	index sparse // of the active segment
	base  record.Offset
	based bool
	cuts  uint64
}

// extentOf copies what a reader needs. l.mu is held.
func (l *Log) extentOf(s *segment) extent {
	return extent{segment: s, summary: s.summary, index: s.index, base: s.base, based: s.based, cuts: l.cuts}
}

// cursor reads a segment from some block on, for look-ups and reads.
type cursor struct {
	*frames
	log     *Log
	extent  extent
	handle  *handle
	index   sparse
	records int64 // offsets of all batches before the next frame, within the segment
}

// openCursor opens a segment for reading. close is required if there is no error.
func (l *Log) openCursor(x extent, chunk int) (*cursor, error) {
	h, err := l.files.acquire(x.segment)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	c := &cursor{log: l, extent: x, handle: h, index: x.index}
	c.frames = newFrames(h, x.segment, segmentHeaderSize, x.size, x.segment.first, chunk)
	if c.index.len() == 0 && x.last >= x.segment.first {
		if c.index.blocks, err = l.loadIndex(h, x); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *cursor) close() {
	c.frames.close()
	c.log.files.release(c.handle)
}

// seek goes to a block.
func (c *cursor) seek(k int) {
	b := c.index.at(k)
	c.position, c.frames.next, c.records = b.position, b.index, b.records
}

// seekIndex goes to the frame of entry i, which the segment holds.
func (c *cursor) seekIndex(i record.Index) error {
	c.seek(c.index.holding(i))
	return c.passTo(i)
}

// passTo passes the frames before the one that holds entry i.
func (c *cursor) passTo(i record.Index) error {
	for c.frames.next < i {
		h, err := c.header()
		if err != nil {
			return c.damage(err)
		}
		if h.index >= i {
			return nil
		}
		c.pass(&h)
	}
	return nil
}

// pass moves past a frame without looking at its body.
func (c *cursor) pass(h *frameHeader) {
	c.records += int64(h.records)
	c.skip(h)
}

// take reads the next entry; it aliases the buffer.
func (c *cursor) take() (Entry, frameHeader, error) {
	e, h, err := c.entry()
	if err != nil {
		return e, h, c.damage(err)
	}
	c.records += int64(h.records)
	return e, h, nil
}

// errMoved: what was being read was cut off and perhaps overwritten meanwhile. The caller looks
// again and finds that it is gone, or what is there now.
var errMoved = errors.New("log was truncated while it was read")

// damage turns what a frame did wrong into a CorruptionError, unless the tail was cut meanwhile.
func (c *cursor) damage(cause error) error {
	l := c.log
	l.mu.RLock()
	moved := l.cuts != c.extent.cuts
	l.mu.RUnlock()
	if moved {
		return errMoved
	}
	var m *mismatch
	if !errors.As(cause, &m) && !errors.Is(cause, io.ErrUnexpectedEOF) {
		return cause // an I/O error is no proof of damage
	}
	err := corrupt(c.extent.segment.name, c.position, c.frames.next, cause)
	l.metrics.corruptions.Inc()
	l.logger.Error("record log is damaged", "dir", l.o.Dir, "err", err)
	return err
}

// loadIndex gives the sparse index of a closed segment: its sidecar, or a scan of its frames.
func (l *Log) loadIndex(h *handle, x extent) ([]block, error) {
	return l.files.index(h, func() ([]block, error) {
		s := x.segment
		side, blocks, err := l.readSidecar(s, true)
		if err == nil && side.summary == x.summary && side.header == s.header {
			return blocks, nil
		}
		found, err := scan(h, s, x.size, l.o.IndexBytes, scanLimits{previousTerm: 0, chained: s.header})
		if err != nil {
			return nil, err
		}
		if found.bad != nil {
			return nil, corrupt(s.name, found.size, found.last+1, found.bad)
		}
		return found.index.all(), nil
	})
}

var _ io.ReaderAt = vfs.File(nil)
