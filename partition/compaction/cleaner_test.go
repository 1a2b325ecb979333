package compaction

import (
	"encoding/binary"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// TestUnreadableBatchHidesNothing: of a batch that ends too soon some keys can be read. It stays as it is, and so does what it might
// have replaced.
func TestUnreadableBatchHidesNothing(t *testing.T) {
	made := func(at record.Offset, keys ...string) record.Batch {
		b := record.NewBuilder(record.CodecNone)
		for _, k := range keys {
			if err := b.Append(1, []byte(k), []byte("v"), nil); err != nil {
				t.Fatal(err)
			}
		}
		done := append(record.Batch(nil), b.Finish(7, 0, 0, false)...)
		done.SetBaseOffset(at)
		return done
	}
	old, broken, end := made(0, "a"), made(1, "a", "b"), made(4, "c")
	binary.BigEndian.PutUint32(broken[23:], 2) // last offset delta
	binary.BigEndian.PutUint32(broken[57:], 3) // records
	c := New(Pass{Below: 5}, 1<<20)
	for _, b := range []record.Batch{old, broken, end} {
		c.Index(b, true)
	}
	if c.Keys() != 2 {
		t.Errorf("%d keys are noted, want those of the others alone", c.Keys())
	}
	if kept := c.Clean(old); kept == nil || kept.Count() != 1 {
		t.Errorf("an older record went for one that cannot be read: %v", kept)
	}
	if kept := c.Clean(broken); kept == nil || c.Stats().Unreadable != 1 {
		t.Errorf("what cannot be read is not left as it is: %v, %+v", kept, c.Stats())
	}
}
