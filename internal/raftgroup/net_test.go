package raftgroup

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// testNet is a network in memory whose links can be cut, delayed and reset. A cut link holds what
// is sent until it is healed. All waiting is on channels, so that virtual time runs.
type testNet struct {
	mu        sync.Mutex
	listeners map[string]*testListener
	conns     map[*testConn]bool
	cut       map[[2]string]bool
	delay     map[[2]string]time.Duration
	// dying says until when a host whose port is closed still takes connections and loses them.
	dying   map[string]time.Time
	rate    int // bytes a second of each connection, 0: any
	changed chan struct{}
}

func newTestNet() *testNet {
	return &testNet{
		listeners: make(map[string]*testListener), conns: make(map[*testConn]bool),
		cut: make(map[[2]string]bool), delay: make(map[[2]string]time.Duration), dying: make(map[string]time.Time), changed: make(chan struct{}),
	}
}

func (n *testNet) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// isolate cuts or heals both directions between a and each of the others.
func (n *testNet) isolate(cut bool, a string, others ...string) {
	n.change(func() {
		for _, o := range others {
			if o != a {
				n.cut[[2]string{a, o}], n.cut[[2]string{o, a}] = cut, cut
			}
		}
	})
}

func (n *testNet) setDelay(from, to string, d time.Duration) {
	n.change(func() { n.delay[[2]string{from, to}] = d })
}

// reset breaks all connections of a host.
func (n *testNet) reset(host string) {
	n.mu.Lock()
	var list []*testConn
	for c := range n.conns {
		if c.out.link[0] == host || c.out.link[1] == host {
			list = append(list, c)
		}
	}
	n.mu.Unlock()
	for _, c := range list {
		c.end(syscall.ECONNRESET)
	}
}

func (n *testNet) listen(host string) *testListener {
	l := &testListener{net: n, host: host, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.listeners[host] = l
	n.mu.Unlock()
	return l
}

func (n *testNet) dial(ctx context.Context, from, to string) (net.Conn, error) {
	for {
		n.mu.Lock()
		l, changed, dying := n.listeners[to], n.changed, n.dying[to]
		blocked := n.cut[[2]string{from, to}] || n.cut[[2]string{to, from}]
		n.mu.Unlock()
		if !blocked {
			if l == nil {
				if time.Now().Before(dying) {
					a, b := net.Pipe()
					_ = b.Close()
					return a, nil
				}
				return nil, syscall.ECONNREFUSED
			}
			there, back := n.pipe(from, to), n.pipe(to, from)
			a, b := &testConn{net: n, in: back, out: there}, &testConn{net: n, in: there, out: back}
			n.mu.Lock()
			n.conns[a] = true
			n.mu.Unlock()
			select {
			case l.conns <- b:
				return a, nil
			case <-l.closed:
				return nil, syscall.ECONNREFUSED
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (n *testNet) pipe(from, to string) *testPipe {
	return &testPipe{net: n, link: [2]string{from, to}, moved: make(chan struct{})}
}

type testListener struct {
	net    *testNet
	host   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *testListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *testListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		if l.net.listeners[l.host] == l {
			delete(l.net.listeners, l.host)
		}
		l.net.mu.Unlock()
	})
	return nil
}

func (l *testListener) Addr() net.Addr { return testAddr(l.host) }

type testAddr string

func (a testAddr) Network() string { return "test" }
func (a testAddr) String() string  { return string(a) }

// testPipe is one direction: bounded, with each write due at a time.
type testPipe struct {
	net  *testNet
	link [2]string
	free time.Time // when all before has gone out, at the net's rate

	mu       sync.Mutex
	parts    []testPart
	size     int
	err      error
	rd, wd   time.Time
	moved    chan struct{}
	writes   int
	bytesOut int
}

type testPart struct {
	data []byte
	due  time.Time
}

const testPipeSize = 256 << 10

func (p *testPipe) signal() {
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *testPipe) wait(moved, changed <-chan struct{}, until ...time.Time) {
	var timer <-chan time.Time
	var next time.Time
	for _, u := range until {
		if !u.IsZero() && (next.IsZero() || u.Before(next)) {
			next = u
		}
	}
	if !next.IsZero() {
		t := time.NewTimer(max(time.Until(next), 0))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-moved:
	case <-changed:
	case <-timer:
	}
}

func (p *testPipe) state() (bool, time.Duration, <-chan struct{}) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	return !p.net.cut[p.link], p.net.delay[p.link], p.net.changed
}

func (p *testPipe) read(b []byte) (int, error) {
	for {
		open, _, changed := p.state()
		p.mu.Lock()
		now := time.Now()
		var due time.Time
		if open && len(p.parts) > 0 {
			if due = p.parts[0].due; !due.After(now) {
				n := copy(b, p.parts[0].data)
				if p.parts[0].data = p.parts[0].data[n:]; len(p.parts[0].data) == 0 {
					p.parts = p.parts[1:]
				}
				p.size -= n
				p.signal()
				p.mu.Unlock()
				return n, nil
			}
		}
		if p.err != nil && len(p.parts) == 0 && (open || p.err != io.EOF) {
			defer p.mu.Unlock()
			return 0, p.err
		}
		if !p.rd.IsZero() && !p.rd.After(now) {
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		moved, rd := p.moved, p.rd
		p.mu.Unlock()
		p.wait(moved, changed, due, rd)
	}
}

func (p *testPipe) write(b []byte) (int, error) {
	done := 0
	for len(b) > 0 {
		_, delay, changed := p.state()
		p.net.mu.Lock()
		rate := p.net.rate
		p.net.mu.Unlock()
		p.mu.Lock()
		if p.err != nil {
			defer p.mu.Unlock()
			return done, p.err
		}
		if room := testPipeSize - p.size; room > 0 {
			n := min(room, len(b))
			due := time.Now()
			if rate > 0 {
				if p.free.After(due) {
					due = p.free
				}
				due = due.Add(time.Duration(n) * time.Second / time.Duration(rate))
				p.free = due
			}
			p.parts = append(p.parts, testPart{append([]byte(nil), b[:n]...), due.Add(delay)})
			p.size += n
			p.writes++
			p.bytesOut += n
			p.signal()
			p.mu.Unlock()
			b, done = b[n:], done+n
			continue
		}
		if !p.wd.IsZero() && !p.wd.After(time.Now()) {
			p.mu.Unlock()
			return done, os.ErrDeadlineExceeded
		}
		moved, wd := p.moved, p.wd
		p.mu.Unlock()
		p.wait(moved, changed, wd)
	}
	return done, nil
}

func (p *testPipe) end(err error, drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil || drop {
		p.err = err
	}
	if drop {
		p.parts, p.size = nil, 0
	}
	p.signal()
}

func (p *testPipe) deadline(read, write *time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if read != nil {
		p.rd = *read
	}
	if write != nil {
		p.wd = *write
	}
	p.signal()
}

type testConn struct {
	net     *testNet
	in, out *testPipe
}

func (c *testConn) Read(b []byte) (int, error)         { return c.in.read(b) }
func (c *testConn) Write(b []byte) (int, error)        { return c.out.write(b) }
func (c *testConn) LocalAddr() net.Addr                { return testAddr(c.out.link[0]) }
func (c *testConn) RemoteAddr() net.Addr               { return testAddr(c.out.link[1]) }
func (c *testConn) SetReadDeadline(t time.Time) error  { c.in.deadline(&t, nil); return nil }
func (c *testConn) SetWriteDeadline(t time.Time) error { c.out.deadline(nil, &t); return nil }
func (c *testConn) SetDeadline(t time.Time) error {
	c.in.deadline(&t, nil)
	c.out.deadline(nil, &t)
	return nil
}

func (c *testConn) Close() error {
	c.forget()
	c.out.end(io.EOF, false)
	c.in.end(fmt.Errorf("test conn: %w", net.ErrClosed), true)
	return nil
}

func (c *testConn) end(err error) {
	c.forget()
	c.in.end(err, true)
	c.out.end(err, true)
}

func (c *testConn) forget() {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
}

func (n *testNet) dialNothing(context.Context, string) (net.Conn, error) {
	return nil, syscall.ECONNREFUSED
}
