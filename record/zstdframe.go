package record

import (
	"errors"

	"github.com/klauspost/compress/zstd"
)

// zstdDecoder is made before any test bubble begins; see Compression. It costs a few kilobytes.
// Windows up to 128 MiB are what other clients read; DecodeAll allocates none of them, since
// the output is the window.
var zstdDecoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(128<<20),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // an option out of range
	}
	return d
}()

const (
	// zstdMaxBlock is the most that one block holds (RFC 8878, 3.1.1.2.3).
	zstdMaxBlock = 128 << 10
	// zstdSlack is room behind the content with which the decoder copies faster.
	zstdSlack = 64

	zstdRawBlock        = 0
	zstdRunLengthBlock  = 1
	zstdCompressedBlock = 2
)

var errZstd = errors.New("zstd frame is malformed")

func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	least, most, err := zstdContent(src)
	if err != nil {
		return dst, err
	}
	if least > int64(limit) {
		return dst, errTooLarge
	}
	dst = grow(dst, int(min(most, int64(limit)))+zstdSlack)
	out, err := zstdDecoder.DecodeAll(src, dst)
	switch {
	// The decoder reports lack of room like damage, but where the blocks fit there is none.
	case err != nil && most <= int64(limit):
		return dst, err
	case err != nil, len(out) > limit:
		return dst, errTooLarge
	}
	return out, nil
}

// zstdContent walks over the frames and block headers in src and says how much content they hold
// at least and at most, without decoding it. The two are equal if the frames state their size.
//
//	frame: header, blocks, checksum of 4 bytes if the header says so
//	block: uint24 little endian: bit 0 last, bits 1-2 type (0 raw, 1 run length, 2 compressed),
//	       bits 3-23 size; then size bytes, with run length 1 byte
func zstdContent(src []byte) (least, most int64, err error) {
	var h zstd.Header
	for len(src) > 0 {
		if src, err = h.DecodeAndStrip(src); err != nil {
			return 0, 0, err
		}
		if h.Skippable {
			if int64(h.SkippableSize) > int64(len(src)) {
				return 0, 0, errZstd
			}
			src = src[h.SkippableSize:]
			continue
		}
		var low, high int64
		if src, low, high, err = zstdBlocks(src); err != nil {
			return 0, 0, err
		}
		if h.HasCheckSum {
			if len(src) < 4 {
				return 0, 0, errZstd
			}
			src = src[4:]
		}
		if h.HasFCS {
			if h.FrameContentSize < uint64(low) || h.FrameContentSize > uint64(high) {
				return 0, 0, errZstd
			}
			low, high = int64(h.FrameContentSize), int64(h.FrameContentSize)
		}
		least, most = least+low, most+high
	}
	return least, most, nil
}

// zstdBlocks walks over the blocks of one frame.
func zstdBlocks(src []byte) (rest []byte, least, most int64, err error) {
	for last := false; !last; {
		if len(src) < 3 {
			return nil, 0, 0, errZstd
		}
		header := int(src[0]) | int(src[1])<<8 | int(src[2])<<16
		src = src[3:]
		last = header&1 != 0
		size, taken := header>>3, header>>3
		if size > zstdMaxBlock {
			return nil, 0, 0, errZstd
		}
		switch header >> 1 & 3 {
		case zstdRawBlock:
			least, most = least+int64(size), most+int64(size)
		case zstdRunLengthBlock:
			least, most, taken = least+int64(size), most+int64(size), 1
		case zstdCompressedBlock:
			most += zstdMaxBlock
		default:
			return nil, 0, 0, errZstd
		}
		if taken > len(src) {
			return nil, 0, 0, errZstd
		}
		src = src[taken:]
	}
	return src, least, most, nil
}
