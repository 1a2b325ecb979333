package producer

import (
	"bytes"
	"math"
	"sync"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// next is the producer's next batch in order.
func next(id record.ProducerID, i int) Batch {
	seq := record.Sequence((i * 10) & math.MaxInt32)
	return Batch{ProducerID: id, BaseSequence: seq, LastSequence: seq.Add(9), Records: 10, MaxTimestamp: int64(i)}
}

// TestHotPathDoesNotAllocate holds Append of a known producer, Check, a duplicate and a refusal to no allocation.
func TestHotPathDoesNotAllocate(t *testing.T) {
	s := crowd(100, false)
	round := 5 * 10
	seqs := make([]int, 100)
	id := 0
	if n := testing.AllocsPerRun(1000, func() {
		id = (id + 37) % 100
		b := Batch{ProducerID: record.ProducerID(id), BaseSequence: record.Sequence(round + seqs[id]), Records: 1}
		b.LastSequence = b.BaseSequence
		seqs[id]++
		if v := s.Check(b, 0); v.Code != Accepted {
			t.Fatal(v.Message(b))
		}
		if v := s.Append(b, s.end, 5); v.Code != Accepted {
			t.Fatal(v.Message(b))
		}
		if v := s.Append(b, s.end, 5); v.Code != Duplicate {
			t.Fatal(v.Message(b))
		}
		b.Epoch--
		if v := s.Append(b, s.end, 5); v.Code != InvalidProducerEpoch {
			t.Fatal(v.Message(b))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	checkInvariants(t, s)
}

// TestOffsetsGoBack holds the one panic there is to our own broken invariant: the caller's log handing out an offset twice.
func TestOffsetsGoBack(t *testing.T) {
	for name, again := range map[string]func(*State){
		"batch":                     func(s *State) { s.Append(next(1, 1), 9, 0) },
		"batch without idempotence": func(s *State) { s.Append(Batch{ProducerID: -1, Records: 1}, 9, 0) },
		"marker":                    func(s *State) { s.EndTransaction(Marker{ProducerID: 1}, 9, 0) },
		"below 0":                   func(s *State) { New(Limits{}).Append(next(1, 0), -1, 0) },
		"offsets run out":           func(s *State) { s.Append(next(1, 1), math.MaxInt64-5, 0) },
		"below log start":           func(s *State) { s.TruncateStart(20); s.Append(next(1, 1), 19, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Limits{})
			s.Append(next(1, 0), 0, 0)
			before := s.AppendTo(nil)
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
				if name != "below log start" && !bytes.Equal(before, s.AppendTo(nil)) {
					t.Error("the state has changed")
				}
			}()
			again(s)
		})
	}
}

// TestClonesRunFree reads a clone in one goroutine while the original is changed in another: the race detector judges.
func TestClonesRunFree(t *testing.T) {
	s := crowd(500, true)
	for i := range 40 { // aborted transactions, more than a chunk
		s.EndTransaction(Marker{ProducerID: record.ProducerID(i%50) * 10, Epoch: record.Epoch(i + 1)}, s.end, 0)
		b := Batch{ProducerID: record.ProducerID(i%50) * 10, Epoch: record.Epoch(i + 1), Records: 1, Transactional: true,
			Knew: Knew{Verified: true, Marker: math.MaxInt64, LowestSequence: -1}}
		if v := s.Append(b, s.end, 0); v.Code != Accepted {
			t.Fatal(v.Message(b))
		}
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	for round := range 20 {
		want := s.AppendTo(nil)
		c := s.Clone()
		readers.Go(func() {
			if !bytes.Equal(c.AppendTo(nil), want) {
				t.Error("the clone encodes to other bytes")
			}
			for id := range record.ProducerID(10) {
				c.Check(next(id, 0), 0)
			}
			c.EndTransaction(Marker{ProducerID: 10, Epoch: 100}, c.end, 0)
			c.Aborted(0, c.end)
			checkInvariants(t, c)
		})
		for id := range record.ProducerID(500) {
			s.Append(next(id, 5+round), s.end, 7)
		}
		id := record.ProducerID(round * 10)
		s.EndTransaction(Marker{ProducerID: id, Epoch: 99}, s.end, 0)
		s.TruncateStart(s.logStart + 100)
		s.Expire([]Expirable{{ProducerID: record.ProducerID(round*10 + 1)}}, math.MaxInt64, math.MaxInt64)
		s.Append(next(record.ProducerID(10_000+round), 0), s.end, 0)
	}
	checkInvariants(t, s)
}

// TestAbortedIndexIsLong asks an index of many chunks, cut at its front, against the rule as it is written.
func TestAbortedIndexIsLong(t *testing.T) {
	s := New(Limits{})
	var all []Aborted
	knew := Knew{Verified: true, Marker: math.MaxInt64, LowestSequence: -1}
	open := make(map[record.ProducerID]record.Offset)
	for i := range 3000 {
		id := record.ProducerID(i * i % 17)
		epoch := record.Epoch(i)
		if from, ok := open[id]; ok {
			at := s.end
			s.EndTransaction(Marker{ProducerID: id, Epoch: epoch}, at, 0)
			all = append(all, Aborted{ProducerID: id, First: from, Last: at})
			delete(open, id)
			continue
		}
		open[id] = s.end
		if v := s.Append(Batch{ProducerID: id, Epoch: epoch, Records: 1, Transactional: true, Knew: knew}, s.end, 0); v.Code != Accepted {
			t.Fatalf("%+v", v)
		}
	}
	for range 5 {
		s.TruncateStart(s.logStart + 333)
		checkInvariants(t, s)
		for from := s.logStart; from < s.end; from += 41 {
			for upTo := from; upTo <= s.end+1; upTo += 53 {
				var want []Aborted
				for _, a := range all {
					if a.Last >= from && a.First < upTo {
						want = append(want, a)
					}
				}
				got := s.Aborted(from, upTo)
				for i := range got {
					got[i].LastStable = 0
				}
				if len(got) != len(want) {
					t.Fatalf("[%d, %d): %d, want %d", from, upTo, len(got), len(want))
				}
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("[%d, %d): %+v, want %+v", from, upTo, got[i], want[i])
					}
				}
			}
		}
		again, err := Decode(s.AppendTo(nil), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		s = again
	}
	s.TruncateStart(s.end)
	if s.AbortedLen() != 0 {
		t.Errorf("%d left", s.AbortedLen())
	}
}

// TestDescribeIsBounded asks for fewer than there are.
func TestDescribeIsBounded(t *testing.T) {
	s := crowd(20, true)
	for _, ask := range []struct {
		ids       []record.ProducerID
		max       int
		want      []record.ProducerID
		truncated bool
	}{
		{nil, 0, nil, true},
		{nil, -1, nil, true},
		{nil, 1, []record.ProducerID{0}, true},
		{nil, 4, []record.ProducerID{0, 10, 19, 18}, true},
		{[]record.ProducerID{5, 99, 3}, 2, []record.ProducerID{5, 3}, false},
		{[]record.ProducerID{5, 99, 3}, 1, []record.ProducerID{5}, true},
		{[]record.ProducerID{99, -1}, 0, nil, false},
	} {
		found, truncated := s.Describe(ask.ids, ask.max)
		if len(found) != len(ask.want) || truncated != ask.truncated {
			t.Fatalf("%+v: %d found, truncated %t", ask, len(found), truncated)
		}
		for i, d := range found {
			if d.ProducerID != ask.want[i] {
				t.Errorf("%+v: %d at %d", ask, d.ProducerID, i)
			}
		}
	}
	if found, truncated := s.Describe(nil, 20); len(found) != 20 || truncated {
		t.Errorf("%d found, truncated %t", len(found), truncated)
	}
}

// TestDefaultLimit holds an unlimited Limits to a bound.
func TestDefaultLimit(t *testing.T) {
	s := New(Limits{})
	for id := range record.ProducerID(DefaultMaxProducers + 10) {
		v := s.Append(next(id, 0), s.end, 0)
		if (len(v.Evicted) == 1) != (id >= DefaultMaxProducers) {
			t.Fatalf("producer %d: %+v", id, v)
		}
	}
	if s.Len() != DefaultMaxProducers {
		t.Errorf("%d producers", s.Len())
	}
	checkInvariants(t, s)
}
