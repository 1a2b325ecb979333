package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// link is a connection we dialed: requests go out, answers come in. Its loss fails everything
// that is pending at once.
type link struct {
	*wire
	peer *peer
	// saysFresh: the other end tells in its answers whether a replica has taken an append since it was opened.
	saysFresh bool
	// budget bounds the bytes of entries and snapshots sent and not answered (bulk only).
	budget *budget

	// mu guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	next    uint64
	pending map[uint64]*call
	dead    bool
	heard   time.Time // when the last frame came in
}

// call is one request on a link. done is called exactly once, from the link's reader or from
// start when the link is dead; it must not block.
type call struct {
	kind frameKind // of the answer
	done func(f *frame, err error)
	// more, where set, is shown every frame that is not of kind first, on the link's reader.
	more func(f *frame)
	// beats is set instead of all this for a batch of heartbeats.
	beats *beatReplies
}

func (c *call) fail(err error) {
	if c.beats != nil {
		c.beats.fail(err)
		return
	}
	c.done(nil, err)
}

const (
	dialTimeout = 3 * time.Second
	minRedial   = 20 * time.Millisecond
	maxRedial   = 500 * time.Millisecond

	// maxPeerBytes bounds what is in flight to one broker.
	maxPeerBytes = 16 << 20
)

// start registers a call and gives its request id; false: the link is dead, done has been called.
func (l *link) start(c *call) (uint64, bool) {
	l.mu.Lock()
	if l.dead {
		l.mu.Unlock()
		c.fail(l.cause())
		return 0, false
	}
	if len(l.pending) == 0 {
		l.heard = time.Now() // Silence counts from here.
	}
	l.next++
	id := l.next
	l.pending[id] = c
	l.mu.Unlock()
	return id, true
}

// abandon forgets a call whose caller has gone; a late answer is dropped. False: done has been called, or is about to be.
func (l *link) abandon(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[id]
	delete(l.pending, id)
	return ok
}

// ask sends a small request.
func (l *link) ask(f *frame, c *call) uint64 {
	id, ok := l.start(c)
	if ok {
		f.request = id
		l.queue(f)
	}
	return id
}

// receive reads answers until the connection ends, then fails what is pending.
func (l *link) receive() {
	var err error
	for {
		var f frame
		if f, err = l.read(l.limit()); err != nil {
			break
		}
		if err = l.deliver(&f); err != nil {
			l.metrics.badFrames.Inc()
			break
		}
	}
	l.fail(fmt.Errorf("read: %w", err))
	l.mu.Lock()
	l.dead = true
	pending := l.pending
	l.pending = nil
	l.mu.Unlock()
	cause := l.cause()
	for _, c := range pending {
		c.fail(cause)
	}
}

// deliver gives an answer to its call.
func (l *link) deliver(f *frame) error {
	l.mu.Lock()
	l.heard = time.Now()
	c := l.pending[f.request]
	if c != nil && c.beats == nil && f.kind == c.kind {
		delete(l.pending, f.request)
	}
	l.mu.Unlock()
	switch {
	case c == nil:
		return nil // Its caller has gone.
	case c.beats != nil:
		return l.deliverBeats(f, c.beats)
	case f.kind == c.kind:
		c.done(f, nil)
		return nil
	case c.more != nil && f.kind == frameSnapshotCredit:
		c.more(f)
		return nil
	}
	return badFrame("answer of kind %d to a request that wants %d", f.kind, c.kind)
}

// deliverBeats gives answers to a batch, which stays pending until none is missing.
func (l *link) deliverBeats(f *frame, r *beatReplies) error {
	switch f.kind {
	case frameHeartbeatsAck:
		if err := r.all(f); err != nil {
			return err
		}
	case frameHeartbeatLate:
		a, err := decodeBeatAck(f.body)
		if err != nil {
			return err
		}
		r.one(uint64(f.group), &a)
	default:
		return badFrame("answer of kind %d to heartbeats", f.kind)
	}
	if r.left == 0 {
		l.abandon(f.request)
	}
	return nil
}

// silence is for how long nothing came in although something is pending; 0: nothing is.
func (l *link) silence(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return 0
	}
	return now.Sub(l.heard)
}

// dialer keeps at most one link of a class to a peer, made when it is needed.
type dialer struct {
	peer  *peer
	class class

	// mu guards what follows. Nothing blocks under it.
	mu       sync.Mutex
	link     *link
	dialing  chan struct{} // closed when the attempt under way is over
	err      error         // of the last attempt
	retryAt  time.Time
	failures int
}

// current gives the link if there is one.
func (d *dialer) current() *link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.link
}

// get gives the link, dialing if need be. After a failure it fails at once for a while.
func (d *dialer) get(id ServerID, stop <-chan struct{}) (*link, error) {
	for {
		d.mu.Lock()
		if d.link != nil {
			l := d.link
			d.mu.Unlock()
			return l, nil
		}
		if d.dialing == nil {
			if time.Now().Before(d.retryAt) {
				err := d.err
				d.mu.Unlock()
				return nil, err
			}
			d.dialing = make(chan struct{})
			if !d.peer.host.background(func() { d.dial(id) }) {
				d.dialing = nil
				d.mu.Unlock()
				return nil, ErrHostClosed
			}
		}
		wait := d.dialing
		d.mu.Unlock()
		select {
		case <-wait:
		case <-stop:
			return nil, ErrStopped
		}
		d.mu.Lock()
		if d.link == nil && d.err != nil {
			err := d.err
			d.mu.Unlock()
			return nil, err
		}
		d.mu.Unlock()
	}
}

// dial makes one attempt and, if it works, reads the link until it breaks.
func (d *dialer) dial(id ServerID) {
	l, err := d.connect(id)
	d.mu.Lock()
	d.link, d.err = l, err
	if err != nil {
		d.failures++
		d.retryAt = time.Now().Add(min(minRedial<<min(d.failures-1, 5), maxRedial))
	}
	close(d.dialing)
	d.dialing = nil
	d.mu.Unlock()
	h := d.peer.host
	if err != nil {
		h.metrics.dials.WithLabelValues("failed").Inc()
		h.logger.Debug("cannot reach broker", "peer", d.peer.broker, "class", d.class.String(), "err", err)
		return
	}
	h.metrics.dials.WithLabelValues("connected").Inc()
	d.peer.wake()
	h.logger.Debug("connected to broker", "peer", d.peer.broker, "class", d.class.String())
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		l.drain()
	}()
	l.receive()
	<-drained
	h.untrack(l.wire)
	d.mu.Lock()
	d.link = nil
	d.err = fmt.Errorf("connection to broker %d was lost: %w", d.peer.broker, l.cause())
	d.mu.Unlock()
	h.logger.Info("connection to broker was lost", "peer", d.peer.broker, "class", d.class.String(), "err", l.cause())
	h.suspect(d.peer.broker)
}

// connect dials and agrees on a version.
func (d *dialer) connect(id ServerID) (*link, error) {
	h := d.peer.host
	addr, ok := h.config.Resolve(id)
	if !ok {
		return nil, fmt.Errorf("no address is known for %s", id)
	}
	ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
	defer cancel()
	conn, err := h.config.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial broker %d at %s: %w", d.peer.broker, addr, err)
	}
	w := newWire(conn, d.class, h.metrics)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	said, err := h.greet(w, d.peer.broker)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && !h.track(w) {
		err = ErrHostClosed
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("broker %d at %s: %w", d.peer.broker, addr, err)
	}
	_ = conn.SetDeadline(time.Time{})
	d.mu.Lock()
	d.failures = 0
	d.mu.Unlock()
	h.know(w, remote{d.peer.broker, said.node})
	l := &link{wire: w, peer: d.peer, saysFresh: said.saysFresh, pending: make(map[uint64]*call), heard: time.Now()}
	if d.class == classBulk {
		l.budget = newBudget(maxPeerBytes)
	}
	return l, nil
}

// ErrHostClosed says that the host is being closed.
var ErrHostClosed = errors.New("this broker is stopping")

// greet says hello and checks who answers.
func (h *Host) greet(w *wire, to int32) (said greeting, err error) {
	mine := h.clusterID()
	err = w.write(appendFrame(nil, &frame{kind: frameHello, body: appendHello(nil, hello{
		minVersion: transportVersion, maxVersion: transportVersion, class: w.class,
		from: h.config.Broker, to: to, cluster: mine, tail: h.greeting(),
	})}), nil)
	if err != nil {
		return said, err
	}
	f, err := w.read(maxControlBody)
	if err != nil {
		return said, fmt.Errorf("no greeting: %w", err)
	}
	if f.kind != frameHelloAck {
		return said, badFrame("greeting of kind %d", f.kind)
	}
	if err := answerError(&f); err != nil {
		if f.code == codeReplaced && h.config.OnReplaced != nil {
			h.config.OnReplaced()
		}
		return said, err
	}
	ack, err := decodeHelloAck(f.body)
	switch {
	case err != nil:
		return said, err
	case ack.version != transportVersion:
		return said, fmt.Errorf("it speaks transport version %d, this broker %d", ack.version, transportVersion)
	case ack.broker != to:
		return said, fmt.Errorf("it is broker %d", ack.broker)
	case mine != "" && ack.cluster != "" && mine != ack.cluster:
		return said, fmt.Errorf("it belongs to cluster %s, this broker to %s", ack.cluster, mine)
	}
	return ack.tail, h.replaced(to, ack.tail.node)
}
