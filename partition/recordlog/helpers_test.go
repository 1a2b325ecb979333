package recordlog

import (
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// testDir is where test logs lie.
const testDir = "data/log"

// batchOf makes a batch with the given record timestamps and a value of size bytes in each.
func batchOf(t testing.TB, size int, timestamps ...int64) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.CodecNone)
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(i*7 + len(timestamps))
	}
	for _, ts := range timestamps {
		if err := b.Append(ts, nil, value, nil); err != nil {
			t.Fatal(err)
		}
	}
	return append(record.Batch(nil), b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)...)
}

// dataEntry makes an entry that holds batches.
func dataEntry(t testing.TB, i record.Index, term record.Term, batches ...record.Batch) Entry {
	t.Helper()
	e := Entry{Index: i, Term: term, AppendedAt: int64(i) * 1000, Ext: []byte{byte(i), 2, 3}}
	for _, b := range batches {
		e.Records += b.LastOffsetDelta() + 1
		e.MaxTimestamp = max(e.MaxTimestamp, b.MaxTimestamp())
		e.Data = append(e.Data, b...)
	}
	return e
}

// plainEntry makes an entry without records.
func plainEntry(i record.Index, term record.Term, data string) Entry {
	return Entry{Index: i, Term: term, Type: 3, Data: []byte(data)}
}

// salts gives segments predictable salts.
func salts(seed uint64) func() uint64 {
	r := rand.New(rand.NewPCG(seed, 1))
	return r.Uint64
}

// newMem makes a file system in which the log's parent directory is durable.
func newMem(t testing.TB, seed uint64) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem(seed)
	must(t, m.MkdirAll("data"))
	must(t, m.SyncDir("/"))
	return m
}

func open(t testing.TB, fsys vfs.FS, change ...func(*Options)) *Log {
	t.Helper()
	l, err := tryOpen(fsys, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func tryOpen(fsys vfs.FS, change ...func(*Options)) (*Log, error) {
	o := Options{FS: fsys, Dir: testDir, SegmentBytes: 4096, IndexBytes: 512, CacheBytes: 8192, Salt: salts(1)}
	for _, c := range change {
		c(&o)
	}
	return Open(o)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
