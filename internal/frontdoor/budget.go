package frontdoor

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Pool bounds what the requests of all doors hold together, in bytes or in whatever is counted. Its methods may be
// called from many goroutines.
type Pool struct {
	limit int64
	// of is the memory that it is a kind of, nil for a pool of its own.
	of         *Memory
	kind       string
	guaranteed int64
	yields     bool

	// mu guards what follows. It is the memory's, where there is one.
	mu             *sync.Mutex
	used           int64
	waits, refused uint64
	// room is closed when something is given back; nil while nobody waits.
	room chan struct{}
	// growing and beginning are claims that wait, the longest first; passing is the one that may hold more than there is.
	growing, beginning []*claiming
	passing            *Claim
}

// NewPool makes a pool of so much.
func NewPool(limit int64) *Pool { return &Pool{limit: limit, mu: new(sync.Mutex)} }

// Limit is how much there is.
func (p *Pool) Limit() int64 { return p.limit }

// Budget is one door's view of a Pool, with a gauge of its own.
type Budget struct {
	*Pool
	gauge prometheus.Gauge
}

// Share gives a door its view; the gauge may be nil.
func (p *Pool) Share(gauge prometheus.Gauge) *Budget { return &Budget{p, gauge} }

// TryAdd takes n if they fit; what is larger than the whole pool fits when nothing else is held.
func (b *Budget) TryAdd(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fitsLocked(n) {
		b.refused++
		return false
	}
	b.addLocked(n)
	return true
}

// Add takes n whether or not they fit; n below 0 gives them back.
func (b *Budget) Add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLocked(n)
}

func (b *Budget) addLocked(n int64) {
	b.used += n
	if b.gauge != nil {
		b.gauge.Add(float64(n))
	}
	if n < 0 {
		b.givenLocked()
	}
}

// Take takes at least least bytes and at most most, waiting for them until ctx ends; then it gives 0. waits, where not
// nil, is called once if it has to wait.
func (b *Budget) Take(ctx context.Context, least, most int64, waits func()) int64 {
	for {
		b.mu.Lock()
		if free := b.freeLocked(); free >= least || b.used <= 0 {
			n := max(least, min(most, free))
			b.addLocked(n)
			b.mu.Unlock()
			return n
		}
		if ctx.Err() != nil {
			b.mu.Unlock()
			return 0
		}
		if waits != nil {
			b.waits++
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

// Connections closes connections of clients above a number, over all doors.
type Connections struct {
	limit int64
	n     atomic.Int64
}

// NewConnections allows so many.
func NewConnections(limit int) *Connections { return &Connections{limit: int64(limit)} }

// Limited wraps a door's listener; open and refused are that door's metrics.
func (c *Connections) Limited(l net.Listener, open prometheus.Gauge, refused prometheus.Counter) net.Listener {
	return &limitedListener{Listener: l, limit: c, open: open, refused: refused}
}

type limitedListener struct {
	net.Listener
	limit   *Connections
	open    prometheus.Gauge
	refused prometheus.Counter
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
			l.refused.Inc()
			_ = conn.Close() // refused; nothing was said on it
			continue
		}
		l.open.Inc()
		return &limitedConn{Conn: conn, of: l}, nil
	}
}

type limitedConn struct {
	net.Conn
	of     *limitedListener
	closed atomic.Bool
}

// Close closes the connection and counts it out, once.
func (c *limitedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.of.limit.n.Add(-1)
		c.of.open.Dec()
	}
	return c.Conn.Close()
}

// WriteBuffers writes buffers as one, with one system call where the connection can.
func (c *limitedConn) WriteBuffers(v *net.Buffers) error {
	if w, ok := c.Conn.(interface{ WriteBuffers(*net.Buffers) error }); ok {
		return w.WriteBuffers(v)
	}
	_, err := v.WriteTo(c.Conn)
	return err
}

// NetConn gives the connection within.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

// Limits are what all clients together may hold; zero fields mean the defaults.
type Limits struct {
	// Memory is what all kinds of buffers of the broker share; nil: one that has room for all.
	Memory *Memory
	// ProduceBytes are requests to produce that are being read or wait for their commit. Default 128 MiB.
	ProduceBytes int64
	// FetchBytes are fetch answers that are being read or on their way to clients. Default 128 MiB.
	FetchBytes int64
	// FetchPartitions are those that fetches under way name, those that wait for data included. Default 200,000.
	FetchPartitions int64
	// Connections are open ones. Default 10,000.
	Connections int
}

// Shared is what all doors share.
type Shared struct {
	// Producing, Fetching and Receiving count bytes, Asking counts partitions. Receiving is what gRPC has of requests
	// that are not complete, or not answered.
	Producing, Fetching, Receiving, Asking *Pool
	Connections                            *Connections
}

// NewShared makes what is shared. Producers and consumers are guaranteed a quarter of the memory each, requests that are being
// received a thirty-second.
func NewShared(l Limits) *Shared {
	produce, fetch := cmp.Or(l.ProduceBytes, 128<<20), cmp.Or(l.FetchBytes, 128<<20)
	if l.Memory == nil {
		l.Memory = NewMemory(produce + fetch)
	}
	part := l.Memory.limit / 4
	return &Shared{
		Producing:   l.Memory.Kind("produce", part, produce, false),
		Fetching:    l.Memory.Kind("fetch", part, fetch, false),
		Receiving:   l.Memory.Kind("requests", part/8, part, false),
		Asking:      NewPool(cmp.Or(l.FetchPartitions, 200_000)),
		Connections: NewConnections(cmp.Or(l.Connections, 10_000)),
	}
}
