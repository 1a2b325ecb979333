package client

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// clock calls lanes when their time has come: one goroutine and one timer for all of a producer's
// lingers, backoffs, stalls and deadlines. An alarm only ever moves forward to an earlier time;
// a lane that is called too soon sets the next one itself. So in the steady state setting an alarm
// is one atomic load.
type clock struct {
	start time.Time
	wake  chan struct{} // capacity 1: an earlier alarm than any before

	mu    sync.Mutex // guards what follows
	queue alarms
}

type alarm struct {
	at   int64 // ns since start
	lane *lane
}

type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at < a[j].at }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = alarm{}
	*a = old[:len(old)-1]
	return last
}

func newClock() *clock { return &clock{start: time.Now(), wake: make(chan struct{}, 1)} }

// set makes sure that the lane's tick is called at a time, or before.
func (c *clock) set(l *lane, t time.Time) {
	at := max(int64(t.Sub(c.start)), 1)
	if now := l.alarm.Load(); now != 0 && now <= at {
		return
	}
	c.mu.Lock()
	if now := l.alarm.Load(); now != 0 && now <= at {
		c.mu.Unlock()
		return
	}
	l.alarm.Store(at)
	first := len(c.queue) == 0 || at < c.queue[0].at
	heap.Push(&c.queue, alarm{at, l})
	c.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// run calls ticks until ctx ends.
func (c *clock) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		due, next := c.due(int64(now.Sub(c.start)))
		for _, l := range due {
			l.tick(now)
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(time.Duration(next) - time.Since(c.start))
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

// due takes the lanes whose time has come, and says when the next one's comes.
func (c *clock) due(now int64) (lanes []*lane, next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && c.queue[0].at <= now {
		a := heap.Pop(&c.queue).(alarm)
		if a.lane.alarm.Load() == a.at { // else the lane was called earlier
			a.lane.alarm.Store(0)
			lanes = append(lanes, a.lane)
		}
	}
	if len(c.queue) == 0 {
		return lanes, now + int64(time.Hour)
	}
	return lanes, c.queue[0].at
}
