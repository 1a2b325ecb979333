package heapfloor

import "testing"

func TestRestAfterLoad(t *testing.T) {
	var r rest
	for i, step := range []struct {
		mib  uint64 // allocated since the look before
		give bool
	}{
		{30, false},                 // a start
		{1000, false}, {100, false}, // load
		{20, true},                          // the first calm interval
		{3, false}, {30, false}, {40, true}, // little comes: it gathers
		{24, false}, {40, true}, {41, false},
	} {
		if got := r.look(r.seen + step.mib<<20); got != step.give {
			t.Fatalf("step %d, after %d MiB: gives back: %v", i, step.mib, got)
		}
	}
}
