package client

import (
	"context"
	"sync"
	"sync/atomic"
)

// budget bounds the bytes of unresolved records. Taking is one atomic addition while there is room;
// those who wait are served in turn, so that a large record does not starve.
type budget struct {
	limit int64
	used  atomic.Int64
	// pressed is the number of waiters, read without the lock on the fast path.
	pressed atomic.Int32
	// onWait is called when somebody begins to wait, without the lock.
	onWait func()

	mu      sync.Mutex // guards what follows
	waiters []*budgetWaiter
	closed  bool
}

type budgetWaiter struct {
	n     int64
	ready chan bool // capacity 1; false: closed
}

// tryTake takes n bytes if there is room and nobody waits.
func (b *budget) tryTake(n int64) bool {
	if b.pressed.Load() > 0 {
		return false
	}
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// take takes n bytes, waiting for them until ctx ends. It reports whether it has them; n is at
// most the limit.
func (b *budget) take(ctx context.Context, n int64) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	w := &budgetWaiter{n: n, ready: make(chan bool, 1)}
	b.waiters = append(b.waiters, w)
	b.pressed.Add(1)
	b.serve()
	b.mu.Unlock()
	b.onWait()
	select {
	case ok := <-w.ready:
		return ok
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.waiters {
		if other == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.pressed.Add(-1)
			b.serve() // the next may be smaller
			return false
		}
	}
	return <-w.ready // served in the same moment
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.used.Add(-n)
	if b.pressed.Load() > 0 {
		b.mu.Lock()
		b.serve()
		b.mu.Unlock()
	}
}

// serve hands out what is free, first come first served. Needs mu.
func (b *budget) serve() {
	for len(b.waiters) > 0 {
		w := b.waiters[0]
		if b.used.Add(w.n) > b.limit {
			b.used.Add(-w.n)
			return
		}
		b.waiters = b.waiters[1:]
		b.pressed.Add(-1)
		w.ready <- true
	}
}

// close turns all waiters away.
func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, w := range b.waiters {
		w.ready <- false
		b.pressed.Add(-1)
	}
	b.waiters = nil
}
