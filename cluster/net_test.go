package cluster

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// memNet is a network in memory. Hosts that are cut off from each other lose their connections, and
// dialling hangs. All waiting is on channels, so that virtual time runs.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener // by address
	conns     map[*memConn]struct{}
	cut       map[[2]string]bool
	changed   chan struct{}
}

func newMemNet() *memNet {
	return &memNet{
		listeners: make(map[string]*memListener), conns: make(map[*memConn]struct{}),
		cut: make(map[[2]string]bool), changed: make(chan struct{}),
	}
}

func (n *memNet) listen(host, address string) *memListener {
	l := &memListener{net: n, host: host, address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.listeners[address] = l
	n.mu.Unlock()
	return l
}

func (n *memNet) dial(ctx context.Context, from, address string) (net.Conn, error) {
	for {
		n.mu.Lock()
		l, changed := n.listeners[address], n.changed
		blocked := l != nil && n.cut[[2]string{from, l.host}]
		n.mu.Unlock()
		if l == nil {
			return nil, syscall.ECONNREFUSED
		}
		if blocked {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		a, b := net.Pipe()
		here := &memConn{Conn: a, net: n, from: from, to: l.host}
		there := &memConn{Conn: b, net: n, from: l.host, to: from}
		select {
		case l.conns <- there:
			n.mu.Lock()
			n.conns[here], n.conns[there] = struct{}{}, struct{}{}
			n.mu.Unlock()
			return here, nil
		case <-l.closed:
			return nil, syscall.ECONNREFUSED
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type memConn struct {
	net.Conn
	net      *memNet
	from, to string
}

func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

type memListener struct {
	net           *memNet
	host, address string
	conns         chan net.Conn
	closed        chan struct{}
	once          sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		if l.net.listeners[l.address] == l {
			delete(l.net.listeners, l.address)
		}
		l.net.mu.Unlock()
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr(l.address) }

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }
