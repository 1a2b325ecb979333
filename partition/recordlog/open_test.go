package recordlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 9)) }

// edit changes a file of a closed log.
func edit(t testing.TB, fsys vfs.FS, name string, change func(f vfs.File)) {
	t.Helper()
	f, err := fsys.Open(filepath.Join(testDir, name))
	must(t, err)
	change(f)
	must(t, f.Sync())
	must(t, f.Close())
}

// segmentsOf lists the segment files in order.
func segmentsOf(t testing.TB, fsys vfs.FS) []string {
	t.Helper()
	names, err := fsys.List(testDir)
	must(t, err)
	var list []string
	for _, n := range names {
		if strings.HasSuffix(n, segmentSuffix) {
			list = append(list, n)
		}
	}
	return list
}

func wantDamage(t *testing.T, fsys vfs.FS, index record.Index, change ...func(*Options)) *CorruptionError {
	t.Helper()
	l, err := tryOpen(fsys, change...)
	if err == nil {
		l.Close()
		t.Fatal("damage went unnoticed")
	}
	var damage *CorruptionError
	if !errors.As(err, &damage) {
		t.Fatalf("open: %v", err)
	}
	if damage.Index != index {
		t.Fatalf("damage at entry %d, want %d: %v", damage.Index, index, err)
	}
	return damage
}

func TestMissingSegmentIsDamage(t *testing.T) {
	base := newMem(t, 1)
	must(t, filled(t, base, 100).Close())
	segments := segmentsOf(t, base)
	if len(segments) < 4 {
		t.Fatalf("only %d segments", len(segments))
	}
	for k, name := range segments {
		t.Run(name, func(t *testing.T) {
			fsys := base.KillClone()
			_, first, _, _ := parseSegmentName(name)
			must(t, fsys.Remove(filepath.Join(testDir, name)))
			wantDamage(t, fsys, first)
			if k == 0 {
				for _, other := range segments[1:] {
					must(t, fsys.Remove(filepath.Join(testDir, other)))
				}
				wantDamage(t, fsys, 1)
			}
		})
	}
}

// A truncated or overwritten tail is damage if its entries were on disk, as the mark, a later
// frame or the snapshot says, and a torn tail else.
func TestTornOrDamaged(t *testing.T) {
	build := func(t *testing.T) (*vfs.Mem, string, int64) {
		fsys := newMem(t, 1)
		l := filled(t, fsys, 10)
		s := l.live.active()
		var at int64
		for i := int64(0); i < 10; i++ { // where entry 10 begins
			at = s.size - (s.size-segmentHeaderSize)/10
		}
		must(t, l.Close())
		return fsys, s.name, at
	}
	noMark := func(t *testing.T, fsys vfs.FS) {
		edit(t, fsys, metaName, func(f vfs.File) {
			_, err := f.WriteAt(make([]byte, markSize), markAt)
			must(t, err)
		})
	}
	spoil := func(t *testing.T, fsys vfs.FS, name string, at int64) {
		edit(t, fsys, name, func(f vfs.File) {
			_, err := f.WriteAt([]byte("spoilt"), at+100)
			must(t, err)
		})
	}
	t.Run("the mark says it was on disk", func(t *testing.T) {
		fsys, name, at := build(t)
		spoil(t, fsys, name, at)
		if d := wantDamage(t, fsys, 10); d.Position != at || d.Segment != name {
			t.Fatalf("%+v, want position %d", d, at)
		}
	})
	t.Run("nothing says it was on disk", func(t *testing.T) {
		fsys, name, at := build(t)
		noMark(t, fsys)
		spoil(t, fsys, name, at)
		l := open(t, fsys)
		if _, last := l.Window(); last != 9 {
			t.Fatalf("window ends at %d", last)
		}
	})
	t.Run("a later frame says it was on disk", func(t *testing.T) {
		fsys, name, at := build(t)
		noMark(t, fsys)
		edit(t, fsys, name, func(f vfs.File) {
			_, err := f.WriteAt([]byte("spoilt"), segmentHeaderSize+(at-segmentHeaderSize)/9*4+8) // header of entry 5
			must(t, err)
		})
		wantDamage(t, fsys, 5)
	})
	t.Run("the snapshot says it was on disk", func(t *testing.T) {
		fsys, name, at := build(t)
		noMark(t, fsys)
		spoil(t, fsys, name, at)
		wantDamage(t, fsys, 10, func(o *Options) { o.SnapshotIndex = 10 })
	})
	t.Run("cut off, and the mark says it was on disk", func(t *testing.T) {
		fsys, name, at := build(t)
		edit(t, fsys, name, func(f vfs.File) { must(t, f.Truncate(at)) })
		wantDamage(t, fsys, 10)
	})
	t.Run("cut off, and the snapshot is beyond", func(t *testing.T) {
		fsys, name, at := build(t)
		noMark(t, fsys)
		edit(t, fsys, name, func(f vfs.File) { must(t, f.Truncate(at)) })
		if _, err := tryOpen(fsys, func(o *Options) { o.SnapshotIndex = 10 }); !errors.Is(err, ErrBehindSnapshot) {
			t.Fatalf("open: %v", err)
		}
	})
}

func TestDamagedMeta(t *testing.T) {
	fsys := newMem(t, 1)
	must(t, filled(t, fsys, 10).Close())
	one := fsys.KillClone()
	edit(t, one, metaName, func(f vfs.File) { f.WriteAt([]byte{7}, 20) })
	l := open(t, one)
	must(t, l.Close())
	edit(t, one, metaName, func(f vfs.File) { f.WriteAt([]byte{7}, secondDecision+20) })
	l = open(t, one) // the first copy was repaired
	must(t, l.Close())

	both := fsys.KillClone()
	edit(t, both, metaName, func(f vfs.File) { f.WriteAt([]byte{7}, 20); f.WriteAt([]byte{7}, secondDecision+20) })
	wantDamage(t, both, 0)

	gone := fsys.KillClone()
	must(t, gone.Remove(filepath.Join(testDir, metaName)))
	wantDamage(t, gone, 1)
}

func TestNewerFormats(t *testing.T) {
	checkUpTo := func(t *testing.T, fsys vfs.FS, known int) {
		t.Helper()
		_, err := tryOpen(fsys)
		var format *FormatError
		if !errors.Is(err, ErrNewerFormat) || !errors.As(err, &format) || format.Found != known+1 || format.Known != known {
			t.Fatalf("open: %v", err)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("format %d", known+1)) || !strings.Contains(err.Error(), fmt.Sprintf("up to %d", known)) {
			t.Fatalf("text does not name both versions: %v", err)
		}
	}
	check := func(t *testing.T, fsys vfs.FS) { t.Helper(); checkUpTo(t, fsys, 1) }
	base := newMem(t, 1)
	must(t, filled(t, base, 3).Close())
	t.Run("segment", func(t *testing.T) {
		fsys := base.KillClone()
		name := segmentsOf(t, fsys)[0]
		_, _, salt, _ := parseSegmentName(name)
		edit(t, fsys, name, func(f vfs.File) {
			b := make([]byte, segmentHeaderSize)
			must(t, readFull(f, b, 0))
			binary.BigEndian.PutUint16(b[8:], 2)
			binary.BigEndian.PutUint32(b[60:], sum(seedOf(salt), b[:60]))
			f.WriteAt(b, 0)
		})
		check(t, fsys)
	})
	t.Run("frame", func(t *testing.T) {
		fsys := base.KillClone()
		name := segmentsOf(t, fsys)[0]
		_, _, salt, _ := parseSegmentName(name)
		edit(t, fsys, name, func(f vfs.File) {
			b := make([]byte, frameHeaderSize)
			must(t, readFull(f, b, segmentHeaderSize))
			b[9] = 3
			binary.BigEndian.PutUint32(b[64:], sum(seedOf(salt), b[:64]))
			f.WriteAt(b, segmentHeaderSize)
		})
		checkUpTo(t, fsys, kindCompacted)
	})
	t.Run("meta", func(t *testing.T) {
		fsys := base.KillClone()
		edit(t, fsys, metaName, func(f vfs.File) {
			b := make([]byte, decisionSize)
			must(t, readFull(f, b, 0))
			binary.BigEndian.PutUint16(b[8:], 2)
			binary.BigEndian.PutUint32(b[32:], sum(0, b[:32]))
			f.WriteAt(b, 0)
			f.WriteAt(b, secondDecision)
		})
		check(t, fsys)
	})
	t.Run("layout", func(t *testing.T) {
		b := Layout{StartIndex: 1}.AppendTo(nil)
		binary.BigEndian.PutUint16(b, 2)
		binary.BigEndian.PutUint32(b[len(b)-4:], sum(0, b[:len(b)-4]))
		if _, err := DecodeLayout(b); !errors.Is(err, ErrNewerFormat) {
			t.Fatal(err)
		}
	})
}

// Sidecars are a shortcut: without them, or with wrong ones, everything is the same.
func TestSidecarsAreRebuilt(t *testing.T) {
	base := newMem(t, 1)
	l := filled(t, base, 100)
	y := l.Layout()
	must(t, l.Close())
	for what, spoil := range map[string]func(fsys vfs.FS, name string){
		"gone": func(fsys vfs.FS, name string) { must(t, fsys.Remove(filepath.Join(testDir, name))) },
		"torn": func(fsys vfs.FS, name string) {
			edit(t, fsys, name, func(f vfs.File) { must(t, f.Truncate(100)) })
		},
		"blocks flipped": func(fsys vfs.FS, name string) {
			edit(t, fsys, name, func(f vfs.File) { f.WriteAt([]byte{0xff}, sidecarHeaderSize+5) })
		},
		"of another segment": func(fsys vfs.FS, name string) {
			other, err := vfs.ReadFile(base, filepath.Join(testDir, strings.TrimSuffix(segmentsOf(t, base)[1], segmentSuffix)+sidecarSuffix))
			must(t, err)
			must(t, writeNew(fsys, filepath.Join(testDir, name), other))
		},
	} {
		t.Run(what, func(t *testing.T) {
			fsys := base.KillClone()
			spoil(fsys, strings.TrimSuffix(segmentsOf(t, fsys)[0], segmentSuffix)+sidecarSuffix)
			for _, snapshot := range []record.Index{0, 100} {
				l := open(t, fsys, func(o *Options) { o.SnapshotIndex = snapshot })
				if snapshot > 0 {
					must(t, l.Restore(y, y.Index))
				} else {
					for i := range 100 {
						must(t, l.Assign(record.Index(i+1), []Fate{{Base: record.Offset(i), Records: 1}}))
					}
				}
				if crc, n, err := l.Checksum(0, 100); err != nil || n != 100 || crc == 0 {
					t.Fatalf("%d batches, %v", n, err)
				}
				if o, _, _, found, err := l.OffsetForTime(7, 100); err != nil || !found || o != 7 {
					t.Fatalf("offset %d, %v", o, err)
				}
				must(t, l.Close())
			}
		})
	}
}

// The snapshot behind which Raft went on is damaged, and the log is opened with the one before, or with none: what lies between them
// was acknowledged. Raft sees it, also if its window was empty, or the log is refused.
func TestWindowBeginsAtTheSnapshot(t *testing.T) {
	for _, more := range []bool{false, true} {
		base := newMem(t, 1)
		l := filled(t, base, 100)
		last := record.Index(100)
		must(t, l.SetSnapshotIndex(90))
		must(t, l.TruncateTail(101))
		must(t, l.TrimWindow(100))
		if more {
			must(t, l.Append([]Entry{plainEntry(101, 2, "more")}))
			last = 101
		}
		must(t, l.Close())
		for _, snapshot := range []record.Index{90, 50, 0} {
			l := open(t, base.KillClone(), func(o *Options) { o.SnapshotIndex = snapshot })
			wantWindow(t, l, snapshot+1, last)
			must(t, l.Close())
		}
	}
	k := newCompacting(t, 6, 90)
	_, err := k.log.Compact(compactionOf(Mark{Below: k.bound(rand.New(rand.NewPCG(6, 6)), 40)}))
	must(t, err)
	snapshot := k.log.cleanedThrough - 1
	must(t, k.log.Close())
	if _, err := tryOpen(k.fs, func(o *Options) { o.SnapshotIndex = snapshot }); !errors.Is(err, ErrBehindSnapshot) {
		t.Errorf("opened with a snapshot of %d, where entries are compacted up to %d: %v", snapshot, snapshot+1, err)
	}
}

func TestSnapshotWithoutLog(t *testing.T) {
	if _, err := tryOpen(newMem(t, 1), func(o *Options) { o.SnapshotIndex = 3 }); !errors.Is(err, ErrBehindSnapshot) {
		t.Fatalf("open: %v", err)
	}
}

func TestRestoreIsRequired(t *testing.T) {
	fsys := newMem(t, 1)
	l := filled(t, fsys, 10)
	y := l.Layout()
	must(t, l.Close())
	l = open(t, fsys, func(o *Options) { o.SnapshotIndex = 10 })
	if err := l.Assign(11, nil); !errors.Is(err, ErrNotRestored) {
		t.Errorf("assign: %v", err)
	}
	if _, err := l.Read(0, 10, 100); !errors.Is(err, ErrNotRestored) {
		t.Errorf("read: %v", err)
	}
	if _, _, _, _, err := l.OffsetForTime(0, 10); !errors.Is(err, ErrNotRestored) {
		t.Errorf("time: %v", err)
	}
	if err := l.AdvanceStart(1); !errors.Is(err, ErrNotRestored) {
		t.Errorf("advance: %v", err)
	}
	wrong := y
	wrong.Index = 11
	if err := l.Restore(wrong, wrong.Index); !errors.Is(err, ErrBehindSnapshot) {
		t.Errorf("restore of a later layout: %v", err)
	}
	wrong = y
	wrong.EndOffset++
	var damage *CorruptionError
	if err := l.Restore(wrong, wrong.Index); !errors.As(err, &damage) {
		t.Errorf("restore of a layout that does not add up: %v", err)
	}
	must(t, l.Restore(y, y.Index))
	if c, err := l.Read(0, 10, 1<<20); err != nil || len(c.Batches) != 10 {
		t.Errorf("read: %v", err)
	}
}

// An idle log is small: one file until something is appended, and no goroutine.
func TestIdleLogIsSmall(t *testing.T) {
	fsys := newMem(t, 1)
	l := open(t, fsys)
	if files := fsys.Files(); len(files) != 1 || fsys.Used() != metaSize {
		t.Fatalf("%v, %d bytes", files, fsys.Used())
	}
	must(t, l.Append([]Entry{plainEntry(1, 1, "configuration")}))
	must(t, l.Close())
	if used := fsys.Used(); used > 2048 {
		t.Fatalf("%d bytes", used)
	}
	if err := l.Append([]Entry{plainEntry(2, 1, "x")}); !errors.Is(err, ErrClosed) {
		t.Fatalf("append: %v", err)
	}
}

// The real file system serves as well as the one in memory.
func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	use := func(o *Options) { o.FS, o.Dir = vfs.OS(), dir }
	l := filled(t, nil, 100, use)
	must(t, l.SetSnapshotIndex(100))
	y := l.Layout()
	must(t, l.TruncateTail(101))
	must(t, l.Append([]Entry{plainEntry(101, 2, "a"), plainEntry(102, 2, "b")}))
	must(t, l.TruncateTail(102))
	must(t, l.TrimWindow(90))
	must(t, l.Close())
	l = open(t, nil, use, func(o *Options) { o.SnapshotIndex = 100 })
	must(t, l.Restore(y, y.Index))
	if first, last := l.Window(); first != 91 || last != 101 {
		t.Fatalf("window %d to %d", first, last)
	}
	if _, n, err := l.Checksum(0, 100); err != nil || n != 100 {
		t.Fatalf("%d batches, %v", n, err)
	}
	must(t, l.AdvanceStart(80))
	if l.StartIndex() < 40 {
		t.Fatalf("nothing was dropped: log begins with %d", l.StartIndex())
	}
}
