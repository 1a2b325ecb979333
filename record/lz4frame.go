package record

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/pierrec/lz4/v4"
)

// LZ4 frame format 1.6, little endian, as clients write it (Kafka's message format v2 uses the
// correct header checksum):
//
//	magic 0x184D2204       uint32
//	FLG                    bits 7-6 version 01, 5 blocks independent, 4 block checksums,
//	                       3 content size present, 2 content checksum, 0 dictionary id present
//	BD                     bits 6-4 largest block: 4 64 KiB, 5 256 KiB, 6 1 MiB, 7 4 MiB
//	content size           uint64, if FLG says so
//	header checksum        second byte of xxh32 over FLG to here
//	blocks: size uint32 (bit 31: stored as is), data, xxh32 of data if FLG says so
//	end mark               uint32 0
//	content checksum       xxh32 of all content, if FLG says so
//
// The frame is read here and not by lz4.Reader, so that blocks are decoded straight into the one
// buffer that grows only as far as data arrives, and so that skippable frames, legacy frames and
// dictionaries, which other Kafka clients do not read, are refused.
const (
	lz4Magic = 0x184D2204

	lz4Version         = 1 << 6
	lz4VersionMask     = 3 << 6
	lz4Independent     = 1 << 5
	lz4BlockChecksum   = 1 << 4
	lz4ContentSize     = 1 << 3
	lz4ContentChecksum = 1 << 2
	lz4Reserved        = 1 << 1
	lz4Dictionary      = 1 << 0

	lz4Stored = 1 << 31
	// lz4Window is how far back a block may refer.
	lz4Window = 64 << 10
)

var errLZ4 = errors.New("lz4 frame is malformed")

// appendLZ4Frame appends src as one frame of independent blocks.
func appendLZ4Frame(dst, src []byte, c blockCompressor) []byte {
	code := byte(4)
	for code < 7 && len(src) > lz4BlockSize(code) {
		code++
	}
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, lz4Magic)
	dst = append(dst, lz4Version|lz4Independent, code<<4)
	dst = append(dst, byte(xxh32(dst[start+4:])>>8))
	for len(src) > 0 {
		block := src[:min(len(src), lz4BlockSize(code))]
		src = src[len(block):]
		dst = slices.Grow(dst, 4+lz4.CompressBlockBound(len(block)))
		at := len(dst)
		n, err := c.CompressBlock(block, dst[at+4:cap(dst)])
		if err != nil || n == 0 || n >= len(block) {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(len(block))|lz4Stored)
			dst = append(dst, block...)
			continue
		}
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		dst = dst[:at+4+n]
	}
	return binary.LittleEndian.AppendUint32(dst, 0)
}

// lz4BlockSize is the largest block that a BD code from 4 to 7 allows.
func lz4BlockSize(code byte) int { return 1 << (8 + 2*code) }

// lz4Header is what the frame's header says.
type lz4Header struct {
	flags   byte
	block   int   // largest block, decompressed
	content int64 // -1: not said
	size    int   // bytes the header takes
}

func readLZ4Header(src []byte) (h lz4Header, err error) {
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return h, errLZ4
	}
	h = lz4Header{flags: src[4], content: -1, size: 7}
	bd := src[5]
	if h.flags&lz4VersionMask != lz4Version || h.flags&(lz4Reserved|lz4Dictionary) != 0 || bd&0x8f != 0 || bd < 4<<4 {
		return h, errLZ4
	}
	h.block = lz4BlockSize(bd >> 4)
	if h.flags&lz4ContentSize != 0 {
		if h.size += 8; len(src) < h.size {
			return h, errLZ4
		}
		size := binary.LittleEndian.Uint64(src[6:])
		if size > 1<<62 {
			return h, errLZ4
		}
		h.content = int64(size)
	}
	if byte(xxh32(src[4:h.size-1])>>8) != src[h.size-1] {
		return h, errLZ4
	}
	return h, nil
}

// decompressLZ4 appends the content of the one frame in src to the empty dst.
func decompressLZ4(dst, src []byte, limit int) ([]byte, error) {
	h, err := readLZ4Header(src)
	if err != nil {
		return dst, err
	}
	if h.content > int64(limit) {
		return dst, errTooLarge
	}
	src = src[h.size:]
	for {
		if len(src) < 4 {
			return dst, errLZ4
		}
		size := binary.LittleEndian.Uint32(src)
		src = src[4:]
		if size == 0 {
			break
		}
		if dst, src, err = decompressLZ4Block(dst, src, size, h, limit); err != nil {
			return dst, err
		}
	}
	if h.flags&lz4ContentChecksum != 0 {
		if len(src) < 4 || binary.LittleEndian.Uint32(src) != xxh32(dst) {
			return dst, errLZ4
		}
		src = src[4:]
	}
	if len(src) > 0 || h.content >= 0 && h.content != int64(len(dst)) {
		return dst, errLZ4
	}
	return dst, nil
}

// decompressLZ4Block appends one block, whose size field has been read, and gives what follows it.
func decompressLZ4Block(dst, src []byte, size uint32, h lz4Header, limit int) (out, rest []byte, err error) {
	stored := size&lz4Stored != 0
	size &^= lz4Stored
	tail := 0
	if h.flags&lz4BlockChecksum != 0 {
		tail = 4
	}
	if int64(size) > int64(h.block) || int64(size)+int64(tail) > int64(len(src)) {
		return dst, nil, errLZ4
	}
	block := src[:size]
	if tail > 0 && binary.LittleEndian.Uint32(src[size:]) != xxh32(block) {
		return dst, nil, errLZ4
	}
	rest = src[int(size)+tail:]
	if stored {
		if len(dst)+len(block) > limit {
			return dst, nil, errTooLarge
		}
		return append(dst, block...), rest, nil
	}
	// A byte of a block stands for at most 255 bytes of content, so room for more is never needed.
	room := min(h.block, limit-len(dst), lz4MaxRatio*len(block))
	dst = grow(dst, room)
	var window []byte
	if h.flags&lz4Independent == 0 {
		window = dst[max(0, len(dst)-lz4Window):]
	}
	n, err := lz4.UncompressBlockWithDict(block, dst[len(dst):len(dst)+room], window)
	if err != nil {
		if room == limit-len(dst) {
			return dst, nil, errTooLarge
		}
		return dst, nil, errLZ4
	}
	return dst[:len(dst)+n], rest, nil
}

const lz4MaxRatio = 255
