package partition

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// BenchmarkCompaction is the speed of one pass over a log of 64 MiB, in bytes of input, by the size of records; batches are of 16 KiB,
// keys are written ten times each. One goroutine does it. MB/cpu-s leaves out what it waited for the disk.
func BenchmarkCompaction(b *testing.B) {
	for _, size := range []int{200, 1000} {
		b.Run(fmt.Sprintf("record=%d", size), func(b *testing.B) { benchmarkCompaction(b, size, record.CodecNone) })
	}
	b.Run("record=1000,zstd", func(b *testing.B) { benchmarkCompaction(b, 1000, record.CodecZstd) })
}

func benchmarkCompaction(b *testing.B, size int, codec record.Codec) {
	const total, inBatch = 64 << 20, 16 << 10
	h := &Host{metrics: newMetrics(nil), config: HostConfig{CompactionBytes: 1 << 50, CompactionMemory: 64 << 20}}
	rng := rand.New(rand.NewPCG(1, 1))
	var read int64
	var burned time.Duration
	for b.Loop() {
		b.StopTimer()
		r := &Replica{host: h, logger: slog.New(slog.NewTextHandler(io.Discard, nil)), state: newState()}
		var err error
		r.log, err = recordlog.Open(recordlog.Options{FS: vfs.OS(), Dir: b.TempDir(), SegmentBytes: 16 << 20})
		if err != nil {
			b.Fatal(err)
		}
		value := make([]byte, size-30)
		for i := range value {
			value[i] = byte('a' + rng.IntN(16))
		}
		end, records := record.Offset(0), total/size
		builder := record.NewBuilder(codec)
		var entries []recordlog.Entry
		for i := record.Index(1); int(end) < records; i++ {
			builder.Reset()
			for range inBatch / size {
				if err := builder.Append(1000, fmt.Appendf(nil, "key %08d", rng.IntN(records/10)), value, nil); err != nil {
					b.Fatal(err)
				}
			}
			batch := append(record.Batch(nil), builder.Finish(1, 1, 1, false)...)
			entries = append(entries, recordlog.Entry{Index: i, Term: 1, Records: int32(inBatch / size), Data: batch})
			end += record.Offset(inBatch / size)
			if len(entries) == 500 || int(end) >= records {
				if err := r.log.Append(entries); err != nil {
					b.Fatal(err)
				}
				entries = nil
			}
		}
		for i := record.Index(1); i <= r.log.LastIndex(); i++ {
			fate := recordlog.Fate{Base: record.Offset(i-1) * record.Offset(inBatch/size), Records: int32(inBatch / size)}
			if err := r.log.Assign(i, []recordlog.Fate{fate}); err != nil {
				b.Fatal(err)
			}
		}
		last := r.log.LastIndex()
		if err := r.log.Roll(); err != nil {
			b.Fatal(err)
		}
		if err := r.log.SetSnapshotIndex(last); err != nil {
			b.Fatal(err)
		}
		if err := r.log.TrimWindow(last); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(r.log.Bytes())
		p := pass{replica: r, agreed: compacted{below: end}}
		b.StartTimer()
		before := cpuTime(b)
		if err := p.round(context.Background()); err != nil {
			b.Fatal(err)
		}
		burned += cpuTime(b) - before
		read += p.done.Read
		b.StopTimer()
		b.ReportMetric(float64(p.done.Written)/float64(p.done.Read), "kept/read")
		if err := r.log.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(read)/1e6/burned.Seconds(), "MB/cpu-s")
}

// cpuTime is what this process has used of processors.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
