package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// A frame is a length (4 bytes, big endian, of what follows) and a batch. The
// same bytes go from the client to the leader, to the followers and to the
// files; nothing is copied on the way but by the kernel.
const (
	lengthBytes = 4
	batchHeader = 8 // number of the batch in its partition, for the tests
	maxFrame    = lengthBytes + 16<<20
)

// chunkBytes is the least size of the buffers that frames are read into. A
// frame that is cut by the end of a buffer is moved to the next one: the larger
// the buffer, the rarer that copy.
const chunkBytes = 4 << 20

// chunk is a buffer that several writers read from. The last to let go returns
// it to the pool.
type chunk struct {
	bytes []byte
	users atomic.Int32
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func newChunk(size int) *chunk {
	c := chunks.Get().(*chunk)
	if len(c.bytes) < size {
		c.bytes = make([]byte, size)
	}
	c.users.Store(1)
	return c
}

func (c *chunk) hold() { c.users.Add(1) }

func (c *chunk) release() {
	if left := c.users.Add(-1); left == 0 {
		chunks.Put(c)
	} else if left < 0 {
		panic("limit: a chunk was released too often")
	}
}

// span is a run of whole frames in one chunk. Its owner releases it.
type span struct {
	chunk  *chunk
	bytes  []byte
	frames int
}

func (s span) release() { s.chunk.release() }

// frameReader reads as much as there is, and gives out whole frames.
type frameReader struct {
	source io.Reader
	size   int // of a chunk, at least
	chunk  *chunk
	filled int // bytes of the chunk that were read
	given  int // bytes of the chunk that were given out
}

func newFrameReader(source io.Reader, size int) *frameReader {
	return &frameReader{source: source, size: size, chunk: newChunk(size)}
}

// next gives all whole frames that have arrived, at least one. io.EOF means that
// the source ended between two frames.
func (r *frameReader) next() (span, error) {
	for {
		whole, frames, need, err := scanFrames(r.chunk.bytes[r.given:r.filled])
		if err != nil {
			return span{}, err
		}
		if frames > 0 {
			r.chunk.hold()
			s := span{chunk: r.chunk, bytes: r.chunk.bytes[r.given : r.given+whole], frames: frames}
			r.given += whole
			return s, nil
		}
		if r.given+need > len(r.chunk.bytes) {
			r.turn(need)
		}
		n, err := r.source.Read(r.chunk.bytes[r.filled:])
		r.filled += n
		if n > 0 {
			continue
		}
		if errors.Is(err, io.EOF) && r.filled > r.given {
			return span{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return span{}, err
		}
	}
}

// turn goes on in a new chunk with room for need bytes, the part of a frame that
// has arrived moved there.
func (r *frameReader) turn(need int) {
	next := newChunk(max(need, r.size))
	r.filled = copy(next.bytes, r.chunk.bytes[r.given:r.filled])
	r.given = 0
	r.chunk.release()
	r.chunk = next
}

func (r *frameReader) close() { r.chunk.release() }

// scanFrames finds how many bytes at the front are whole frames. Without any,
// need is how many bytes the first takes as far as can be told.
func scanFrames(b []byte) (whole, frames, need int, err error) {
	for {
		rest := b[whole:]
		if len(rest) < lengthBytes {
			return whole, frames, lengthBytes, nil
		}
		size := lengthBytes + int(binary.BigEndian.Uint32(rest))
		if size > maxFrame {
			return 0, 0, 0, fmt.Errorf("a frame of %d bytes: at most %d", size, maxFrame)
		}
		if len(rest) < size {
			return whole, frames, size, nil
		}
		whole += size
		frames++
	}
}
