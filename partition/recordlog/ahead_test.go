package recordlog

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// roomy keeps segments from being full.
func roomy(o *Options) { o.SegmentBytes = 1 << 20 }

// fileOf gives what the last segment's file holds, and where its frames end.
func fileOf(t *testing.T, fsys vfs.FS, l *Log) (b []byte, end int64) {
	t.Helper()
	b, err := vfs.ReadFile(fsys, l.path(l.live.active().name))
	must(t, err)
	return b, l.live.active().size
}

// A log that is written in small pieces has zeros behind it, so that most appends change no file's size; however it ends, it is
// the same log when it is opened again, and as small as its frames.
func TestZerosAhead(t *testing.T) {
	fsys := newMem(t, 1)
	l := open(t, fsys, roomy)
	const entries = 200
	grown, before := 0, 0
	for i := record.Index(1); i <= entries; i++ {
		must(t, l.Queue([]Entry{plainEntry(i, 1, fmt.Sprintf("entry %d, of some ninety bytes with its header", i))}))
		must(t, <-listen(l, i))
		l.lock() // what follows the flush is done
		l.unlock()
		b, end := fileOf(t, fsys, l)
		if tail := b[end:]; len(bytes.Trim(tail, "\x00")) > 0 || len(tail) > int(l.reserveAhead()) {
			t.Fatalf("entry %d: %d bytes behind the end at %d, zeros: %v", i, len(tail), end, len(bytes.Trim(tail, "\x00")) == 0)
		}
		if len(b) != before {
			grown++
		}
		before = len(b)
	}
	if grown > entries/8 {
		t.Errorf("the file has become longer with %d of %d appends", grown, entries)
	}
	size := l.live.active().size
	for seed := range uint64(60) {
		cut := fsys.CrashClone(random(seed))
		if seed == 0 {
			cut = fsys.KillClone()
		}
		n := Inspector{FS: cut, Dir: testDir}
		out, err := n.Inspect()
		if err != nil || len(out.Damage) > 0 || out.Torn != nil || out.Last != entries {
			t.Fatalf("seed %d: %+v, %v", seed, out, err)
		}
		again := open(t, cut, roomy)
		wantWindow(t, again, 1, entries)
		if b, end := fileOf(t, cut, again); int64(len(b)) != end || end != size {
			t.Fatalf("seed %d: file of %d bytes, frames end at %d", seed, len(b), end)
		}
		must(t, again.Append([]Entry{plainEntry(entries+1, 2, "more")}))
		must(t, again.Close())
	}
	must(t, l.Close())
	if b, end := fileOf(t, fsys, l); int64(len(b)) != end {
		t.Errorf("closed file of %d bytes, frames end at %d", len(b), end)
	}
}

// A log that is rarely written, and one that is written in large pieces, have no zeros behind them.
func TestNoZerosAhead(t *testing.T) {
	for _, x := range []struct {
		name           string
		entries, bytes int
	}{{"rarely", 8, 20}, {"in large pieces", 4, 2 * maxAheadFlush}} {
		t.Run(x.name, func(t *testing.T) {
			fsys := newMem(t, 1)
			l := open(t, fsys, roomy)
			for i := range record.Index(x.entries) {
				must(t, l.Append([]Entry{plainEntry(i+1, 1, string(make([]byte, x.bytes)))}))
			}
			if b, end := fileOf(t, fsys, l); int64(len(b)) != end {
				t.Errorf("file of %d bytes, frames end at %d", len(b), end)
			}
		})
	}
}

// Zeros take no disk space that is not reserved: a disk that is full but for that takes the same entries.
func TestZerosAheadTakeNoSpace(t *testing.T) {
	fsys := newMem(t, 1)
	l := open(t, fsys, roomy)
	must(t, l.Append([]Entry{plainEntry(1, 1, string(make([]byte, aheadAfter-100)))}))
	fsys.SetCapacity(fsys.Used())
	i := record.Index(2)
	for ; ; i++ {
		err := l.Append([]Entry{plainEntry(i, 1, "small")})
		if errors.Is(err, ErrNoSpace) {
			break
		}
		must(t, err)
	}
	if s := l.live.active(); s.size < s.reserved-minReserve/8 || i < 100 {
		t.Errorf("full at entry %d, at byte %d of %d", i, s.size, s.reserved)
	}
	if _, last := l.Window(); last != i-1 {
		t.Errorf("window ends at %d", last)
	}
}

// The page of the first zeros is that of the last frames: when it cannot be written the log has failed, and they are not
// lost for that.
func TestZerosAheadFail(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpSync} {
		fsys := newMem(t, 1)
		l := open(t, fsys, roomy)
		must(t, l.Append([]Entry{plainEntry(1, 1, string(make([]byte, aheadAfter-100)))}))
		fsys.FailNth(kind, segmentSuffix, 2, syscall.EIO) // the first one is the entry's
		failed := make(chan error, 1)
		l.OnFailure(func(err error) { failed <- err })
		told := listen(l, 2)
		must(t, l.Queue([]Entry{plainEntry(2, 1, "small")}))
		must(t, <-told)
		if err := <-failed; !errors.Is(err, ErrFailed) {
			t.Fatalf("%v: %v", kind, err)
		}
		l.Close()
		for seed := range uint64(20) {
			wantWindow(t, open(t, fsys.CrashClone(random(seed)), roomy), 1, 2)
		}
	}
}

// A segment that was closed when the power went may still have its zeros, or whatever the disk shows in their place; it is
// set back. What is missing in it is damage as ever.
func TestClosedSegmentWithBytesBehind(t *testing.T) {
	for _, behind := range []string{"\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01", "garbage, of a length that is none"} {
		fsys := newMem(t, 1)
		l := open(t, fsys)
		must(t, l.Append([]Entry{plainEntry(1, 1, "one"), plainEntry(2, 1, "two")}))
		closed := l.live.active()
		must(t, l.Roll())
		must(t, l.Append([]Entry{plainEntry(3, 1, "three")}))
		must(t, l.Close())
		edit(t, fsys, closed.name, func(f vfs.File) {
			_, err := f.WriteAt([]byte(behind), closed.size)
			must(t, err)
		})
		l = open(t, fsys)
		wantWindow(t, l, 1, 3)
		must(t, l.Close())
		if b, err := vfs.ReadFile(fsys, l.path(closed.name)); err != nil || int64(len(b)) != closed.size {
			t.Errorf("%q: %d bytes are left of %d, %v", behind, len(b), closed.size, err)
		}
		edit(t, fsys, closed.name, func(f vfs.File) {
			_, err := f.WriteAt(make([]byte, 8), closed.size-8) // the end of entry 2
			must(t, err)
		})
		wantDamage(t, fsys, 2)
	}
}
