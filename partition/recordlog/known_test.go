package recordlog

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// spread opens a log whose entries, of one record each and 300 bytes, fill several segments, all assigned,
// with a state snapshot at each of the given indexes in its turn.
func spread(t *testing.T, fsys vfs.FS, n int, snapshots ...record.Index) (*Log, map[record.Index]Layout) {
	t.Helper()
	l := open(t, fsys, large)
	layouts := make(map[record.Index]Layout)
	for i := record.Index(1); i <= record.Index(n); i++ {
		must(t, l.Append([]Entry{dataEntry(t, i, 1+record.Term(i)/10, batchOf(t, 200, int64(i)*3%40))}))
		must(t, l.Assign(i, []Fate{{Base: l.EndOffset(), Records: 1}}))
		if slices.Contains(snapshots, i) {
			layouts[i] = l.Layout()
			must(t, l.SetSnapshotIndex(i))
		}
	}
	return l, layouts
}

// large makes segments larger than what a look at a header reads.
func large(o *Options) { o.SegmentBytes = 20 << 10 }

// sidecarOf names the sidecar of a segment file.
func sidecarOf(segment string) string {
	return strings.TrimSuffix(segment, segmentSuffix) + sidecarSuffix
}

// wantSame opens a log as it is and without any sidecar, and wants the same of both. It gives how many
// bytes of segments the first opening has read.
func wantSame(t *testing.T, fsys *vfs.Mem, y Layout) int64 {
	t.Helper()
	bare := fsys.KillClone()
	for _, n := range segmentsOf(t, bare) {
		must(t, removeIfThere(bare, filepath.Join(testDir, sidecarOf(n))))
	}
	at := func(o *Options) {
		large(o)
		o.SnapshotIndex = y.Index
	}
	var read int64
	fsys.OnBefore(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, segmentSuffix) {
			read += op.Bytes
		}
		return nil
	})
	l := open(t, fsys, at)
	fsys.OnBefore(nil)
	want := open(t, bare, at)
	for _, x := range []*Log{l, want} {
		must(t, x.Restore(y, y.Index))
		for i := y.Index + 1; i <= x.LastIndex(); i++ {
			must(t, x.Assign(i, []Fate{{Base: x.EndOffset(), Records: 1}}))
		}
	}
	if len(l.live.segments) != len(want.live.segments) {
		t.Fatalf("%d segments, want %d", len(l.live.segments), len(want.live.segments))
	}
	for k, s := range l.live.segments {
		w := want.live.segments[k]
		if s.summary != w.summary || s.base != w.base || !slices.Equal(s.index.all(), w.index.all()) {
			t.Errorf("segment %d is\n%+v %+v, want\n%+v %+v", k, s.summary, s.index, w.summary, w.index)
		}
	}
	got, n, err := l.Checksum(0, math.MaxInt64)
	must(t, err)
	crc, m, err := want.Checksum(0, math.MaxInt64)
	must(t, err)
	if got != crc || n != m {
		t.Errorf("%d batches sum to %x, want %d to %x", n, got, m, crc)
	}
	next := l.LastIndex() + 1
	must(t, l.Append([]Entry{dataEntry(t, next, 99, batchOf(t, 10, 7))}))
	must(t, l.Close())
	must(t, want.Close())
	must(t, open(t, fsys, at).Close())
	return read
}

// A start reads the frames above the state snapshot, wherever it lies.
func TestStartReadsAboveTheSnapshot(t *testing.T) {
	const n = 200
	for snapshot := record.Index(1); snapshot <= n; snapshot += 3 {
		fsys := newMem(t, 1)
		l, layouts := spread(t, fsys, n, 1, snapshot)
		size := l.Bytes() / n
		must(t, l.Close())
		read := wantSame(t, fsys, layouts[snapshot])
		// A closed segment is read from the block on that holds the snapshot's entry; in the last one, headers of
		// a block are looked at.
		if most := (n-int64(snapshot)+3)*size + 3*nextChunk; read > most {
			t.Errorf("snapshot at %d: %d bytes were read of %d, want at most %d", snapshot, read, n*size, most)
		}
	}
}

// The snapshot that a sidecar was written for may be damaged, and the one before it be used: what lies between
// them is read.
func TestSidecarAheadOfTheSnapshot(t *testing.T) {
	fsys := newMem(t, 1)
	l, layouts := spread(t, fsys, 48, 41, 46)
	name, position := l.live.segments[0].name, l.Bytes()*44/48
	must(t, l.Close())
	damaged := fsys.KillClone()
	wantSame(t, fsys, layouts[41])
	edit(t, damaged, name, func(f vfs.File) { f.WriteAt([]byte{0xff}, position) })
	wantDamage(t, damaged, 44, large, func(o *Options) { o.SnapshotIndex = 41 })
}

// A sidecar that describes a tail which was cut off can come back in a crash, as its removal is not synced.
// What took the tail's place has the same size.
func TestSidecarOfACutTail(t *testing.T) {
	for _, through := range []record.Index{43, 47} {
		fsys := newMem(t, 1)
		l, _ := spread(t, fsys, 40, 30)
		for i := record.Index(41); i <= 47; i++ {
			must(t, l.Append([]Entry{dataEntry(t, i, 7, batchOf(t, 200, 5))}))
		}
		known, index, err := l.summaryBelow(&l.live, 0, through+1)
		must(t, err)
		name, stale := l.live.segments[0].sidecar(), encodeSidecar(l.live.segments[0], &known, index.all())
		must(t, l.TruncateTail(41))
		for i := record.Index(41); i <= 47; i++ {
			must(t, l.Append([]Entry{dataEntry(t, i, 8, batchOf(t, 200, 6))}))
			must(t, l.Assign(i, []Fate{{Base: l.EndOffset(), Records: 1}}))
		}
		y := l.Layout()
		must(t, l.SetSnapshotIndex(47))
		must(t, l.Close())
		must(t, writeNew(fsys, filepath.Join(testDir, name), stale))
		wantSame(t, fsys, y)
	}
}

// A tail that was torn is cut, and damage above the snapshot found, also where what lies below is known.
func TestBadFramesBehindKnownOnes(t *testing.T) {
	base := newMem(t, 1)
	l, layouts := spread(t, base, 48, 45)
	last := l.live.segments[len(l.live.segments)-1].name
	must(t, l.Close())
	size := func(fsys vfs.FS) (n int64) {
		edit(t, fsys, last, func(f vfs.File) { n, _ = f.Size() })
		return n
	}(base)
	t.Run("damage", func(t *testing.T) {
		fsys := base.KillClone()
		edit(t, fsys, last, func(f vfs.File) { f.WriteAt([]byte{0xff}, size-100) })
		wantDamage(t, fsys, 48, large, func(o *Options) { o.SnapshotIndex = 45 })
	})
	t.Run("torn", func(t *testing.T) {
		fsys := base.KillClone()
		edit(t, fsys, last, func(f vfs.File) { f.WriteAt([]byte("torn"), size) })
		wantSame(t, fsys, layouts[45])
	})
}
