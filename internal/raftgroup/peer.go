package raftgroup

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// peer is another broker, as this one talks to it: one link for each class, made when needed.
type peer struct {
	host          *Host
	broker        int32
	bulk, control dialer
	beats         beater
	suspected     atomic.Bool  // somebody looks whether it is alive
	died          atomic.Int64 // when it was found dead, unix ns; 0: it has connected since

	// mu guards connected, which is closed when a connection from or to the broker is made.
	mu        sync.Mutex
	connected chan struct{}
}

func newPeer(h *Host, broker int32) *peer {
	p := &peer{host: h, broker: broker, connected: make(chan struct{})}
	p.bulk = dialer{peer: p, class: classBulk}
	p.control = dialer{peer: p, class: classControl}
	p.beats = beater{peer: p, wake: make(chan struct{}, 1)}
	return p
}

// seen is told that the broker has just connected here: it can be dialed again at once.
func (p *peer) seen() {
	p.died.Store(0)
	for _, d := range []*dialer{&p.bulk, &p.control} {
		d.mu.Lock()
		d.retryAt, d.failures = time.Time{}, 0
		d.mu.Unlock()
	}
	p.wake()
}

// woken gives a channel that is closed at the next sign that the broker is there.
func (p *peer) woken() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected
}

func (p *peer) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.connected)
	p.connected = make(chan struct{})
}

var errTimeout = errors.New("no answer in time")

// ask sends a small request on the control connection and waits for its answer.
func (p *peer) ask(id ServerID, f *frame, answer frameKind, stop <-chan struct{}, timeout time.Duration) (frame, error) {
	l, err := p.control.get(id, stop)
	if err != nil {
		return frame{}, err
	}
	type result struct {
		f   frame
		err error
	}
	got := make(chan result, 1)
	request := l.ask(f, &call{kind: answer, done: func(f *frame, err error) {
		if err != nil {
			got <- result{err: err}
			return
		}
		got <- result{f: *f, err: answerError(f)}
	}})
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-got:
		return r.f, r.err
	case <-timer.C:
		err = errTimeout
	case <-stop:
		err = ErrStopped
	}
	l.abandon(request)
	return frame{}, err
}
