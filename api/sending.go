package api

import (
	"context"
	"sync"

	"google.golang.org/grpc/stats"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// Fetch answers are counted from the moment they are encoded until the transport has let go of
// their bytes, so that slow readers cannot make the broker hold any number of them. The transport
// tells of buffers it has written or dropped with their stream, but forgets those that were queued
// when a connection broke; so what a connection holds is counted, and given back when it ends.

// connections is the stats.Handler that gives each connection its count.
type connections struct{ fetching *budget }

// TagConn puts the count where the calls of the connection find it.
func (h connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, heldKey{}, &held{fetching: h.fetching})
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

// HandleRPC does nothing.
func (connections) HandleRPC(context.Context, stats.RPCStats) {}

type heldKey struct{}

// held counts the answer bytes that one connection holds.
type held struct {
	fetching *budget

	// mu guards what follows. budget.mu is taken under it.
	mu    sync.Mutex
	bytes int64
	ended bool
}

// Hold counts a buffer that is handed to the transport.
func (h *held) Hold(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.bytes += int64(n)
		h.fetching.add(int64(n))
	}
}

// Put counts it out.
func (h *held) Put(b *[]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.bytes -= int64(len(*b))
		h.fetching.add(-int64(len(*b)))
	}
}

// Get is of mem.BufferPool and not used.
func (h *held) Get(n int) *[]byte { b := make([]byte, n); return &b }

func (h *held) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.fetching.add(-h.bytes)
	h.bytes = 0
}

// sending wraps an answer so that the codec counts it on the way out.
func sending(ctx context.Context, m *clientv1.FetchResponse) any {
	if h, ok := ctx.Value(heldKey{}).(*held); ok {
		return clientv1.Counted{FetchResponse: m, Counter: h}
	}
	return m
}
