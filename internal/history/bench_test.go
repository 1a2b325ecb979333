package history

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// longHistory is a file of a run with values many values: three producers, four partitions, a reader
// beside them and one at the end.
func longHistory(t testing.TB, values int) *Recorder {
	r, err := CreateFile(filepath.Join(t.TempDir(), "run.jsonl"), "")
	if err != nil {
		t.Fatal(err)
	}
	producers := []*Producer{r.NewProducer(), r.NewProducer(), r.NewProducer()}
	readers := []*Consumer{r.NewConsumer(true), r.NewConsumer(false)}
	const parts = 4
	var got [parts][]Got
	var end [parts]record.Offset
	for i := range values {
		key := record.TopicPartition{Topic: "t", Partition: int32(i % parts)}
		s := producers[i%len(producers)].Send(key)
		at := end[key.Partition]
		end[key.Partition]++
		s.Written(at, false)
		got[key.Partition] = append(got[key.Partition], Got{at, s.Payload(0)})
		if len(got[key.Partition]) == 100 || i >= values-parts {
			for _, c := range readers {
				c.Poll(key, got[key.Partition], end[key.Partition])
			}
			got[key.Partition] = nil
		}
	}
	for i, e := range end {
		readers[1].Final(record.TopicPartition{Topic: "t", Partition: int32(i)}, 0, e, e)
	}
	return r
}

// A long history is judged in little memory: tables, and no events.
func TestMemoryOfLongHistory(t *testing.T) {
	const values = 100_000
	r := longHistory(t, values)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := newChecker(Options{})
	if err := c.run(r.Source()); err != nil || !c.report.OK() || c.report.Written != values {
		t.Fatalf("%v, %v", err, c.report)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if per := float64(after.HeapAlloc-before.HeapAlloc) / values; per > 30 {
		t.Errorf("%.0f bytes for each value", per)
	} else {
		t.Logf("%.1f bytes for each value", per)
	}
	runtime.KeepAlive(c)
}

func BenchmarkCheck(b *testing.B) {
	const values = 200_000
	r := longHistory(b, values)
	b.ReportAllocs()
	for b.Loop() {
		if report, err := Check(r.Source(), Options{}); err != nil || !report.OK() {
			b.Fatal(err, report)
		}
	}
	b.ReportMetric(float64(b.N)*values/b.Elapsed().Seconds(), "values/s")
}
