package recordlog

import (
	"bytes"
	"errors"
	"testing"
)

// The checksum of a frame is made of those of its batches. Bytes that are damaged in memory after the batch was validated are on disk
// with the checksum of what they should be: reading finds them.
func TestDamageBeforeTheWriteIsFound(t *testing.T) {
	for _, how := range []string{"appended", "queued"} {
		l := open(t, newMem(t, 1), func(o *Options) { o.CacheBytes, o.SegmentBytes = -1, 1<<20 })
		whole := dataEntry(t, 1, 1, batchOf(t, 20<<10, 1), batchOf(t, 100, 2), batchOf(t, 30<<10, 3))
		must(t, l.Append([]Entry{whole}))
		damaged := dataEntry(t, 2, 1, batchOf(t, 20<<10, 4))
		damaged.Data[10<<10] ^= 8
		if how == "queued" {
			must(t, l.Queue([]Entry{damaged}))
			must(t, l.Append([]Entry{plainEntry(3, 1, "behind it")}))
		} else {
			must(t, l.Append([]Entry{damaged}))
		}
		if e, err := l.Entry(1); err != nil || !bytes.Equal(e.Data, whole.Data) {
			t.Errorf("%s: an intact entry is read with error %v", how, err)
		}
		if _, err := l.Entry(2); !errors.As(err, new(*CorruptionError)) {
			t.Errorf("%s: an entry that was damaged before it was written is read with error %v", how, err)
		}
	}
}

// What is on disk is the same as if every byte had been summed: logs of either kind of broker are read by the other.
func TestFrameOfBatchesIsLikeAnyFrame(t *testing.T) {
	s := newSegment(1, 1, 42)
	entries := []Entry{dataEntry(t, 1, 1, batchOf(t, 20<<10, 1), batchOf(t, 9<<10, 1), batchOf(t, 5, 1)), plainEntry(2, 1, "plain"), dataEntry(t, 3, 1, batchOf(t, 100<<10, 1))}
	summed := bytes.Join(encode(s, 0, entries, false).buffers, nil)
	taken := bytes.Join(encode(s, 0, entries, true).buffers, nil)
	if !bytes.Equal(summed, taken) {
		t.Error("frames differ")
	}
}
