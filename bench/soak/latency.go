package main

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	shortest = 10 * time.Microsecond
	// perDouble is how many classes a doubling has: a figure is at most 4.5 % too high.
	perDouble = 16
	classes   = 24 * perDouble // to 168 s
)

// latencies counts times in classes, so that an hour's worth of them takes no memory.
type latencies struct{ counts [classes]atomic.Int64 }

func (l *latencies) add(d time.Duration) {
	class := 0
	if d > shortest {
		class = int(math.Ceil(perDouble * math.Log2(float64(d)/float64(shortest))))
	}
	l.counts[min(class, classes-1)].Add(1)
}

// counted are the times that were counted up to now.
type counted [classes]int64

func (l *latencies) now() *counted {
	var c counted
	for i := range c {
		c[i] = l.counts[i].Load()
	}
	return &c
}

// since gives a quantile of what came after an earlier count, in ms; 0: nothing did.
func (c *counted) since(earlier *counted, q float64) float64 {
	all := int64(0)
	for i := range c {
		all += c[i] - earlier[i]
	}
	left := all - int64(math.Ceil(q*float64(all)))
	for i := classes - 1; i >= 0 && all > 0; i-- {
		if left -= c[i] - earlier[i]; left < 0 {
			return shortest.Seconds() * 1e3 * math.Exp2(float64(i)/perDouble)
		}
	}
	return 0
}
