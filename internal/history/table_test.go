package history

import (
	"math/rand/v2"
	"testing"

	"github.com/oncelog/oncelog/record"
)

// Ranges that are added in any order are what a set of offsets would be, in as few ranges as possible.
func TestSpans(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var s spans
		var set [60]bool
		for range rng.IntN(30) {
			from := record.Offset(rng.IntN(50))
			end := from + record.Offset(rng.IntN(9))
			s.add(from, end)
			for i := from; i < end; i++ {
				set[i] = true
			}
		}
		runs := 0
		for i, in := range set {
			if s.contain(record.Offset(i)) != in {
				t.Fatalf("seed %d: %v contains %d: %t", seed, s, i, !in)
			}
			if in && (i == 0 || !set[i-1]) {
				runs++
			}
		}
		if len(s) != runs {
			t.Fatalf("seed %d: %d ranges, want %d: %v", seed, len(s), runs, s)
		}
	}
}

// Places far apart cost no more than those close together, to keep and to walk over.
func TestPlacesFarApart(t *testing.T) {
	p := &partition{places: make(map[record.Offset]*placePage)}
	offsets := []record.Offset{0, 7, pageSize, 1 << 40, 1<<40 + 1, maxOffset}
	for i, at := range offsets {
		*p.place(at) = place{1, uint32(i)}
	}
	for from := range offsets {
		for end := from; end < len(offsets); end++ {
			n := from
			p.eachPlace(offsets[from], offsets[end], func(at record.Offset, x place) bool {
				if at != offsets[n] || x.n != uint32(n) {
					t.Fatalf("from %d to %d: %d at %d", from, end, x.n, at)
				}
				n++
				return false
			})
			if n != end {
				t.Fatalf("from %d to %d: got to %d", from, end, n)
			}
		}
	}
	if len(p.places) != 4 {
		t.Errorf("%d pages", len(p.places))
	}
}

// The transaction of a value, with values in none between, and of one that was never sent.
func TestLaneKnowsTransactions(t *testing.T) {
	one, two := &txn{}, &txn{}
	l := &lane{txns: []txnRun{{3, one}, {5, nil}, {9, two}}, pages: make(map[uint32]*lanePage)}
	for n, want := range []*txn{nil, nil, nil, one, one, nil, nil, nil, nil, two, two, nil} {
		if _, flags := l.at(uint32(n)); n < 11 {
			*flags = wasSent
		}
		if got := l.txn(uint32(n)); got != want {
			t.Errorf("of %d: %p, want %p", n, got, want)
		}
	}
}

// What a long run of commits leaves in memory is bounded, also while an old question waits.
func TestProposalsAreForgotten(t *testing.T) {
	r := NewRecorder()
	p, c, asker := r.NewProducer(), r.NewConsumer(false), r.NewConsumer(false)
	key := record.TopicPartition{Topic: "t"}
	p.Send(key).Written(0, false)
	reader := r.NewConsumer(false)
	reader.Poll(key, []Got{{0, AppendPayload(nil, key, Value{p.ID(), 0}, 0)}}, 1)
	reader.Final(key, 0, 1, 1)
	const commits = 5 * maxProposed
	c.CommitOffset("g", key, 2*maxProposed, false) // of which nothing will be heard
	c.CommitOffset("g", key, 0, false)
	defer func() {
		c.OffsetRefused("g", key, 0, "at last")
		if r, err := Check(r.Source(), Options{}); err != nil || !r.OK() {
			t.Fatalf("%v, %v", err, r)
		}
	}()
	for i := range record.Offset(commits) {
		c.CommitOffset("g", key, i+1, false)
		if i == maxProposed {
			asker.AskOffset("g", key)
		}
		c.OffsetCommitted("g", key, i+1)
		if i == 3*maxProposed {
			asker.OffsetTold("g", key, maxProposed) // as old as it may be
		}
	}
	asker.AskOffset("g", key)
	asker.OffsetTold("g", key, commits)
	check := newChecker(Options{})
	if err := check.run(r.Source()); err != nil || !check.report.OK() {
		t.Fatalf("%v, %v", err, check.report)
	}
	if n := len(check.groups[groupKey{"g", key}].proposed); n > maxProposed {
		t.Errorf("%d proposals are kept", n)
	}
}
