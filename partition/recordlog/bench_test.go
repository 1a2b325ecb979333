package recordlog

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// onDisk opens a log on the real file system. BENCH_DIR would be the place for another disk; the
// test's own directory is on the default one.
func onDisk(b *testing.B, change ...func(*Options)) *Log {
	dir := b.TempDir()
	return open(b, nil, append([]func(*Options){func(o *Options) {
		*o = Options{FS: vfs.OS(), Dir: filepath.Join(dir, "log")}
	}}, change...)...)
}

// BenchmarkAppend writes and syncs; entries of one call share the sync.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ size, at int }{{1 << 10, 1}, {1 << 10, 64}, {100 << 10, 1}, {100 << 10, 5}} {
		b.Run(fmt.Sprintf("%dKiB-x%d", c.size>>10, c.at), func(b *testing.B) {
			l := onDisk(b)
			batch := batchOf(b, c.size-80, 1)
			entries := make([]Entry, c.at)
			next := record.Index(1)
			b.SetBytes(int64(c.at * len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				for k := range entries {
					entries[k] = Entry{Index: next, Term: 1, Records: 1, Ext: make([]byte, 40), Data: batch}
					next++
				}
				must(b, l.Append(entries))
			}
		})
	}
}

// BenchmarkRead reads chunks of 1 MiB from the page cache and from the tail cache.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, where := range []string{"disk", "cache"} {
			b.Run(fmt.Sprintf("%dKiB-%s", size>>10, where), func(b *testing.B) {
				cache := int64(-1)
				if where == "cache" {
					cache = 64 << 20
				}
				l := onDisk(b, func(o *Options) { o.CacheBytes = cache })
				batch := batchOf(b, size-80, 1)
				n := (16 << 20) / size
				var entries []Entry
				for i := range n {
					entries = append(entries, Entry{Index: record.Index(i + 1), Term: 1, Records: 1, Data: batch})
				}
				must(b, l.Append(entries))
				for i := range n {
					must(b, l.Assign(record.Index(i+1), []Fate{{Base: record.Offset(i), Records: 1}}))
				}
				bytes, from := int64(0), record.Offset(0)
				b.ReportAllocs()
				for b.Loop() {
					c, err := l.Read(from, record.Offset(n), 1<<20)
					must(b, err)
					bytes += int64(c.Bytes)
					if from = c.End; from >= record.Offset(n) {
						from = 0
					}
				}
				b.SetBytes(bytes / int64(b.N))
			})
		}
	}
}

// BenchmarkReplay is what a start costs: open, read every entry as Raft does, assign it.
func BenchmarkReplay(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			l := onDisk(b)
			batch := batchOf(b, size-80, 1)
			n := (16 << 20) / size
			var entries []Entry
			for i := range n {
				entries = append(entries, Entry{Index: record.Index(i + 1), Term: 1, Records: 1, Data: batch})
			}
			must(b, l.Append(entries))
			o := l.o
			must(b, l.Close())
			b.SetBytes(int64(n * len(batch)))
			for b.Loop() {
				l, err := Open(o)
				must(b, err)
				for i := range n {
					if _, err := l.Entry(record.Index(i + 1)); err != nil {
						b.Fatal(err)
					}
				}
				for i := range n {
					must(b, l.Assign(record.Index(i+1), []Fate{{Base: record.Offset(i), Records: 1}}))
				}
				must(b, l.Close())
			}
		})
	}
}
