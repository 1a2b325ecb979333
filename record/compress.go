package record

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is one codec at one level, with the encoders that it has made so far. Builders
// share it: an encoder is needed only while a batch is finished, and zstd's is more than a
// megabyte. It is safe for concurrent use.
//
// Encoders are kept here and not for the whole process because zstd's hold channels, and a
// channel made inside a testing/synctest bubble must not be used outside it.
type Compression struct {
	codec Codec
	level int
	pool  sync.Pool // of encoder
}

// encoder compresses one block of records at a time.
type encoder interface {
	// compress appends the compressed form of src to dst.
	compress(dst, src []byte) []byte
}

// NewCompression gives a codec at a level, of which at most one is looked at. Without one the
// codec's default holds; a level outside the codec's range counts as the nearest end.
//
//	gzip  1 fastest to 9 smallest, default 6
//	lz4   1 to 9: high compression; default: the fast compressor
//	zstd  1 to 22, default 3
//
// The other codecs have no levels. A codec that does not exist is a programming error and panics.
func NewCompression(codec Codec, level ...int) *Compression {
	c := &Compression{codec: codec, level: defaultLevel}
	if len(level) > 0 {
		c.level = level[0]
	}
	switch codec {
	case CodecNone:
	case CodecGzip:
		c.pool.New = func() any { return newGzipEncoder(c.level) }
	case CodecSnappy:
		c.pool.New = func() any { return snappyEncoder{} }
	case CodecLZ4:
		c.pool.New = func() any { return newLZ4Encoder(c.level) }
	case CodecZstd:
		c.pool.New = func() any { return newZstdEncoder(c.level) }
	default:
		panic(fmt.Sprintf("record: compression with unknown codec %d", codec))
	}
	return c
}

// Codec is the codec asked for. A batch that the codec would not make smaller is left uncompressed.
func (c *Compression) Codec() Codec { return c.codec }

// defaultLevel stands for a codec's own default.
const defaultLevel = -1 << 31

// appendTo appends the compressed form of src to dst. The codec is not CodecNone.
func (c *Compression) appendTo(dst, src []byte) []byte {
	e := c.pool.Get().(encoder)
	defer c.pool.Put(e)
	return e.compress(dst, src)
}

type gzipEncoder struct {
	w   *gzip.Writer
	out sliceWriter
}

func newGzipEncoder(level int) *gzipEncoder {
	if level == defaultLevel {
		level = 6
	}
	e := &gzipEncoder{}
	// The only error is a level out of range.
	e.w, _ = gzip.NewWriterLevel(&e.out, min(max(level, gzip.BestSpeed), gzip.BestCompression))
	return e
}

func (e *gzipEncoder) compress(dst, src []byte) []byte {
	e.out = dst
	e.w.Reset(&e.out)
	// A sliceWriter does not fail.
	_, _ = e.w.Write(src)
	_ = e.w.Close()
	dst, e.out = e.out, nil
	return dst
}

// sliceWriter appends what is written.
type sliceWriter []byte

func (w *sliceWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

type snappyEncoder struct{}

// compress writes one plain snappy block; every reader that knows xerial framing takes it.
func (snappyEncoder) compress(dst, src []byte) []byte {
	n := len(dst)
	dst = slices.Grow(dst, snappy.MaxEncodedLen(len(src)))
	block := snappy.Encode(dst[n:cap(dst)], src)
	return dst[:n+len(block)]
}

type zstdEncoder struct{ e *zstd.Encoder }

func newZstdEncoder(level int) zstdEncoder {
	if level == defaultLevel {
		level = 3
	}
	// No frame checksum: the batch has one. The only errors are options out of range.
	e, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(min(max(level, 1), 22))))
	return zstdEncoder{e}
}

func (e zstdEncoder) compress(dst, src []byte) []byte { return e.e.EncodeAll(src, dst) }

// blockCompressor is pierrec/lz4's fast or high compressor.
type blockCompressor interface {
	CompressBlock(src, dst []byte) (int, error)
}

type lz4Encoder struct{ blocks blockCompressor }

func newLZ4Encoder(level int) lz4Encoder {
	if level == defaultLevel {
		return lz4Encoder{&lz4.Compressor{}}
	}
	depth := lz4.CompressionLevel(1 << (8 + min(max(level, 1), 9)))
	return lz4Encoder{&lz4.CompressorHC{Level: depth}}
}

func (e lz4Encoder) compress(dst, src []byte) []byte { return appendLZ4Frame(dst, src, e.blocks) }
