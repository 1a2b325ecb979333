package producer

import (
	"fmt"
	"math"
	"testing"

	"github.com/oncelog/oncelog/record"
)

var sizes = []int{1, 1_000, 100_000}

// roundRobin gives batches of n producers in a scattered order, each in sequence after crowd's.
type roundRobin struct {
	next []record.Sequence
	at   int
}

func newRoundRobin(n int) *roundRobin {
	r := &roundRobin{next: make([]record.Sequence, n)}
	for i := range r.next {
		r.next[i] = window * 10
	}
	return r
}

func (r *roundRobin) batch() Batch {
	r.at = (r.at + 7919) % len(r.next)
	seq := r.next[r.at]
	r.next[r.at] = seq.Add(10)
	return Batch{ProducerID: record.ProducerID(r.at), BaseSequence: seq, LastSequence: seq.Add(9), Records: 10}
}

// BenchmarkAppend is the hot path: the next batch of a known idempotent producer.
func BenchmarkAppend(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("producers=%d", n), func(b *testing.B) {
			s, r := crowd(n, false), newRoundRobin(n)
			b.ReportAllocs()
			for b.Loop() {
				if v := s.Append(r.batch(), s.end, 1); v.Code != Accepted {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkAppendAfterClone is the hot path with a clone taken every 100,000 batches, hence with pages to copy.
func BenchmarkAppendAfterClone(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("producers=%d", n), func(b *testing.B) {
			s, r := crowd(n, false), newRoundRobin(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%100_000 == 0 {
					s.Clone()
				}
				if v := s.Append(r.batch(), s.end, 1); v.Code != Accepted {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkDuplicate is a retry of the oldest batch in the window.
func BenchmarkDuplicate(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("producers=%d", n), func(b *testing.B) {
			s := crowd(n, false)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if v := s.Check(next(record.ProducerID(i*7919%n), 0), 0); v.Code != Duplicate {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkEvict is a new producer in a full table.
func BenchmarkEvict(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("producers=%d", n), func(b *testing.B) {
			s := crowd(n, false)
			b.ReportAllocs()
			for id := record.ProducerID(n); b.Loop(); id++ {
				if v := s.Append(next(id, 0), s.end, 1); len(v.Evicted) != 1 {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkAdmit is the leader's pre-check of a new batch and its end.
func BenchmarkAdmit(b *testing.B) {
	s, r, sp := crowd(1000, false), newRoundRobin(1000), NewSpeculation(1000)
	b.ReportAllocs()
	for b.Loop() {
		sp.Done(sp.Admit(s, r.batch()).Key)
	}
}

// BenchmarkSnapshot measures what a snapshot costs: the capture in apply, the encoding beside it, the restore, and a search for the idle.
func BenchmarkSnapshot(b *testing.B) {
	const n = 100_000
	s := crowd(n, true)
	data := s.AppendTo(nil)
	b.Run("Clone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Clone()
		}
	})
	b.Run("AppendTo", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		buf := make([]byte, 0, s.EncodedSize())
		for b.Loop() {
			s.AppendTo(buf)
		}
	})
	b.Run("Decode", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(data, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Idle", func(b *testing.B) {
		for b.Loop() {
			s.Idle(-1, math.MaxInt64, 10_000)
		}
	})
}
