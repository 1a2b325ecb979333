package recordlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// compacting is a log that was written and may be compacted, and what its readers must get.
type compacting struct {
	t      testing.TB
	fs     *vfs.Mem
	log    *Log
	layout Layout
	// snapshot is the index of the state snapshot that holds the layout.
	snapshot record.Index
	term     record.Term
	// batches are what was accepted, as readers get it; bounds are where entries begin.
	batches []record.Batch
	bounds  []record.Offset
}

func compactingOptions(snapshot record.Index) func(*Options) {
	return func(o *Options) {
		o.SegmentBytes, o.IndexBytes, o.OpenSegments, o.CacheBytes = 2048, 300, 2, 4000
		o.SnapshotIndex = snapshot
		o.Salt = salts(77)
	}
}

// newCompacting writes entries, some of them without records, some refused, and puts all but the last segment
// out of Raft's reach.
func newCompacting(t testing.TB, seed uint64, entries int) *compacting {
	fsys := newMem(t, seed)
	k := &compacting{t: t, fs: fsys, log: open(t, fsys, compactingOptions(0))}
	k.write(seed, 1, entries)
	return k
}

// write appends entries from an index on.
func (k *compacting) write(seed uint64, from record.Index, entries int) {
	t, rng := k.t, rand.New(rand.NewPCG(seed, 5))
	end := k.log.EndOffset()
	for i := from; i < from+record.Index(entries); i++ {
		k.term += record.Term(rng.IntN(20) / 19)
		term := max(k.term, 1)
		if rng.IntN(5) == 0 {
			must(t, k.log.Append([]Entry{plainEntry(i, term, fmt.Sprint("nothing ", i))}))
			if rng.IntN(2) == 0 { // they may be left out
				must(t, k.log.Assign(i, nil))
			}
			continue
		}
		var list []record.Batch
		for range 1 + rng.IntN(2)*rng.IntN(2) {
			var ts []int64
			for range 1 + rng.IntN(3) {
				ts = append(ts, int64(1000*i)+int64(rng.IntN(999)))
			}
			b := batchOf(t, rng.IntN(150), ts...)
			putNonce(b, rng.Uint64())
			list = append(list, b)
		}
		must(t, k.log.Append([]Entry{dataEntry(t, i, term, list...)}))
		var fates []Fate
		k.bounds = append(k.bounds, end)
		for _, b := range list {
			f := Fate{Base: end, Records: b.LastOffsetDelta() + 1, Refused: rng.IntN(8) == 0}
			if !f.Refused {
				b.SetBaseOffset(end)
				b.SetLeaderEpoch(int32(term))
				k.batches = append(k.batches, b)
				end += record.Offset(f.Records)
			}
			fates = append(fates, f)
		}
		must(t, k.log.Assign(i, fates))
	}
	k.layout = k.log.Layout()
	k.snapshot = k.log.LastIndex()
	must(t, k.log.SetSnapshotIndex(k.snapshot))
	must(t, k.log.TrimWindow(k.snapshot))
}

// refuse appends entries of which nothing is accepted.
func (k *compacting) refuse(entries int) {
	for range entries {
		i := k.log.LastIndex() + 1
		b := batchOf(k.t, 100, int64(1000*i))
		must(k.t, k.log.Append([]Entry{dataEntry(k.t, i, max(k.term, 1), b)}))
		must(k.t, k.log.Assign(i, []Fate{{Base: record.NoOffset, Records: 1, Refused: true}}))
	}
}

// bound is a place at which a pass may end: where an entry begins, below the last segment.
func (k *compacting) bound(rng *rand.Rand, above record.Offset) record.Offset {
	segments := k.log.Segments()
	most := segments[len(segments)-1].Base
	var may []record.Offset
	for _, o := range k.bounds {
		if o > above && o <= most {
			may = append(may, o)
		}
	}
	return may[rng.IntN(len(may))]
}

// stays is what these tests leave of a batch: none of some, nothing in others, and the last one in any case.
func stays(b record.Batch, m Mark) record.Batch {
	x := uint64(b.BaseOffset()) * 0x9e3779b97f4a7c15 >> 32 % 7
	drop := x < 3 || b.LastOffset() < m.Horizon && x < 5
	switch {
	case drop && b.LastOffset()+1 != m.Below:
		return nil
	case (drop || x == 5) && b.Count() > 0:
		return b.Emptied()
	}
	return b
}

func noThrottle(int64) error { return nil }

func compactionOf(m Mark) Compaction {
	return Compaction{Generation: 1, Below: m.Below, Mark: m, Throttle: noThrottle, Clean: func(b record.Batch) record.Batch { return stays(b, m) }}
}

// left is what is to be read after a pass on the whole log.
func (k *compacting) left(m Mark) []record.Batch {
	var out []record.Batch
	for _, b := range k.batches {
		if b.LastOffset() < m.Below {
			if b = stays(bytes.Clone(b), m); b == nil {
				continue
			}
		}
		out = append(out, b)
	}
	return out
}

func readAll(l *Log, from record.Offset, maxBytes int) ([]record.Batch, error) {
	var out []record.Batch
	for from < l.EndOffset() {
		c, err := l.Read(from, l.EndOffset(), maxBytes)
		if err != nil {
			return nil, err
		}
		if len(c.Batches) == 0 {
			return nil, fmt.Errorf("nothing to read from %d on, log ends at %d", from, l.EndOffset())
		}
		for _, b := range c.Batches {
			out = append(out, record.Batch(b))
		}
		from = c.End
	}
	return out, nil
}

func equalBatches(a, b []record.Batch) error {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !bytes.Equal(a[i], b[i]) {
			return fmt.Errorf("batch %d of %d and %d differs", i, len(a), len(b))
		}
	}
	return nil
}

// check reads the log from everywhere and compares.
func (k *compacting) check(l *Log, want []record.Batch) {
	k.t.Helper()
	got, err := readAll(l, 0, 700)
	must(k.t, err)
	if err := equalBatches(got, want); err != nil {
		k.t.Fatal(err)
	}
	for from := record.Offset(0); from < l.EndOffset(); from++ {
		c, err := l.Read(from, l.EndOffset(), 1)
		must(k.t, err)
		i := slices.IndexFunc(want, func(b record.Batch) bool { return b.LastOffset() >= from })
		if i < 0 || len(c.Batches) != 1 || !bytes.Equal(c.Batches[0], want[i]) {
			k.t.Fatalf("read from %d: %d batches, want that of %d", from, len(c.Batches), want[max(i, 0)].BaseOffset())
		}
	}
	for _, b := range want {
		if b.Count() == 0 {
			continue
		}
		o, ts, term, found, err := l.OffsetForTime(b.BaseTimestamp(), l.EndOffset())
		if err != nil || !found || o > b.LastOffset() || ts < b.BaseTimestamp() {
			k.t.Fatalf("time %d: offset %d at %d, found %t, %v", b.BaseTimestamp(), o, ts, found, err)
		}
		if o >= b.BaseOffset() && int32(term) != b.LeaderEpoch() {
			k.t.Fatalf("time %d: term %d, want %d", b.BaseTimestamp(), term, b.LeaderEpoch())
		}
	}
	for next := record.Index(1); next != 0; {
		next, err = l.Scrub(next, 1000)
		must(k.t, err)
	}
}

func (k *compacting) reopen(fsys *vfs.Mem) (*Log, error) {
	l, err := tryOpen(fsys, compactingOptions(k.snapshot))
	if err == nil {
		err = l.Restore(k.layout, max(k.snapshot, k.layout.Index))
	}
	return l, err
}

// TestCompact does passes one after the other on a log that grows, and opens it again in between.
func TestCompact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 8))
		k := newCompacting(t, seed, 120)
		m := Mark{}
		for range 4 {
			last := m
			m = Mark{Below: k.bound(rng, m.Below), Horizon: m.Below}
			before := k.log.Bytes()
			done, err := k.log.Compact(compactionOf(m))
			must(t, err)
			if done.Segments == 0 || k.log.Bytes() >= before {
				t.Fatalf("seed %d: %+v, %d bytes of %d are left", seed, done, k.log.Bytes(), before)
			}
			want := k.left(m)
			k.check(k.log, want)
			got, raw, err := k.log.Cleaned()
			if err != nil || got != m || raw < m.Below {
				t.Fatalf("seed %d: cleaned %+v to %d, want %+v after %+v (%v)", seed, got, raw, m, last, err)
			}
			must(t, k.log.Close())
			k.log, err = k.reopen(k.fs)
			must(t, err)
			k.check(k.log, want)
			if got, _, err := k.log.Cleaned(); err != nil || got != m {
				t.Fatalf("seed %d: opened again: cleaned %+v, want %+v (%v)", seed, got, m, err)
			}
			if first, _ := k.log.Window(); first != 0 && first <= k.log.cleanedThrough {
				t.Fatalf("seed %d: window begins with %d, compacted through %d", seed, first, k.log.cleanedThrough)
			}
			k.write(seed+1000, k.log.LastIndex()+1, 80)
		}
		must(t, k.log.Close())
	}
}

// TestCompactCrash cuts the power, kills the process or fails the disk before and after every change of the disk that a pass makes.
// What is found then is a log of which the first part is compacted; another pass brings it to its end.
func TestCompactCrash(t *testing.T) {
	t.Parallel()
	points := 0
	for seed := range uint64(4) {
		k := newCompacting(t, seed, 90)
		rng := rand.New(rand.NewPCG(seed, 4))
		first := Mark{Below: k.bound(rng, 0)}
		if seed%2 == 0 { // what is compacted is compacted again
			_, err := k.log.Compact(compactionOf(first))
			must(t, err)
		}
		m := Mark{Below: k.bound(rng, first.Below-1), Horizon: first.Below}
		want := k.left(m)
		old, err := readAll(k.log, 0, 1<<20)
		must(t, err)
		busy := false
		look := func(op vfs.Op) {
			if busy || !op.Kind.Changes() {
				return
			}
			busy = true
			defer func() { busy = false }()
			for _, clone := range []*vfs.Mem{k.fs.CrashClone(rng), k.fs.CrashClone(rng), k.fs.KillClone()} {
				points++
				if err := k.goesOn(clone, m, old, want); err != nil {
					t.Fatalf("seed %d, crash at %v of %s: %v", seed, op.Kind, op.Name, err)
				}
			}
		}
		k.fs.OnBefore(func(op vfs.Op) error { look(op); return nil })
		k.fs.OnAfter(look)
		if _, err := k.log.Compact(compactionOf(m)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		k.fs.OnBefore(nil)
		k.fs.OnAfter(nil)
		k.check(k.log, want)
	}
	t.Logf("%d crashes", points)
}

// goesOn opens what a crash left.
func (k *compacting) goesOn(fsys *vfs.Mem, m Mark, old, want []record.Batch) error {
	inspector := Inspector{FS: fsys, Dir: testDir, Snapshot: k.snapshot}
	if seen, err := inspector.Inspect(); err != nil || len(seen.Damage) > 0 || seen.First != 1 {
		return fmt.Errorf("inspected: %+v, %w", seen, err)
	}
	l, err := k.reopen(fsys)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.TrimWindow(k.snapshot); err != nil {
		return err
	}
	got, err := readAll(l, 0, 1<<20)
	if err != nil {
		return err
	}
	// The first part is compacted, the rest as it was.
	n := 0
	for n < len(got) && n < len(want) && bytes.Equal(got[n], want[n]) {
		n++
	}
	rest := old
	if n < len(got) {
		rest = old[slices.IndexFunc(old, func(b record.Batch) bool { return b.LastOffset() >= got[n].BaseOffset() }):]
	}
	if err := equalBatches(got[n:], rest[max(len(rest)-len(got)+n, 0):]); err != nil {
		return fmt.Errorf("neither before nor after, from batch %d on: %w", n, err)
	}
	if _, err := l.Compact(compactionOf(m)); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if got, err = readAll(l, 0, 1<<20); err != nil {
		return err
	}
	if err := equalBatches(got, want); err != nil {
		return fmt.Errorf("after going on: %w", err)
	}
	names, err := fsys.List(testDir)
	if err != nil {
		return err
	}
	var kept int
	for _, n := range names {
		if segmentNamed(n) != nil {
			kept++
		} else if n != metaName && len(n) > 4 && n[len(n)-4:] != sidecarSuffix {
			return fmt.Errorf("%s is left over", n)
		}
	}
	if have := len(l.Segments()); kept < have {
		return fmt.Errorf("%d segment files for %d segments", kept, have)
	}
	return nil
}

// TestCompactDiskError: a disk that fails or is full while the new segment is written costs the pass, not the log.
func TestCompactDiskError(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 3, 90)
	m := Mark{Below: k.bound(rand.New(rand.NewPCG(3, 3)), 30)}
	for at := 0; ; at++ {
		n := 0
		k.fs.OnBefore(func(op vfs.Op) error {
			if op.Kind.Changes() && k.log.Failed() == nil {
				if n++; n == at+1 {
					return syscall.ENOSPC
				}
			}
			return nil
		})
		_, err := k.log.Compact(compactionOf(m))
		k.fs.OnBefore(nil)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("change %d failed: %v", at, err)
		}
		if k.log.Failed() != nil { // only where it is not known whether the new segment has its name
			must(t, k.log.Close())
			k.log, err = k.reopen(k.fs)
			must(t, err)
		}
		if _, err := readAll(k.log, 0, 1000); err != nil {
			t.Fatalf("change %d failed: %v", at, err)
		}
		if at > 200 {
			t.Fatal("no end of changes")
		}
	}
	k.check(k.log, k.left(m))
}

// TestCompactBesideReaders reads, appends and drops while passes replace what is read.
func TestCompactBesideReaders(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 9, 150)
	rng := rand.New(rand.NewPCG(1, 1))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := readAll(k.log, record.Offset(r*7), 500); err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if _, _, _, _, err := k.log.OffsetForTime(20_000, 1<<40); err != nil {
					t.Errorf("look up: %v", err)
					return
				}
			}
		})
	}
	m := Mark{}
	for range 12 {
		m = Mark{Below: k.bound(rng, m.Below-1), Horizon: m.Below}
		_, err := k.log.Compact(compactionOf(m))
		must(t, err)
	}
	close(stop)
	wg.Wait()
	k.check(k.log, k.left(m))
}

// TestCompactRefuses what Raft may still read.
func TestCompactRefuses(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 4, 61)
	end := k.log.EndOffset()
	if _, err := k.log.Compact(compactionOf(Mark{Below: end})); !errors.Is(err, ErrNotClosed) {
		t.Fatalf("the segment that is written to: %v", err)
	}
	must(t, k.log.Roll())
	k.write(5, k.log.LastIndex()+1, 3)
	if err := k.log.Reachable(end); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, newMem(t, 1), compactingOptions(0))
	for i := record.Index(1); i <= 40; i++ {
		b := batchOf(t, 100, int64(i))
		must(t, fresh.Append([]Entry{dataEntry(t, i, 1, b)}))
		must(t, fresh.Assign(i, []Fate{{Base: record.Offset(i - 1), Records: 1}}))
	}
	if _, err := fresh.Compact(compactionOf(Mark{Below: 5})); !errors.Is(err, ErrNotClosed) {
		t.Fatalf("above the snapshot: %v", err)
	}
	other := compactionOf(Mark{Below: 5})
	other.Generation = 2
	if _, err := k.log.Compact(other); err == nil {
		t.Fatal("a log was compacted as another one was to be")
	}
	must(t, fresh.SetSnapshotIndex(40))
	if _, err := fresh.Compact(compactionOf(Mark{Below: 5})); !errors.Is(err, ErrNotClosed) {
		t.Fatalf("in the window: %v", err)
	}
}

// TestCompactedIsOutOfTheWindow also where the mark, which is never synced, has lost how far the window had moved.
func TestCompactedIsOutOfTheWindow(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 6, 90)
	m := Mark{Below: k.bound(rand.New(rand.NewPCG(6, 6)), 40)}
	_, err := k.log.Compact(compactionOf(m))
	must(t, err)
	through := k.log.cleanedThrough
	must(t, k.log.Close())
	edit(t, k.fs, metaName, func(f vfs.File) { f.WriteAt(make([]byte, markSize), markAt) })
	k.log, err = k.reopen(k.fs)
	must(t, err)
	if first, last := k.log.Window(); through == 0 || first != through+1 || last != k.snapshot {
		t.Fatalf("window is %d to %d, compacted are entries up to %d", first, last, through)
	}
	must(t, k.log.Close())
}

// TestReadAcrossNothing: where a pass has left nothing for many segments, a read goes on until there is something.
func TestReadAcrossNothing(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 7, 400)
	segments := k.log.Segments()
	m := Mark{Below: segments[len(segments)-1].Base}
	k.log.SetSegmentBytes(minSegmentBytes)
	_, err := k.log.Compact(Compaction{Generation: 1, Below: m.Below, Mark: m, Throttle: noThrottle, Clean: func(b record.Batch) record.Batch {
		if b.LastOffset()+1 == m.Below {
			return b
		}
		return nil
	}})
	must(t, err)
	if n := len(k.log.Segments()); n < 5 {
		t.Fatalf("only %d segments are left: the test needs some without batches", n)
	}
	for from := record.Offset(0); from < m.Below; from += 7 {
		c, err := k.log.Read(from, k.log.EndOffset(), 1)
		must(t, err)
		if len(c.Batches) != 1 || c.End != m.Below {
			t.Fatalf("read from %d: %d batches to %d, want that which ends at %d", from, len(c.Batches), c.End, m.Below)
		}
	}
}

// TestCompactedStart moves the log start through what is compacted, opens the log with layouts from before and after, and compacts it again
// (L26, L38).
func TestCompactedStart(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 21))
		k := newCompacting(t, seed+50, 120)
		m := Mark{Below: k.bound(rng, 40)}
		_, err := k.log.Compact(compactionOf(m))
		must(t, err)
		for start := record.Offset(0); start < m.Below; {
			start += 1 + record.Offset(rng.IntN(int(m.Below)/3))
			start = min(start, k.log.EndOffset()-1)
			must(t, k.log.AdvanceStart(start))
			if rng.IntN(2) == 0 {
				k.layout = k.log.Layout()
			}
			before := k.layout.StartOffset
			must(t, k.log.Close())
			k.log, err = k.reopen(k.fs)
			must(t, err)
			if rng.IntN(2) == 0 {
				must(t, k.log.TrimWindow(k.snapshot))
				next := Mark{Below: max(m.Below, k.bound(rng, m.Below-1)), Horizon: m.Below}
				if _, err := k.log.Compact(compactionOf(next)); err != nil {
					t.Fatalf("seed %d, start %d: %v", seed, start, err)
				}
				m = next
			}
			must(t, k.log.AdvanceStart(start)) // replayed
			if got := k.log.StartOffset(); got < start || before > start {
				t.Fatalf("seed %d: log start %d, want %d", seed, got, start)
			}
			got, err := readAll(k.log, start, 500)
			must(t, err)
			var want []record.Batch
			for _, b := range k.left(m) {
				if b.LastOffset() >= start {
					want = append(want, b)
				}
			}
			if err := equalBatches(got, want); err != nil {
				t.Fatalf("seed %d: from %d: %v", seed, start, err)
			}
		}
	}
}

// TestCompactBelowAMovedStart: the log start moves up while nothing can be dropped, a peer pulls maybe, and what lies on both sides of it
// becomes one segment. The refusals below the start are forgotten then, but take no offsets as before.
func TestCompactBelowAMovedStart(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 22))
		k := newCompacting(t, seed+90, 120)
		hold := k.log.Hold(1)
		m := Mark{}
		for range 3 {
			start := k.log.StartOffset() + 1 + record.Offset(rng.IntN(int(k.log.EndOffset())/4))
			if rng.IntN(3) == 0 { // all is deleted, and something refused comes next
				start = k.log.EndOffset()
			}
			must(t, k.log.AdvanceStart(start))
			if start == k.log.EndOffset() {
				k.refuse(30)
				k.write(seed+2000, k.log.LastIndex()+1, 80)
			}
			m = Mark{Below: k.bound(rng, max(m.Below, start)), Horizon: m.Below}
			if _, err := k.log.Compact(compactionOf(m)); err != nil {
				t.Fatalf("seed %d, start %d: %v", seed, start, err)
			}
			want := slices.DeleteFunc(k.left(m), func(b record.Batch) bool { return b.LastOffset() < start })
			got, err := readAll(k.log, start, 500)
			if err == nil {
				err = equalBatches(got, want)
			}
			if err != nil {
				t.Fatalf("seed %d: from %d: %v", seed, start, err)
			}
			k.write(seed+1000, k.log.LastIndex()+1, 80)
		}
		hold.Release()
		must(t, k.log.Close())
	}
}

// TestAssignBehindWhatIsCompacted: entries without records at the end of what is compacted were left out by apply, and are no more to be found.
func TestAssignBehindWhatIsCompacted(t *testing.T) {
	t.Parallel()
	k := newCompacting(t, 12, 40)
	end, last := k.log.EndOffset(), k.log.LastIndex()
	for i := last + 1; i <= last+3; i++ {
		must(t, k.log.Append([]Entry{plainEntry(i, max(k.term, 1), "nothing")}))
	}
	must(t, k.log.Roll())
	must(t, k.log.SetSnapshotIndex(last+3))
	must(t, k.log.TrimWindow(last+3))
	layout := k.log.Layout()
	m := Mark{Below: end}
	_, err := k.log.Compact(compactionOf(m))
	must(t, err)
	must(t, k.log.Close())
	k.layout, k.snapshot = layout, last+3
	k.log, err = k.reopen(k.fs)
	must(t, err)
	k.check(k.log, k.left(m))
	k.write(13, last+4, 20)
	k.check(k.log, k.left(m))
	if after := layout.Index; after > last {
		t.Fatalf("the layout is of entry %d, beyond %d which has records", after, last)
	}
}

// TestLayoutOfAVirtualBase: the log start lies in what compaction made of entries, the first of which were refused, and forgotten by an
// earlier start. That makes of where they begin a number below 0, which the layout has to be read with again.
func TestLayoutOfAVirtualBase(t *testing.T) {
	t.Parallel()
	fsys := newMem(t, 1)
	l := open(t, fsys, compactingOptions(0))
	next := record.Offset(0)
	for i := record.Index(1); i <= 40; i++ {
		must(t, l.Append([]Entry{dataEntry(t, i, 1, batchOf(t, 100, int64(i)))}))
		fate := Fate{Base: next, Records: 1, Refused: i <= 3}
		must(t, l.Assign(i, []Fate{fate}))
		if !fate.Refused {
			next++
		}
	}
	must(t, l.SetSnapshotIndex(40))
	must(t, l.TrimWindow(40))
	must(t, l.AdvanceStart(1))
	m := Mark{Below: 5}
	_, err := l.Compact(Compaction{Generation: 1, Below: m.Below, Mark: m, Throttle: noThrottle, Clean: func(b record.Batch) record.Batch { return b }})
	must(t, err)
	must(t, l.AdvanceStart(2))
	y, err := DecodeLayout(l.Layout().AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	must(t, l.Close())
	l, err = tryOpen(fsys, compactingOptions(40))
	must(t, err)
	defer l.Close()
	must(t, l.Restore(y, 40))
	for o := record.Offset(2); o < next; o++ {
		c, err := l.Read(o, next, 1)
		if err != nil || len(c.Batches) != 1 || record.Batch(c.Batches[0]).BaseOffset() != o {
			t.Fatalf("read from %d: %+v, %v", o, c, err)
		}
	}
}
