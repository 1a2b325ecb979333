package recordlog

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/oncelog/oncelog/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One appender that also cuts and trims, one applier that also moves the start, many readers: what
// a reader gets is always right or a clear refusal.
func TestReadersAppenderApplier(t *testing.T) {
	l := open(t, newMem(t, 1), func(o *Options) { o.OpenSegments, o.SegmentBytes, o.CacheBytes = 2, 1024, 1000 })
	const entries = 2000
	b := batchOf(t, 150, 1, 2)
	var committed atomic.Uint64 // entries that the applier may take
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() { // Raft
		r := rand.New(rand.NewPCG(1, 1))
		term := record.Term(1)
		for i := record.Index(1); i <= entries; {
			var run []Entry
			for range 1 + r.IntN(4) {
				run = append(run, dataEntry(t, i, term, b))
				i++
			}
			if r.IntN(4) == 0 {
				must(t, l.Append(run))
			} else {
				must(t, l.Queue(run))
			}
			if r.IntN(10) == 0 {
				cut := i - record.Index(1+r.IntN(len(run)))
				must(t, l.TruncateTail(cut))
				i = cut
				term++
				continue
			}
			l.AwaitDurable(i-1, func(err error) {
				if err == nil {
					committed.Store(uint64(i - 1))
				}
			})
			if r.IntN(50) == 0 && i > 300 {
				must(t, l.TrimWindow(i-300))
			}
		}
	})
	wg.Go(func() { // apply
		defer stop.Store(true)
		end := record.Offset(0)
		for i := record.Index(1); i <= entries; {
			if uint64(i) > committed.Load() {
				continue
			}
			refused := i%3 == 0
			must(t, l.Assign(i, []Fate{{Base: end, Records: 2, Refused: refused}}))
			if !refused {
				end += 2
			}
			if i%100 == 0 {
				l.Layout()
				must(t, l.SetSnapshotIndex(i))
			}
			if i%5 == 0 {
				must(t, l.AdvanceStart(end-min(end, 100)))
			}
			i++
		}
	})
	for n := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(n)))
			for !stop.Load() {
				readSomething(t, l, r)
			}
		})
	}
	wg.Wait()
	if _, n, err := l.Checksum(l.StartOffset(), l.EndOffset()); err != nil || n == 0 {
		t.Fatal(err)
	}
}

func readSomething(t *testing.T, l *Log, r *rand.Rand) {
	start, end := l.StartOffset(), l.EndOffset()
	from := start + record.Offset(r.Int64N(int64(end-start)+1))
	c, err := l.Read(from, end, r.IntN(3000))
	if err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("read: %v", err)
	}
	at := record.NoOffset
	for _, raw := range c.Batches {
		b := record.Batch(raw)
		if b.CheckCRC() != nil || (at >= 0 && b.BaseOffset() != at) {
			t.Errorf("batch at %d instead of %d", b.BaseOffset(), at)
		}
		at = b.BaseOffset() + 2
	}
	if first, last := l.Window(); last > 0 {
		i := first + record.Index(r.Uint64N(uint64(last-first)+1))
		if e, err := l.Entry(i); err != nil && !errors.Is(err, ErrNotFound) || err == nil && e.Index != i {
			t.Errorf("entry %d: %d, %v", i, e.Index, err)
		}
	}
	if _, _, _, _, err := l.OffsetForTime(1, end); err != nil {
		t.Errorf("time: %v", err)
	}
	if i := l.StartIndex(); r.IntN(4) == 0 {
		if _, err := l.EntriesForPeer(i, i+10, 1000); err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("peer: %v", err)
		}
	}
}
