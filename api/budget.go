package api

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// budget counts bytes that many requests hold together.
type budget struct {
	limit int64
	gauge prometheus.Gauge

	// mu guards what follows.
	mu   sync.Mutex
	used int64
	// room is closed when bytes are given back; nil while nobody waits.
	room chan struct{}
}

func newBudget(limit int64, gauge prometheus.Gauge) *budget {
	return &budget{limit: limit, gauge: gauge}
}

// tryAdd takes n bytes if they fit; what is larger than the whole budget fits when nothing else is held.
func (b *budget) tryAdd(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit && b.used > 0 {
		return false
	}
	b.used += n
	b.gauge.Set(float64(b.used))
	return true
}

// add takes n bytes whether or not they fit; n below 0 gives them back.
func (b *budget) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	b.gauge.Set(float64(b.used))
	if b.room != nil && n < 0 {
		close(b.room)
		b.room = nil
	}
}

// take takes at least least bytes and at most most, waiting for them until ctx ends; then it gives 0. waits, where not
// nil, is called once if it has to wait.
func (b *budget) take(ctx context.Context, least, most int64, waits func()) int64 {
	for {
		b.mu.Lock()
		if free := b.limit - b.used; free >= least || b.used <= 0 {
			n := max(least, min(most, free))
			b.used += n
			b.gauge.Set(float64(b.used))
			b.mu.Unlock()
			return n
		}
		if ctx.Err() != nil {
			b.mu.Unlock()
			return 0
		}
		if waits != nil {
			waits()
			waits = nil
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done(): // one more look
		}
	}
}

// connectionLimit closes connections above a number.
type connectionLimit struct {
	limit   int64
	n       atomic.Int64
	open    prometheus.Gauge
	refused prometheus.Counter
}

// limited wraps a listener.
func (c *connectionLimit) limited(l net.Listener) net.Listener {
	return &limitedListener{Listener: l, limit: c}
}

type limitedListener struct {
	net.Listener
	limit *connectionLimit
}

// Accept gives the next connection within the limit.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.limit.n.Add(1) > l.limit.limit {
			l.limit.n.Add(-1)
			l.limit.refused.Inc()
			_ = conn.Close() // refused; nothing was said on it
			continue
		}
		l.limit.open.Inc()
		return &limitedConn{Conn: conn, limit: l.limit}, nil
	}
}

type limitedConn struct {
	net.Conn
	limit  *connectionLimit
	closed atomic.Bool
}

// Close closes the connection and counts it out, once.
func (c *limitedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.limit.n.Add(-1)
		c.limit.open.Dec()
	}
	return c.Conn.Close()
}
