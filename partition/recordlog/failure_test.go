package recordlog

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// filled opens a log with n entries of one record each, all assigned.
func filled(t testing.TB, fsys vfs.FS, n int, change ...func(*Options)) *Log {
	t.Helper()
	l := open(t, fsys, change...)
	for i := range n {
		must(t, l.Append([]Entry{dataEntry(t, record.Index(i+1), 1, batchOf(t, 200, int64(i)))}))
		must(t, l.Assign(record.Index(i+1), []Fate{{Base: record.Offset(i), Records: 1}}))
	}
	return l
}

// After a failed write or sync the log never writes again, whatever the disk says later, and what
// was on disk before stays readable.
func TestFailsForEver(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpSync} {
		t.Run(kind.String(), func(t *testing.T) {
			fsys := newMem(t, 1)
			metrics := NewMetrics(nil)
			l := filled(t, fsys, 5, func(o *Options) { o.Metrics = metrics })
			fsys.FailNth(kind, segmentSuffix, 1, syscall.EIO)
			failed := dataEntry(t, 6, 1, batchOf(t, 200, 6))
			for range 3 {
				if err := l.Append([]Entry{failed}); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
					t.Fatalf("append: %v", err)
				}
			}
			for what, err := range map[string]error{
				"truncate": l.TruncateTail(6), "trim": l.TrimWindow(1), "catch up": l.AppendCatchUp([]Entry{failed}),
				"reset": l.Reset(9, 9), "snapshot": l.SetSnapshotIndex(3), "advance": l.AdvanceStart(2), "roll": l.Roll(),
				"restore": l.Restore(l.Layout(), l.Layout().Index),
			} {
				if !errors.Is(err, ErrFailed) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := l.Failed(); !errors.Is(err, syscall.EIO) {
				t.Errorf("failed: %v", err)
			}
			if n := testutil.ToFloat64(metrics.failures); n != 1 {
				t.Errorf("%v failures counted", n)
			}
			if _, last := l.Window(); last != 5 {
				t.Errorf("window ends at %d", last)
			}
			if e, err := l.Entry(5); err != nil || e.Index != 5 {
				t.Errorf("entry 5: %v", err)
			}
			if c, err := l.Read(0, 9, 1<<20); err != nil || len(c.Batches) != 5 {
				t.Errorf("read: %d batches, %v", len(c.Batches), err)
			}
			must(t, l.Close())
			for seed := range uint64(50) {
				l := open(t, fsys.CrashClone(random(seed)))
				if _, last := l.Window(); last != 5 && last != 6 {
					t.Fatalf("seed %d: window ends at %d", seed, last)
				}
				must(t, l.Close())
			}
		})
	}
}

// A full disk refuses an append and leaves nothing of it; the log goes on when there is space.
func TestNoSpace(t *testing.T) {
	for _, reserve := range []bool{true, false} {
		name := map[bool]string{true: "reserved", false: "without reservation"}[reserve]
		t.Run(name, func(t *testing.T) {
			fsys := newMem(t, 1)
			fsys.RefuseReserve(!reserve)
			l := filled(t, fsys, 3)
			fsys.SetCapacity(fsys.Used() + 200)
			big := []Entry{plainEntry(4, 1, "this one would fit"), dataEntry(t, 5, 1, batchOf(t, 30000, 4))}
			for range 2 {
				if err := l.Append(big); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
					t.Fatalf("append: %v", err)
				}
			}
			if _, last := l.Window(); last != 3 {
				t.Fatalf("window ends at %d", last)
			}
			for seed := range uint64(50) {
				l := open(t, fsys.CrashClone(random(seed)))
				if _, last := l.Window(); last != 3 {
					t.Fatalf("seed %d: what was refused is there: window ends at %d", seed, last)
				}
				must(t, l.Close())
			}
			fsys.SetCapacity(0)
			must(t, l.Append(big))
			must(t, l.Close())
			if _, last := open(t, fsys).Window(); last != 5 {
				t.Fatalf("window ends at %d", last)
			}
		})
	}
}

// A full disk at the begin of a new segment is refused as well.
func TestNoSpaceForSegment(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 20) // beyond the segment size
	for n := 21; ; n++ {
		if l.live.active().size >= 4096 {
			break
		}
		must(t, l.Append([]Entry{plainEntry(record.Index(n), 1, strings.Repeat("x", 100))}))
	}
	_, last := l.Window()
	for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpWrite} {
		for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
			fsys.FailNth(kind, segmentSuffix, 1, full)
			if err := l.Append([]Entry{plainEntry(last+1, 1, "x")}); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("%v: %v", kind, err)
			}
		}
	}
	must(t, l.Append([]Entry{plainEntry(last+1, 1, "x")}))
	must(t, l.Close())
	if _, got := open(t, fsys).Window(); got != last+1 {
		t.Fatalf("window ends at %d, want %d", got, last+1)
	}
}

// A slow sync holds up the appender only. On virtual time: were a mutex held through the sync, the
// clock would stand still.
func TestSlowSyncHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 30)
		fsys.SetDelay(func(op vfs.Op) time.Duration {
			if op.Kind == vfs.OpSync {
				return time.Second
			}
			return 0
		})
		began := time.Now()
		done := make(chan error)
		go func() { done <- l.Append([]Entry{plainEntry(31, 1, "slow")}) }()
		go func() { done <- l.TrimWindow(3) }() // waits for its turn
		synctest.Wait()
		if _, err := l.Read(0, 30, 1000); err != nil { // from disk
			t.Error(err)
		}
		if _, err := l.Read(29, 30, 1000); err != nil { // from the cache
			t.Error(err)
		}
		if _, err := l.Entry(5); err != nil {
			t.Error(err)
		}
		if _, _, _, found, err := l.OffsetForTime(3, 30); err != nil || !found {
			t.Error(err)
		}
		l.Layout()
		l.EndOffset()
		if took := time.Since(began); took != 0 {
			t.Errorf("readers waited %v", took)
		}
		must(t, <-done)
		must(t, <-done)
		if took := time.Since(began); took < time.Second {
			t.Errorf("append took only %v", took)
		}
		fsys.ClearFaults()
		must(t, l.Close())
	})
}

func TestReadErrorIsNoDamage(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 30)
	fsys.FailNth(vfs.OpRead, segmentSuffix, 1, syscall.EIO)
	_, err := l.Read(0, 30, 1000)
	var damage *CorruptionError
	if !errors.Is(err, syscall.EIO) || errors.As(err, &damage) {
		t.Fatalf("read: %v", err)
	}
	if _, err := l.Read(0, 30, 1000); err != nil {
		t.Fatalf("after the error: %v", err)
	}
}

func TestDamageOnReading(t *testing.T) {
	fsys := newMem(t, 1)
	metrics := NewMetrics(nil)
	l := filled(t, fsys, 30, func(o *Options) { o.Metrics = metrics })
	s := l.live.segments[0]
	must(t, fsys.FlipBit(l.path(s.name), segmentHeaderSize+frameHeaderSize+20, 3))
	var damage *CorruptionError
	if _, err := l.Read(0, 30, 1000); !errors.As(err, &damage) {
		t.Fatalf("read: %v", err)
	}
	if damage.Segment != s.name || damage.Position != segmentHeaderSize || damage.Index != 1 || damage.Expected == "" || damage.Found == "" {
		t.Fatalf("%+v", damage)
	}
	if _, err := l.Entry(1); !errors.As(err, &damage) {
		t.Fatalf("entry: %v", err)
	}
	if c, err := l.Read(1, 30, 100); err != nil || len(c.Batches) != 1 {
		t.Fatalf("the batch behind the damage: %v", err)
	}
	if n := testutil.ToFloat64(metrics.corruptions); n != 2 {
		t.Fatalf("%v corruptions counted", n)
	}
}

// Scrubbing finds damage in closed segments that nobody reads.
func TestScrub(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 100)
	rounds := 0
	for next := record.Index(1); next != 0; rounds++ {
		var err error
		if next, err = l.Scrub(next, 3000); err != nil {
			t.Fatal(err)
		}
	}
	if rounds < 5 {
		t.Fatalf("%d rounds", rounds)
	}
	s := l.live.segments[2]
	must(t, fsys.FlipBit(l.path(s.name), segmentHeaderSize+frameHeaderSize+20, 3))
	next, err := record.Index(1), error(nil)
	for next != 0 && err == nil {
		next, err = l.Scrub(next, 3000)
	}
	var damage *CorruptionError
	if !errors.As(err, &damage) || damage.Index != s.first || next != s.first {
		t.Fatalf("scrubbing stopped at %d: %v", next, err)
	}
}

// Raft goes on with its own log when a catch-up fails; what was pulled is thrown away.
func TestAppendEndsCatchUp(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 5)
	held := l.Bytes()
	must(t, l.Reset(100, 50))
	begun := l.PulledBytes()
	must(t, l.AppendCatchUp([]Entry{plainEntry(100, 2, "pulled")}))
	if l.LastIndex() != 100 || l.StartIndex() != 100 {
		t.Fatalf("pulled %d to %d", l.StartIndex(), l.LastIndex())
	}
	if n := l.PulledBytes(); begun >= held || n <= begun || l.Bytes() != held {
		t.Errorf("what is pulled has %d bytes, and %d before; the log has %d, and %d before", n, begun, l.Bytes(), held)
	}
	wantWindow(t, l, 1, 5)
	must(t, l.Append([]Entry{plainEntry(6, 2, "appended")}))
	if l.LastIndex() != 6 || l.StartIndex() != 1 {
		t.Fatalf("log is %d to %d", l.StartIndex(), l.LastIndex())
	}
	if n := len(segmentsOf(t, fsys)); n != 1 {
		t.Fatalf("%d segment files", n)
	}
}

// After a failed sync the kernel shows bytes that it will never write. A log that is opened on them
// writes them again before it counts on them.
func TestOpenAfterFailedSync(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 5)
	fsys.FailNth(vfs.OpSync, segmentSuffix, 1, syscall.EIO)
	if err := l.Append([]Entry{plainEntry(6, 1, "six"), plainEntry(7, 1, "seven")}); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	killed := fsys.KillClone()
	l = open(t, killed)
	_, last := l.Window()
	if last != 7 {
		t.Fatalf("window ends at %d", last)
	}
	must(t, l.Close())
	for seed := range uint64(50) {
		l := open(t, killed.CrashClone(random(seed)))
		if _, got := l.Window(); got != last {
			t.Fatalf("seed %d: window ended at %d, and at %d after a power cut", seed, last, got)
		}
		must(t, l.Close())
	}
}

// Too many open files refuse what needs another one, before anything is written: the log goes on when there is one again. What is queued is written where
// there is a file for it.
func TestTooManyOpenFiles(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE} {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 5)
		l.SetSegmentBytes(1) // the next entry begins a segment
		entry := func(i record.Index) []Entry { return []Entry{dataEntry(t, i, 1, batchOf(t, 200, int64(i)))} }
		for range 3 {
			fsys.FailNth(vfs.OpCreate, segmentSuffix, 1, cause)
			if err := l.Append(entry(6)); !errors.Is(err, ErrNoFiles) || !errors.Is(err, cause) || errors.Is(err, ErrFailed) {
				t.Fatalf("append: %v", err)
			}
		}
		if l.Full() {
			t.Error("the disk is said to be full")
		}
		must(t, l.Append(entry(6)))
		fsys.FailNth(vfs.OpCreate, segmentSuffix, 1, cause)
		must(t, l.Queue(entry(7)))
		must(t, <-listen(l, 7))
		must(t, l.Close())
		l = open(t, fsys)
		if _, last := l.Window(); last != 7 || l.Failed() != nil {
			t.Errorf("the log ends at %d, %v", last, l.Failed())
		}
		must(t, l.Close())
	}
}
