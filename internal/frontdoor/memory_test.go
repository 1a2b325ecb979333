package frontdoor

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A kind takes what others are not guaranteed, and no more; the one that yields leaves some of that, too.
func TestKindsAreGuaranteedTheirPart(t *testing.T) {
	m := NewMemory(800)
	produce := m.Kind("produce", 200, 500, false).Share(nil)
	fetch := m.Kind("fetch", 200, 500, false).Share(nil)
	late := m.Kind("catch_up", 50, 300, true).Share(nil)
	if !produce.TryAdd(500) || produce.TryAdd(1) {
		t.Error("produce has at most 500, of which others are guaranteed nothing")
	}
	if !fetch.TryAdd(250) || fetch.TryAdd(1) {
		t.Error("250 are left for fetch: 800 without the 500 of produce and 50 that catch-up is guaranteed")
	}
	if !late.TryAdd(50) || late.TryAdd(1) {
		t.Error("catch-up has what it is guaranteed")
	}
	produce.Add(-500) // 800 - 200 - 250 - 50 = 300 for all; catch-up leaves 100 of them
	if late.TryAdd(201) || !late.TryAdd(200) {
		t.Error("catch-up takes 200 more, and leaves an eighth of all free")
	}
	if !fetch.TryAdd(100) || fetch.TryAdd(1) || !produce.TryAdd(200) || produce.TryAdd(1) {
		t.Error("what catch-up left is there for fetch, and what produce is guaranteed for produce")
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m)
	if families, err := reg.Gather(); err != nil || len(families) != 4 {
		t.Errorf("%d families of metrics, %v", len(families), err)
	}
}

// What one kind gives back serves another one that waits.
func TestKindsWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(100)
		a, b := m.Kind("a", 10, 100, false).Share(nil), m.Kind("b", 10, 100, false).Share(nil)
		if !a.Acquire(90, nil, nil) || !b.Acquire(5, nil, nil) {
			t.Fatal("90 and 5 of 100 were not there")
		}
		first, second := make(chan bool, 1), make(chan bool, 1)
		go func() { first <- b.Acquire(50, nil, nil) }()
		synctest.Wait()
		stop := make(chan struct{})
		go func() { second <- b.Acquire(5, stop, nil) }()
		synctest.Wait()
		close(stop)
		if <-second {
			t.Error("one who came later and waits no longer was served before the first")
		}
		a.Release(60)
		if !<-first {
			t.Error("one who waits got nothing of what was given back")
		}
		b.Release(55)
		if !b.Acquire(1000, nil, nil) { // more than there can be: all that there can be, when it holds nothing
			t.Error("a large one got nothing")
		}
		b.Release(1000)
		a.Release(30)
		if a.used != 0 || b.used != 0 {
			t.Errorf("%d and %d are held in the end", a.used, b.used)
		}
	})
}

// Whatever asks for how much and in which order: everyone is served in the end, the memory is passed by one large request of each kind at
// most, and what one kind holds while it waits for another one stops nobody. The seed is printed.
func TestMemoryServesAll(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const limit, largest = 1 << 20, 200 << 10
	m := NewMemory(limit)
	replication := m.Kind("replication", limit/8, limit/4, false).Share(nil)
	produce := m.Kind("produce", limit/4, limit/2, false).Share(nil)
	fetch := m.Kind("fetch", limit/4, limit/2, false).Share(nil)
	late := m.Kind("catch_up", limit/32, limit/8, true).Share(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range uint64(32) {
		r := rand.New(rand.NewPCG(seed, i))
		all.Go(func() {
			for range 100 {
				n := 1 + r.Int64N(largest)
				switch i % 4 {
				case 0, 1: // A request that is read in two steps, and whose commit needs replication.
					c := produce.Claim()
					ok := c.Grow(ctx, n/2, time.Minute, func() {}) && c.Grow(ctx, n, time.Minute, func() {}) && replication.Acquire(n, ctx.Done(), nil)
					if ok {
						replication.Release(n)
					}
					c.Release()
				case 2:
					fetch.Add(-fetch.Take(ctx, min(n, limit/8), n, nil))
				case 3:
					if late.AcquireContext(ctx, n) == nil {
						late.Release(n)
					}
				}
				if ctx.Err() != nil {
					t.Error("not everyone was served")
					return
				}
				m.mu.Lock()
				var held int64
				for _, p := range m.pools {
					if held += p.used; p.used < 0 {
						t.Errorf("%s holds %d", p.kind, p.used)
					}
				}
				m.mu.Unlock()
				if held > limit+4*largest {
					t.Errorf("%d are held, of %d", held, limit)
				}
			}
		})
	}
	all.Wait()
	for _, p := range m.pools {
		if p.used != 0 || len(p.growing)+len(p.beginning) > 0 || p.passing != nil {
			t.Errorf("%s: %d held, %d wait, passing: %t", p.kind, p.used, len(p.growing)+len(p.beginning), p.passing != nil)
		}
	}
}
