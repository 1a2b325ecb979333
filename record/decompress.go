package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
)

// DefaultMaxDecompressed is how many bytes the records of one batch may take when decompressed,
// where the caller gives no bound of its own.
const DefaultMaxDecompressed = 64 << 20

// errTooLarge: the content exceeds the limit. All other errors of decoders are damage.
var errTooLarge = errors.New("exceeds the limit when decompressed")

// decompress gives the content of src, at most limit bytes, in dst's array if it suffices. What
// is allocated follows what src can hold, not what it claims: about twice the content decoded so
// far, or what the sizes of its blocks allow, and never more than about twice the limit.
func decompress(dst []byte, c Codec, src []byte, limit int) ([]byte, error) {
	dst = dst[:0]
	switch c {
	case CodecGzip:
		return decompressGzip(dst, src, limit)
	case CodecSnappy:
		return decompressSnappy(dst, src, limit)
	case CodecLZ4:
		return decompressLZ4(dst, src, limit)
	case CodecZstd:
		return decompressZstd(dst, src, limit)
	default:
		return dst, errors.New("no such codec")
	}
}

// grow makes room for n more bytes.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	bigger := make([]byte, len(dst), max(len(dst)+n, min(2*cap(dst), cap(dst)+8<<20)))
	copy(bigger, dst)
	return bigger
}

type gzipDecoder struct {
	r   gzip.Reader
	src bytes.Reader
}

var gzipDecoders = sync.Pool{New: func() any { return new(gzipDecoder) }}

func decompressGzip(dst, src []byte, limit int) ([]byte, error) {
	d := gzipDecoders.Get().(*gzipDecoder)
	defer gzipDecoders.Put(d)
	d.src.Reset(src)
	defer d.src.Reset(nil)
	if err := d.r.Reset(&d.src); err != nil {
		return dst, err
	}
	for {
		if len(dst) > limit {
			return dst, errTooLarge
		}
		if len(dst) == cap(dst) {
			// One byte above the limit shows that there is more.
			dst = grow(dst, min(max(4*len(src), 4<<10), limit+1-len(dst)))
		}
		n, err := d.r.Read(dst[len(dst):min(cap(dst), limit+1)])
		dst = dst[:len(dst)+n]
		if err == io.EOF && len(dst) <= limit {
			return dst, nil
		}
		if err != nil && err != io.EOF {
			return dst, err
		}
	}
}

// The framing of snappy-java ("xerial"): magic, version, least compatible version, then chunks of
// a length and a snappy block each, all big endian.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = len(xerialMagic) + 4 + 4
)

// snappyMaxRatio is above what a snappy element gives: 64 bytes from 3.
const snappyMaxRatio = 22

var errSnappy = errors.New("snappy data is malformed")

func decompressSnappy(dst, src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, []byte(xerialMagic)) {
		return decompressSnappyBlock(dst, src, limit)
	}
	if len(src) < xerialHeader || int32(binary.BigEndian.Uint32(src[len(xerialMagic):])) < 1 {
		return dst, errSnappy
	}
	src = src[xerialHeader:]
	for len(src) > 0 {
		if len(src) < 4 {
			return dst, errSnappy
		}
		n := int64(binary.BigEndian.Uint32(src))
		if src = src[4:]; n > int64(len(src)) {
			return dst, errSnappy
		}
		var err error
		if dst, err = decompressSnappyBlock(dst, src[:n], limit); err != nil {
			return dst, err
		}
		src = src[n:]
	}
	return dst, nil
}

// decompressSnappyBlock appends the content of one block. The strict decoder refuses the
// extensions of S2, which other clients cannot read.
func decompressSnappyBlock(dst, block []byte, limit int) ([]byte, error) {
	size, n := binary.Uvarint(block)
	if n <= 0 || size > 1<<32-1 || size > snappyMaxRatio*uint64(len(block)) {
		return dst, errSnappy
	}
	if size > uint64(limit-len(dst)) {
		return dst, errTooLarge
	}
	dst = grow(dst, int(size))
	out, err := snappy.DecodeStrict(dst[len(dst):cap(dst)], block)
	if err != nil {
		return dst, err
	}
	return dst[:len(dst)+len(out)], nil
}

// maxPooledBuffer bounds what the pool of buffers keeps: larger ones are rare and left to the
// collector.
const maxPooledBuffer = 8 << 20

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// getBuffer takes an empty buffer from the pool.
func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= maxPooledBuffer {
		buffers.Put(b)
	}
}

// content gives the decompressed records of b, which is exactly one batch. Without compression
// they alias b, else they lie in buf's array, which is replaced if it is too small.
func (b Batch) content(buf *[]byte, limit int) ([]byte, error) {
	body := b[HeaderSize:]
	c := b.Attributes().Codec()
	if c == CodecNone {
		return body, nil
	}
	if c >= codecCount {
		return nil, refuse(ErrUnsupportedCompression, "attributes name compression codec %d, which does not exist", c)
	}
	if limit <= 0 {
		limit = DefaultMaxDecompressed
	}
	out, err := decompress(*buf, c, body, limit)
	*buf = out[:0]
	switch {
	case errors.Is(err, errTooLarge):
		return nil, refuse(ErrMessageTooLarge, "records of the batch exceed %d bytes when decompressed", limit)
	case err != nil:
		return nil, refuseForGood(ErrCorruptMessage, "records cannot be decompressed as %s: %v", c, err)
	}
	return out, nil
}
