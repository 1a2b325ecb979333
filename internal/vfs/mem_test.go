package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func newTestMem(t testing.TB) *Mem {
	t.Helper()
	m := NewMem(1)
	must(t, m.MkdirAll("d"))
	must(t, m.SyncDir("/"))
	return m
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	for seed := range uint64(200) {
		m := newTestMem(t)
		f := create(t, m, "d/a", []byte("synced"))
		must(t, f.Sync())
		must(t, m.SyncDir("d"))
		_, err := f.WriteAt(bytes.Repeat([]byte("x"), 3000), 6)
		must(t, err)
		must(t, create(t, m, "d/b", []byte("b")).Close())
		c := m.CrashClone(random(seed))
		got := content(t, c, "d/a")
		if !bytes.HasPrefix(got, []byte("synced")) {
			t.Fatalf("seed %d: synced bytes are gone: %q", seed, got)
		}
		// What survived counts as synced.
		if again := content(t, c.CrashClone(random(seed+1000)), "d/a"); !bytes.Equal(again, got) {
			t.Fatalf("seed %d: a second crash changed %q to %q", seed, got, again)
		}
	}
}

func TestCrashOutcomes(t *testing.T) {
	m := newTestMem(t)
	f := create(t, m, "d/a", nil)
	must(t, f.Sync())
	must(t, m.SyncDir("d"))
	old := create(t, m, "d/old", []byte("1"))
	must(t, old.Sync())
	must(t, m.SyncDir("d"))
	_, err := f.WriteAt(bytes.Repeat([]byte{1}, 2048), 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{2}, 2048), 2048)
	must(t, err)
	must(t, m.Remove("d/old"))
	must(t, create(t, m, "d/new", nil).Close())
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		c := m.CrashClone(random(seed))
		got := content(t, c, "d/a")
		first := len(got) >= 2048 && bytes.Equal(got[:2048], bytes.Repeat([]byte{1}, 2048))
		second := len(got) == 4096 && bytes.Equal(got[2048:], bytes.Repeat([]byte{2}, 2048))
		seen["nothing"] = seen["nothing"] || len(got) == 0
		seen["both"] = seen["both"] || (first && second)
		seen["first only"] = seen["first only"] || (first && len(got) == 2048)
		seen["second without first"] = seen["second without first"] || (second && !first)
		seen["torn at a sector"] = seen["torn at a sector"] || (len(got) > 0 && len(got) < 2048 && len(got)%512 == 0)
		seen["torn at a byte"] = seen["torn at a byte"] || len(got)%512 != 0
		kept, err := Exists(c, "d/old")
		must(t, err)
		made, err := Exists(c, "d/new")
		must(t, err)
		seen["removal kept"] = seen["removal kept"] || !kept
		seen["removal lost, creation kept"] = seen["removal lost, creation kept"] || (kept && made)
		seen["creation lost"] = seen["creation lost"] || !made
	}
	for what, ok := range seen {
		if !ok {
			t.Errorf("never happened: %s", what)
		}
	}
}

func TestCrashIsRepeatable(t *testing.T) {
	m := newTestMem(t)
	for _, n := range []string{"d/a", "d/b", "d/c"} {
		f := create(t, m, n, bytes.Repeat([]byte(n), 1000))
		must(t, f.Sync())
		_, err := f.WriteAt(bytes.Repeat([]byte("y"), 5000), 100)
		must(t, err)
	}
	for seed := range uint64(50) {
		a, b := m.CrashClone(random(seed)), m.CrashClone(random(seed))
		names := a.Files()
		for _, n := range names {
			if !bytes.Equal(content(t, a, n), content(t, b, n)) {
				t.Fatalf("seed %d: %s differs", seed, n)
			}
		}
		if len(names) != len(b.Files()) {
			t.Fatalf("seed %d: %v and %v", seed, names, b.Files())
		}
	}
}

func TestRenameIsAtomic(t *testing.T) {
	m := newTestMem(t)
	must(t, WriteFileAtomic(m, "d/a", []byte("old")))
	seen := map[string]bool{}
	var crashed []*Mem
	r := random(7)
	m.OnBefore(func(Op) error { crashed = append(crashed, m.CrashClone(r), m.CrashClone(r)); return nil })
	must(t, WriteFileAtomic(m, "d/a", []byte("new and longer")))
	m.OnBefore(nil)
	crashed = append(crashed, m.CrashClone(r))
	for i, c := range crashed {
		got := string(content(t, c, "d/a"))
		if got != "old" && got != "new and longer" {
			t.Fatalf("crash %d left %q", i, got)
		}
		seen[got] = true
		if i == len(crashed)-1 && got == "old" {
			t.Fatal("not durable after it returned")
		}
	}
	if len(seen) != 2 {
		t.Fatalf("saw only %v", seen)
	}
}

func TestFailedSyncIsNotForgiven(t *testing.T) {
	m := newTestMem(t)
	f := create(t, m, "d/a", []byte("one"))
	must(t, f.Sync())
	must(t, m.SyncDir("d"))
	m.FailNth(OpSync, "d/a", 1, syscall.EIO)
	_, err := f.WriteAt([]byte("two"), 3)
	must(t, err)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	must(t, f.Sync()) // says all is well, as Linux does
	if got := content(t, m, "d/a"); string(got) != "onetwo" {
		t.Fatalf("visible %q", got)
	}
	lost := false
	for seed := range uint64(100) {
		lost = lost || string(content(t, m.CrashClone(random(seed)), "d/a")) == "one"
	}
	if !lost {
		t.Fatal("what a failed sync covered was never lost")
	}
}

// Bytes that a failed sync lost are durable once they were written again and synced.
func TestWrittenAgainAfterFailedSync(t *testing.T) {
	for seed := range uint64(100) {
		m := newTestMem(t)
		f := create(t, m, "d/a", []byte("0123456789"))
		must(t, f.Sync())
		must(t, m.SyncDir("d"))
		m.FailNth(OpSync, "d/a", 1, syscall.EIO)
		_, err := f.WriteAt([]byte("abcdef"), 2)
		must(t, err)
		if err := f.Sync(); err == nil {
			t.Fatal("sync did not fail")
		}
		_, err = f.WriteAt([]byte("CD"), 4)
		must(t, err)
		must(t, f.Sync())
		got := string(content(t, m.CrashClone(random(seed)), "d/a"))
		if len(got) != 10 || got[:2] != "01" || got[4:6] != "CD" || got[8:] != "89" {
			t.Fatalf("seed %d: %q", seed, got)
		}
		must(t, f.Truncate(3))
		must(t, f.Sync())
		if got := content(t, m.CrashClone(random(seed)), "d/a"); len(got) != 3 {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

func TestKillCloneKeepsWhatIsVisible(t *testing.T) {
	m := newTestMem(t)
	f := create(t, m, "d/a", []byte("one"))
	must(t, f.Sync())
	must(t, m.SyncDir("d"))
	_, err := f.WriteAt([]byte("two"), 3)
	must(t, err)
	k := m.KillClone()
	if got := content(t, k, "d/a"); string(got) != "onetwo" {
		t.Fatalf("the next process sees %q", got)
	}
	lost := false
	for seed := range uint64(100) {
		lost = lost || string(content(t, k.CrashClone(random(seed)), "d/a")) == "one"
	}
	if !lost {
		t.Fatal("unsynced bytes became durable by a kill")
	}
	_, err = f.WriteAt([]byte("X"), 0)
	must(t, err)
	if got := content(t, k, "d/a"); string(got) != "onetwo" {
		t.Fatalf("clone is not independent: %q", got)
	}
}

func TestCapacity(t *testing.T) {
	m := newTestMem(t)
	m.SetCapacity(1000)
	f := create(t, m, "d/a", make([]byte, 600))
	if n, err := f.WriteAt(make([]byte, 600), 600); !errors.Is(err, syscall.ENOSPC) || n != 400 {
		t.Fatalf("wrote %d, %v", n, err)
	}
	must(t, f.Truncate(100))
	must(t, f.Reserve(100, 800))
	if err := f.Reserve(100, 901); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("reserved more than there is: %v", err)
	}
	g := create(t, m, "d/b", make([]byte, 100))
	if _, err := g.WriteAt([]byte("x"), 100); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("wrote into reserved space: %v", err)
	}
	_, err := f.WriteAt(make([]byte, 800), 100)
	must(t, err)
	must(t, m.Remove("d/a"))
	if used := m.Used(); used != 100 {
		t.Fatalf("used %d", used)
	}
}

func TestFlipBit(t *testing.T) {
	m := newTestMem(t)
	f := create(t, m, "d/a", []byte("abc"))
	must(t, f.Sync())
	must(t, m.SyncDir("d"))
	must(t, m.FlipBit("d/a", 1, 0))
	for _, c := range []*Mem{m, m.CrashClone(random(1))} {
		if got := content(t, c, "d/a"); string(got) != "acc" {
			t.Fatalf("content %q", got)
		}
	}
	if err := m.FlipBit("d/a", 3, 0); !errors.Is(err, fs.ErrInvalid) {
		t.Fatalf("flipped beyond the end: %v", err)
	}
}

// Slow disks are slow on virtual time, and others wait for them without stopping it.
func TestDelayOnVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestMem(t)
		f := create(t, m, "d/a", []byte("a"))
		m.SetDelay(func(op Op) time.Duration {
			if op.Kind == OpSync {
				return 3 * time.Second
			}
			return 0
		})
		began := time.Now()
		done := make(chan error)
		for range 2 {
			go func() { done <- f.Sync() }()
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); err != nil || time.Since(began) != 0 {
			t.Errorf("reading waited %v for the sync (%v)", time.Since(began), err)
		}
		must(t, <-done)
		must(t, <-done)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("syncs took %v", took)
		}
	})
}

func TestFailNth(t *testing.T) {
	m := newTestMem(t)
	f := create(t, m, "d/a", nil)
	m.FailNth(OpWrite, "d/a", 2, syscall.EIO)
	_, err := f.WriteAt([]byte("first"), 0)
	must(t, err)
	if _, err := f.WriteAt([]byte("second"), 5); !errors.Is(err, syscall.EIO) {
		t.Fatalf("second write: %v", err)
	}
	_, err = f.WriteAt([]byte("third"), 5)
	must(t, err)
	m.FailNth(OpWrite, "d/a", 0, syscall.EIO)
	for range 3 {
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EIO) {
			t.Fatalf("write: %v", err)
		}
	}
	m.ClearFaults()
	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err)
}
