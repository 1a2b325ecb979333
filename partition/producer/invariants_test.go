package producer

import (
	"testing"

	"github.com/oncelog/oncelog/record"
)

// checkInvariants fails if the state's inner structure is not what its comments promise.
func checkInvariants(t testing.TB, s *State) {
	t.Helper()
	seen := make(map[slot]bool)
	walk := func(name string, l list, order func(*entry) record.Offset, open bool) {
		prev, last, n := noSlot, record.NoOffset, 0
		for at := l.head; at != noSlot; at = s.table.links.at(at).next {
			e := s.table.entries.at(at)
			if seen[at] {
				t.Fatalf("%s: producer %d is in two places", name, e.id)
			}
			seen[at] = true
			if got := s.table.links.at(at).prev; got != prev {
				t.Fatalf("%s: producer %d links back to %d, want %d", name, e.id, got, prev)
			}
			if e.isOpen() != open {
				t.Fatalf("%s: producer %d is open: %t", name, e.id, e.isOpen())
			}
			if order(e) <= last {
				t.Fatalf("%s: producer %d at %d comes after %d", name, e.id, order(e), last)
			}
			if s.table.index != nil && s.table.index[e.id] != at {
				t.Fatalf("%s: producer %d is indexed at %d, lies at %d", name, e.id, s.table.index[e.id], at)
			}
			if e.touched >= s.end || e.voidingMarker > e.lastMarker || e.lastMarker > e.touched || e.count > window {
				t.Fatalf("%s: producer %d is impossible: %+v, end %d", name, e.id, *e, s.end)
			}
			prev, last, n = at, order(e), n+1
		}
		if l.tail != prev || l.n != n {
			t.Fatalf("%s: tail %d, n %d; found %d, %d", name, l.tail, l.n, prev, n)
		}
	}
	walk("idle", s.table.idle, func(e *entry) record.Offset { return e.touched }, false)
	walk("open", s.table.open, func(e *entry) record.Offset { return e.openFrom }, true)
	if s.table.index != nil && len(s.table.index) != s.Len() {
		t.Fatalf("index of %d, %d producers", len(s.table.index), s.Len())
	}
	for at := s.table.free; at != noSlot; at = s.table.links.at(at).next {
		if seen[at] {
			t.Fatalf("free slot %d is in use or free twice", at)
		}
		seen[at] = true
	}
	if len(seen) != s.table.entries.n || s.table.entries.n != s.table.links.n {
		t.Fatalf("%d slots found, %d entries, %d links", len(seen), s.table.entries.n, s.table.links.n)
	}
	n, last, stable := 0, record.NoOffset, record.NoOffset
	for _, chunk := range s.aborted.chunks {
		if len(chunk) == 0 {
			t.Fatal("an empty chunk of aborted transactions")
		}
		for _, a := range chunk {
			if a.First < 0 || a.First >= a.Last || a.Last <= last || a.Last < s.logStart || a.Last >= s.end || a.First < stable || a.LastStable < stable {
				t.Fatalf("aborted transaction is impossible: %+v after %d, log start %d", a, last, s.logStart)
			}
			n, last, stable = n+1, a.Last, a.LastStable
		}
	}
	if first := s.firstUnstable(s.end); first < stable {
		t.Fatalf("open from %d, below the stable offset %d", first, stable)
	}
	if n != s.aborted.n {
		t.Fatalf("%d aborted transactions counted, %d found", s.aborted.n, n)
	}
}
