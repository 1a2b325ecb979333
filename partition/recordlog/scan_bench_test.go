package recordlog

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// BenchmarkClaims is what a start after a kill does behind the last frame of a file that was written over: former frames, of
// another salt, to its end.
func BenchmarkClaims(b *testing.B) {
	const size = 64 << 20
	former := newSegment(1, 1, 7)
	old := make([]byte, 0, size)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := record.Index(1); len(old) < size-64<<10; i++ {
		data := make([]byte, 1000+rng.IntN(9000))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		frames := encode(former, i-1, []Entry{{Index: i, Term: 1, Data: data}}, false)
		for _, part := range frames.buffers {
			old = append(old, part...)
		}
		frames.release()
	}
	s := newSegment(2, 1, 9)
	b.SetBytes(int64(len(old)))
	for b.Loop() {
		f := newFrames(bytes.NewReader(old), s, 0, int64(len(old)), 1, scanChunk)
		if at, err := claims(f, 0, int64(len(old))); at != 0 || err != nil {
			b.Fatal(at, err)
		}
		f.close()
	}
}
