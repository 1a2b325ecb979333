package raftgroup

import (
	"fmt"
	"sync"
	"time"
)

// beater sends the heartbeats of all groups for one broker (pulse.go), as one message at a time. It also watches over the
// broker's connections: a peer that answers nothing for deadAfter while something is pending loses both, so that what waits for
// it fails.
type beater struct {
	peer *peer
	wake chan struct{} // has a token when due has become non-empty

	// mu guards what follows. Nothing blocks under it. A pulse's mu is taken under it.
	mu     sync.Mutex
	pulses []*pulse // get a heartbeat at every interval
	due    []*pulse // get one soon
	ended  bool
}

// add has a heartbeat sent soon, and then at every interval. Its answer, or its failure, is the pulse's.
func (b *beater) add(p *pulse, stop <-chan struct{}) error {
	// Dialing must not happen in the collecting goroutine: Raft's waits for it here.
	if _, err := b.peer.control.get(p.id, stop); err != nil {
		p.fail(err)
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		p.fail(ErrHostClosed)
		return ErrHostClosed
	}
	if !p.listed {
		p.listed = true
		b.pulses = append(b.pulses, p)
	}
	if !p.due {
		p.due = true
		b.due = append(b.due, p)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// run sends what is due, and at every interval all, until the host closes.
func (b *beater) run() {
	h := b.peer.host
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	beat := time.NewTicker(h.pulseInterval())
	defer beat.Stop()
	var soon <-chan time.Time // the sender of what is due does not sleep: its tickers are always awaited
	for {
		select {
		case <-b.wake:
			if soon == nil {
				soon = time.After(h.config.HeartbeatInterval)
			}
		case <-soon:
			soon = nil
			b.flush(false)
		case <-beat.C:
			b.flush(true)
		case <-watch.C:
			b.watch()
		case <-h.ctx.Done():
			b.end()
			return
		}
	}
}

// flush sends what is due, or all.
func (b *beater) flush(all bool) {
	l := b.peer.control.current()
	b.mu.Lock()
	list := b.due
	b.due = nil
	for _, p := range list {
		p.due = false
	}
	if all || l == nil {
		list = b.pulses
	}
	now := time.Now()
	batch := make([]waitingBeat, 0, len(list))
	ended := 0
	for _, p := range list {
		var term uint64
		send, on := false, false
		if l == nil {
			p.fail(errWireClosed)
		} else {
			term, send, on = p.begin(now)
		}
		if send {
			batch = append(batch, waitingBeat{p, term})
		}
		if !on && p.listed {
			p.listed = false
			ended++
		}
	}
	if ended > 0 {
		kept := make([]*pulse, 0, len(b.pulses)-ended)
		for _, p := range b.pulses {
			if p.listed {
				kept = append(kept, p)
			}
		}
		b.pulses = kept
	}
	b.mu.Unlock()
	for len(batch) > 0 {
		n := min(len(batch), maxBeats)
		b.send(l, batch[:n:n], now)
		batch = batch[n:]
	}
}

// waitingBeat is a heartbeat that was sent. Its pulse is nil once it has been answered.
type waitingBeat struct {
	pulse *pulse
	term  uint64
}

func (b *beater) send(l *link, batch []waitingBeat, now time.Time) {
	body := make([]byte, 0, len(batch)*beatSize)
	for _, w := range batch {
		t := w.pulse.engine.transport
		body = appendBeat(body, beat{group: t.group, from: t.self, to: w.pulse.incarnation, term: w.term})
	}
	m := b.peer.host.metrics
	m.beatFrames.Inc()
	m.beats.Add(float64(len(batch)))
	l.ask(&frame{kind: frameHeartbeats, body: body}, &call{beats: &beatReplies{batch: batch, left: len(batch), sent: now, metrics: m}})
}

// end answers what waits.
func (b *beater) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	for _, p := range b.pulses {
		p.fail(ErrHostClosed)
	}
	b.pulses, b.due = nil, nil
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
	batch   []waitingBeat
	left    int
	sent    time.Time
	metrics *metrics
}

// all takes the answers to a batch; those marked late follow one by one.
func (r *beatReplies) all(f *frame) error {
	if len(f.body) != len(r.batch)*beatAckSize {
		return badFrame("%d bytes of answers to %d heartbeats", len(f.body), len(r.batch))
	}
	r.metrics.rpc(frameHeartbeats, r.sent, nil)
	for i := range r.batch {
		a, err := decodeBeatAck(f.body[i*beatAckSize : (i+1)*beatAckSize])
		if err != nil {
			return err
		}
		if !a.late {
			r.one(uint64(i), &a)
		}
	}
	return nil
}

func (r *beatReplies) one(i uint64, a *beatAck) {
	if i < uint64(len(r.batch)) && r.batch[i].pulse != nil {
		r.batch[i].pulse.answered(r.batch[i].term, r.sent, a, nil)
		r.batch[i].pulse = nil
		r.left--
	}
}

// fail answers what is still open.
func (r *beatReplies) fail(err error) {
	r.metrics.rpc(frameHeartbeats, r.sent, err)
	for i := range r.batch {
		if p := r.batch[i].pulse; p != nil {
			r.batch[i].pulse = nil
			p.answered(r.batch[i].term, r.sent, nil, err)
		}
	}
}
