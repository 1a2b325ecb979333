package raftgroup

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport is Raft's view of the connections, for one engine of one group. It satisfies
// raft.Transport and raft.WithPreVote.
type transport struct {
	engine *engine
	host   *Host
	group  GroupID
	self   uint64 // this replica's incarnation
	local  raft.ServerAddress

	// mu guards targets. Nothing blocks under it.
	mu      sync.Mutex
	targets map[raft.ServerID]target
}

// target is a replica on another broker.
type target struct {
	id          ServerID
	peer        *peer
	incarnation uint64
	pulse       *pulse
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
)

const (
	// frameTarget is how many bytes of entries go into one frame; one entry may be larger.
	frameTarget = 1 << 20

	// maxPipelined is how many requests of one group may be under way to one follower, and
	// maxPipelinedBytes how many bytes of entries.
	maxPipelined      = 16
	maxPipelinedBytes = 4 << 20
)

func newTransport(e *engine) *transport {
	_, self, _ := ParseServerID(e.group.config.Self)
	return &transport{
		engine: e, host: e.group.host, group: e.group.config.ID, self: self,
		local:   raft.ServerAddress(e.group.config.Self),
		targets: make(map[raft.ServerID]target),
	}
}

// Consumer gives Raft what peers ask.
func (t *transport) Consumer() <-chan raft.RPC { return t.engine.inbox.rpcs }

// LocalAddr is the server id: addresses are resolved when dialing.
func (t *transport) LocalAddr() raft.ServerAddress { return t.local }

// EncodePeer writes an address, which is the server id.
func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer reads what EncodePeer wrote.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler keeps Raft's own handler for heartbeats that need not wait.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) { t.engine.heartbeat.Store(&handle) }

// target finds the broker of a server. Once the engine is stopping nothing goes out any more: after
// a fault Raft may believe to have stored what it has not.
func (t *transport) target(id raft.ServerID) (target, error) {
	switch {
	case t.engine.isStopping():
		return target{}, ErrStopped
	case t.engine.muted.Load():
		return target{}, errDiskStalled
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if to, ok := t.targets[id]; ok {
		return to, nil
	}
	broker, incarnation, err := ParseServerID(ServerID(id))
	if err != nil {
		return target{}, err
	}
	to := target{id: ServerID(id), peer: t.host.peer(broker), incarnation: incarnation,
		pulse: &pulse{engine: t.engine, id: ServerID(id), incarnation: incarnation, header: t.header(id)}}
	t.targets[id] = to
	return to, nil
}

func (t *transport) frame(kind frameKind, to target) frame {
	return frame{kind: kind, group: t.group, from: t.self, to: to.incarnation}
}

// ask sends a small request on the control connection and waits for the answer.
func (t *transport) ask(id raft.ServerID, kind, answer frameKind, body []byte) (frame, error) {
	to, err := t.target(id)
	if err != nil {
		return frame{}, err
	}
	return t.askTarget(to, kind, answer, body)
}

func (t *transport) askTarget(to target, kind, answer frameKind, body []byte) (frame, error) {
	f := t.frame(kind, to)
	f.body = body
	started := time.Now()
	got, err := to.peer.ask(to.id, &f, answer, t.engine.stopping, t.host.config.ElectionTimeout*2)
	t.host.metrics.rpc(kind, started, err)
	return got, err
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, q *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	body := appendBallot(nil, ballot{q.Term, q.LastLogIndex, q.LastLogTerm, q.LeadershipTransfer})
	f, err := t.ask(id, frameVote, frameVoteAck, body)
	if err != nil {
		return err
	}
	resp.RPCHeader = t.header(id)
	resp.Term, resp.Granted, err = decodeTermFlag(f.body)
	return err
}

// RequestPreVote asks whether a vote would be given.
func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, q *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	body := appendBallot(nil, ballot{q.Term, q.LastLogIndex, q.LastLogTerm, false})
	f, err := t.ask(id, framePreVote, framePreVoteAck, body)
	if err != nil {
		return err
	}
	resp.RPCHeader = t.header(id)
	resp.Term, resp.Granted, err = decodeTermFlag(f.body)
	return err
}

// TimeoutNow asks a follower to start an election.
func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	_, err := t.ask(id, frameTimeoutNow, frameTimeoutNowAck, nil)
	resp.RPCHeader = t.header(id)
	return err
}

func (t *transport) header(id raft.ServerID) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id)}
}

// isHeartbeat recognises what Raft sends as one: nothing in it but a term.
func isHeartbeat(q *raft.AppendEntriesRequest) bool {
	return q.Term != 0 && q.PrevLogEntry == 0 && q.PrevLogTerm == 0 && len(q.Entries) == 0 && q.LeaderCommitIndex == 0
}

// AppendEntries sends entries, or a heartbeat, and waits for the answer.
func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	to, err := t.target(id)
	if err != nil {
		return err
	}
	if isHeartbeat(q) {
		return t.sendHeartbeat(to, q, resp)
	}
	// To a follower that is absent, only a question goes out again: what it lacks Raft sends after the
	// answer, and nothing is held for it meanwhile.
	err = t.patiently(to, q.Term, func() error { return t.sendEntries(to, q, resp) }, func() { q.Entries = nil })
	if err == nil && resp.Success {
		t.engine.progress.note(to.id, q)
	}
	return err
}

func (t *transport) sendEntries(to target, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	for rest := q.Entries; ; {
		c, more, err := t.nextChunk(q, rest)
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		rest = more
		if err := t.sendChunk(to, c, resp); err != nil {
			return err
		}
		resp.RPCHeader = t.header(raft.ServerID(to.id))
		if len(rest) == 0 || !resp.Success || resp.Term > q.Term {
			return nil
		}
	}
}

// sendHeartbeat answers Raft's heartbeat out of those that are sent for all groups together, and waits for the next one's answer
// where the last one is too long ago.
func (t *transport) sendHeartbeat(to target, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	got, wait, send := to.pulse.ask(q.Term, time.Now())
	if send {
		_ = to.peer.beats.add(to.pulse, t.engine.stopping) // a failure is told to the one that waits, too
	}
	if wait != nil {
		select {
		case got = <-wait:
		case <-t.engine.stopping:
			return ErrStopped
		}
	}
	*resp = got.resp
	return got.err
}

// nextChunk cuts the next frame's worth off the entries. The commit index it carries is bounded
// by what the frame proves: Raft takes the smaller of it and the receiver's own last index, where
// entries of a dead leader may still stand that a later frame removes.
func (t *transport) nextChunk(q *raft.AppendEntriesRequest, rest []*raft.Log) (*chunk, []*raft.Log, error) {
	c := &chunk{term: q.Term, prevIndex: q.PrevLogEntry, prevTerm: q.PrevLogTerm}
	if done := len(q.Entries) - len(rest); done > 0 {
		prev := q.Entries[done-1]
		c.prevIndex, c.prevTerm = prev.Index, prev.Term
	}
	n := 0
	for n < len(rest) && n < maxEntriesPerFrame {
		e, err := t.engine.log.whole(rest[n], nil)
		if err != nil {
			return nil, nil, err
		}
		size := int64(len(e.Data) + len(e.Extensions))
		if n > 0 && c.bytes+size > frameTarget {
			break
		}
		c.entries = append(c.entries, e)
		c.bytes += size
		n++
	}
	c.commit = min(q.LeaderCommitIndex, c.lastIndex())
	return c, rest[n:], nil
}

// sendChunk sends one frame of entries and waits for the answer.
func (t *transport) sendChunk(to target, c *chunk, resp *raft.AppendEntriesResponse) error {
	l, err := to.peer.bulk.get(to.id, t.engine.stopping)
	if err != nil {
		return err
	}
	type result struct {
		resp raft.AppendEntriesResponse
		err  error
	}
	answer := make(chan result, 1)
	started := time.Now()
	id, err := t.writeChunk(l, to, c, t.engine.stopping, func(f *frame, err error) {
		r := result{err: err}
		if r.err == nil {
			r.err = answerError(f)
		}
		if r.err == nil {
			r.err = decodeAppendAck(f.body, &r.resp)
		}
		answer <- r
	})
	if err != nil {
		return err
	}
	select {
	case r := <-answer:
		*resp, err = r.resp, r.err
	case <-t.engine.stopping:
		if l.abandon(id) {
			t.sent(l, c) // the call will not tell
		}
		err = ErrStopped
	}
	t.host.metrics.rpc(frameAppend, started, err)
	if err == nil && resp.Success && len(c.entries) > 0 {
		// The follower has it on disk. Raft may count that once this replica has, too.
		err = t.engine.awaitDurable(c.lastIndex())
	}
	return err
}

// writeChunk sends one frame of entries; done is called exactly once unless an error comes back.
func (t *transport) writeChunk(l *link, to target, c *chunk, stop <-chan struct{}, done func(*frame, error)) (uint64, error) {
	if !l.budget.Acquire(c.bytes, stop, l.closed) {
		return 0, l.cause()
	}
	if !t.host.sending.Acquire(c.bytes, stop, l.closed) {
		l.budget.Release(c.bytes)
		return 0, l.cause()
	}
	t.host.metrics.sendingBytes.Add(float64(c.bytes))
	id, ok := l.start(&call{kind: frameAppendAck, done: func(f *frame, err error) {
		t.sent(l, c)
		done(f, err)
	}})
	if !ok {
		return 0, nil // done has been called.
	}
	f := t.frame(frameAppend, to)
	f.request = id
	head := headPool.Get().(*[]byte)
	b, follow := appendAppend(beginFrame((*head)[:0], &f), c, t.engine.group.logs.holdsBatches)
	endFrame(b, 0, follow, !t.host.config.TrustNetwork)
	// A failure closes the link, which calls done.
	_ = l.write(b, follow.buffers)
	if cap(b) <= maxHead {
		*head = b
		headPool.Put(head)
	}
	return id, nil
}

// sent gives back what writeChunk took.
func (t *transport) sent(l *link, c *chunk) {
	l.budget.Release(c.bytes)
	t.host.sending.Release(c.bytes)
	t.host.metrics.sendingBytes.Sub(float64(c.bytes))
}

// InstallSnapshot streams a snapshot.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, q *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	to, err := t.target(id)
	if err != nil {
		return err
	}
	var l *link
	err = t.patiently(to, q.Term, func() (err error) {
		l, err = to.peer.bulk.get(to.id, t.engine.stopping)
		return err
	}, func() {})
	if err != nil {
		return err
	}
	t.host.metrics.snapshots.WithLabelValues("sent").Inc()
	s := &snapshotSend{transport: t, link: l, to: to, credit: make(chan uint64, 64), answer: make(chan snapshotAnswer, 1)}
	err = s.run(q, resp, data)
	resp.RPCHeader = t.header(id)
	return err
}

// snapshotSend is one snapshot on its way out.
type snapshotSend struct {
	transport *transport
	link      *link
	to        target
	id        uint64
	credit    chan uint64
	answer    chan snapshotAnswer
}

type snapshotAnswer struct {
	f   frame
	err error
}

func (s *snapshotSend) run(q *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	c := &call{
		kind: frameSnapshotAck,
		done: func(f *frame, err error) {
			if err != nil {
				s.answer <- snapshotAnswer{err: err}
				return
			}
			s.answer <- snapshotAnswer{f: *f}
		},
		more: func(f *frame) {
			if n, _, err := decodeTermFlag(f.body); err == nil {
				select {
				case s.credit <- n:
				default: // A credit that is lost is made up for by the next one.
				}
			}
		},
	}
	var ok bool
	if s.id, ok = s.link.start(c); !ok {
		return s.link.cause()
	}
	f := s.frame(frameSnapshot)
	f.body = appendInstall(nil, q)
	if err := s.link.write(appendFrame(nil, &f), nil); err != nil {
		return err
	}
	answered, err := s.send(q.Size, data)
	if err != nil {
		return err
	}
	a := answered
	if a == nil {
		select {
		case got := <-s.answer:
			a = &got
		case <-s.transport.engine.stopping:
			s.link.abandon(s.id)
			return ErrStopped
		}
	}
	if a.err != nil {
		return a.err
	}
	if err := answerError(&a.f); err != nil {
		return err
	}
	resp.Term, resp.Success, err = decodeTermFlag(a.f.body)
	return err
}

func (s *snapshotSend) frame(kind frameKind) frame {
	f := s.transport.frame(kind, s.to)
	f.request = s.id
	return f
}

// send streams the data, never more than snapshotWindow ahead of the receiver. An answer that
// comes before the end, a refusal, ends it.
func (s *snapshotSend) send(size int64, data io.Reader) (*snapshotAnswer, error) {
	buf := make([]byte, snapshotPart)
	var sent, read int64
	for sent < size {
		for sent-read+snapshotPart > snapshotWindow {
			select {
			case n := <-s.credit:
				read = max(read, int64(n))
			case a := <-s.answer:
				return &a, s.giveUp(nil)
			case <-s.transport.engine.stopping:
				s.link.abandon(s.id)
				return nil, s.giveUp(ErrStopped)
			}
		}
		part := buf[:min(snapshotPart, size-sent)]
		if _, err := io.ReadFull(data, part); err != nil {
			s.link.abandon(s.id)
			return nil, s.giveUp(fmt.Errorf("read snapshot: %w", err))
		}
		f := s.frame(frameSnapshotData)
		f.body = part
		if err := s.link.write(appendFrame(nil, &f), nil); err != nil {
			return nil, err
		}
		sent += int64(len(part))
	}
	return nil, nil
}

// giveUp tells the receiver that no more data comes.
func (s *snapshotSend) giveUp(err error) error {
	f := s.frame(frameSnapshotData)
	s.link.queue(&f)
	return err
}

// headPool keeps the buffers that frames are begun in.
var headPool = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// maxHead is the largest that is kept: a frame of small entries is all in there.
const maxHead = 256 << 10
