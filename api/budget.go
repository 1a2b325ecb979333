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
	// room is closed when used falls below limit; nil while nobody waits.
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
	if b.room != nil && b.used < b.limit {
		close(b.room)
		b.room = nil
	}
}

// hasRoom says that less than the limit is held.
func (b *budget) hasRoom() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used < b.limit
}

// wait returns once less than the limit is held: true. When ctx ends before: false.
func (b *budget) wait(ctx context.Context) bool {
	for {
		b.mu.Lock()
		if b.used < b.limit {
			b.mu.Unlock()
			return true
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return false
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
