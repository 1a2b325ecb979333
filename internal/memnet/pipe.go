package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipe is one direction of a connection: a bounded queue of segments, each due at a time.
type pipe struct {
	net  *Network
	link link

	mu       sync.Mutex
	segments []segment
	size     int
	last     time.Time // when the last segment is due: none overtakes it
	readErr  error     // what read gives once the queue is empty
	writeErr error
	// arrival fires when the first segment is due, so that who waits for it sleeps but once. It is set by who writes to the empty
	// queue, and by who finds a segment that is not due.
	arrival *time.Timer

	readers, writers waiters
}

type segment struct {
	data []byte
	due  time.Time
}

func newPipe(n *Network, l link) *pipe {
	p := &pipe{net: n, link: l, arrival: time.NewTimer(time.Hour)}
	p.arrival.Stop()
	p.readers.init()
	p.writers.init()
	return p
}

// What becomes of what is on the way when a pipe ends.
type rest bool

const (
	keep rest = true
	lose rest = false
)

func (p *pipe) end(readErr, writeErr error, r rest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil || errors.Is(readErr, net.ErrClosed) {
		p.readErr = readErr
	}
	if p.writeErr == nil {
		p.writeErr = writeErr
	}
	if r == lose {
		p.segments, p.size = nil, 0
	}
	p.readers.wake()
	p.writers.wake()
}

func (p *pipe) read(b []byte) (int, error) {
	p.readers.enter()
	defer p.readers.leave()
	for {
		n, err := p.tryRead(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := p.readers.await(p.arrival.C); err != nil {
			return 0, err
		}
	}
}

// tryRead gives what has arrived; nothing: 0 and no error.
func (p *pipe) tryRead(b []byte) (int, error) {
	open := p.net.open(p.link)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.readErr == net.ErrClosed:
		return 0, p.readErr // by who reads; the other end may not have heard of it, and still write
	case len(p.segments) == 0 && p.readErr != nil && (open || p.readErr != io.EOF):
		return 0, p.readErr
	case len(p.segments) > 0 && open:
		wait := time.Until(p.segments[0].due)
		if wait <= 0 {
			return p.takeLocked(b), nil
		}
		p.arrival.Reset(wait)
	}
	return 0, nil
}

func (p *pipe) takeLocked(b []byte) int {
	s := &p.segments[0]
	n := copy(b, s.data)
	s.data = s.data[n:]
	if p.size == connBuffer {
		p.writers.wake()
	}
	p.size -= n
	if len(s.data) == 0 {
		s.data = nil
		p.segments = p.segments[1:]
	}
	return n
}

func (p *pipe) write(b []byte) (int, error) {
	p.writers.enter()
	defer p.writers.leave()
	written := 0
	for len(b) > 0 {
		n, err := p.tryWrite(b)
		b, written = b[n:], written+n
		if err != nil {
			return written, err
		}
		if n == 0 {
			if err := p.writers.await(nil); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// tryWrite puts on its way what there is room for.
func (p *pipe) tryWrite(b []byte) (int, error) {
	late, answers := p.net.lateness(p.link)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.writeErr; err != nil && (answers || err != syscall.EPIPE) {
		return 0, err
	}
	n := min(connBuffer-p.size, len(b))
	if n == 0 {
		return 0, nil
	}
	now := time.Now()
	if due := now.Add(late); due.After(p.last) {
		p.last = due
	}
	p.segments = append(p.segments, segment{append([]byte(nil), b[:n]...), p.last})
	p.size += n
	if len(p.segments) > 1 {
		return n, nil // who reads knows of those before
	}
	if wait := p.last.Sub(now); wait > 0 {
		p.arrival.Reset(wait)
	} else {
		p.readers.wake()
	}
	return n, nil
}

// waiters are those who read from a pipe, or write to it, mostly one. All wait for the same: who has got it
// wakes the next, and who was woken for nothing knows that the others would be too.
type waiters struct {
	// woken holds a token after something has changed.
	woken chan struct{}

	// mu guards what follows.
	mu       sync.Mutex
	n        int
	deadline time.Time // zero: none
	timer    *time.Timer
}

func (w *waiters) init() { w.woken = make(chan struct{}, 1) }

func (w *waiters) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// enter goes before the first look at what is waited for.
func (w *waiters) enter() {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
}

func (w *waiters) leave() {
	w.mu.Lock()
	w.n--
	others := w.n > 0
	w.mu.Unlock()
	if others {
		w.wake()
	}
}

// await blocks until something may have changed.
func (w *waiters) await(due <-chan time.Time) error {
	if w.late() {
		return os.ErrDeadlineExceeded
	}
	select {
	case <-w.woken:
	case <-due:
	}
	return nil
}

func (w *waiters) late() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.deadline.IsZero() && !time.Now().Before(w.deadline)
}

// setDeadline sets after which time waiting ends; zero: never. Those who wait look again.
func (w *waiters) setDeadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	wait := time.Until(t)
	switch {
	case t.IsZero():
		if w.timer != nil {
			w.timer.Stop()
		}
	case wait <= 0:
		w.wake()
	case w.timer == nil:
		w.timer = time.AfterFunc(wait, w.wake)
	default:
		w.timer.Reset(wait)
	}
}
