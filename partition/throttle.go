package partition

import (
	"context"
	"sync"
	"time"
)

// throttle lets bytes pass at a rate, for all who share it, in turn. What was let pass in one piece is paid for by the time
// that the next must wait.
type throttle struct {
	perSecond int64

	// mu guards free, when the next may pass.
	mu   sync.Mutex
	free time.Time
}

// wait waits until it is n bytes' turn, or ctx ends: then they do not pass, and those that come later need not wait for them.
func (t *throttle) wait(ctx context.Context, n int64) error {
	if t.perSecond <= 0 || n <= 0 {
		return ctx.Err()
	}
	t.mu.Lock()
	now := time.Now()
	at := t.free
	if at.Before(now) {
		at = now // what was not used is not saved up
	}
	takes := time.Duration(float64(n) / float64(t.perSecond) * float64(time.Second))
	t.free = at.Add(takes)
	t.mu.Unlock()
	if at.Equal(now) {
		return ctx.Err()
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		t.free = t.free.Add(-takes)
		t.mu.Unlock()
		return ctx.Err()
	}
}
