package partition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// BenchmarkCompaction is the speed of one pass over a log of 64 MiB in batches of 16 KiB, in bytes of input, by the size of records and by
// how much is left of them. One goroutine does it. MB/core-s leaves out what it waited for a core that others had, MB/cpu-s what it waited
// for the disk, too; read-ms, write-ms and sync-ms are the time that the disk's calls took, and names-ms those that make, rename and remove files. The log is in the page cache, but for the last case.
func BenchmarkCompaction(b *testing.B) {
	for _, c := range []struct {
		left  string
		times int // that each key is written
	}{{"all", 1}, {"half", 2}, {"tenth", 10}} {
		for _, size := range []int{200, 1000} {
			for _, codec := range []record.Codec{record.CodecNone, record.CodecZstd} {
				b.Run(fmt.Sprintf("record=%d/%v/left=%s", size, codec, c.left), func(b *testing.B) { benchmarkCompaction(b, size, c.times, codec, false) })
			}
		}
	}
	b.Run("record=200/none/left=tenth/cold", func(b *testing.B) { benchmarkCompaction(b, 200, 10, record.CodecNone, true) })
}

func benchmarkCompaction(b *testing.B, size, times int, codec record.Codec, cold bool) {
	h := &Host{metrics: newMetrics(nil), config: HostConfig{CompactionBytes: 1 << 50, CompactionMemory: 64 << 20}}
	disk := &timedFS{FS: vfs.OS()}
	runtime.LockOSThread() // which counts what it waits for
	defer runtime.UnlockOSThread()
	var read, written int64
	var burned, took, queued time.Duration
	for b.Loop() {
		b.StopTimer()
		r := &Replica{host: h, logger: slog.New(slog.NewTextHandler(io.Discard, nil)), state: newState()}
		dir := b.TempDir()
		end, err := r.fillForCompaction(disk, dir, size, times, codec)
		if err != nil {
			b.Fatal(err)
		}
		p := pass{replica: r, agreed: compacted{below: end}}
		filled := disk.spent
		unix.Sync() // what the pass waits for is its own
		if cold {
			dropFromCache(b, dir)
		}
		b.StartTimer()
		before, waited, began := cpuTime(b), waitedForCore(b), time.Now()
		if err := p.round(context.Background()); err != nil {
			b.Fatal(err)
		}
		burned += cpuTime(b) - before
		took += time.Since(began)
		queued += waitedForCore(b) - waited
		b.StopTimer()
		for k := range disk.spent {
			disk.total[k] += disk.spent[k] - filled[k]
		}
		read += p.done.Read
		written += p.done.Written
		if err := r.log.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(written)/float64(read), "kept/read")
	b.ReportMetric(float64(read)/1e6/took.Seconds(), "MB/s")
	b.ReportMetric(float64(read)/1e6/(took-queued).Seconds(), "MB/core-s")
	b.ReportMetric(float64(read)/1e6/burned.Seconds(), "MB/cpu-s")
	for k, name := range diskCalls {
		b.ReportMetric(float64(disk.total[k].Milliseconds())/float64(b.N), name+"-ms")
	}
}

// fillForCompaction gives the replica a log of 64 MiB that can be compacted below where it ends.
func (r *Replica) fillForCompaction(fsys vfs.FS, dir string, size, times int, codec record.Codec) (end record.Offset, err error) {
	const total, inBatch = 64 << 20, 16 << 10
	rng := rand.New(rand.NewPCG(1, 1))
	if r.log, err = recordlog.Open(recordlog.Options{FS: fsys, Dir: dir, SegmentBytes: 16 << 20}); err != nil {
		return 0, err
	}
	text := make([]byte, 1<<20) // which codecs make half as long
	for i := range text {
		text[i] = byte('a' + rng.IntN(16))
	}
	records := total / size
	builder := record.NewBuilder(codec)
	var entries []recordlog.Entry
	for i := record.Index(1); int(end) < records; i++ {
		builder.Reset()
		for k := range inBatch / size {
			key := int(end) + k
			if times > 1 {
				key = rng.IntN(records / times)
			}
			from := rng.IntN(len(text) - size)
			value := text[from : from+size-30]
			if err := builder.Append(1000, fmt.Appendf(nil, "key %08d", key), value, nil); err != nil {
				return 0, err
			}
		}
		batch := append(record.Batch(nil), builder.Finish(1, 1, 1, false)...)
		entries = append(entries, recordlog.Entry{Index: i, Term: 1, Records: int32(inBatch / size), Data: batch})
		end += record.Offset(inBatch / size)
		if len(entries) == 500 || int(end) >= records {
			if err := r.log.Append(entries); err != nil {
				return 0, err
			}
			entries = nil
		}
	}
	for i := record.Index(1); i <= r.log.LastIndex(); i++ {
		fate := recordlog.Fate{Base: record.Offset(i-1) * record.Offset(inBatch/size), Records: int32(inBatch / size)}
		if err := r.log.Assign(i, []recordlog.Fate{fate}); err != nil {
			return 0, err
		}
	}
	last := r.log.LastIndex()
	return end, errors.Join(r.log.Roll(), r.log.SetSnapshotIndex(last), r.log.TrimWindow(last))
}

// dropFromCache has the page cache forget what the files in a directory hold.
func dropFromCache(b *testing.B, dir string) {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		f, failed := os.Open(filepath.Join(dir, n.Name()))
		if err = errors.Join(err, failed); err != nil {
			break
		}
		err = errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	}
	if err != nil {
		b.Fatal(err)
	}
}

// cpuTime is what this process has used of processors.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// waitedForCore is for how long this thread could have run, and had no core.
func waitedForCore(b *testing.B) time.Duration {
	var ran, waited time.Duration
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err == nil {
		_, err = fmt.Sscan(string(text), &ran, &waited)
	}
	if err != nil {
		b.Fatal(err)
	}
	return waited
}

// The kinds of calls that a timedFS tells apart.
const (
	diskReads = iota
	diskWrites
	diskSyncs
	diskNames
	diskKinds
)

var diskCalls = [diskKinds]string{"read", "write", "sync", "names"}

// timedFS counts how long calls take. One goroutine uses it.
type timedFS struct {
	vfs.FS
	spent, total [diskKinds]time.Duration
}

func (t *timedFS) count(kind int, began time.Time) { t.spent[kind] += time.Since(began) }

func (t *timedFS) Create(name string) (vfs.File, error) {
	defer t.count(diskNames, time.Now())
	f, err := t.FS.Create(name)
	return timedFile{f, t}, err
}

func (t *timedFS) Open(name string) (vfs.File, error) {
	f, err := t.FS.Open(name)
	return timedFile{f, t}, err
}

func (t *timedFS) Remove(name string) error {
	defer t.count(diskNames, time.Now())
	return t.FS.Remove(name)
}

func (t *timedFS) Rename(from, to string) error {
	defer t.count(diskNames, time.Now())
	return t.FS.Rename(from, to)
}

func (t *timedFS) SyncDir(dir string) error {
	defer t.count(diskSyncs, time.Now())
	return t.FS.SyncDir(dir)
}

type timedFile struct {
	vfs.File
	of *timedFS
}

func (f timedFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.of.count(diskReads, time.Now())
	return f.File.ReadAt(p, off)
}

func (f timedFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	defer f.of.count(diskWrites, time.Now())
	return f.File.WritevAt(bufs, off)
}

func (f timedFile) Sync() error {
	defer f.of.count(diskSyncs, time.Now())
	return f.File.Sync()
}

func (f timedFile) StartSync(off, n int64) {
	defer f.of.count(diskWrites, time.Now())
	vfs.StartSync(f.File, off, n)
}

func (f timedFile) Close() error {
	defer f.of.count(diskNames, time.Now())
	return f.File.Close()
}
