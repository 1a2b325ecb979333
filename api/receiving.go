package api

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// Requests are counted from when their bytes are taken off a socket until the handler of Produce has its message, or the call ends. gRPC takes
// from a connection whatever comes, and keeps of each call as much as its window and the largest request allow, for MaxStreams calls; only
// who reads the connection can stop that. So a connection of a client is read through a receiver, which sees the heads of HTTP/2's frames,
// and waits for room before it passes on what clients send in calls.

// maxReceiveWait is how long a connection waits for room until the one that holds most is closed, which goes on every closePause until there is
// room. It is shorter than what the keepalive gives a connection that is not read.
const (
	maxReceiveWait = 20 * time.Second
	closePause     = time.Second
)

// maxTurnedAway calls of a connection are turned away, then it is closed.
const maxTurnedAway = 1000

// counted are the credentials of every listener: connections are read through a receiver.
type counted struct {
	credentials.TransportCredentials
	server   *Server
	listener string
}

// ServerHandshake is credentials.TransportCredentials'.
func (c counted) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		return conn, info, err
	}
	r := newReceiver(conn, c)
	return r, received{info, r}, nil
}

// Clone is credentials.TransportCredentials'.
func (c counted) Clone() credentials.TransportCredentials {
	return counted{c.TransportCredentials.Clone(), c.server, c.listener}
}

// received is what a call can learn of its connection.
type received struct {
	credentials.AuthInfo
	by *receiver
}

// receiver is a connection whose requests are counted.
type receiver struct {
	net.Conn
	of counted
	// open ends with the connection.
	open context.Context
	end  context.CancelFunc
	// given has a token when something was given back.
	given chan struct{}
	// waits counts that it is not read.
	waits func()
	// cut: it was closed for what it does.
	cut atomic.Bool

	// What follows is the reader's. rest is what was read beyond the head of a call.
	frames  frames
	rest    []byte
	arrived []arrival
	// listed: it is one of the server's receivers. turnedAway counts calls.
	listed     bool
	turnedAway int

	// mu guards what follows, and what calls hold. The budget's lock is taken under it, never while waiting for room.
	mu    sync.Mutex
	claim frontdoor.Claim
	calls map[uint32]*receiving
}

// arrival is a part of a call's request: what is in it of messages, and what the transport takes for it.
type arrival struct {
	stream        uint32
	payload, cost int64
}

// cost is what the transport takes for a frame with so much payload, which it keeps in a buffer of one of its pool's sizes, or in one of its own.
func cost(payload int) int64 {
	const (
		unpooled, small = 1 << 10, 4 << 10 // mem.IsBelowBufferPoolingThreshold, and the pool's sizes up to maxFrameLen
		perFrame        = 128              // of its list, about
	)
	switch {
	case payload <= unpooled:
		return int64(payload) + perFrame
	case payload <= small:
		return small
	}
	return maxFrameLen
}

func newReceiver(conn net.Conn, of counted) *receiver {
	r := &receiver{Conn: conn, of: of, given: make(chan struct{}, 1), waits: of.server.metrics.receivesHeld.Inc, claim: of.server.receiving.Claim(), calls: make(map[uint32]*receiving)}
	r.open, r.end = context.WithCancel(context.Background())
	return r
}

var errNoRoom = errors.New("api: there was no room for requests")

// Read is net.Conn's. It ends with the head of a call at the latest, so that the transport has made the call before anything of it is read.
func (r *receiver) Read(b []byte) (n int, err error) {
	if len(r.rest) > 0 {
		n = copy(b, r.rest)
	} else if n, err = r.Conn.Read(b); n == 0 {
		return 0, err
	}
	r.arrived = r.arrived[:0]
	ready := r.frames.scan(b[:n], func(stream uint32, payload int, cost int64) {
		r.arrived = append(r.arrived, arrival{stream, int64(payload), cost})
	})
	switch {
	case len(r.rest) == 0 && ready < n:
		r.rest = append([]byte(nil), b[ready:n]...)
	case len(r.rest) > 0:
		if r.rest = r.rest[ready:]; len(r.rest) == 0 {
			r.rest = nil
		}
	}
	if !r.hold() {
		return 0, errNoRoom
	}
	return ready, nil
}

// hold counts what has arrived, once there is room; false: the connection is closed.
func (r *receiver) hold() bool {
	var more int64
	r.mu.Lock()
	for _, a := range r.arrived {
		if r.calls[a.stream] != nil {
			more += a.cost
		}
	}
	r.mu.Unlock()
	if more == 0 {
		return true
	}
	if !r.within(more) {
		return false
	}
	waits, patience := r.waits, maxReceiveWait
	for !r.claim.Add(r.open, more, patience, waits) {
		if r.open.Err() != nil {
			return false
		}
		r.of.server.receivers.closeLargest()
		waits, patience = func() {}, closePause
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.arrived {
		if c := r.calls[a.stream]; c != nil {
			c.payload += a.payload
			c.held += a.cost
			more -= a.cost
		}
	}
	r.claim.Shrink(more) // of calls that have ended meanwhile
	return true
}

// within returns when the connection would not hold more than all may; false: it is closed. A claim that is alone may pass the limit, as
// long as it likes, and this one is of a thousand calls.
func (r *receiver) within(more int64) bool {
	fits := func() bool { return r.claim.Held()+more <= r.of.server.receiving.Limit() }
	if fits() {
		return true
	}
	r.waits()
	timer := time.NewTimer(maxReceiveWait)
	defer timer.Stop()
	for !fits() {
		select {
		case <-r.given:
		case <-r.open.Done():
			return false
		case <-timer.C:
			r.closeForRoom()
			return false
		}
	}
	return true
}

// closeForRoom closes the connection so that others have room.
func (r *receiver) closeForRoom() {
	r.closeFor(cutNoRoom, "the requests of all clients that are being received have no room in limits.memory, and most of them is this connection's")
}

// closeFor closes the connection, unless that has been done.
func (r *receiver) closeFor(reason, detail string) {
	if r.cut.Swap(true) {
		return
	}
	r.of.noteCut(r.Conn, reason, detail)
	_ = r.Close() // its reader hears of it
}

// turnAway counts a call that is turned away. The transport does not end its context: what waits for the end of its time is kept until then, or until
// the connection ends.
func (r *receiver) turnAway() {
	if r == nil {
		return
	}
	if r.turnedAway++; r.turnedAway > maxTurnedAway {
		r.closeFor(cutTurnedAway, fmt.Sprintf("more than %d calls were turned away", maxTurnedAway))
	}
}

// Close is net.Conn's. What the calls hold is given back as they end.
func (r *receiver) Close() error {
	r.end()
	r.of.server.receivers.remove(r)
	return r.Conn.Close()
}

// begin counts what arrives for the call whose head was read last, until ctx ends, which is the call's. (tap.ServerInHandle: the goroutine
// that reads the connection calls it.)
func (r *receiver) begin(ctx context.Context, method string) context.Context {
	if r == nil {
		return ctx
	}
	c := &receiving{by: r, stream: r.frames.opened, hands: method == clientv1.LogService_Produce_FullMethodName}
	if !r.listed {
		r.listed = true // whoever has calls is closed in the end
		r.of.server.receivers.add(r)
	}
	r.mu.Lock()
	r.calls[c.stream] = c
	r.mu.Unlock()
	context.AfterFunc(ctx, c.end)
	return context.WithValue(ctx, receivingKey{}, c)
}

type receivingKey struct{}

// receiving is a call, as far as its request is counted.
type receiving struct {
	by     *receiver
	stream uint32
	// hands: what its handler has of it is counted elsewhere.
	hands bool
	// payload is what has arrived of its messages and was not given back, held what it is counted for. Guarded by by.mu.
	payload, held int64
}

// noteReceived notices that a handler has a message.
func noteReceived(ctx context.Context, s stats.RPCStats) {
	in, ok := s.(*stats.InPayload)
	if !ok {
		return
	}
	if c, ok := ctx.Value(receivingKey{}).(*receiving); ok && c.hands {
		c.by.mu.Lock()
		defer c.by.mu.Unlock()
		c.give(int64(in.WireLength))
	}
}

// give gives back the part of what is held that is for so much payload. Held: by.mu.
func (c *receiving) give(payload int64) {
	n := c.held
	if payload < c.payload {
		n = c.held * payload / c.payload
	}
	c.payload = max(c.payload-payload, 0)
	c.held -= n
	c.by.claim.Shrink(n)
	select {
	case c.by.given <- struct{}{}:
	default:
	}
}

func (c *receiving) end() {
	c.by.mu.Lock()
	defer c.by.mu.Unlock()
	delete(c.by.calls, c.stream)
	c.give(c.payload)
}

// receivers are the connections that requests come from.
type receivers struct {
	mu   sync.Mutex
	list map[*receiver]struct{}
	// closed is when one was closed last to make room.
	closed time.Time
}

func (l *receivers) add(r *receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		l.list = make(map[*receiver]struct{})
	}
	l.list[r] = struct{}{}
}

func (l *receivers) remove(r *receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.list, r)
}

// closeLargest closes the connection that holds most, unless that has just been done: connections that wait come here at about the same time.
func (l *receivers) closeLargest() {
	l.mu.Lock()
	var largest *receiver
	var most int64
	if time.Since(l.closed) >= closePause {
		for r := range l.list {
			if n := r.claim.Held(); n > most {
				largest, most = r, n
			}
		}
	}
	if largest != nil {
		l.closed = time.Now()
	}
	l.mu.Unlock()
	if largest == nil {
		return
	}
	largest.closeForRoom()
}

// noteCut tells of a connection that is closed.
func (c counted) noteCut(conn net.Conn, reason, detail string) {
	c.server.metrics.connectionsCut.WithLabelValues(reason).Inc()
	c.server.closings.Tell(conn.RemoteAddr(), c.listener, reason, detail)
}

// HTTP/2, RFC 9113: what a client says first, and the frames that matter here.
const (
	prefaceLen    = 24
	frameHeadLen  = 9
	maxFrameLen   = 16 << 10 // what the server's settings allow; the transport ends a connection with a larger one
	frameData     = 0
	frameHeaders  = 1
	frameContinue = 9
	flagPadded    = 8
)

// frames follows the frames of a connection.
type frames struct {
	// seen is how much of the preface has come.
	seen int
	// head is what has come of the head of a frame, left is what has not of the payload.
	head    [frameHeadLen]byte
	headLen int
	left    int
	// opened is the stream that the last block of headers was of; ends: its frame is coming.
	opened uint32
	ends   bool
	// padded is the stream of a frame with data whose first byte says how much of it is padding; 0: none is coming.
	padded uint32
}

// scan follows b up to the end of a frame with headers, or all of it, and gives how far it came. data is told of payload that comes, of all of
// it with the beginning of its frame.
func (f *frames) scan(b []byte, data func(stream uint32, payload int, cost int64)) int {
	at := min(len(b), prefaceLen-f.seen)
	f.seen += at
	for at < len(b) {
		if f.left > 0 {
			if f.padded > 0 {
				if n := min(f.left, maxFrameLen); n > 1+int(b[at]) {
					data(f.padded, n-1-int(b[at]), cost(n))
				}
				f.padded = 0
			}
			n := min(f.left, len(b)-at)
			f.left -= n
			at += n
		} else {
			n := copy(f.head[f.headLen:], b[at:])
			f.headLen += n
			at += n
			if f.headLen < frameHeadLen {
				break
			}
			f.begin(data)
		}
		if f.left == 0 && f.ends {
			f.ends = false
			break
		}
	}
	return at
}

// begin looks at a frame's head.
func (f *frames) begin(data func(stream uint32, payload int, cost int64)) {
	f.headLen = 0
	f.left = int(binary.BigEndian.Uint32(f.head[:]) >> 8)
	stream := binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31)
	switch kind := f.head[3]; kind {
	case frameData:
		switch n := min(f.left, maxFrameLen); {
		case n == 0:
		case f.head[4]&flagPadded != 0:
			f.padded = stream
		default:
			data(stream, n, cost(n))
		}
	case frameHeaders, frameContinue:
		f.ends = true
		if kind == frameHeaders {
			f.opened = stream
		}
	}
}
