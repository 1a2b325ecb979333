package record

import "hash/crc32"

// sumBelow is the size below which a batch is summed faster than its checksum is combined with what is before it.
const sumBelow = 8 << 10

// Sum is the CRC32C of all of b after bytes whose CRC32C is before: what crc32.Update gives, without reading the bytes that the batch's
// own checksum covers. It is meant for batches whose checksum has been compared (CheckCRC): of one that is damaged it gives the sum
// that the undamaged one has, so that whoever reads the bytes finds the damage. b is exactly one batch.
func (b Batch) Sum(before uint32) uint32 {
	if len(b) < sumBelow {
		return crc32.Update(before, castagnoli, b)
	}
	return combine(crc32.Update(before, castagnoli, b[:offAttributes]), b.CRC(), len(b)-offAttributes)
}

// SumAll is Sum for batches back to back. Bytes that are no batch are read and summed.
func SumAll(before uint32, batches []byte) uint32 {
	if len(batches) < sumBelow {
		return crc32.Update(before, castagnoli, batches)
	}
	for len(batches) > 0 {
		b, rest, err := Parse(batches)
		if err != nil {
			return crc32.Update(before, castagnoli, batches)
		}
		before, batches = b.Sum(before), rest
	}
	return before
}

// What follows puts checksums of neighbouring bytes together, so that bytes whose checksum is known need not be read again.

// reflected is Castagnoli's polynomial, lowest power in the highest bit, as the checksums have it.
const reflected = crc32.Castagnoli

// powers[k][v] is what v*256^k zero bytes multiply a checksum with: x to the power of 8 times as many, modulo the polynomial.
var powers = func() (t [4][256]uint32) {
	step := uint32(1) << 23 // x^8: one byte
	for k := range t {
		t[k][0] = 1 << 31 // x^0
		for v := 1; v < 256; v++ {
			t[k][v] = multiply(t[k][v-1], step)
		}
		step = multiply(t[k][255], step)
	}
	return t
}()

// combine gives the checksum of two pieces of bytes, one behind the other, from the first's, the second's and the second's length:
// combine(crc32.Update(s, table, a), crc32.Checksum(b, table), len(b)) = crc32.Update(s, table, a followed by b), for any s. It takes
// about as long as summing 2 KiB does. length is 0 to 2^32-1.
func combine(first, second uint32, length int) uint32 {
	for k := 0; length > 0; k++ {
		if v := length & 255; v != 0 {
			first = multiply(first, powers[k][v])
		}
		length >>= 8
	}
	return first ^ second
}

// multiply multiplies two polynomials modulo Castagnoli's.
func multiply(a, b uint32) uint32 {
	var product uint32
	for range 32 {
		product ^= b & -(a >> 31)
		a <<= 1
		b = b>>1 ^ reflected&-(b&1)
	}
	return product
}
