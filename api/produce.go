package api

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Produce serves one stream of batches.
//
// A stream has two goroutines: the reader takes requests in order, validates and proposes them,
// which makes the order of requests the order of proposals; the handler sends the answers as they
// come. At the stream's bounds of requests or bytes under way the reader stops reading, and HTTP/2
// flow control holds the client back. When the stream ends, what was proposed goes on; only its
// answers have nobody to go to.
func (s *service) Produce(stream grpc.BidiStreamingServer[clientv1.ProduceRequest, clientv1.ProduceResponse]) error {
	p := &produceStream{
		service: s,
		stream:  stream,
		rights:  s.rights(stream.Context()),
		answers: make(chan produceAnswer, s.c.StreamRequests),
		read:    make(chan readEnd, 1),
		room:    make(chan struct{}, 1),
	}
	limit := metadata.Pairs(clientv1.MaxRequestBytesHeader, strconv.Itoa(s.c.MaxMessageBytes+messageSlack))
	if err := stream.SendHeader(limit); err != nil {
		return err
	}
	s.metrics.produceStreams.Inc()
	defer s.metrics.produceStreams.Dec()
	// The reader may sit in Recv until this call has returned, so Stop waits for it, not the call.
	s.owned.Go(func() { p.read <- p.readAll() })
	return p.answerAll()
}

// produceStream is one Produce call.
type produceStream struct {
	*service
	stream grpc.BidiStreamingServer[clientv1.ProduceRequest, clientv1.ProduceResponse]
	rights rights
	// answers has room for every request under way, so those who answer never block.
	answers chan produceAnswer
	// read tells how reading ended.
	read chan readEnd
	// room has a token when a request or bytes have been finished.
	room chan struct{}

	// mu guards what follows.
	mu sync.Mutex
	// requests and bytes are under way: taken and not yet answered, taken and not yet decided.
	requests int
	bytes    int64
	// closed: no more requests are taken.
	closed bool
}

// readEnd is how the reading of a stream ended.
type readEnd struct {
	// err is what the stream ends with; nil: the client has sent all it wants.
	err error
	// atOnce: without waiting for answers.
	atOnce bool
}

// produceAnswer is one finished request.
type produceAnswer struct {
	req    *clientv1.ProduceRequest
	result partition.ProduceResult
	// err is set on failure.
	err *clientv1.Error
	// start is when the request was received.
	start time.Time
}

// readAll takes requests until the client has no more, the stream breaks, or the stream is closed.
func (p *produceStream) readAll() (end readEnd) {
	defer func() {
		if r := recover(); r != nil {
			// One request was taken and may never be answered.
			end = readEnd{err: p.panicked(clientv1.LogService_Produce_FullMethodName, r), atOnce: true}
		}
	}()
	for p.awaitRoom() {
		req, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return readEnd{}
		}
		if err != nil {
			// The client is gone, or sent what is too large or no request; gRPC has ended the stream
			// with a status that says so.
			return readEnd{err: err, atOnce: true}
		}
		p.metrics.produceBytes.Add(float64(len(req.Batch)))
		if !p.take(req) {
			return readEnd{}
		}
		p.handle(req, time.Now())
	}
	return readEnd{}
}

// awaitRoom returns when the stream is below its bounds: true, or closed: false.
func (p *produceStream) awaitRoom() bool {
	stalled := false
	for {
		p.mu.Lock()
		closed, full := p.closed, p.requests >= p.c.StreamRequests || p.bytes >= p.c.StreamBytes
		p.mu.Unlock()
		if closed || !full {
			return !closed
		}
		if !stalled {
			stalled = true
			p.metrics.stalls.Inc()
		}
		<-p.room // close wakes it too
	}
}

// take counts a request as under way; false: it came too late, and nothing happens with it.
func (p *produceStream) take(req *clientv1.ProduceRequest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.requests++
	p.bytes += int64(len(req.Batch))
	p.metrics.inFlight.Inc()
	return true
}

// handle validates and proposes a request that was taken.
func (p *produceStream) handle(req *clientv1.ProduceRequest, start time.Time) {
	held := int64(len(req.Batch))
	var proposal partition.ProduceRequest
	refusal := leftOut(req)
	if refusal == nil {
		proposal, refusal = p.admitted(&p.rights, req)
	}
	if refusal == nil {
		// Records in proto form have a size only now, as a batch.
		more := int64(len(proposal.Batch)) - held
		p.mu.Lock()
		p.bytes += more
		p.mu.Unlock()
		held += more
		if !p.producing.TryAdd(held) {
			refusal = refused(reasonBusy, "", "", "too many batches wait for their commit on this broker; the limits are %s", p.producing.Bounds("limits.produce_bytes"))
		}
	}
	// The batch is the log's now, and the answer needs only this: names can be as long as a request.
	req = &clientv1.ProduceRequest{RequestId: req.RequestId, Topic: strings.Clone(echo(req.Topic)), Partition: req.Partition, Acks: req.Acks}
	if refusal != nil {
		none := partition.ProduceResult{BaseOffset: record.NoOffset, LogStart: record.NoOffset, LogAppendTime: -1}
		if !denied(refusal) {
			none.LogStart = p.c.Log.LogStart(record.TopicPartition{Topic: req.Topic, Partition: req.Partition})
		}
		p.finish(produceAnswer{req: req, err: refusal, start: start, result: none}, held)
		return
	}
	p.c.Log.Produce(proposal, func(result partition.ProduceResult, err error) {
		p.producing.Add(-held)
		a := produceAnswer{req: req, result: result, start: start}
		if err != nil {
			a.err = p.ofPartition(proposal.TopicPartition, err)
		}
		p.finish(a, held)
	})
}

// finish hands over an answer; it never blocks.
func (p *produceStream) finish(a produceAnswer, bytes int64) {
	if a.err != nil {
		p.metrics.produceErrors.WithLabelValues(a.err.Reason).Inc()
		if a.req.Acks == clientv1.Acks_ACKS_NONE {
			p.metrics.unanswered.WithLabelValues(a.err.Reason).Inc()
		}
	}
	p.mu.Lock()
	p.bytes -= bytes
	p.mu.Unlock()
	p.answers <- a
	p.signal()
}

func (p *produceStream) signal() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// answerAll sends answers until reading has ended and everything taken is answered, or the client is gone.
func (p *produceStream) answerAll() error {
	defer p.abandon()
	var end error
	read, stopping, ctx := p.read, p.stopping.Done(), p.stream.Context()
	for {
		select {
		case a := <-p.answers:
			err := p.answer(a)
			for n := len(p.answers); n > 0 && err == nil; n-- {
				err = p.answer(<-p.answers)
			}
			if err != nil {
				return err
			}
		case e := <-read:
			if e.atOnce {
				return e.err
			}
			read, stopping, end = nil, nil, e.err
			p.close()
		case <-stopping:
			// Whatever is still in the reader's hands will not be taken.
			read, stopping = nil, nil
			end = p.failed(refused(reasonStopping, "", "", "the broker is stopping; requests that were not answered on this stream were not taken"))
			p.close()
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		if read == nil && p.idle() {
			return end
		}
	}
}

// close lets no more requests in.
func (p *produceStream) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.signal()
}

// abandon ends the stream with whatever is still under way: nobody will be told.
func (p *produceStream) abandon() {
	p.close()
	p.mu.Lock()
	p.metrics.inFlight.Sub(float64(p.requests))
	p.mu.Unlock()
}

// idle says that nothing is under way.
func (p *produceStream) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests == 0
}

// answer sends one answer, unless the client wants none; that one is only told that it asks the wrong broker.
func (p *produceStream) answer(a produceAnswer) error {
	p.metrics.produceSeconds.Observe(time.Since(a.start).Seconds())
	var err error
	switch {
	case a.req.Acks != clientv1.Acks_ACKS_NONE:
		err = p.stream.Send(a.response())
	case a.err != nil && frontdoor.KindOf(a.err.Reason).Retry == frontdoor.RetryElsewhere:
		// Nobody waits for an answer, but the end of the stream makes the client look who leads now (P32).
		err = p.failed(a.err)
	}
	p.mu.Lock()
	p.requests--
	p.mu.Unlock()
	p.metrics.inFlight.Dec()
	p.signal()
	return err
}

// response is what goes over the wire.
func (a produceAnswer) response() *clientv1.ProduceResponse {
	r := &clientv1.ProduceResponse{RequestId: a.req.RequestId, Topic: a.req.Topic, Partition: a.req.Partition,
		BaseOffset: -1, LogStartOffset: int64(a.result.LogStart), LogAppendTimeMs: -1, Error: a.err}
	if a.err == nil {
		r.BaseOffset, r.LogAppendTimeMs, r.Duplicate = int64(a.result.BaseOffset), a.result.LogAppendTime, a.result.Duplicate
	}
	return r
}
