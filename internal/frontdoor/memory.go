package frontdoor

import (
	"context"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Memory is what a broker's buffers may hold, of all kinds together. Each kind is a Pool that is guaranteed a part of it and may have more
// while nobody else is guaranteed that. So no kind can starve another one, whatever holds what and waits for what: a
// batch that waits for its commit holds produce's, and what its commit needs is replication's, of which there is always some.
type Memory struct {
	limit int64
	// mu guards what follows, and all of its pools.
	mu    sync.Mutex
	pools []*Pool
}

// NewMemory makes a budget of so many bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Limit is how much there is.
func (m *Memory) Limit() int64 { return m.limit }

// Bounds says what bounds a pool, for messages: its own setting, and the memory that it is a kind of.
func (p *Pool) Bounds(setting string) string {
	text := fmt.Sprintf("%s, %d", setting, p.limit)
	if p.of != nil {
		text += fmt.Sprintf(", and limits.memory, %d with all other kinds of buffers", p.of.limit)
	}
	return text
}

// yieldPart is the part of the memory that a kind that yields leaves free for others when it takes more than it is guaranteed.
const yieldPart = 8

// Kind makes a pool that is guaranteed so much, in which nothing else counts, and has at most so much. What is guaranteed to all kinds must
// fit. One that yields takes more than that only while there is plenty. Those made first are served first.
func (m *Memory) Kind(kind string, guaranteed, most int64, yields bool) *Pool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &Pool{kind: kind, limit: most, mu: &m.mu, of: m, guaranteed: min(guaranteed, most), yields: yields}
	m.pools = append(m.pools, p)
	return p
}

// freeLocked is how much a pool may take now.
func (p *Pool) freeLocked() int64 {
	free := p.limit - p.used
	if p.of == nil {
		return free
	}
	common := p.of.limit
	for _, o := range p.of.pools {
		common -= max(o.used, o.guaranteed)
	}
	if p.yields {
		common -= p.of.limit / yieldPart
	}
	return min(free, max(0, p.guaranteed-p.used)+max(0, common))
}

// fitsLocked says whether a pool may take n now. What is larger than the pool fits when nothing else of it is held.
func (p *Pool) fitsLocked(n int64) bool { return n <= p.freeLocked() || p.used <= 0 }

// isWithinLocked says whether a pool holds no more than it may.
func (p *Pool) isWithinLocked() bool {
	switch {
	case p.used > p.limit:
		return false
	case p.of == nil || p.used <= p.guaranteed:
		return true
	}
	common := p.of.limit
	for _, o := range p.of.pools {
		common -= max(o.used, o.guaranteed)
	}
	return common >= 0
}

// givenLocked serves those who wait after something was given back.
func (p *Pool) givenLocked() {
	if p.of == nil {
		p.roomLocked()
		return
	}
	for _, o := range p.of.pools {
		o.roomLocked()
	}
}

func (p *Pool) roomLocked() {
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
	if p.isWithinLocked() {
		p.passing = nil
	}
	p.serveLocked()
}

// Acquire takes n, all that there can be if it is more, waiting for it in turn; false: one of the channels was closed before.
func (b *Budget) Acquire(n int64, stop, closed <-chan struct{}) bool {
	n = min(n, b.limit)
	b.mu.Lock()
	w := &claiming{c: &Claim{of: b}, more: n}
	if len(b.growing)+len(b.beginning) == 0 && b.grantLocked(w) {
		b.mu.Unlock()
		return true
	}
	b.waits++
	w.granted = make(chan struct{})
	b.beginning = append(b.beginning, w)
	b.serveLocked()
	b.mu.Unlock()
	select {
	case <-w.granted:
		return true
	case <-stop:
	case <-closed:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.forgetLocked(&b.beginning, w) {
		return false
	}
	b.addLocked(-n)
	return false
}

// TryAcquire takes n if they fit now.
func (b *Budget) TryAcquire(n int64) bool { return b.TryAdd(min(n, b.limit)) }

// Release gives back what Acquire or TryAcquire took.
func (b *Budget) Release(n int64) { b.Add(-min(n, b.limit)) }

// AcquireContext is Acquire until a context ends.
func (b *Budget) AcquireContext(ctx context.Context, n int64) error {
	if !b.Acquire(n, ctx.Done(), nil) {
		return ctx.Err()
	}
	return nil
}

// Describe tells nothing in advance.
func (m *Memory) Describe(chan<- *prometheus.Desc) {}

var (
	memoryLimit   = prometheus.NewDesc("brokerd_memory_limit_bytes", "What the broker's buffers may hold together, limits.memory.", nil, nil)
	memoryBytes   = prometheus.NewDesc("brokerd_memory_bytes", "What the broker's buffers hold, by kind.", []string{"kind"}, nil)
	memoryWaits   = prometheus.NewDesc("brokerd_memory_waits_total", "Times that a buffer had to wait for room, by kind.", []string{"kind"}, nil)
	memoryRefused = prometheus.NewDesc("brokerd_memory_refused_total", "Times that a buffer was refused for want of room, by kind.", []string{"kind"}, nil)
)

// Collect gives the metrics of the memory and its kinds.
func (m *Memory) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out <- prometheus.MustNewConstMetric(memoryLimit, prometheus.GaugeValue, float64(m.limit))
	for _, p := range m.pools {
		out <- prometheus.MustNewConstMetric(memoryBytes, prometheus.GaugeValue, float64(p.used), p.kind)
		out <- prometheus.MustNewConstMetric(memoryWaits, prometheus.CounterValue, float64(p.waits), p.kind)
		out <- prometheus.MustNewConstMetric(memoryRefused, prometheus.CounterValue, float64(p.refused), p.kind)
	}
}
