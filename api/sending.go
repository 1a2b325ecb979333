package api

import (
	"context"
	"sync"

	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Fetch answers are counted from before they are read until the transport has let go of their bytes, so
// that neither many fetches at once nor slow readers can make the broker hold any number of them. The transport
// tells of buffers it has written or dropped with their stream, but forgets those that were queued
// when a connection broke; so what a connection holds is counted, and given back when it ends.

// connections is the stats.Handler that gives each connection its count.
type connections struct{ fetching *frontdoor.Budget }

// TagConn puts the count where the calls of the connection find it, and has their contexts end with the connection. The transport forgets to end
// that of a call that is turned away, whose time may be years.
func (h connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	return context.WithValue(ctx, heldKey{}, &held{fetching: h.fetching, cancel: cancel})
}

// HandleConn notices the end of a connection.
func (h connections) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		if c, ok := ctx.Value(heldKey{}).(*held); ok {
			c.end()
		}
	}
}

// TagRPC leaves the context as it is.
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notices the end of a call of who has proven nothing, and what has been received.
func (connections) HandleRPC(ctx context.Context, s stats.RPCStats) {
	ended(ctx, s)
	noteReceived(ctx, s)
}

type heldKey struct{}

// held counts the answer bytes that one connection holds.
type held struct {
	fetching *frontdoor.Budget
	cancel   context.CancelFunc

	// mu guards what follows. budget.mu is taken under it.
	mu    sync.Mutex
	bytes int64
	ended bool
	// unsent are bytes of answers without batches.
	unsent int64
}

// hold counts a buffer that is handed to the transport, of which a part is counted already. Never is a byte counted twice, or not at all.
func (h *held) hold(n, counted int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		n = 0 // it is dropped
	}
	h.bytes += n
	if n != counted {
		h.fetching.Add(n - counted)
	}
}

// Put counts it out.
func (h *held) Put(b *[]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.bytes -= int64(len(*b))
		h.fetching.Add(-int64(len(*b)))
	}
}

// Get is of mem.BufferPool and not used.
func (h *held) Get(n int) *[]byte { b := make([]byte, n); return &b }

func (h *held) end() {
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.fetching.Add(-h.bytes)
	h.bytes = 0
}

const (
	// maxUnsent bytes of answers without batches may wait on a connection, and one answer more.
	maxUnsent = 8 << 20
	// minCounted is the size from which such an answer is counted; of smaller ones a connection has no more than calls.
	minCounted = 4 << 10
)

// full says that too many answers wait for the client to take them.
func (h *held) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unsent > maxUnsent
}

// answer encodes an answer, and counts it until the transport has let go of it; not ok: too many wait.
func (h *held) answer(m proto.Message) (out any, ok bool, err error) {
	if proto.Size(m) < minCounted {
		return m, true, nil
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unsent > maxUnsent {
		return nil, false, nil
	}
	h.unsent += int64(len(b))
	return clientv1.Encoded{Bytes: b, Pool: unsent{h}}, true, nil
}

// unsent counts answers out.
type unsent struct{ *held }

// Put is mem.BufferPool's.
func (u unsent) Put(b *[]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unsent -= int64(len(*b))
}

type countKey struct{}

// answerCount counts one answer: what it has taken while it is read, then, buffer by buffer, what the connection holds.
// It satisfies partition.Room and clientv1.SendCounter and belongs to one call.
type answerCount struct {
	*held
	s *Server
	// taken is what is counted and not yet held by the connection.
	taken int64
	// full: there was no room for the answer.
	full bool
}

// counting gives the context of a fetch its count, if the connection has one.
func (s *Server) counting(ctx context.Context) (context.Context, *answerCount) {
	h, ok := ctx.Value(heldKey{}).(*held)
	if !ok {
		return ctx, nil
	}
	c := &answerCount{held: h, s: s}
	return context.WithValue(ctx, countKey{}, c), c
}

// Take takes room for an answer, at least for the largest batch there can be.
func (c *answerCount) Take(ctx context.Context, most int) int {
	least := min(int64(c.s.c.MaxMessageBytes), c.fetching.Limit())
	n := c.fetching.Take(ctx, least, int64(most), c.s.metrics.fetchesHeld.Inc)
	c.taken += n
	c.full = n == 0
	return int(n)
}

// Give gives back what was not used.
func (c *answerCount) Give(bytes int) {
	c.taken -= int64(bytes)
	c.fetching.Add(-int64(bytes))
}

// Hold passes bytes on to the connection's count.
func (c *answerCount) Hold(n int) {
	counted := min(int64(n), c.taken)
	c.taken -= counted
	c.hold(int64(n), counted)
}

// Encoded gives back what was copied.
func (c *answerCount) Encoded() { c.Give(int(c.taken)) }
