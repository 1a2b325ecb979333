package recordlog

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// openSpares keeps files of any size.
func openSpares(t testing.TB, fsys vfs.FS) *Spares {
	t.Helper()
	p, err := OpenSpares(fsys, "data/spares")
	must(t, err)
	p.least = 1
	return p
}

// more appends entries of one record each, all assigned, behind the log's last.
func more(t testing.TB, l *Log, n int) {
	t.Helper()
	_, last := l.Window()
	for range n {
		last++
		must(t, l.Append([]Entry{dataEntry(t, last, 1, batchOf(t, 200, int64(last)))}))
		must(t, l.Assign(last, []Fate{{Base: record.Offset(last - 1), Records: 1}}))
	}
}

// drop lets retention drop all but the last segments.
func drop(t testing.TB, l *Log) {
	t.Helper()
	_, last := l.Window()
	must(t, l.SetSnapshotIndex(last-1))
	must(t, l.TrimWindow(last-1))
	must(t, l.AdvanceStart(record.Offset(last-1)))
}

// What a file held in a former life is never seen again, while the log runs and after a kill or a power cut at any moment. The worst
// case: frames of another log with the same indexes, lengths and term, exactly where the new ones lie.
func TestOldFramesAreNeverRead(t *testing.T) {
	fsys := newMem(t, 1)
	spares := openSpares(t, fsys)
	old := filled(t, fsys, 60, func(o *Options) { o.Spares = spares })
	for _, s := range old.live.segments {
		if s.first < 60 {
			must(t, old.dropSegment(s))
		}
	}
	must(t, errors.Join(old.Close(), fsys.RemoveAll(testDir), fsys.SyncDir("data")))
	for i, k := 1, len(spares.idle)-1; i < k; i, k = i+1, k-1 { // the second segment's file is taken first
		spares.idle[i], spares.idle[k] = spares.idle[k], spares.idle[i]
	}
	l := open(t, fsys, func(o *Options) { o.Spares, o.Salt = spares, salts(2) })
	for i := record.Index(1); i <= 50; i++ {
		mine := dataEntry(t, i, 1, batchOf(t, 200, int64(i)+1000))
		must(t, l.Append([]Entry{mine}))
		for seed := range uint64(6) {
			left := fsys.KillClone()
			if seed > 0 {
				left = fsys.CrashClone(rand.New(rand.NewPCG(seed, uint64(i))))
			}
			again, err := tryOpen(left, func(o *Options) { o.Salt = salts(uint64(i) + 9) })
			if err != nil {
				t.Fatalf("%d entries: %v", i, err)
			}
			if _, last := again.Window(); last != i {
				t.Fatalf("%d entries after a crash, want %d", last, i)
			}
			e, err := again.Entry(i)
			must(t, err)
			if err := sameEntry(e, mine); err != nil {
				t.Fatal(err)
			}
			must(t, again.Close())
		}
	}
	if spares.taken < 3 {
		t.Errorf("%d files were written over", spares.taken)
	}
}

// A file that somebody reads is not written over.
func TestFileInUseIsNoSpare(t *testing.T) {
	fsys := newMem(t, 1)
	spares := openSpares(t, fsys)
	l := filled(t, fsys, 40, func(o *Options) { o.Spares = spares })
	first := l.live.segments[0]
	h, err := l.files.acquire(first)
	must(t, err)
	dropped := len(l.live.segments) - 1
	drop(t, l)
	if n := len(spares.idle); n != min(dropped-1, maxSpares) {
		t.Errorf("%d spares of %d dropped files, of which one is read", n, dropped)
	}
	before := make([]byte, 100)
	must(t, readFull(h, before, 0))
	l.files.release(h)
	if _, err := l.files.acquire(first); err == nil {
		t.Error("a dropped segment's file is opened")
	}
}

// Spares are bounded, go when the disk is full, and do not outlive the broker.
func TestSparesEnd(t *testing.T) {
	fsys := newMem(t, 1)
	spares := openSpares(t, fsys)
	l := filled(t, fsys, 200, func(o *Options) { o.Spares = spares })
	drop(t, l)
	if n := len(spares.idle); n != maxSpares {
		t.Fatalf("%d spares, want %d", n, maxSpares)
	}
	spare := spares.Bytes()
	l.refusedForSpace()
	if n := spares.Bytes(); n != 0 || spare == 0 {
		t.Errorf("spares of %d bytes take %d on a full disk", spare, n)
	}
	more(t, l, 40)
	drop(t, l)
	again := openSpares(t, fsys)
	if names, err := fsys.List("data/spares"); err != nil || len(names) > 0 || again.Bytes() != 0 {
		t.Errorf("after a start there are spares %v, %v", names, err)
	}
}

// A log that has written little takes none.
func TestSmallLogTakesNoSpare(t *testing.T) {
	fsys := newMem(t, 1)
	spares := openSpares(t, fsys)
	l := filled(t, fsys, 200, func(o *Options) { o.Spares = spares })
	drop(t, l)
	kept := spares.Bytes()
	spares.least = leastSpare
	more(t, l, 40)
	if spares.taken != 0 || l.live.active().recycled || kept == 0 || spares.Bytes() != kept {
		t.Errorf("a small log has taken a file of %d bytes of spares", kept)
	}
}

// The spares are removed from a full disk without the lock that readers and appends need: a disk that is slow to remove
// holds up nobody else.
func TestSparesAreClearedWithoutTheLock(t *testing.T) {
	fsys := newMem(t, 1)
	spares := openSpares(t, fsys)
	l := filled(t, fsys, 200, func(o *Options) { o.Spares = spares })
	drop(t, l)
	removed := 0
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind != vfs.OpRemove {
			return nil
		}
		removed++
		if !l.mu.TryLock() {
			t.Errorf("%s is removed under the log's lock", op.Name)
			return nil
		}
		l.mu.Unlock()
		return nil
	})
	fsys.SetCapacity(fsys.Used())
	_, last := l.Window()
	if err := l.Append([]Entry{dataEntry(t, last+1, 1, batchOf(t, 100<<10, int64(last)))}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("appended to a full disk: %v", err)
	}
	if removed == 0 || spares.Bytes() != 0 {
		t.Errorf("%d files were removed, %d bytes of spares are left", removed, spares.Bytes())
	}
}
