package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// held collects proposals and answers them when the test says.
type heldProposals struct {
	mu    sync.Mutex
	calls []func(partition.ProduceResult, error)
}

func (h *heldProposals) produce(_ partition.ProduceRequest, done func(partition.ProduceResult, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, done)
}

func (h *heldProposals) take() []func(partition.ProduceResult, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	calls := h.calls
	h.calls = nil
	return calls
}

func value(t *testing.T, b record.Batch) string {
	t.Helper()
	records, err := b.Records(0)
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	if !records.Next() {
		t.Fatal("batch without a record")
	}
	return string(records.Record().Value)
}

// The topic that is meant is told to the log.
func TestProduceNamesTheTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		s := r.produce()
		req := request(1, "t", "v")
		req.TopicId = strings.Repeat("07", 16)
		s.send(req)
		s.send(request(2, "t", "w"))
		synctest.Wait()
		got := r.log.produced()
		if len(got) != 2 || got[0].TopicID[15] != 7 || got[1].TopicID != (partition.TopicID{}) {
			t.Errorf("proposed %+v", got)
		}
		for _, done := range held.take() {
			done(partition.ProduceResult{}, nil)
		}
	})
}

// The order of requests on a stream is the order of proposals; answers come as they are ready.
func TestProduceKeepsOrderWithManyInFlight(t *testing.T) {
	const n = 600
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		s := r.produce()
		for i := range uint64(n) {
			req := request(i, "t", fmt.Sprint(i))
			req.Partition = int32(i % 2)
			s.send(req)
		}
		synctest.Wait()
		for i, req := range r.log.produced() {
			if got := value(t, req.Batch); got != fmt.Sprint(i) || req.Partition != int32(i%2) {
				t.Fatalf("proposal %d holds value %s for %s", i, got, req.TopicPartition)
			}
		}
		calls := held.take()
		if len(calls) != n {
			t.Fatalf("%d proposals, want %d", len(calls), n)
		}
		if got := r.metric(r.server.metrics.inFlight); got != n {
			t.Errorf("metric in flight is %v, want %d", got, n)
		}
		order := rand.New(rand.NewPCG(seed, 0)).Perm(n)
		go func() {
			for _, i := range order {
				calls[i](partition.ProduceResult{BaseOffset: record.Offset(i), LogStart: 7, LogAppendTime: -1, Duplicate: i%3 == 0}, nil)
			}
		}()
		for _, i := range order {
			a := s.recv()
			if a.RequestId != uint64(i) || a.BaseOffset != int64(i) || a.LogStartOffset != 7 || a.Duplicate != (i%3 == 0) || a.Error != nil {
				t.Fatalf("answer %v, want request %d", a, i)
			}
		}
		s.end()
		if got := r.metric(r.server.metrics.inFlight); got != 0 {
			t.Errorf("metric in flight is %v at the end", got)
		}
	})
}

// At its bound of requests, and at its bound of bytes, a stream is not read any further.
func TestProduceHoldsTheClientBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		bytes  int
		most   int
	}{
		{"requests", func(c *Config) { c.StreamRequests = 10 }, 100, 10},
		// The request that crosses the bound is still taken.
		{"bytes", func(c *Config) { c.StreamBytes = 1 << 20 }, 300 << 10, 4},
		{"one larger than all", func(c *Config) { c.StreamBytes = 1000 }, 300 << 10, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.change)
				held := &heldProposals{}
				r.log.onProduce = held.produce
				s := r.produce()
				const n = 40
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for i := range uint64(n) {
						_ = s.Send(request(i, "t", strings.Repeat("x", c.bytes)))
					}
				}()
				for answered := 0; answered < n; {
					synctest.Wait()
					calls := held.take()
					if want := min(c.most, n-answered); len(calls) != want {
						t.Fatalf("%d requests were taken at once after %d, want %d", len(calls), answered, want)
					}
					for _, done := range calls {
						done(partition.ProduceResult{}, nil)
						answered++
					}
				}
				<-sent
				for i := range uint64(n) {
					if a := s.recv(); a.RequestId != i {
						t.Fatalf("answer to %d, want %d", a.RequestId, i)
					}
				}
				s.end()
				if r.metric(r.server.metrics.stalls) == 0 {
					t.Error("no stall was counted")
				}
			})
		})
	}
}

// A client that does not read its answers is not read either, and costs bounded memory.
func TestProduceStopsForAClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.StreamRequests = 50 })
		s := r.produce()
		topic := strings.Repeat("t", 249) // long answers fill the client's window soon
		sent := make(chan int, 1)
		go func() {
			for i := range 200_000 {
				if s.Send(request(uint64(i), topic, strings.Repeat("v", 200))) != nil {
					sent <- i
					return
				}
			}
			sent <- 200_000
		}()
		synctest.Wait()
		n := len(r.log.produced())
		select {
		case n := <-sent:
			t.Fatalf("all %d requests went through though no answer was read", n)
		default:
		}
		if n < 50 || r.metric(r.server.metrics.inFlight) > 50 {
			t.Errorf("%d proposed, %v in flight, want at most 50 in flight", n, r.metric(r.server.metrics.inFlight))
		}
		s.cancel()
		<-sent
		synctest.Wait()
		if got := r.metric(r.server.metrics.inFlight); got != 0 {
			t.Errorf("metric in flight is %v after the stream was cancelled", got)
		}
	})
}

func TestProduceBytesOfAllStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{ProduceBytes: 1000}) })
		held := &heldProposals{}
		r.log.onProduce = held.produce
		a, b := r.produce(), r.produce()
		a.send(request(1, "t", strings.Repeat("x", 2000))) // larger than the bound, but alone
		synctest.Wait()
		b.send(request(2, "t", "x"))
		if got := b.recv(); got.Error.GetReason() != reasonBusy || !got.Error.Retriable || got.Error.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			t.Fatalf("answer %v, want %s, retriable, did not happen", got, reasonBusy)
		}
		held.take()[0](partition.ProduceResult{}, nil)
		a.recv()
		b.send(request(3, "t", "x"))
		synctest.Wait()
		held.take()[0](partition.ProduceResult{}, nil)
		if got := b.recv(); got.Error != nil {
			t.Fatalf("answer %v after room was made", got)
		}
		a.end()
		b.end()
		if got := r.metric(r.server.metrics.producingBytes); got != 0 {
			t.Errorf("metric producing bytes is %v at the end", got)
		}
	})
}

// What was proposed goes on when its stream ends, and everything is counted out.
func TestProduceOutlivesItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		s := r.produce()
		for i := range uint64(20) {
			s.send(request(i, "t", "x"))
		}
		synctest.Wait()
		s.cancel()
		synctest.Wait()
		if got := r.metric(r.server.metrics.produceStreams); got != 0 {
			t.Errorf("%v streams are open after the client has gone", got)
		}
		calls := held.take()
		if len(calls) != 20 {
			t.Fatalf("%d proposals, want 20", len(calls))
		}
		for _, done := range calls {
			done(partition.ProduceResult{}, errors.New("nobody hears this"))
		}
		if f, b := r.metric(r.server.metrics.inFlight), r.metric(r.server.metrics.producingBytes); f != 0 || b != 0 {
			t.Errorf("in flight %v, bytes %v after the end, want 0, 0", f, b)
		}
	})
}

func TestProduceAnswersAfterHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		s := r.produce()
		s.send(request(1, "t", "x"))
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		held.take()[0](partition.ProduceResult{BaseOffset: 5}, nil)
		if a := s.recv(); a.BaseOffset != 5 {
			t.Fatalf("answer %v, want offset 5", a)
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Fatalf("the stream ended with %v, want EOF", err)
		}
	})
}

// Requests with acks none are proposed and never answered; their failures are counted.
func TestProduceAcksNone(t *testing.T) {
	r := newRig(t, nil)
	r.log.onProduce = func(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
		if req.Partition == 1 {
			done(partition.ProduceResult{}, &partition.Error{Code: partition.CodeBusy, Outcome: raftgroup.DidNotHappen})
			return
		}
		done(partition.ProduceResult{BaseOffset: 9}, nil)
	}
	s := r.produce()
	for i := range uint64(3000) { // more than a stream may have under way: each must be counted out
		req := request(i, "t", "x")
		req.Acks, req.Partition = clientv1.Acks_ACKS_NONE, int32(i%2)
		s.send(req)
	}
	bad := request(1, "not/allowed", "x")
	bad.Acks = clientv1.Acks_ACKS_NONE
	s.send(bad)
	s.send(request(7000, "t", "x"))
	if a := s.recv(); a.RequestId != 7000 || a.BaseOffset != 9 {
		t.Fatalf("answer %v, want the one to request 7000", a)
	}
	s.end()
	m := r.server.metrics
	if busy, topic := r.metric(m.unanswered.WithLabelValues("BROKER_BUSY")), r.metric(m.unanswered.WithLabelValues("INVALID_TOPIC_EXCEPTION")); busy != 1500 || topic != 1 {
		t.Errorf("unanswered errors: %v busy, %v topic; want 1500, 1", busy, topic)
	}
}

func TestProduceTimeouts(t *testing.T) {
	r := newRig(t, nil)
	var asked []time.Duration
	r.log.onProduce = func(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
		asked = append(asked, req.Timeout)
		done(partition.ProduceResult{BaseOffset: -1}, &partition.Error{Code: partition.CodeRequestTimedOut, Message: "no commit in time", Outcome: raftgroup.MayHaveHappened})
	}
	s := r.produce()
	for i, ms := range []int32{0, 1500} {
		req := request(uint64(i), "t", "x")
		req.TimeoutMs = ms
		s.send(req)
		a := s.recv()
		if e := a.Error; e.GetReason() != "REQUEST_TIMED_OUT" || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED || !e.Retriable || a.BaseOffset != -1 {
			t.Errorf("answer %v, want REQUEST_TIMED_OUT, may have happened, retriable", a)
		}
	}
	s.end()
	if asked[0] != 0 || asked[1] != 1500*time.Millisecond {
		t.Errorf("the log was asked to wait %v, want its own default and 1.5s", asked)
	}
}

// Errors of the partition arrive whole, and what only the metadata knows is added.
func TestProduceErrorsNameTheLeader(t *testing.T) {
	r := newRig(t, nil)
	external := clientv1.NewLogServiceClient(r.dial(r.serve("external")))
	notHere := &partition.Error{Code: partition.CodeNotLeader, Message: "no replica here", Outcome: raftgroup.DidNotHappen}
	r.log.limits = func(record.TopicPartition) (record.Limits, error) { return record.Limits{}, notHere }
	r.cluster.leaders[r.cluster.group("t", 1)] = partition.Leader{Broker: 2, Epoch: 7}
	ask := func(c clientv1.LogServiceClient, topic string, p int32) *clientv1.Error {
		t.Helper()
		s, err := c.Produce(r.ctx())
		if err != nil {
			t.Fatal(err)
		}
		req := request(1, topic, "x")
		req.Partition = p
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
		a, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		(&testStream{t: t, BidiStreamingClient: s}).end()
		return a.Error
	}
	e := ask(r.client, "t", 1)
	if e.GetReason() != "NOT_LEADER_OR_FOLLOWER" || e.Leader.GetBrokerId() != 2 || e.Leader.Epoch != 7 || e.Leader.Address != "c.example:9095" || !e.Retriable {
		t.Errorf("error %v, want the leader, broker 2 in epoch 7, with its address", e)
	}
	if e := ask(external, "t", 1); e.Leader.GetAddress() != "c.public:19095" {
		t.Errorf("error %v on the external listener, want the address there", e)
	}
	if e := ask(r.client, "t", 0); e.GetReason() != "NOT_LEADER_OR_FOLLOWER" || e.Leader.GetBrokerId() != -1 {
		t.Errorf("error %v, want an unknown leader", e)
	}
	for _, c := range []struct {
		topic string
		p     int32
		field string
	}{{"t", 2, "partition"}, {"gone", 0, "topic"}} {
		if e := ask(r.client, c.topic, c.p); e.GetReason() != "UNKNOWN_TOPIC_OR_PARTITION" || e.Metadata["field"] != c.field || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			t.Errorf("%s/%d: error %v, want UNKNOWN_TOPIC_OR_PARTITION, field %s", c.topic, c.p, e, c.field)
		}
	}
	// A domain's own word on the leader counts more than hearsay, and an uncertain outcome stays one.
	notHere.Leader, notHere.Outcome = &partition.Leader{Broker: 0, Epoch: 9}, raftgroup.MayHaveHappened
	if e := ask(r.client, "t", 1); e.Leader.GetBrokerId() != 0 || e.Leader.Epoch != 9 || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED {
		t.Errorf("error %v, want broker 0 in epoch 9, may have happened", e)
	}
	notHere.Leader = nil
	if e := ask(r.client, "gone", 0); e.GetReason() != "NOT_LEADER_OR_FOLLOWER" || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED {
		t.Errorf("error %v: an uncertain outcome became certain", e)
	}
}

func TestProduceSurvivesAPanic(t *testing.T) {
	r := newRig(t, nil)
	r.log.onProduce = func(partition.ProduceRequest, func(partition.ProduceResult, error)) { panic("a bug") }
	s := r.produce()
	s.send(request(1, "t", "x"))
	_, err := s.Recv()
	e, _, ok := clientv1.ErrorOf(err)
	if status.Code(err) != codes.Internal || !ok || e.Reason != reasonUnknown || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED {
		t.Fatalf("the stream ended with %v, want INTERNAL, %s, may have happened", err, reasonUnknown)
	}
	if r.metric(r.server.metrics.panics) != 1 || !strings.Contains(r.logged.String(), "a bug") {
		t.Error("the panic was not counted, or not logged")
	}
	r.log.onProduce = nil
	s = r.produce()
	s.send(request(2, "t", "x"))
	if a := s.recv(); a.Error != nil {
		t.Fatalf("answer %v after a panic", a)
	}
	s.end()
}

func TestProduceEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		busy, idle := r.produce(), r.produce()
		busy.send(request(1, "t", "x"))
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- r.server.Stop(context.Background()) }()
		_, err := idle.Recv()
		if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != reasonStopping || status.Code(err) != codes.Unavailable {
			t.Errorf("the idle stream ended with %v, want %s", err, reasonStopping)
		}
		synctest.Wait()
		select {
		case <-stopped:
			t.Fatal("Stop did not wait for an answer that was due")
		default:
		}
		held.take()[0](partition.ProduceResult{BaseOffset: 3}, nil)
		if a := busy.recv(); a.BaseOffset != 3 {
			t.Errorf("answer %v, want offset 3", a)
		}
		if _, err = busy.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the busy stream ended with %v, want UNAVAILABLE", err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

func TestStopCutsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		held := &heldProposals{}
		r.log.onProduce = held.produce
		s := r.produce()
		s.send(request(1, "t", "x"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := r.server.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("Stop gave %v after %v, want the deadline after 5s", err, time.Since(start))
		}
		held.take()[0](partition.ProduceResult{}, nil)
		if _, err := s.Recv(); err == nil {
			t.Error("a cut stream goes on")
		}
	})
}
