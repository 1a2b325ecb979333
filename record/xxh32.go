package record

import (
	"encoding/binary"
	"math/bits"
)

const (
	xxPrime1 = 2654435761
	xxPrime2 = 2246822519
	xxPrime3 = 3266489917
	xxPrime4 = 668265263
	xxPrime5 = 374761393
)

// xxh32 is the xxHash of 32 bits with seed 0, which LZ4 frames use.
func xxh32(b []byte) uint32 {
	h := uint32(xxPrime5)
	n := uint32(len(b))
	if len(b) >= 16 {
		// The sums wrap; constants must not.
		v1, v2, v3, v4 := uint32(xxPrime1), uint32(xxPrime2), uint32(0), uint32(0)
		v1 += v2
		v4 -= xxPrime1
		for ; len(b) >= 16; b = b[16:] {
			v1 = xxRound(v1, b[0:])
			v2 = xxRound(v2, b[4:])
			v3 = xxRound(v3, b[8:])
			v4 = xxRound(v4, b[12:])
		}
		h = bits.RotateLeft32(v1, 1) + bits.RotateLeft32(v2, 7) + bits.RotateLeft32(v3, 12) + bits.RotateLeft32(v4, 18)
	}
	h += n
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+binary.LittleEndian.Uint32(b)*xxPrime3, 17) * xxPrime4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*xxPrime5, 11) * xxPrime1
	}
	h = (h ^ h>>15) * xxPrime2
	h = (h ^ h>>13) * xxPrime3
	return h ^ h>>16
}

func xxRound(v uint32, b []byte) uint32 {
	return bits.RotateLeft32(v+binary.LittleEndian.Uint32(b)*xxPrime2, 13) * xxPrime1
}
