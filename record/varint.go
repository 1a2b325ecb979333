package record

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// The zigzag varints of the record format. Readers take a position and return the one after the
// number, or -1 when it is cut off or wider than its type; a position of -1 stays -1, so that a
// run of reads is checked once.

// maxVarintBytes is how many bytes a varint may take, leading zeros included. Other readers
// refuse more, so a batch with more must not be stored. A varlong may take ten.
const maxVarintBytes = 5

// varint reads a number of at most 32 bits.
func varint(b []byte, pos int) (int32, int) {
	if uint(pos) < uint(len(b)) && b[pos] < 0x80 {
		return int32(b[pos]>>1) ^ -int32(b[pos]&1), pos + 1
	}
	return longVarint(b, pos)
}

func longVarint(b []byte, pos int) (int32, int) {
	u, next := uvarint(b, pos)
	if u > math.MaxUint32 || next-pos > maxVarintBytes {
		return 0, -1
	}
	return int32(uint32(u)>>1) ^ -int32(u&1), next
}

// varlong reads a number of at most 64 bits.
func varlong(b []byte, pos int) (int64, int) {
	if uint(pos) < uint(len(b)) && b[pos] < 0x80 {
		return int64(b[pos]>>1) ^ -int64(b[pos]&1), pos + 1
	}
	u, next := uvarint(b, pos)
	return int64(u>>1) ^ -int64(u&1), next
}

func uvarint(b []byte, pos int) (uint64, int) {
	if pos < 0 {
		return 0, -1
	}
	var u uint64
	for shift := 0; pos < len(b); shift += 7 {
		c := b[pos]
		pos++
		if shift == 63 && c > 1 {
			return 0, -1
		}
		u |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return u, pos
		}
	}
	return 0, -1
}

func appendVarint(b []byte, v int32) []byte { return appendVarlong(b, int64(v)) }

func appendVarlong(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}

// sizeVarlong is how many bytes appendVarlong writes; 32-bit numbers take the same.
func sizeVarlong(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}
