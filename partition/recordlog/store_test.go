package recordlog

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

func wantWindow(t testing.TB, l *Log, first, last record.Index) {
	t.Helper()
	if f, la := l.Window(); f != first || la != last {
		t.Fatalf("window %d to %d, want %d to %d", f, la, first, last)
	}
}

// counted counts operations on segment files.
func counted(fsys *vfs.Mem) map[vfs.OpKind]int {
	n := map[vfs.OpKind]int{}
	fsys.OnAfter(func(op vfs.Op) {
		if strings.HasSuffix(op.Name, segmentSuffix) {
			n[op.Kind]++
		}
	})
	return n
}

func TestOneWriteOneSync(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 2)
	n := counted(fsys)
	var entries []Entry
	for i := range record.Index(500) {
		entries = append(entries, dataEntry(t, i+3, 1, batchOf(t, int(i)*20, 1)))
	}
	must(t, l.Append(entries))
	if n[vfs.OpWrite] != 1 || n[vfs.OpSync] != 1 {
		t.Fatalf("%v", n)
	}
}

func TestAppendRefusals(t *testing.T) {
	l := filled(t, newMem(t, 1), 3, func(o *Options) { o.MaxEntryBytes = 1000 })
	good := batchOf(t, 10, 1, 2)
	lying := dataEntry(t, 4, 1, good)
	lying.Records = 3
	for what, c := range map[string]struct {
		entries []Entry
		want    error
	}{
		"gap":                  {[]Entry{plainEntry(5, 1, "")}, ErrGap},
		"overlap":              {[]Entry{plainEntry(3, 1, "")}, ErrGap},
		"gap inside":           {[]Entry{plainEntry(4, 1, ""), plainEntry(6, 1, "")}, ErrGap},
		"falling term":         {[]Entry{plainEntry(4, 0, "")}, ErrInvalidEntry},
		"falling term inside":  {[]Entry{plainEntry(4, 3, ""), plainEntry(5, 2, "")}, ErrInvalidEntry},
		"too large":            {[]Entry{plainEntry(4, 1, strings.Repeat("x", 1001))}, ErrInvalidEntry},
		"wrong count":          {[]Entry{lying}, ErrInvalidEntry},
		"records, no batch":    {[]Entry{{Index: 4, Term: 1, Records: 1, Data: []byte("no batch")}}, ErrInvalidEntry},
		"records, half batch":  {[]Entry{{Index: 4, Term: 1, Records: 2, Data: good[:70]}}, ErrInvalidEntry},
		"records without data": {[]Entry{{Index: 4, Term: 1, Records: 1}}, ErrInvalidEntry},
		"envelope too large":   {[]Entry{{Index: 4, Term: 1, Ext: make([]byte, maxExtBytes+1)}}, ErrInvalidEntry},
	} {
		if err := l.Append(c.entries); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantWindow(t, l, 1, 3)
	must(t, l.Append(nil))
	must(t, l.Append([]Entry{plainEntry(4, 1, "")}))
}

func TestClassify(t *testing.T) {
	l := open(t, newMem(t, 1), func(o *Options) {
		o.Classify = func(ext, data []byte) (int32, int64) {
			if string(ext) != "data" {
				return 0, 0
			}
			return record.Batch(data).LastOffsetDelta() + 1, 0
		}
	})
	b := batchOf(t, 10, 1, 5, 3)
	must(t, l.Append([]Entry{{Index: 1, Term: 1, Ext: []byte("data"), Data: b}, {Index: 2, Term: 1, Data: b}}))
	if e, err := l.Entry(1); err != nil || e.Records != 3 || e.MaxTimestamp != 5 {
		t.Fatalf("%+v, %v", e, err)
	}
	if e, err := l.Entry(2); err != nil || e.Records != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	must(t, l.Assign(1, []Fate{{Base: 0, Records: 3}}))
	must(t, l.Assign(2, nil))
	if l.EndOffset() != 3 {
		t.Fatalf("end %d", l.EndOffset())
	}
}

func TestAssignRefusesWhatDoesNotFit(t *testing.T) {
	l := open(t, newMem(t, 1))
	two := dataEntry(t, 2, 1, batchOf(t, 10, 1), batchOf(t, 10, 1, 2))
	must(t, l.Append([]Entry{plainEntry(1, 1, "x"), two, plainEntry(3, 1, "y")}))
	for what, c := range map[string]struct {
		index record.Index
		fates []Fate
		want  error
	}{
		"a fate for no batch": {1, []Fate{{Records: 1}}, ErrUnexpectedFate},
		"too few":             {2, []Fate{{Records: 1}}, ErrUnexpectedFate},
		"too many":            {2, []Fate{{Records: 1}, {Base: 1, Records: 2}, {Base: 3, Records: 1}}, ErrUnexpectedFate},
		"too many records":    {2, []Fate{{Records: 1}, {Base: 1, Records: 3}}, ErrUnexpectedFate},
		"no records":          {2, []Fate{{Records: 0}, {Records: 3}}, ErrUnexpectedFate},
		"first base wrong":    {2, []Fate{{Base: 1, Records: 1}, {Base: 2, Records: 2}}, ErrUnexpectedFate},
		"second base wrong":   {2, []Fate{{Records: 1}, {Base: 2, Records: 2}}, ErrUnexpectedFate},
		"leaves records out":  {3, nil, ErrUnexpectedFate},
	} {
		if err := l.Assign(c.index, c.fates); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, l.Assign(2, []Fate{{Records: 1, Refused: true}, {Base: 0, Records: 2}}))
	if err := l.Assign(2, []Fate{{Records: 1, Refused: true}, {Base: 0, Records: 2}}); !errors.Is(err, ErrUnexpectedFate) {
		t.Errorf("twice: %v", err)
	}
	if err := l.Assign(4, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("an entry that is not here: %v", err)
	}
	if l.EndOffset() != 2 || l.AssignedIndex() != 2 {
		t.Errorf("end %d after %d", l.EndOffset(), l.AssignedIndex())
	}
}

// Raft forgets its whole log after a snapshot was installed. The records stay, and appending goes
// on behind the snapshot, over a tail that Raft gave up.
func TestWholeWindowIsTrimmed(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 10)
	for i := record.Index(11); i <= 14; i++ {
		must(t, l.Append([]Entry{plainEntry(i, 1, "given up")}))
	}
	y := l.Layout()
	must(t, l.SetSnapshotIndex(10))
	must(t, l.TrimWindow(14))
	wantWindow(t, l, 0, 0)
	if c, err := l.Read(0, 10, 1<<20); err != nil || len(c.Batches) != 10 {
		t.Fatalf("the records are gone: %v", err)
	}
	for _, i := range []record.Index{9, 10, 16} {
		if err := l.Append([]Entry{plainEntry(i, 2, "")}); !errors.Is(err, ErrGap) {
			t.Fatalf("append at %d: %v", i, err)
		}
	}
	must(t, l.Append([]Entry{plainEntry(11, 2, "new"), plainEntry(12, 2, "new")}))
	wantWindow(t, l, 11, 12)
	must(t, l.Close())
	l = open(t, fsys, func(o *Options) { o.SnapshotIndex = 10 })
	must(t, l.Restore(y, y.Index))
	if _, last := l.Window(); last != 12 {
		t.Fatalf("window ends at %d", last)
	}
	if e, err := l.Entry(12); err != nil || string(e.Data) != "new" {
		t.Fatalf("entry 12: %q, %v", e.Data, err)
	}
}

func TestTruncateAcrossSegments(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 10)
	for i := record.Index(11); i <= 100; i++ {
		must(t, l.Append([]Entry{dataEntry(t, i, 1, batchOf(t, 200, 1))}))
	}
	if n := len(l.live.segments); n < 4 {
		t.Fatalf("%d segments", n)
	}
	if err := l.TruncateTail(10); !errors.Is(err, ErrApplied) {
		t.Fatalf("cutting an assigned entry: %v", err)
	}
	must(t, l.TruncateTail(101))
	must(t, l.TruncateTail(11))
	wantWindow(t, l, 1, 10)
	if n := len(segmentsOf(t, fsys)); n != len(l.live.segments) {
		t.Fatalf("%d files, %d segments", n, len(l.live.segments))
	}
	must(t, l.Append([]Entry{plainEntry(11, 2, "other")}))
	must(t, l.Close())
	l = open(t, fsys)
	wantWindow(t, l, 1, 11)
	if e, err := l.Entry(11); err != nil || e.Term != 2 {
		t.Fatalf("entry 11: %+v, %v", e, err)
	}
}

// Bytes of a cut frame that are still in the file must not become entries again, even where the new
// frame ends exactly where the old one did.
func TestCutFrameCannotContinueTheLog(t *testing.T) {
	fsys := newMem(t, 1)
	l := open(t, fsys)
	must(t, l.Append([]Entry{plainEntry(1, 1, "same length 1")}))
	must(t, l.Append([]Entry{plainEntry(2, 2, "same length 2")})) // of the term that comes after the cut
	name := l.path(l.live.segments[0].name)
	old, err := vfs.ReadFile(fsys, name)
	must(t, err)
	must(t, l.TruncateTail(1))
	must(t, l.Append([]Entry{plainEntry(1, 2, "same length x")}))
	must(t, l.Close())
	// As if the file had been recycled without being emptied.
	edit(t, fsys, base(name), func(f vfs.File) {
		size, err := f.Size()
		must(t, err)
		_, err = f.WriteAt(old[size:], size)
		must(t, err)
	})
	l = open(t, fsys)
	wantWindow(t, l, 1, 1)
	if e, err := l.Entry(1); err != nil || e.Term != 2 {
		t.Fatalf("entry 1: %+v, %v", e, err)
	}
}

func TestDropAndHold(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 100)
	must(t, l.AdvanceStart(80))
	if l.StartIndex() != 1 {
		t.Fatal("dropped above the snapshot")
	}
	must(t, l.SetSnapshotIndex(100))
	if l.StartIndex() != 1 {
		t.Fatal("dropped from the raft window")
	}
	h := l.Hold(30)
	must(t, l.TrimWindow(100))
	held := l.StartIndex()
	if held == 1 || held > 30 {
		t.Fatalf("log begins with %d, held is 30", held)
	}
	h.Release()
	must(t, l.SetSnapshotIndex(100))
	if s := l.StartIndex(); s <= 30 || s > 81 {
		t.Fatalf("log begins with %d", s)
	}
	if err := l.AdvanceStart(101); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatalf("start beyond the end: %v", err)
	}
	must(t, l.AdvanceStart(100))
	must(t, l.Roll())
	must(t, l.SetSnapshotIndex(100))
	if n := len(l.live.segments); n != 1 || l.Bytes() != segmentHeaderSize {
		t.Fatalf("%d segments, %d bytes", n, l.Bytes())
	}
	y := l.Layout()
	must(t, l.Close())
	l = open(t, fsys, func(o *Options) { o.SnapshotIndex = 100 })
	must(t, l.Restore(y, y.Index))
	must(t, l.Append([]Entry{dataEntry(t, 101, 1, batchOf(t, 10, 7))}))
	must(t, l.Assign(101, []Fate{{Base: 100, Records: 1}}))
	if c, err := l.Read(100, 101, 100); err != nil || len(c.Batches) != 1 {
		t.Fatalf("read: %v", err)
	}
}

// L26: the log start may be inside a batch; L14: one batch comes whatever the bound.
func TestReadBounds(t *testing.T) {
	l := open(t, newMem(t, 1))
	must(t, l.Append([]Entry{
		dataEntry(t, 1, 1, batchOf(t, 100, 1, 2, 3), batchOf(t, 100, 4)),
		dataEntry(t, 2, 1, batchOf(t, 100, 5, 6)),
	}))
	if c, err := l.Read(0, 10, 1000); err != nil || len(c.Batches) != 0 || c.End != 0 {
		t.Fatalf("what is not assigned was read: %v", err)
	}
	must(t, l.Assign(1, []Fate{{Base: 0, Records: 3}, {Base: 3, Records: 1}}))
	must(t, l.AdvanceStart(1))
	for _, c := range []struct {
		from, limit record.Offset
		maxBytes    int
		batches     int
		end         record.Offset
	}{
		{1, 4, 0, 1, 3}, {1, 4, 1 << 20, 2, 4}, {1, 3, 1 << 20, 1, 3}, {1, 2, 1 << 20, 0, 1}, {2, 4, 1, 1, 3},
		{3, 4, 1, 1, 4}, {4, 4, 1, 0, 4}, {4, 100, 1, 0, 4}, {3, 2, 100, 0, 3},
	} {
		got, err := l.Read(c.from, c.limit, c.maxBytes)
		if err != nil || len(got.Batches) != c.batches || got.End != c.end {
			t.Errorf("%+v: %d batches to %d, %v", c, len(got.Batches), got.End, err)
		}
	}
	for _, o := range []record.Offset{-1, 0, 5} {
		if _, err := l.Read(o, 100, 100); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("read at %d: %v", o, err)
		}
	}
}

// What Read gives is the caller's own: entries in the cache keep their bytes.
func TestReadCopies(t *testing.T) {
	l := open(t, newMem(t, 1))
	e := dataEntry(t, 1, 7, batchOf(t, 100, 1))
	before := bytes.Clone(e.Data)
	must(t, l.Append([]Entry{plainEntry(1, 1, ""), dataEntry(t, 2, 7, batchOf(t, 10, 1))}))
	must(t, l.TruncateTail(1))
	must(t, l.Append([]Entry{e}))
	must(t, l.Assign(1, []Fate{{Base: 0, Records: 1}}))
	c, err := l.Read(0, 1, 100)
	must(t, err)
	if b := record.Batch(c.Batches[0]); b.LeaderEpoch() != 7 {
		t.Fatalf("leader epoch %d", b.LeaderEpoch())
	}
	clear(c.Batches[0])
	if !bytes.Equal(e.Data, before) {
		t.Fatal("the entry's own bytes were changed")
	}
}

func TestCacheIsBounded(t *testing.T) {
	metrics := NewMetrics(nil)
	l := filled(t, newMem(t, 1), 200, func(o *Options) { o.Metrics = metrics })
	if l.cache.bytes > 8192 || l.cache.bytes < 4096 {
		t.Fatalf("cache holds %d bytes, at most 8192", l.cache.bytes)
	}
	if n := testutil.ToFloat64(metrics.cacheBytes); n != float64(l.cache.bytes) {
		t.Fatalf("metric says %v", n)
	}
	if n := testutil.ToFloat64(metrics.bytes); n != float64(l.Bytes()) {
		t.Fatalf("metric says %v bytes, log has %d", n, l.Bytes())
	}
	hits, misses := testutil.ToFloat64(metrics.cacheHits), testutil.ToFloat64(metrics.cacheMisses)
	if _, err := l.Entry(200); err != nil || testutil.ToFloat64(metrics.cacheHits) != hits+1 {
		t.Fatalf("the last entry came from disk (%v)", err)
	}
	if _, err := l.Read(199, 200, 1); err != nil || testutil.ToFloat64(metrics.cacheHits) != hits+2 {
		t.Fatalf("the last batch came from disk (%v)", err)
	}
	if _, err := l.Entry(1); err != nil || testutil.ToFloat64(metrics.cacheMisses) != misses+1 {
		t.Fatalf("the first entry came from the cache (%v)", err)
	}
	must(t, l.Close())
	for what, n := range map[string]float64{"bytes": testutil.ToFloat64(metrics.bytes), "cache bytes": testutil.ToFloat64(metrics.cacheBytes)} {
		if n != 0 {
			t.Errorf("%s after closing: %v", what, n)
		}
	}
	off := filled(t, newMem(t, 1), 5, func(o *Options) { o.CacheBytes = -1 })
	if len(off.cache.entries) != 0 {
		t.Fatal("cache holds entries though it is off")
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	l := filled(t, newMem(t, 1), 200, func(o *Options) { o.OpenSegments = 3 })
	for i := record.Index(1); i <= 200; i += 7 {
		if _, err := l.Entry(i); err != nil {
			t.Fatal(err)
		}
		if n := len(l.files.open); n > 3 {
			t.Fatalf("%d files are open", n)
		}
	}
}

func TestSegmentsForRetention(t *testing.T) {
	l := filled(t, newMem(t, 1), 100)
	list := l.Segments()
	if len(list) != len(l.live.segments) {
		t.Fatalf("%d of %d segments", len(list), len(l.live.segments))
	}
	end, bytesOf := record.Offset(0), int64(0)
	for k, s := range list {
		if s.Base != end || s.FirstIndex != record.Index(s.Base)+1 || s.End != record.Offset(s.LastIndex) || s.MaxTimestamp != int64(s.End)-1 ||
			s.Active != (k == len(list)-1) {
			t.Fatalf("%+v after %d", s, end)
		}
		end, bytesOf = s.End, bytesOf+s.Bytes
	}
	if end != 100 || bytesOf != l.Bytes() {
		t.Fatalf("end %d, %d bytes", end, bytesOf)
	}
}
