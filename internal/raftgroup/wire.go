package raftgroup

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// class says what a connection carries. Each broker dials one of each to every other broker.
type class uint8

const (
	// classBulk carries log entries and snapshots.
	classBulk class = 0
	// classControl carries heartbeats, votes and leadership checks, which must not wait behind those.
	classControl class = 1
)

// String names the class in metrics.
func (c class) String() string {
	if c == classBulk {
		return "bulk"
	}
	return "control"
}

const (
	// spareBuffer is how much room for queued frames is kept from one write to the next.
	spareBuffer = 64 << 10
	// aheadBuffer is what is read ahead of a frame. What is in it is copied once more; the rest of a large frame is read to where it stays.
	aheadBuffer  = 16 << 10
	writeTimeout = 10 * time.Second

	// maxQueuedReplies bounds the bytes queued on a connection whose other end does not read.
	maxQueuedReplies = 4 << 20
)

var errWireClosed = errors.New("connection is closed")

// wire is one connection, from either end. Small frames are queued and written by a goroutine of
// its own, many at once; frames with bodies are written by whoever sends them. Neither waits
// while holding a mutex.
type wire struct {
	conn    net.Conn
	br      *bufio.Reader
	class   class
	metrics *metrics

	// writing has a token while nobody writes.
	writing chan struct{}
	queued  chan struct{} // has a token when out has become non-empty
	closed  chan struct{}

	// mu guards out and err. Nothing blocks under it.
	mu  sync.Mutex
	out []byte
	err error // why it is closed
}

func newWire(conn net.Conn, c class, m *metrics) *wire {
	w := &wire{
		conn:    conn,
		br:      bufio.NewReaderSize(conn, aheadBuffer),
		class:   c,
		metrics: m,
		writing: make(chan struct{}, 1),
		queued:  make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	w.writing <- struct{}{}
	return w
}

// fail closes the connection for a reason; only the first counts.
func (w *wire) fail(err error) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.err = err
	w.out = nil
	close(w.closed)
	w.mu.Unlock()
	_ = w.conn.Close()
}

// cause says why the connection is closed.
func (w *wire) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return errWireClosed
	}
	return w.err
}

// queue sends a small frame soon, without waiting. A peer that does not read loses the connection.
func (w *wire) queue(f *frame) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	if len(w.out)+frameHeader+len(f.body) > maxQueuedReplies {
		w.mu.Unlock()
		w.fail(fmt.Errorf("peer reads nothing, %d bytes wait for it", maxQueuedReplies))
		return
	}
	w.out = appendFrame(w.out, f)
	w.mu.Unlock()
	select {
	case w.queued <- struct{}{}:
	default:
	}
}

// drain writes what is queued until the connection ends.
func (w *wire) drain() {
	var spare []byte
	for {
		select {
		case <-w.queued:
		case <-w.closed:
			return
		}
		w.mu.Lock()
		out := w.out
		w.out = spare[:0]
		w.mu.Unlock()
		if len(out) > 0 && w.write(out, nil) != nil {
			return
		}
		spare = nil
		if cap(out) <= spareBuffer {
			spare = out
		}
	}
}

// write sends a head and its bodies as one, after whoever writes now. An error has closed the
// connection.
func (w *wire) write(head []byte, bodies [][]byte) error {
	select {
	case <-w.writing:
	case <-w.closed:
		return w.cause()
	}
	defer func() { w.writing <- struct{}{} }()
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	var err error
	var n int64
	if len(bodies) == 0 {
		var k int
		k, err = w.conn.Write(head)
		n = int64(k)
	} else {
		buffers := make(net.Buffers, 0, len(bodies)+1)
		buffers = append(append(buffers, head), bodies...)
		n, err = writeBuffers(w.conn, buffers)
	}
	w.metrics.sent(w.class, n)
	if err != nil {
		w.fail(fmt.Errorf("write: %w", err))
		return w.cause()
	}
	return nil
}

// writeBuffers writes buffers as one, as TCP and TLS do each in its way.
func writeBuffers(conn net.Conn, buffers net.Buffers) (n int64, err error) {
	gathers, ok := conn.(interface{ WriteBuffers(*net.Buffers) error })
	if !ok {
		return buffers.WriteTo(conn)
	}
	for _, b := range buffers {
		n += int64(len(b))
	}
	return n, gathers.WriteBuffers(&buffers)
}

// read takes the next frame off the connection.
func (w *wire) read(limit int) (frame, error) {
	f, err := readFrame(w.br, limit)
	if err == nil {
		w.metrics.received(w.class, int64(frameHeader+len(f.body)))
		return f, nil
	}
	var bad *badFrameError
	if errors.As(err, &bad) {
		w.metrics.badFrames.Inc()
	}
	return f, err
}

// limit is how long a frame on this connection may be.
func (w *wire) limit() int {
	if w.class == classControl {
		return maxControlBody
	}
	return maxFrameBytes
}

// budget bounds bytes in flight. One taker may exceed it when nobody else holds any. Takers are
// served in order.
type budget struct {
	mu      sync.Mutex
	free    int64
	size    int64
	waiters []*budgetWaiter
}

type budgetWaiter struct {
	n  int64
	ok chan struct{}
}

func newBudget(n int64) *budget { return &budget{free: n, size: n} }

// Acquire waits for n bytes; false: one of the two channels was closed before.
func (b *budget) Acquire(n int64, stop, closed <-chan struct{}) bool {
	n = min(n, b.size)
	b.mu.Lock()
	if len(b.waiters) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return true
	}
	w := &budgetWaiter{n: n, ok: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.ok:
		return true
	case <-stop:
	case <-closed:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.ok:
		b.releaseLocked(n)
	default:
		for i := range b.waiters {
			if b.waiters[i] == w {
				b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
				break
			}
		}
		b.releaseLocked(0)
	}
	return false
}

// TryAcquire takes n bytes if they are there and nobody waits.
func (b *budget) TryAcquire(n int64) bool {
	n = min(n, b.size)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// Release gives back what Acquire(n) took.
func (b *budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked(min(n, b.size))
}

func (b *budget) releaseLocked(n int64) {
	b.free += n
	for len(b.waiters) > 0 && b.waiters[0].n <= b.free {
		b.free -= b.waiters[0].n
		close(b.waiters[0].ok)
		b.waiters = b.waiters[1:]
	}
}
