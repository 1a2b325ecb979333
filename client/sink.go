package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// sink sends one producer's batches to one broker: a queue of lanes that have something to send,
// and one goroutine that sends a batch of each in turn on an ordered stream.
type sink struct {
	p      *Producer
	broker int32
	addr   string
	wake   chan struct{} // capacity 1
	lives  chan struct{} // capacity 1; see hear
	ctx    context.Context
	stop   context.CancelFunc
	done   chan struct{} // closed when run has returned

	mu    sync.Mutex // guards what follows
	ready []*lane
}

func newSink(p *Producer, broker int32, addr string) *sink {
	s := &sink{p: p, broker: broker, addr: addr, wake: make(chan struct{}, 1), lives: make(chan struct{}, 1), done: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(p.ctx)
	p.wg.Go(s.run)
	return s
}

// push queues a lane.
func (s *sink) push(l *lane) {
	s.mu.Lock()
	s.ready = append(s.ready, l)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hear tells that the broker was elected, and so that it lives: however long it could not be reached, it is tried at once.
func (s *sink) hear() {
	select {
	case s.lives <- struct{}{}:
	default:
	}
}

// pop gives the lane that has waited longest, waiting for one; nil when the sink is to stop.
func (s *sink) pop() *lane {
	for {
		s.mu.Lock()
		if len(s.ready) > 0 {
			l := s.ready[0]
			s.ready[0] = nil
			s.ready = s.ready[1:]
			s.mu.Unlock()
			return l
		}
		s.ready = nil
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return nil
		}
	}
}

// run sends until the sink is stopped. Lanes that wait for a connection stay queued, unless another
// broker leads them meanwhile.
func (s *sink) run() {
	defer close(s.done)
	defer s.stop()
	var st *stream
	failures := 0
	for s.ctx.Err() == nil {
		l := s.pop()
		if l == nil {
			break
		}
		for st == nil || st.dead() {
			var err *Error
			if st, err = s.connect(); err == nil {
				failures = 0
				break
			}
			failures++
			s.p.c.log.Debug("cannot connect to broker", "broker", s.broker, "addr", s.addr, "err", err)
			s.p.c.meta.refresh()
			wait := time.NewTimer(s.p.c.backoff(failures))
			select {
			case <-wait.C:
			case <-s.lives:
				failures = 0
				s.p.conns.hurry(s.addr)
			case <-s.ctx.Done():
			}
			wait.Stop()
			if s.ctx.Err() != nil {
				return
			}
		}
		if a := l.next(s, st); a != nil {
			st.send(a)
		}
	}
	if st != nil {
		st.finish()
	}
}

// connect opens a stream.
func (s *sink) connect() (*stream, *Error) {
	client, cc, err := s.p.conns.log(s.addr)
	if err != nil {
		return nil, fromCall(err, s.addr)
	}
	st := &stream{s: s, cc: cc, pending: make(map[uint64]*attempt), ended: make(chan struct{})}
	// A stream outlives its sink, so that what is on its way can still be answered.
	st.ctx, st.cancel = context.WithCancelCause(s.p.ctx)
	slow := time.AfterFunc(s.p.c.cfg.ConnectTimeout, func() {
		st.cancel(&Error{Reason: ReasonNetwork, Message: "no connection to " + s.addr + " within ConnectTimeout", Outcome: NotWritten, Retriable: true})
	})
	st.rpc, err = client.Produce(st.ctx)
	if !slow.Stop() || err != nil {
		if st.ctx.Err() != nil { // too slow, or the producer is closed: the cause says more
			err = context.Cause(st.ctx)
		}
		st.cancel(nil)
		return nil, fromCall(err, s.addr)
	}
	s.p.wg.Go(st.receive)
	return st, nil
}

// stream is one Produce call: requests in order, answers in any.
type stream struct {
	s      *sink
	cc     *grpc.ClientConn
	rpc    grpc.BidiStreamingClient[clientv1.ProduceRequest, clientv1.ProduceResponse]
	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when receive has returned

	mu      sync.Mutex // guards what follows
	next    uint64
	pending map[uint64]*attempt
	err     *Error // why the stream is dead
}

// register gives an attempt its id on the stream. False: the stream is dead, and the attempt will
// not be sent.
func (st *stream) register(a *attempt) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return false
	}
	st.next++
	a.id = st.next
	if a.lane.acks != clientv1.Acks_ACKS_NONE {
		st.pending[a.id] = a
	}
	return true
}

// send hands a registered attempt to the transport. It blocks while the broker takes nothing. A
// failure ends the stream, and receive then tells all lanes.
func (st *stream) send(a *attempt) {
	err := st.rpc.Send(st.request(a))
	if a.lane.acks != clientv1.Acks_ACKS_NONE {
		return // the answer, or the end of the stream, comes by receive
	}
	if err != nil {
		a.lane.lost(a, fromCall(err, st.s.addr))
		return
	}
	a.lane.gone(a)
}

// request is what an attempt looks like on the wire.
func (st *stream) request(a *attempt) *clientv1.ProduceRequest {
	req := &clientv1.ProduceRequest{
		RequestId: a.id, Topic: a.lane.tp.Topic, Partition: a.lane.tp.Partition, Acks: a.lane.acks,
		TimeoutMs: int32(st.s.p.brokerTimeout.Milliseconds()), Batch: a.b.wire, TopicId: a.topic,
	}
	if t := st.s.p.txn; t != nil {
		req.TransactionalId = t.id
	}
	return req
}

// receive takes answers until the stream ends, and then reports every attempt that has none.
func (st *stream) receive() {
	defer close(st.ended)
	for {
		r, err := st.rpc.Recv()
		if err != nil {
			st.end(err)
			return
		}
		st.mu.Lock()
		a := st.pending[r.GetRequestId()]
		delete(st.pending, r.GetRequestId())
		st.mu.Unlock()
		if a != nil {
			a.lane.answered(a, r)
		}
	}
}

// end makes the stream dead and reports its attempts, oldest first.
func (st *stream) end(cause error) {
	if st.ctx.Err() != nil {
		cause = context.Cause(st.ctx)
	}
	if errors.Is(cause, io.EOF) {
		cause = &Error{Reason: ReasonNetwork, Message: "broker at " + st.s.addr + " ended the stream", Outcome: Unknown, Retriable: true}
	}
	unread := st.unread(cause)
	err := *fromCall(cause, st.s.addr)
	err.Outcome = Unknown // whatever the cause: the broker may have taken what it has not answered
	st.mu.Lock()
	st.err = &err
	lost := make([]*attempt, 0, len(st.pending))
	for _, a := range st.pending {
		lost = append(lost, a)
	}
	st.pending = nil
	st.mu.Unlock()
	st.cancel(nil)
	if st.s.p.ctx.Err() == nil {
		st.s.p.c.log.Debug("produce stream ended", "broker", st.s.broker, "addr", st.s.addr, "unanswered", len(lost), "err", &err)
		st.s.p.c.meta.refresh()
	}
	slices.SortFunc(lost, func(a, b *attempt) int { return int(a.id) - int(b.id) })
	for _, a := range lost {
		if size := proto.Size(st.request(a)); unread > 0 && size > unread {
			a.lane.tooLarge(a, refusal(ReasonMessageTooLarge, "the request takes %d bytes, and broker %d reads %d at most (limits.max_message_bytes)", size, st.s.broker, unread))
		} else {
			a.lane.lost(a, &err)
		}
	}
}

// unread is the size above which the broker has read no request: the one that it told when the
// stream began, if the stream ended because of such a request; else 0.
func (st *stream) unread(cause error) int {
	if status.Code(cause) != codes.ResourceExhausted {
		return 0
	}
	header, err := st.rpc.Header()
	if err != nil {
		return 0
	}
	for _, v := range header.Get(clientv1.MaxRequestBytesHeader) {
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
	}
	return 0
}

// abort ends a stream whose broker does not answer, and gives its connection up with it.
func (st *stream) abort(err *Error) {
	st.cancel(err)
	st.s.p.conns.drop(st.s.addr, st.cc)
}

// finish says that nothing more will be sent, and waits until the broker has taken everything. It
// has its answers already, except with acks none, where that is all one can wait for.
func (st *stream) finish() {
	if st.rpc.CloseSend() == nil && st.s.p.cfg.Acks == AcksNone {
		t := time.NewTimer(st.s.p.c.cfg.ConnectTimeout)
		defer t.Stop()
		select {
		case <-st.ended:
		case <-t.C:
		case <-st.ctx.Done():
		}
	}
}

func (st *stream) dead() bool { return st.failure() != nil }

func (st *stream) failure() *Error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.err
}
