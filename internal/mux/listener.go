package mux

import (
	"net"
	"sync"
)

// listener is one of the mux's two sides. It satisfies net.Listener.
type listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	err   error // why it ended; set before done is closed
}

func newListener(addr net.Addr) *listener {
	return &listener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, l.err
	}
}

// Close ends this side only; connections meant for it are then refused.
func (l *listener) Close() error {
	l.shut(net.ErrClosed)
	return nil
}

// Addr is where the mux listens.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) shut(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
}

// offer waits until somebody accepts conn; false: nobody will.
func (l *listener) offer(conn net.Conn, closed <-chan struct{}) bool {
	select {
	case l.conns <- conn:
		return true
	case <-l.done:
	case <-closed:
	}
	return false
}

func (l *listener) label(m *Mux) string {
	if l == m.raft {
		return "raft"
	}
	return "peer"
}
