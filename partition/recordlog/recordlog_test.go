package recordlog

import (
	"bytes"
	"testing"

	"github.com/oncelog/oncelog/record"
)

func TestAppendAssignReadReopen(t *testing.T) {
	fsys := newMem(t, 1)
	l := open(t, fsys)
	var want []record.Batch
	end := record.Offset(0)
	for i := record.Index(1); i <= 100; i++ {
		b := batchOf(t, 100, int64(i), int64(i)+1)
		must(t, l.Append([]Entry{dataEntry(t, i, 1, b)}))
		must(t, l.Assign(i, []Fate{{Base: end, Records: 2}}))
		b.SetBaseOffset(end)
		b.SetLeaderEpoch(1)
		want = append(want, b)
		end += 2
	}
	for round := range 2 {
		if first, last := l.Window(); first != 1 || last != 100 {
			t.Fatalf("window %d to %d", first, last)
		}
		at := record.Offset(0)
		n := 0
		for at < end {
			c, err := l.Read(at, end, 700)
			must(t, err)
			if len(c.Batches) == 0 {
				t.Fatalf("round %d: nothing at %d", round, at)
			}
			for _, b := range c.Batches {
				if !bytes.Equal(b, want[n]) {
					t.Fatalf("round %d: batch %d differs", round, n)
				}
				n++
			}
			at = c.End
		}
		if n != len(want) {
			t.Fatalf("round %d: %d batches", round, n)
		}
		if round == 0 {
			must(t, l.Close())
			l = open(t, fsys)
			for i := record.Index(1); i <= 100; i++ {
				must(t, l.Assign(i, []Fate{{Base: record.Offset(i-1) * 2, Records: 2}}))
			}
		}
	}
}
