// Package memnet is a network in memory, for tests: whole clusters of hosts whose links a test can cut,
// delay and break.
//
// All waiting is on channels and timers, so that it runs on virtual time (testing/synctest).
package memnet

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Network connects named hosts. Addresses are "host:port". Every link can be cut in one direction or
// both, delayed, or reset, while connections are open. Its methods may be called from many goroutines.
type Network struct {
	// mu guards all that follows, and is never held while blocking.
	mu        sync.Mutex
	listeners map[string]*listener
	conns     map[*conn]struct{}
	cut       map[link]bool
	frozen    map[string]bool
	delay     map[link]time.Duration
	// latency and jitter hold for all links; chance decides about the second. See SetLatency.
	latency, jitter time.Duration
	chance          *rand.Rand
	// changed is closed and replaced whenever a link's state changes: for those who dial. Pipes are woken.
	changed chan struct{}
	port    int
}

// link is one direction between two hosts.
type link struct{ from, to string }

// connBuffer bounds the bytes in flight in one direction of a connection, as a socket's buffers do.
const connBuffer = 256 << 10

// New makes a network without hosts; a host exists once it listens or dials.
func New() *Network {
	return &Network{
		listeners: make(map[string]*listener),
		conns:     make(map[*conn]struct{}),
		cut:       make(map[link]bool),
		frozen:    make(map[string]bool),
		delay:     make(map[link]time.Duration),
		changed:   make(chan struct{}),
		port:      20000,
	}
}

// Listen opens addr, "host:port"; port 0 takes a free one.
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if port == "0" {
		n.port++
		addr = fmt.Sprintf("%s:%d", host, n.port)
	}
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
	}
	l := &listener{net: n, addr: addr, backlog: make(chan *conn, 128), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects host from to addr. A cut link lets it hang until ctx ends; nobody listening
// refuses it.
func (n *Network) Dial(ctx context.Context, from, addr string) (net.Conn, error) {
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for {
		n.mu.Lock()
		open := n.openLocked(link{from, to}) && n.openLocked(link{to, from})
		l, changed := n.listeners[addr], n.changed
		if open {
			if l == nil {
				n.mu.Unlock()
				return nil, &net.OpError{Op: "dial", Net: "mem", Addr: address(addr), Err: syscall.ECONNREFUSED}
			}
			c := n.connectLocked(from, to, addr)
			n.mu.Unlock()
			select {
			case l.backlog <- c.peer:
				return c, nil
			case <-l.closed:
				c.reset()
				return nil, &net.OpError{Op: "dial", Net: "mem", Addr: address(addr), Err: syscall.ECONNREFUSED}
			case <-ctx.Done():
				c.reset()
				return nil, ctx.Err()
			}
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (n *Network) connectLocked(from, to, addr string) *conn {
	n.port++
	local := address(fmt.Sprintf("%s:%d", from, n.port))
	there, back := newPipe(n, link{from, to}), newPipe(n, link{to, from})
	a := &conn{net: n, in: back, out: there, local: local, remote: address(addr)}
	b := &conn{net: n, in: there, out: back, local: address(addr), remote: local}
	a.peer, b.peer = b, a
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	return a
}

func (n *Network) openLocked(l link) bool {
	return !n.cut[l] && !n.frozen[l.from] && !n.frozen[l.to]
}

// Cut stops what from sends to to; what is on the way stays there. Connections hang, they do not
// break.
func (n *Network) Cut(from, to string) { n.set(func() { n.cut[link{from, to}] = true }) }

// Heal undoes Cut.
func (n *Network) Heal(from, to string) { n.set(func() { delete(n.cut, link{from, to}) }) }

// Isolate cuts host off from the others, both ways.
func (n *Network) Isolate(host string, others ...string) {
	for _, o := range others {
		n.Cut(host, o)
		n.Cut(o, host)
	}
}

// HealAll undoes every cut, freeze and delay. The latency of the network stays.
func (n *Network) HealAll() {
	n.set(func() {
		clear(n.cut)
		clear(n.frozen)
		clear(n.delay)
	})
}

// Freeze stops all traffic of a host, as SIGSTOP does; Thaw lets it go on.
func (n *Network) Freeze(host string) { n.set(func() { n.frozen[host] = true }) }

// Thaw undoes Freeze.
func (n *Network) Thaw(host string) { n.set(func() { delete(n.frozen, host) }) }

// Delay makes every byte from one host to another late by d.
func (n *Network) Delay(from, to string, d time.Duration) {
	n.set(func() { n.delay[link{from, to}] = d })
}

// SetLatency makes all that is sent from now on late by a time from least to most, decided by the
// seed for each write. Delay comes on top. Nothing overtakes within a connection.
func (n *Network) SetLatency(least, most time.Duration, seed uint64) {
	n.set(func() {
		n.latency, n.jitter = least, most-least
		n.chance = rand.New(rand.NewPCG(seed, 0x6e6574))
	})
}

// ResetConns breaks the open connections between two hosts, as a rebooting router does; what was
// on the way is lost.
func (n *Network) ResetConns(a, b string) {
	n.resetWhere(func(x, y string) bool { return x == a && y == b || x == b && y == a })
}

// Drop breaks all connections of a host and closes its listeners, as its death does.
func (n *Network) Drop(host string) {
	n.resetWhere(func(x, y string) bool { return x == host || y == host })
	n.mu.Lock()
	var gone []*listener
	for addr, l := range n.listeners {
		if strings.HasPrefix(addr, host+":") {
			gone = append(gone, l)
		}
	}
	n.mu.Unlock()
	for _, l := range gone {
		_ = l.Close()
	}
}

func (n *Network) resetWhere(match func(from, to string) bool) {
	n.mu.Lock()
	var list []*conn
	for c := range n.conns {
		if match(c.out.link.from, c.out.link.to) {
			list = append(list, c)
		}
	}
	n.mu.Unlock()
	for _, c := range list {
		c.reset()
	}
}

func (n *Network) set(change func()) {
	n.mu.Lock()
	change()
	close(n.changed)
	n.changed = make(chan struct{})
	for c := range n.conns {
		for _, p := range []*pipe{c.in, c.out} {
			p.readers.wake()
			p.writers.wake()
		}
	}
	n.mu.Unlock()
}

// open tells whether a link carries bytes now. Who has waited for it at a pipe is woken when that changes.
func (n *Network) open(l link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.openLocked(l)
}

// lateness is how late what is sent now arrives; answers: something comes back on the way now.
func (n *Network) lateness(l link) (late time.Duration, answers bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	late = n.delay[l] + n.latency
	if n.jitter > 0 {
		late += time.Duration(n.chance.Int64N(int64(n.jitter) + 1))
	}
	return late, n.openLocked(l) && n.openLocked(link{l.to, l.from})
}

type address string

func (a address) Network() string { return "mem" }
func (a address) String() string  { return string(a) }

type listener struct {
	net     *Network
	addr    string
	backlog chan *conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		if l.net.listeners[l.addr] == l {
			delete(l.net.listeners, l.addr)
		}
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				c.reset()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

// conn is one end of a connection.
type conn struct {
	net           *Network
	peer          *conn
	in, out       *pipe
	local, remote net.Addr
}

func (c *conn) Read(p []byte) (int, error)         { return c.in.read(p) }
func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.remote }
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.readers.setDeadline(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.writers.setDeadline(t); return nil }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.readers.setDeadline(t)
	c.out.writers.setDeadline(t)
	return nil
}

// Write learns that the other end is closed as TCP does, from a packet that comes back: not while
// nothing comes through, and then for both directions at once. Who writes to a connection that is
// broken and reads from it would else see it broken and whole.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if err == syscall.EPIPE {
		c.in.end(syscall.ECONNRESET, syscall.ECONNRESET, lose)
	}
	return n, err
}

// Close ends both directions; the other end reads what is on the way, then EOF.
func (c *conn) Close() error {
	c.forget()
	c.out.end(io.EOF, net.ErrClosed, keep)
	c.in.end(net.ErrClosed, syscall.EPIPE, lose)
	return nil
}

// reset breaks both directions at once.
func (c *conn) reset() {
	c.forget()
	for _, p := range []*pipe{c.in, c.out} {
		p.end(syscall.ECONNRESET, syscall.ECONNRESET, lose)
	}
}

func (c *conn) forget() {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
}
