package record

import (
	"bytes"
	"fmt"
	"testing"
)

// TestRetainInSteps: what a batch becomes follows from the records that stay, not from the order in which the
// others go (L34), whatever its codec.
func TestRetainInSteps(t *testing.T) {
	t.Parallel()
	for codec := CodecNone; codec < codecCount; codec++ {
		b := NewBuilder(codec)
		for i := range 20 {
			value := bytes.Repeat([]byte{byte(i)}, 30)
			if i%3 == 0 {
				value = nil
			}
			if err := b.Append(int64(1000+i), fmt.Appendf(nil, "key %d", i), value, []Header{{Key: "h"}}); err != nil {
				t.Fatal(err)
			}
		}
		whole := Batch(bytes.Clone(b.Finish(7, 3, 100, true)))
		whole.SetBaseOffset(500)
		var one, two Retainer
		keep := func(least Offset, odd bool) func(Offset, []byte, bool) bool {
			return func(o Offset, key []byte, tombstone bool) bool {
				if want := (o-500)%3 == 0; tombstone != want || string(key) != fmt.Sprintf("key %d", o-500) {
					t.Fatalf("record %d has key %q, tombstone %t", o, key, tombstone)
				}
				return o >= least && (!odd || o%2 == 1)
			}
		}
		first, err := two.Retain(whole, keep(0, true))
		if err != nil {
			t.Fatal(err)
		}
		then, err := one.Retain(bytes.Clone(first), keep(510, false))
		if err != nil {
			t.Fatal(err)
		}
		at, err := two.Retain(whole, keep(510, true))
		if err != nil || !bytes.Equal(at, then) {
			t.Fatalf("%s: at once % x, in two steps % x (%v)", codec, at, then, err)
		}
		if at.Count() != 5 || at.BaseOffset() != 500 || at.LastOffset() != 519 || at.LastSequence() != 119 || at.ProducerEpoch() != 3 || at.CheckCRC() != nil {
			t.Fatalf("%s: header does not survive: % x", codec, at[:HeaderSize])
		}
		if all, err := one.Retain(whole, keep(0, false)); err != nil || &all[0] != &whole[0] {
			t.Fatalf("%s: a batch that keeps all is another one (%v)", codec, err)
		}
		none, err := one.Retain(whole, keep(520, false))
		empty := whole.Emptied()
		if err != nil || none != nil || empty.Count() != 0 || empty.LastOffset() != 519 || empty.LastSequence() != 119 || empty.CheckCRC() != nil || len(empty) != HeaderSize {
			t.Fatalf("%s: emptied: % x (%v)", codec, empty, err)
		}
		if !bytes.Equal(at.Emptied(), empty) {
			t.Fatalf("%s: emptied in two steps: % x, want % x", codec, at.Emptied(), empty)
		}
	}
}
