package client

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// fakeNet is a network in memory: listeners by address, connections that buffer without bound.
// A host can be killed (its connections reset, nobody listens) and paused (it takes and gives
// nothing, but what was sent to it waits in its sockets).
type fakeNet struct {
	mu    sync.Mutex
	hosts map[string]*fakeHost
}

type fakeHost struct {
	addr     string
	mu       sync.Mutex
	incoming chan net.Conn // nil: nobody listens
	conns    map[*fakeConn]struct{}
	gate     chan struct{} // closed: open; otherwise paused
}

func newFakeNet() *fakeNet { return &fakeNet{hosts: make(map[string]*fakeHost)} }

func (n *fakeNet) host(addr string) *fakeHost {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr]
	if h == nil {
		open := make(chan struct{})
		close(open)
		h = &fakeHost{addr: addr, conns: make(map[*fakeConn]struct{}), gate: open}
		n.hosts[addr] = h
	}
	return h
}

func (n *fakeNet) dial(ctx context.Context, addr string) (net.Conn, error) {
	h := n.host(addr)
	h.mu.Lock()
	incoming := h.incoming
	h.mu.Unlock()
	if incoming == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	up, down := newHalf(), newHalf()
	mine := &fakeConn{in: down, out: up, mayRead: openGate, mayWrite: openGate}
	theirs := &fakeConn{in: up, out: down, mayRead: h.wait, mayWrite: h.wait}
	mine.peer, theirs.peer = theirs, mine
	h.mu.Lock()
	h.conns[theirs] = struct{}{}
	h.mu.Unlock()
	select {
	case incoming <- theirs:
		return mine, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen makes the host reachable.
func (h *fakeHost) listen() net.Listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.incoming = make(chan net.Conn, 16)
	return &fakeListener{h: h, in: h.incoming, done: make(chan struct{})}
}

// cut resets every connection; what was on its way is gone.
func (h *fakeHost) cut() {
	h.mu.Lock()
	conns := h.conns
	h.conns = make(map[*fakeConn]struct{})
	h.mu.Unlock()
	for c := range conns {
		c.reset()
	}
}

func (h *fakeHost) pause() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.gate:
		h.gate = make(chan struct{})
	default:
	}
}

func (h *fakeHost) resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.gate:
	default:
		close(h.gate)
	}
}

// wait blocks while the host is paused.
func (h *fakeHost) wait() {
	for {
		h.mu.Lock()
		gate := h.gate
		h.mu.Unlock()
		select {
		case <-gate:
			return
		default:
			<-gate
		}
	}
}

func openGate() {}

type fakeListener struct {
	h    *fakeHost
	in   chan net.Conn
	once sync.Once
	done chan struct{}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.h.mu.Lock()
		l.h.incoming = nil
		l.h.mu.Unlock()
	})
	return nil
}

func (l *fakeListener) Addr() net.Addr { return fakeAddr(l.h.addr) }

type fakeAddr string

func (a fakeAddr) Network() string { return "fake" }
func (a fakeAddr) String() string  { return string(a) }

// half is one direction of a connection.
type half struct {
	mu   sync.Mutex
	buf  []byte
	err  error
	more chan struct{} // capacity 1
}

func newHalf() *half { return &half{more: make(chan struct{}, 1)} }

func (h *half) signal() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return 0, io.ErrClosedPipe
	}
	h.buf = append(h.buf, b...)
	h.signal()
	return len(b), nil
}

func (h *half) read(b []byte) (int, error) {
	for {
		h.mu.Lock()
		if len(h.buf) > 0 {
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			if len(h.buf) > 0 {
				h.signal()
			}
			h.mu.Unlock()
			return n, nil
		}
		err := h.err
		h.mu.Unlock()
		if err != nil {
			h.signal()
			return 0, err
		}
		<-h.more
	}
}

func (h *half) end(err error, lose bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	if lose {
		h.buf = nil
	}
	h.signal()
}

type fakeConn struct {
	in, out           *half
	peer              *fakeConn
	mayRead, mayWrite func()
}

func (c *fakeConn) Read(b []byte) (int, error) {
	c.mayRead()
	n, err := c.in.read(b)
	c.mayRead() // paused while waiting: what was read is not seen before the end of the pause
	return n, err
}

func (c *fakeConn) Write(b []byte) (int, error) {
	c.mayWrite()
	return c.out.write(b)
}

func (c *fakeConn) Close() error {
	c.out.end(io.EOF, false)
	c.in.end(net.ErrClosed, true)
	return nil
}

var errReset = errors.New("connection reset by peer")

func (c *fakeConn) reset() {
	c.in.end(errReset, true)
	c.out.end(errReset, true)
}

func (c *fakeConn) LocalAddr() net.Addr              { return fakeAddr("local") }
func (c *fakeConn) RemoteAddr() net.Addr             { return fakeAddr("remote") }
func (c *fakeConn) SetDeadline(time.Time) error      { return nil }
func (c *fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }
