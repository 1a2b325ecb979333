package main

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets that are 1/64 of their power of two wide, as HDR histograms
// do: an error below 1.6% from 1 ns to 500 years, in 30 KiB. It may be used by many goroutines.
type histogram struct {
	counts [buckets]atomic.Int64
	n      atomic.Int64
	sum    atomic.Int64
	max    atomic.Int64
}

const (
	subBits = 6
	buckets = (64 - subBits) << subBits
)

func bucketOf(v int64) int {
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(uint64(v)) - subBits - 1
	return shift<<subBits + int(v>>shift)
}

// upper is the largest value of a bucket.
func upper(bucket int) int64 {
	if bucket < 2<<subBits {
		return int64(bucket)
	}
	shift := bucket>>subBits - 1
	return int64(bucket&(1<<subBits-1)+1<<subBits+1)<<shift - 1
}

// add counts one duration; negative ones count as 0.
func (h *histogram) add(d time.Duration) {
	v := max(int64(d), 0)
	h.counts[bucketOf(v)].Add(1)
	h.n.Add(1)
	h.sum.Add(v)
	for {
		old := h.max.Load()
		if v <= old || h.max.CompareAndSwap(old, v) {
			return
		}
	}
}

// quantile is a value that the share q of all lies at or below; 0 without any.
func (h *histogram) quantile(q float64) time.Duration {
	n := h.n.Load()
	if n == 0 {
		return 0
	}
	rank := max(int64(q*float64(n)+0.5), 1)
	seen := int64(0)
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return time.Duration(min(upper(i), h.max.Load()))
		}
	}
	return time.Duration(h.max.Load())
}

func (h *histogram) mean() time.Duration {
	if n := h.n.Load(); n > 0 {
		return time.Duration(h.sum.Load() / n)
	}
	return 0
}

// latencyJSON is a histogram as -o json shows it, in microseconds.
type latencyJSON struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

func (h *histogram) json() latencyJSON {
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()/10) / 100 }
	return latencyJSON{
		Count: h.n.Load(), Mean: us(h.mean()), P50: us(h.quantile(0.5)), P90: us(h.quantile(0.9)), P99: us(h.quantile(0.99)),
		P999: us(h.quantile(0.999)), Max: us(time.Duration(h.max.Load())),
	}
}

// String is the usual line of percentiles.
func (h *histogram) String() string {
	return fmt.Sprintf("mean %v  p50 %v  p90 %v  p99 %v  p99.9 %v  max %v", brief(h.mean()), brief(h.quantile(0.5)), brief(h.quantile(0.9)),
		brief(h.quantile(0.99)), brief(h.quantile(0.999)), brief(time.Duration(h.max.Load())))
}

// brief rounds a duration to three digits or so.
func brief(d time.Duration) time.Duration {
	for unit := time.Duration(10); ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit / 10)
		}
	}
}
