package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// session is a connection that another broker dialed: requests come in, answers go out. Its
// reader never waits for a group: what takes time is answered later by the group's responder.
type session struct {
	*wire
	host *Host
	peer int32

	// streams are the snapshots being received, by request. Only the reader touches it.
	streams map[uint64]*snapshotStream
}

// maxStreams bounds the snapshots that one broker may send here at once.
const maxStreams = 64

// accept serves connections from other brokers until the listener ends.
func (h *Host) accept() {
	for {
		conn, err := h.config.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && h.ctx.Err() == nil {
				h.logger.Error("raft listener does not accept", "err", err)
			}
			if errors.Is(err, net.ErrClosed) || !h.sleep(50*time.Millisecond) {
				return
			}
			continue
		}
		if !h.background(func() { h.serve(conn) }) {
			_ = conn.Close()
			return
		}
	}
}

// serve runs one connection from its hello to its end.
func (h *Host) serve(conn net.Conn) {
	w := newWire(conn, classControl, h.metrics)
	if !h.track(w) {
		_ = conn.Close()
		return
	}
	defer h.untrack(w)
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	r, err := h.welcome(w)
	from := r.broker
	if err != nil {
		w.fail(err)
		if errors.Is(err, io.EOF) || h.ctx.Err() != nil {
			return
		}
		if n, ok := h.refusals.Allow(time.Now()); ok {
			h.logger.Warn("refused a raft connection", "remote", conn.RemoteAddr().String(), "err", err, "unreported", n)
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	h.know(w, r)
	h.connected(r, w)
	defer h.disconnected(r, w)
	s := &session{wire: w, host: h, peer: from, streams: make(map[uint64]*snapshotStream)}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.drain()
	}()
	err = s.receive()
	var bad *badFrameError
	if errors.As(err, &bad) {
		if n, ok := h.refusals.Allow(time.Now()); ok {
			h.logger.Error("broker sent what cannot be understood; connection closed", "peer", from, "class", w.class.String(), "err", err, "unreported", n)
		}
	}
	w.fail(err)
	for _, st := range s.streams {
		st.fail(fmt.Errorf("connection was lost: %w", w.cause()))
	}
	<-drained
	h.suspect(from)
}

type sessionKey struct {
	broker      int32
	incarnation uint64
	class       class
}

// connected notes that a broker has connected. It has one connection of each class: an older one is
// what is left of a connection that it has given up. Another directory's is not its own.
func (h *Host) connected(r remote, w *wire) {
	key := sessionKey{r.broker, r.node.Incarnation, w.class}
	h.mu.Lock()
	old := h.sessions[key]
	h.sessions[key] = w
	p := h.peers[r.broker]
	h.mu.Unlock()
	if old != nil {
		old.fail(errReplaced)
	}
	if p != nil {
		p.seen()
	}
}

func (h *Host) disconnected(r remote, w *wire) {
	key := sessionKey{r.broker, r.node.Incarnation, w.class}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[key] == w {
		delete(h.sessions, key)
	}
}

var errReplaced = errors.New("the broker has connected again")

// welcome reads the hello and answers it.
func (h *Host) welcome(w *wire) (from remote, err error) {
	f, err := w.read(maxControlBody)
	if err != nil {
		return remote{}, err
	}
	if f.kind != frameHello {
		h.metrics.badFrames.Inc()
		return remote{}, badFrame("kind %d where a hello belongs", f.kind)
	}
	hi, err := decodeHello(f.body)
	if err != nil {
		h.metrics.badFrames.Inc()
		return remote{}, err
	}
	mine := h.clusterID()
	answer := frame{kind: frameHelloAck, request: f.request}
	switch {
	case hi.minVersion > transportVersion || hi.maxVersion < transportVersion:
		answer.code = codeVersion
		err = fmt.Errorf("broker %d speaks transport versions %d to %d, this broker %d", hi.from, hi.minVersion, hi.maxVersion, transportVersion)
	case hi.to != h.config.Broker:
		answer.code = codeWrongServer
		err = fmt.Errorf("broker %d looks for broker %d; this is broker %d", hi.from, hi.to, h.config.Broker)
	case hi.from == h.config.Broker:
		answer.code = codeWrongServer
		err = fmt.Errorf("another broker has this broker's id, %d", hi.from)
	case mine != "" && hi.cluster != "" && mine != hi.cluster:
		answer.code = codeCluster
		err = fmt.Errorf("broker %d belongs to cluster %s, this broker to %s", hi.from, hi.cluster, mine)
	}
	if err == nil {
		if err = h.replaced(hi.from, hi.tail.node); err != nil {
			answer.code = codeReplaced
		}
	}
	if err != nil {
		answer.body = []byte(err.Error())
		_ = w.write(appendFrame(nil, &answer), nil)
		return remote{}, err
	}
	w.class = hi.class
	answer.body = appendHelloAck(nil, helloAck{version: transportVersion, broker: h.config.Broker, cluster: mine, tail: h.greeting()})
	return remote{hi.from, hi.tail.node}, w.write(appendFrame(nil, &answer), nil)
}

// receive reads requests until the connection ends or a frame is bad.
func (s *session) receive() error {
	for {
		f, err := s.read(s.limit())
		if err != nil {
			return err
		}
		if s.class == classControl {
			err = s.control(&f)
		} else {
			err = s.bulk(&f)
		}
		if err != nil {
			var bad *badFrameError
			if errors.As(err, &bad) {
				s.metrics.badFrames.Inc()
			}
			return err
		}
	}
}

func (s *session) control(f *frame) error {
	switch f.kind {
	case frameHeartbeats:
		return s.heartbeats(f)
	case framePing:
		s.queue(&frame{kind: framePong, request: f.request})
		return nil
	case frameVote, framePreVote:
		return s.vote(f)
	case frameTimeoutNow:
		s.deliver(f, frameTimeoutNowAck, func(header raft.RPCHeader) any { return &raft.TimeoutNowRequest{RPCHeader: header} }, nil)
		return nil
	case frameTerm:
		s.term(f)
		return nil
	}
	return badFrame("kind %d on a control connection", f.kind)
}

func (s *session) bulk(f *frame) error {
	switch f.kind {
	case frameAppend:
		req, err := decodeAppend(f.body)
		if err != nil {
			return err
		}
		s.deliver(f, frameAppendAck, func(header raft.RPCHeader) any {
			req.RPCHeader = header
			return req
		}, nil)
		return nil
	case frameSnapshot:
		return s.snapshot(f)
	case frameSnapshotData:
		return s.snapshotData(f)
	}
	return badFrame("kind %d on a bulk connection", f.kind)
}

func (s *session) vote(f *frame) error {
	v, err := decodeBallot(f.body)
	if err != nil {
		return err
	}
	if f.kind == frameVote {
		s.deliver(f, frameVoteAck, func(header raft.RPCHeader) any {
			return &raft.RequestVoteRequest{RPCHeader: header, Term: v.term, LastLogIndex: v.lastIndex, LastLogTerm: v.lastTerm, LeadershipTransfer: v.transfer}
		}, nil)
		return nil
	}
	s.deliver(f, framePreVoteAck, func(header raft.RPCHeader) any {
		return &raft.RequestPreVoteRequest{RPCHeader: header, Term: v.term, LastLogIndex: v.lastIndex, LastLogTerm: v.lastTerm}
	}, nil)
	return nil
}

// term answers a leadership check: which term is this replica in, now? It is read here, on the
// reader: a replica that answers with a term has not voted in a later one (Group.Confirm). A
// replica that is stopped or still starting does not answer with a term.
func (s *session) term(f *frame) {
	e, code := s.host.find(f.group, f.to)
	answer := frame{kind: frameTermAck, code: code, request: f.request, group: f.group, from: f.to, to: f.from}
	if code == codeOK {
		_, leader := e.raft.LeaderWithID()
		answer.body = appendTermFlag(nil, e.raft.CurrentTerm(), leader != "")
	}
	s.queue(&answer)
}

// deliver hands a request to its group. The answer, or the reason why there is none, is queued.
func (s *session) deliver(f *frame, answer frameKind, command func(raft.RPCHeader) any, stream *snapshotStream) {
	ask := frame{kind: answer, request: f.request, group: f.group, from: f.to, to: f.from}
	e, code := s.host.find(f.group, f.to)
	reply := func(resp any, code uint16, err error) {
		if r, ok := resp.(*raft.AppendEntriesResponse); ok && r.Success {
			e.taken.Store(true)
		}
		s.answer(ask, resp, code, err)
	}
	if code == codeOK {
		var reader io.Reader
		if stream != nil {
			stream.stopWith(e.stopping)
		}
		cmd := command(e.headerOf(s.peer, f.from))
		switch q := cmd.(type) {
		case *raft.InstallSnapshotRequest:
			reader = &installReader{engine: e, request: q, stream: stream}
		case *raft.AppendEntriesRequest:
			e.beginBehindSnapshot(q)
		case *raft.RequestPreVoteRequest:
			e.openPreVote(q)
		case *raft.RequestVoteRequest:
			e.openVote(q)
		}
		code = e.inbox.put(cmd, reader, int64(len(f.body)), reply)
	}
	if code != codeOK {
		if stream != nil {
			stream.fail(ErrUnknownGroup)
		}
		reply(nil, code, nil)
	}
}

// answer encodes what Raft said.
func (s *session) answer(out frame, resp any, code uint16, err error) {
	out.code = code
	if err != nil && code == codeOK {
		out.code = codeFailed
		out.body = []byte(err.Error()[:min(len(err.Error()), maxErrorText)])
	}
	if out.code == codeOK {
		switch r := resp.(type) {
		case *raft.AppendEntriesResponse:
			out.body = appendAppendAck(nil, r)
		case *raft.RequestVoteResponse:
			out.body = appendTermFlag(nil, r.Term, r.Granted)
		case *raft.RequestPreVoteResponse:
			out.body = appendTermFlag(nil, r.Term, r.Granted)
		case *raft.InstallSnapshotResponse:
			out.body = appendTermFlag(nil, r.Term, r.Success)
		case *raft.TimeoutNowResponse:
		default:
			out.code = codeFailed
		}
	}
	s.queue(&out)
}

// heartbeats answers a batch. What Raft's own goroutine has to deal with, because it would raise
// the term, is answered late.
func (s *session) heartbeats(f *frame) error {
	beats, err := decodeBeats(f.body)
	if err != nil {
		return err
	}
	out := frame{kind: frameHeartbeatsAck, request: f.request, body: make([]byte, 0, len(beats)*beatAckSize)}
	for i := range beats {
		a := s.heartbeat(f.request, uint64(i), &beats[i])
		out.body = appendBeatAck(out.body, &a)
	}
	s.queue(&out)
	return nil
}

// isFresh says whether a replica has taken no append since it was opened.
func (s *session) isFresh(e *engine) bool { return !e.taken.Load() && !s.host.config.older }

func (s *session) heartbeat(request, index uint64, b *beat) beatAck {
	e, code := s.host.find(b.group, b.to)
	if code != codeOK {
		return beatAck{code: code}
	}
	req := &raft.AppendEntriesRequest{RPCHeader: e.headerOf(s.peer, b.from), Term: b.term}
	if resp, ok := e.fastHeartbeat(req); ok {
		return beatAck{resp: *resp, fresh: s.isFresh(e)}
	}
	code = e.inbox.put(req, nil, 0, func(resp any, code uint16, err error) {
		a := beatAck{code: code, fresh: s.isFresh(e)}
		if r, ok := resp.(*raft.AppendEntriesResponse); ok && err == nil && code == codeOK {
			a.resp = *r
		} else if code == codeOK {
			a.code = codeFailed
		}
		// The group field carries which heartbeat of the batch this answers.
		s.queue(&frame{kind: frameHeartbeatLate, request: request, group: GroupID(index), body: appendBeatAck(nil, &a)})
	})
	return beatAck{code: code, late: code == codeOK}
}

// snapshot begins to receive one.
func (s *session) snapshot(f *frame) error {
	req, err := decodeInstall(f.body)
	if err != nil {
		return err
	}
	if s.streams[f.request] != nil || len(s.streams) >= maxStreams {
		return badFrame("%d snapshots at once", len(s.streams)+1)
	}
	request, group, from, to := f.request, f.group, f.from, f.to
	st := newSnapshotStream(req.Size, func(n uint64) {
		b := appendTermFlag(nil, n, true)
		s.queue(&frame{kind: frameSnapshotCredit, request: request, group: group, from: to, to: from, body: b})
	})
	if req.Size > 0 {
		s.streams[f.request] = st
	}
	s.deliver(f, frameSnapshotAck, func(header raft.RPCHeader) any {
		req.RPCHeader = header
		return req
	}, st)
	return nil
}

// snapshotData takes a part of one.
func (s *session) snapshotData(f *frame) error {
	st := s.streams[f.request]
	if st == nil {
		return badFrame("data of snapshot %d, which did not begin", f.request)
	}
	if len(f.body) == 0 {
		// The sender gives up.
		st.fail(errors.New("the sender gave up"))
		delete(s.streams, f.request)
		return nil
	}
	complete, err := st.put(f.body)
	if complete {
		delete(s.streams, f.request)
	}
	return err
}

// snapshotStream is a snapshot on its way from a session's reader to Raft's goroutine. The
// sender keeps at most snapshotWindow bytes ahead of what has been read.
type snapshotStream struct {
	credit func(read uint64)
	more   chan struct{} // has a token when parts or err changed

	// mu guards what follows. Nothing blocks under it.
	mu       sync.Mutex
	parts    [][]byte
	missing  int64 // bytes yet to come in
	waiting  int64 // bytes in parts
	consumed uint64
	credited uint64
	err      error
	stop     <-chan struct{}
}

const (
	snapshotPart   = 256 << 10
	snapshotWindow = 4 * snapshotPart
)

func newSnapshotStream(size int64, credit func(uint64)) *snapshotStream {
	return &snapshotStream{credit: credit, more: make(chan struct{}, 1), missing: size}
}

func (s *snapshotStream) put(p []byte) (complete bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		// Nobody reads any more; the rest is dropped.
		s.missing -= int64(len(p))
		return s.missing <= 0, nil
	}
	if int64(len(p)) > s.missing || s.waiting+int64(len(p)) > snapshotWindow+snapshotPart {
		return false, badFrame("snapshot data passes its size or its window")
	}
	s.parts = append(s.parts, p)
	s.missing -= int64(len(p))
	s.waiting += int64(len(p))
	s.signal()
	return s.missing == 0, nil
}

func (s *snapshotStream) signal() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// fail makes reading end with err, also for what has come in already.
func (s *snapshotStream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && (s.missing > 0 || len(s.parts) > 0) {
		s.err = err
		s.parts = nil
	}
	s.signal()
}

// Read gives Raft the next bytes, waiting for them.
func (s *snapshotStream) Read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		stop := s.stop
		switch {
		case s.err != nil:
			defer s.mu.Unlock()
			return 0, s.err
		case len(s.parts) > 0:
			n := copy(p, s.parts[0])
			if s.parts[0] = s.parts[0][n:]; len(s.parts[0]) == 0 {
				s.parts = s.parts[1:]
			}
			s.waiting -= int64(n)
			s.consumed += uint64(n)
			give := uint64(0)
			if s.consumed-s.credited >= snapshotPart {
				s.credited = s.consumed
				give = s.consumed
			}
			s.mu.Unlock()
			if give > 0 {
				s.credit(give)
			}
			return n, nil
		case s.missing == 0:
			s.mu.Unlock()
			return 0, io.EOF
		}
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-stop:
			s.fail(ErrStopped)
		}
	}
}

// stopWith makes reading end when stop is closed.
func (s *snapshotStream) stopWith(stop <-chan struct{}) {
	s.mu.Lock()
	s.stop = stop
	s.mu.Unlock()
	s.signal()
}
