package raftgroup

import (
	"errors"
	"fmt"
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

// beater collects the heartbeats of all groups for one broker and sends them as one message for
// each interval. It also watches over the broker's connections: a peer that answers nothing for
// deadAfter while something is pending loses both, so that what waits for it fails.
type beater struct {
	peer *peer
	wake chan struct{} // has a token when waiting has become non-empty

	// mu guards what follows. Nothing blocks under it.
	mu      sync.Mutex
	waiting []waitingBeat
	ended   bool
}

type waitingBeat struct {
	id   ServerID
	beat beat
	done func(beatAck, error)
}

// add queues a heartbeat; done is called exactly once, unless an error comes back. It must not
// block.
func (b *beater) add(id ServerID, h beat, stop <-chan struct{}, done func(beatAck, error)) error {
	// Dialing must not happen in the collecting goroutine: the heartbeat waits for it here.
	if _, err := b.peer.control.get(id, stop); err != nil {
		return err
	}
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return ErrHostClosed
	}
	b.waiting = append(b.waiting, waitingBeat{id, h, done})
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// run sends a batch at most once for each interval, until the host closes.
func (b *beater) run() {
	h := b.peer.host
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	for {
		select {
		case <-b.wake:
			if h.sleep(h.config.HeartbeatInterval) {
				b.flush()
			}
		case <-watch.C:
			b.watch()
		case <-h.ctx.Done():
			b.end()
			return
		}
	}
}

// flush sends what has been collected.
func (b *beater) flush() {
	b.mu.Lock()
	batch := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	for len(batch) > 0 {
		n := min(len(batch), maxBeats)
		b.send(batch[:n:n])
		batch = batch[n:]
	}
}

func (b *beater) send(batch []waitingBeat) {
	l := b.peer.control.current()
	if l == nil {
		for _, w := range batch {
			w.done(beatAck{}, errWireClosed)
		}
		return
	}
	beats := make([]beat, len(batch))
	for i := range batch {
		beats[i] = batch[i].beat
	}
	b.peer.host.metrics.beatFrames.Inc()
	b.peer.host.metrics.beats.Add(float64(len(beats)))
	l.ask(&frame{kind: frameHeartbeats, body: appendBeats(nil, beats)}, &call{beats: &beatReplies{batch: batch, left: len(batch)}})
}

// end answers what waits.
func (b *beater) end() {
	b.mu.Lock()
	batch := b.waiting
	b.waiting = nil
	b.ended = true
	b.mu.Unlock()
	for _, w := range batch {
		w.done(beatAck{}, ErrHostClosed)
	}
}

const watchInterval = time.Second

// deadAfter is how long a peer may answer nothing.
func (h *Host) deadAfter() time.Duration { return max(3*h.config.HeartbeatTimeout, 3*time.Second) }

// watch pings an open control connection, and cuts the peer off when nothing has come back for
// long. The bulk connection alone may be silent while the peer's disk is: it is cut together with
// the other, or when writing to it takes too long.
func (b *beater) watch() {
	l := b.peer.control.current()
	if l == nil {
		return
	}
	if silent := l.silence(time.Now()); silent > b.peer.host.deadAfter() {
		err := fmt.Errorf("broker %d answered nothing for %v", b.peer.broker, silent.Round(time.Millisecond))
		l.fail(err)
		if bulk := b.peer.bulk.current(); bulk != nil {
			bulk.fail(err)
		}
		return
	}
	l.ask(&frame{kind: framePing}, &call{kind: framePong, done: func(*frame, error) {}})
}

// beatReplies are the answers to one batch. Its methods run on the link's reader, or on whoever
// breaks the link, one at a time.
type beatReplies struct {
	batch []waitingBeat
	left  int
}

// all takes the answers to a batch; those marked late follow one by one.
func (r *beatReplies) all(f *frame) error {
	if len(f.body) != len(r.batch)*beatAckSize {
		return badFrame("%d bytes of answers to %d heartbeats", len(f.body), len(r.batch))
	}
	for i := range r.batch {
		a, err := decodeBeatAck(f.body[i*beatAckSize : (i+1)*beatAckSize])
		if err != nil {
			return err
		}
		if !a.late {
			r.one(uint64(i), a)
		}
	}
	return nil
}

func (r *beatReplies) one(i uint64, a beatAck) {
	if i < uint64(len(r.batch)) && r.batch[i].done != nil {
		r.batch[i].done(a, nil)
		r.batch[i].done = nil
		r.left--
	}
}

// fail answers what is still open.
func (r *beatReplies) fail(err error) {
	for i := range r.batch {
		if done := r.batch[i].done; done != nil {
			r.batch[i].done = nil
			done(beatAck{}, err)
		}
	}
}
