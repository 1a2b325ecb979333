package main

import (
	"sync"
)

// maxQueued is how many bytes may wait for the slowest of the writers of a
// partition. The reader stops at it, so that memory is bounded also where one
// follower is slower than the disk and the other.
const maxQueued = 32 << 20

// queue hands the spans of one partition to several writers, each of which takes
// all that has gathered, at its own pace.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	pending [][]span // by writer
	bytes   []int    // waiting, by writer
	closed  bool
}

func newQueue(writers int) *queue {
	q := &queue{pending: make([][]span, writers), bytes: make([]int, writers)}
	q.changed.L = &q.mu
	return q
}

// put gives a span to every writer, and waits while one lags too far behind. It
// takes over the caller's hold of the span. It reports whether the queue is open.
func (q *queue) put(s span) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && q.lag() > maxQueued {
		q.changed.Wait()
	}
	if q.closed {
		s.release()
		return false
	}
	for i := range q.pending {
		if i > 0 {
			s.chunk.hold()
		}
		q.pending[i] = append(q.pending[i], s)
		q.bytes[i] += len(s.bytes)
	}
	q.changed.Broadcast()
	return true
}

func (q *queue) lag() int {
	most := 0
	for _, n := range q.bytes {
		most = max(most, n)
	}
	return most
}

// take waits for spans of one writer and gives all of them, in order. The writer
// passes the slice of its last call back for use again. ok is false once the
// queue is closed and empty.
func (q *queue) take(writer int, reuse []span) (spans []span, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.pending[writer]) == 0 {
		if q.closed {
			return nil, false
		}
		q.changed.Wait()
	}
	spans = q.pending[writer]
	q.pending[writer] = reuse[:0]
	q.bytes[writer] = 0
	q.changed.Broadcast()
	return spans, true
}

// close lets the writers take what is left, and no more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// gather appends the bytes of the spans to vectors, neighbours in one chunk as
// one, and gives their sum.
func gather(vectors [][]byte, spans []span) (_ [][]byte, total int) {
	for i, s := range spans {
		total += len(s.bytes)
		if i > 0 && spans[i-1].chunk == s.chunk && len(vectors) > 0 {
			last := &vectors[len(vectors)-1]
			*last = (*last)[:len(*last)+len(s.bytes)] // Spans of one chunk follow each other.
			continue
		}
		vectors = append(vectors, s.bytes)
	}
	return vectors, total
}

func releaseAll(spans []span) {
	for _, s := range spans {
		s.release()
	}
}
