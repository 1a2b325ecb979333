package frontdoor

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func newClaims(limit int64) *Budget {
	return NewPool(limit).Share(prometheus.NewGauge(prometheus.GaugeOpts{Name: "a"}))
}

func isGranted(granted chan bool) bool {
	select {
	case <-granted:
		return true
	default:
		return false
	}
}

// Claims that each hold a part and wait for the rest: one passes, the longest waiting first, and none begins meanwhile.
func TestAClaimPasses(t *testing.T) {
	b := newClaims(100)
	claims := []Claim{b.Claim(), b.Claim(), b.Claim()}
	for i := range 2 {
		if !claims[i].Grow(t.Context(), 50, 0, nil) {
			t.Fatal("there is room")
		}
	}
	if !claims[0].Grow(t.Context(), 80, 0, nil) || b.used != 130 {
		t.Fatalf("nobody passes; %d are held", b.used)
	}
	if !claims[0].Grow(t.Context(), 90, 0, nil) {
		t.Fatal("the one that passes is held up")
	}
	var held sync.WaitGroup
	second, third := make(chan bool, 1), make(chan bool, 1)
	held.Add(2)
	go func() { second <- claims[1].Grow(t.Context(), 60, time.Minute, held.Done) }()
	go func() { third <- claims[2].Grow(t.Context(), 10, time.Minute, held.Done) }()
	held.Wait()
	if isGranted(second) || isGranted(third) {
		t.Fatal("two pass")
	}
	claims[0].Release()
	if !<-second || !<-third || b.used != 70 || claims[1].Held() != 60 {
		t.Errorf("%d are held", b.used)
	}
	claims[1].Release()
	claims[2].Release()
	claims[2].Release()
	if b.used != 0 {
		t.Errorf("%d are held by nobody", b.used)
	}
}

// A claim that has waited too long holds what it held, and those behind it go on.
func TestAClaimIsGivenUp(t *testing.T) {
	b := newClaims(100)
	passes, gives, begins := b.Claim(), b.Claim(), b.Claim()
	passes.Grow(t.Context(), 10, 0, nil)
	gives.Grow(t.Context(), 10, 0, nil)
	passes.Grow(t.Context(), 95, 0, nil)
	waits := 0
	if gives.Grow(t.Context(), 50, time.Millisecond, func() { waits++ }) || gives.Held() != 10 || waits != 1 {
		t.Errorf("it holds %d after %d waits", gives.Held(), waits)
	}
	begun, waiting := make(chan bool, 1), make(chan struct{})
	go func() { begun <- begins.Grow(t.Context(), 5, time.Minute, func() { close(waiting) }) }()
	<-waiting
	gives.Release()
	if !<-begun || b.used != 100 {
		t.Errorf("%d are held", b.used)
	}
}

// What is larger than the whole pool passes, too, but not two at once.
func TestClaimsLargerThanThePool(t *testing.T) {
	b := newClaims(100)
	some, large, larger := b.Claim(), b.Claim(), b.Claim()
	if !some.Grow(t.Context(), 1, 0, nil) || !large.Grow(t.Context(), 150, 0, nil) {
		t.Fatal("it does not pass")
	}
	if larger.Grow(t.Context(), 200, time.Millisecond, func() {}) {
		t.Fatal("two pass")
	}
	large.Release()
	if !larger.Grow(t.Context(), 200, 0, nil) {
		t.Fatal("it does not pass")
	}
}

// Whatever claims there are, none waits for ever, and the pool is passed by one at most.
func TestClaimsEnd(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const limit, largest = 1000, 900
	b := newClaims(limit)
	var all sync.WaitGroup
	for worker := range 16 {
		rnd := rand.New(rand.NewPCG(seed, uint64(worker)))
		all.Go(func() {
			for range 200 {
				c := b.Claim()
				for to, size := int64(1+rnd.IntN(100)), 1+rnd.Int64N(largest); ; to = min(4*to, size) {
					if !c.Grow(t.Context(), min(to, size), time.Minute, func() {}) {
						t.Error("a claim waits for ever")
						return
					}
					if to >= size {
						break
					}
				}
				b.mu.Lock()
				if b.used > limit+largest {
					t.Errorf("%d of %d are held", b.used, limit)
				}
				b.mu.Unlock()
				c.Release()
			}
		})
	}
	all.Wait()
	if b.used != 0 || b.passing != nil || len(b.growing)+len(b.beginning) > 0 {
		t.Errorf("%d are held by nobody", b.used)
	}
}
