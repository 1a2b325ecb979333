package frontdoor

import (
	"context"
	"slices"
	"time"
)

// Claim is what one request has of a pool, and takes more of while it is being read. Requests that each hold a part and wait
// for the rest would wait for each other for ever; therefore
//
//   - what has begun goes first: no claim begins while another one waits to grow;
//   - one at a time may pass the limit to grow, the one that has waited longest. It counts as passing until it has given
//     everything back, or the pool is within its limit again. So the pool is passed by one request at most.
//
// A Claim is for one goroutine at a time, but for Shrink and Held, which any may call meanwhile; the zero Claim holds nothing of nothing.
type Claim struct {
	of   *Budget
	held int64
}

// claiming is a claim that waits for more.
type claiming struct {
	c       *Claim
	more    int64
	granted chan struct{}
}

// Claim begins a claim, which holds nothing yet.
func (b *Budget) Claim() Claim { return Claim{of: b} }

// Held is what the claim holds.
func (c *Claim) Held() int64 {
	if c.of == nil {
		return 0
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	return c.held
}

// Grow has the claim hold that much, waiting for room until ctx ends or patience is over; then it holds what it held, and the
// answer is false. waits is called once if it has to wait.
func (c *Claim) Grow(ctx context.Context, to int64, patience time.Duration, waits func()) bool {
	if to <= c.held {
		return true
	}
	return c.Add(ctx, to-c.held, patience, waits)
}

// Add is Grow by n.
func (c *Claim) Add(ctx context.Context, n int64, patience time.Duration, waits func()) bool {
	p := c.of.Pool
	w := &claiming{c: c, more: n}
	p.mu.Lock()
	if len(p.growing)+len(p.beginning) == 0 && p.grantLocked(w) {
		p.mu.Unlock()
		return true
	}
	p.waits++
	w.granted = make(chan struct{})
	list := &p.beginning
	if c.held > 0 {
		list = &p.growing
	}
	*list = append(*list, w)
	p.serveLocked()
	p.mu.Unlock()
	select {
	case <-w.granted:
		return true
	default:
	}
	waits()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.granted:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.forgetLocked(list, w) // else it was granted meanwhile
}

// forgetLocked ends the wait of a claim; false: it was served before.
func (p *Pool) forgetLocked(list *[]*claiming, w *claiming) bool {
	i := slices.Index(*list, w)
	if i < 0 {
		return false
	}
	*list = slices.Delete(*list, i, i+1)
	p.serveLocked()
	return true
}

// Release gives everything back.
func (c *Claim) Release() {
	c.Shrink(c.held)
}

// Shrink gives n back of what is held.
func (c *Claim) Shrink(n int64) {
	if n == 0 {
		return
	}
	p := c.of.Pool
	p.mu.Lock()
	defer p.mu.Unlock()
	c.held -= n
	if c.held == 0 && p.passing == c {
		p.passing = nil
	}
	c.of.addLocked(-n)
}

// grantLocked gives a claim what it wants, if there is room or it may pass.
func (p *Pool) grantLocked(w *claiming) bool {
	fits := p.fitsLocked(w.more)
	mayPass := w.c.held > 0 || w.more > p.limit
	switch {
	case fits || p.passing == w.c:
	case mayPass && p.passing == nil:
		p.passing = w.c
	default:
		return false
	}
	w.c.held += w.more
	w.c.of.addLocked(w.more)
	return true
}

// serveLocked serves the claims that wait, those that grow first, in the order in which they came.
func (p *Pool) serveLocked() {
	p.growing = slices.DeleteFunc(p.growing, p.servedLocked)
	for len(p.growing) == 0 && len(p.beginning) > 0 && p.servedLocked(p.beginning[0]) {
		p.beginning = slices.Delete(p.beginning, 0, 1)
	}
}

func (p *Pool) servedLocked(w *claiming) bool {
	if !p.grantLocked(w) {
		return false
	}
	close(w.granted)
	return true
}
