package partition

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Together those who share a throttle get its rate, whoever they are; a pause is not made up for by a burst.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &throttle{perSecond: 1000}
		began := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 25 {
					if err := th.wait(t.Context(), 100); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != 9900*time.Millisecond {
			t.Errorf("10,000 bytes at 1,000 a second took %s", took)
		}
		<-time.After(time.Minute)
		began = time.Now()
		for range 11 {
			_ = th.wait(t.Context(), 100) // the test's context does not end
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("after a pause 1,100 bytes took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := th.wait(ctx, 100); err == nil {
			t.Error("it waited for a context that has ended")
		}
		<-time.After(time.Minute)
		began = time.Now()
		_ = th.wait(t.Context(), 1000)
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := th.wait(ctx, 100_000); err == nil {
			t.Error("it let pass what its turn was not")
		}
		if err := th.wait(t.Context(), 100); err != nil || time.Since(began) != time.Second {
			t.Errorf("who gave up is waited for: %s, %v", time.Since(began), err)
		}
	})
}
