package record

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestCombineIsTheSumOfTheWhole(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 200<<10)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	lengths := []int{0, 1, 2, 255, 256, 257, 4095, 65535, 65536, 65537, len(b)}
	for range 200 {
		lengths = append(lengths, r.IntN(len(b)))
	}
	for _, n := range lengths {
		from := r.IntN(len(b) - n + 1)
		start, whole := r.Uint32(), b[from:from+n]
		cut := r.IntN(n + 1)
		got := combine(crc32.Update(start, castagnoli, whole[:cut]), crc32.Checksum(whole[cut:], castagnoli), n-cut)
		if want := crc32.Update(start, castagnoli, whole); got != want {
			t.Fatalf("%d bytes cut at %d, from %08x: %08x, want %08x", n, cut, start, got, want)
		}
	}
}

// A piece that is longer than anybody would sum in a test: many pieces of zeros, put together by doubling.
func TestCombineLongPieces(t *testing.T) {
	zeros := make([]byte, 1<<16)
	sum, n := crc32.Checksum(zeros, castagnoli), len(zeros)
	byParts := sum
	for n < 1<<31 {
		sum, n = combine(sum, sum, n), 2*n
	}
	for i := len(zeros); i < n; i += len(zeros) {
		byParts = combine(byParts, crc32.Checksum(zeros[:1], castagnoli), 1)
		byParts = combine(byParts, crc32.Checksum(zeros[1:], castagnoli), len(zeros)-1)
	}
	if byParts != sum {
		t.Errorf("%08x by doubling, %08x piece by piece", sum, byParts)
	}
}

// Sum is the sum of the bytes as long as they are what the batch's checksum says, and of what they should be otherwise.
func TestSumOfBatches(t *testing.T) {
	var all []byte
	for _, n := range []int{1, 500, sumBelow - HeaderSize, sumBelow, 3 * sumBelow, 100 << 10, 7} {
		b := NewBuilder(CodecNone)
		if err := b.Append(5, nil, bytes.Repeat([]byte{byte(n), 7}, n/2+1), nil); err != nil {
			t.Fatal(err)
		}
		batch := b.Finish(7, 1, 0, false)
		want := crc32.Update(77, castagnoli, batch)
		if got := batch.Sum(77); got != want {
			t.Errorf("sum of a batch of %d bytes is %08x, want %08x", len(batch), got, want)
		}
		if len(batch) >= sumBelow {
			batch[len(batch)-1] ^= 4
			if got := batch.Sum(77); got != want || batch.CheckCRC() == nil {
				t.Errorf("sum of a damaged batch is %08x, want that of the undamaged one, %08x", got, want)
			}
			batch[len(batch)-1] ^= 4
		}
		all = append(all, batch...)
		if got, want := SumAll(3, all), crc32.Update(3, castagnoli, all); got != want {
			t.Errorf("sum of %d bytes of batches is %08x, want %08x", len(all), got, want)
		}
	}
	odd := append(bytes.Clone(all), "no batch"...)
	if got, want := SumAll(3, odd), crc32.Update(3, castagnoli, odd); got != want {
		t.Errorf("sum of batches and more is %08x, want %08x", got, want)
	}
}
