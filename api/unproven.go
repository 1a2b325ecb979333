package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Bounds of a connection on which nobody has proven who it is, where that is demanded.
const (
	// maxUnprovenCalls are those under way, of calls that answer whoever asks.
	maxUnprovenCalls = 16
	// maxUnprovenBytes may arrive since the oldest of them began; gRPC would keep of each call as much as its window and the largest request allow. It
	// is enough for thousands of pings of a client that watches the health.
	maxUnprovenBytes = 128 << 10
	// maxUnprovenIdle is for how long none may be under way. Who watches the health may do so for ever.
	maxUnprovenIdle = frontdoor.LoginTime
)

// Why a connection is cut, labels of a metric.
const (
	cutTooMuch    = "too_much"
	cutIdle       = "idle"
	cutNoRoom     = "no_room"
	cutTurnedAway = "turned_away"
)

// arrivals are the credentials of a listener where who comes in has to prove who it is: they watch what a connection does until then.
type arrivals struct{ counted }

// ServerHandshake is credentials.TransportCredentials'.
func (a arrivals) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := a.counted.ServerHandshake(conn)
	if err != nil {
		return conn, info, err
	}
	c := &unproven{Conn: conn, of: a}
	c.idle = time.AfterFunc(maxUnprovenIdle, c.rest)
	return c, unprovenInfo{info, c}, nil
}

// Clone is credentials.TransportCredentials'.
func (a arrivals) Clone() credentials.TransportCredentials {
	return arrivals{counted{a.TransportCredentials.Clone(), a.server, a.listener}}
}

// unprovenInfo is what a call can learn of its connection.
type unprovenInfo struct {
	credentials.AuthInfo
	conn *unproven
}

// unproven is a connection that is cut if it sends too much before anybody has proven who it is, or does nothing. What arrived before the calls
// that are under way is not kept, and does not count. A nil one may do everything.
type unproven struct {
	net.Conn
	of arrivals
	// idle is set when a connection begins and when its last call has ended.
	idle *time.Timer

	// mu guards what follows.
	mu sync.Mutex
	// over: somebody has proven who it is, or the connection is closed.
	over bool
	// arrived is how many bytes have come, calls are those under way that answer whoever asks, the oldest first.
	arrived int64
	calls   []*openCall
}

// openCall is a call of who has proven nothing.
type openCall struct {
	conn  *unproven
	since int64 // bytes that had arrived when it began
}

var errUnproven = errors.New("api: too much was sent before authentication")

// Read is net.Conn's.
func (c *unproven) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.isTooMuch(n) {
		c.of.noteCut(c, cutTooMuch, fmt.Sprintf("more than %d bytes were sent before authentication while a call was under way", maxUnprovenBytes))
		return 0, errUnproven
	}
	return n, err
}

func (c *unproven) isTooMuch(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrived += int64(n)
	return !c.over && len(c.calls) > 0 && c.arrived-c.calls[0].since > maxUnprovenBytes
}

// Close is net.Conn's.
func (c *unproven) Close() error {
	c.prove() // there is nothing to watch any more
	return c.Conn.Close()
}

// rest closes the connection if no call is under way: none has been since the timer was set.
func (c *unproven) rest() {
	c.mu.Lock()
	idle := !c.over && len(c.calls) == 0
	c.over = c.over || idle
	c.mu.Unlock()
	if idle {
		c.of.noteCut(c, cutIdle, fmt.Sprintf("no proof within %v, and no call under way", maxUnprovenIdle))
		_ = c.Conn.Close() // its reader hears of it
	}
}

// prove takes the bounds away.
func (c *unproven) prove() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.idle.Stop()
}

// begin counts a call; not ok: there are too many.
func (c *unproven) begin() (call *openCall, ok bool) {
	if c == nil {
		return nil, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		return nil, true
	case len(c.calls) == maxUnprovenCalls:
		return nil, false
	}
	call = &openCall{c, c.arrived}
	c.calls = append(c.calls, call)
	return call, true
}

// ended notices the end of a call that was counted.
func ended(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); !ok {
		return
	}
	call, _ := ctx.Value(openKey{}).(*openCall)
	if call == nil {
		return
	}
	c := call.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.calls, call); i >= 0 {
		c.calls = slices.Delete(c.calls, i, i+1)
	}
	if len(c.calls) == 0 && !c.over {
		c.idle.Reset(maxUnprovenIdle)
	}
}
