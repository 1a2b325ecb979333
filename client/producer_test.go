package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

var bg = context.Background()

// bubble runs a test in virtual time; goroutines that are left over fail it.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// rec makes a record for partition 0 of the topic "t".
func rec(value string) Record {
	return Record{Topic: "t", Partition: ToPartition(0), Value: []byte(value)}
}

// results collects callbacks.
type results struct {
	mu  sync.Mutex
	got map[string]Result
	seq []string
}

func newResults() *results { return &results{got: make(map[string]Result)} }

// send sends a value and keeps what becomes of it.
func (r *results) send(t testing.TB, p *Producer, value string) {
	t.Helper()
	if err := p.Send(bg, rec(value), r.keep(value)); err != nil {
		t.Errorf("Send(%s): %v", value, err)
	}
}

func (r *results) keep(value string) func(Result) {
	return func(res Result) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, again := r.got[value]; again {
			res.Err = errors.New("told twice")
		}
		r.got[value] = res
		r.seq = append(r.seq, value)
	}
}

func (r *results) want(t testing.TB, value string, o Outcome, reason string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	res, ok := r.got[value]
	if !ok {
		t.Errorf("%s: no result", value)
		return
	}
	var e *Error
	errors.As(res.Err, &e)
	if res.Outcome != o || (e != nil) != (reason != "") || e != nil && e.Reason != reason {
		t.Errorf("%s: %v, want %v %s", value, res, o, reason)
	}
}

// wantLog compares what is stored in partition 0 of "t".
func (c *fakeCluster) wantLog(t testing.TB, values ...string) {
	t.Helper()
	if got := c.partition("t", 0).stored(); !slices.Equal(got, values) {
		t.Errorf("log holds %v, want %v", got, values)
		for _, line := range c.seen {
			t.Log(line)
		}
	}
}

func flush(t testing.TB, p *Producer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, time.Hour)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Errorf("Flush: %v", err)
	}
}

// onRequest scripts a fault for the nth request (from 1) that reaches a leader.
func (c *fakeCluster) onRequest(faults map[int]fault) {
	n := 0
	c.script = func(*clientv1.ProduceRequest, []string) fault {
		n++
		return faults[n]
	}
}

// onFirst scripts a fault for the first request that carries each value.
func (c *fakeCluster) onFirst(faults map[string]fault) {
	c.script = func(_ *clientv1.ProduceRequest, values []string) fault {
		for _, v := range values {
			if f, ok := faults[v]; ok {
				delete(faults, v)
				return f
			}
		}
		return fault{}
	}
}

func refused(reason string) fault {
	return fault{refuse: &clientv1.Error{Reason: reason, Message: "scripted", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}}
}

func busy() fault {
	return fault{refuse: &clientv1.Error{Reason: "THROTTLING_QUOTA_EXCEEDED", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true}}
}

func TestSendSync(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 3)
		p := producer(t, c.connect(t), ProducerConfig{Linger: time.Minute})
		start := time.Now()
		for i := range 5 {
			res := p.SendSync(bg, rec(fmt.Sprint(i)))
			if res.Outcome != Written || res.Offset != record.Offset(i) || res.Partition != 0 || res.Err != nil {
				t.Fatalf("%v", res)
			}
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v: a caller that waits must not wait for linger", d)
		}
		c.wantLog(t, "0", "1", "2", "3", "4")
	})
}

func TestSendBatchesAndKeepsOrderOfCallbacks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		r := newResults()
		var want []string
		for i := range 1000 {
			want = append(want, fmt.Sprint(i))
			r.send(t, p, want[i])
		}
		flush(t, p)
		c.wantLog(t, want...)
		if !slices.Equal(r.seq, want) {
			t.Errorf("callbacks came in another order: %v", r.seq)
		}
		for i, v := range want {
			if r.got[v].Offset != record.Offset(i) {
				t.Fatalf("%s: %v", v, r.got[v])
			}
		}
		if s := p.Stats(); s.BatchesSent > 3 || s.RecordsWritten != 1000 || s.BufferedBytes != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestFuture(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Linger: 100 * time.Millisecond})
		f, err := p.SendFuture(bg, rec("a"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
		defer cancel()
		if res := f.Result(ctx); res.Outcome != Unknown || !errors.Is(res.Err, context.DeadlineExceeded) {
			t.Errorf("while lingering: %v", res)
		}
		if res := f.Result(bg); res.Outcome != Written || res.Offset != 0 {
			t.Errorf("%v", res)
		}
	})
}

func TestSendPicksPartitions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 7)
		p := producer(t, c.connect(t), ProducerConfig{BatchBytes: 1024})
		for i := range 50 {
			key := fmt.Appendf(nil, "key-%d", i)
			if res := p.SendSync(bg, Record{Topic: "t", Key: key}); res.Partition != KeyPartition(key, 7) {
				t.Errorf("%s went to %v", key, res)
			}
		}
		seen := map[int32]int{}
		for range 1000 {
			res := p.SendSync(bg, Record{Topic: "t", Value: make([]byte, 100)})
			if res.Err != nil {
				t.Fatal(res)
			}
			seen[res.Partition]++
		}
		if len(seen) != 7 {
			t.Errorf("records without key went to %v", seen)
		}
		if err := p.Send(bg, Record{Topic: "t", Partition: ToPartition(7)}, nil); !errors.Is(err, ErrUnknownTopicOrPartition) || OutcomeOf(err) != NotWritten {
			t.Errorf("partition 7: %v", err)
		}
		own := producer(t, p.c, ProducerConfig{Partitioner: func(r Record, n int) int32 { return int32(n) - int32(len(r.Value)) }})
		if res := own.SendSync(bg, rec("")); res.Partition != 0 {
			t.Errorf("named partition: %v", res)
		}
		if res := own.SendSync(bg, Record{Topic: "t", Value: []byte("xx")}); res.Partition != 5 {
			t.Errorf("own partitioner: %v", res)
		}
		if res := own.SendSync(bg, Record{Topic: "t"}); !errors.Is(res.Err, ErrInvalidConfig) {
			t.Errorf("own partitioner out of range: %v", res)
		}
	})
}

// The vectors are those of Kafka's UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestSendCompressed(t *testing.T) {
	for codec := record.CodecNone; codec <= record.CodecZstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newFakeCluster(t, 1)
				c.topic("t", 1)
				faults := map[int]fault{2: busy(), 5: {loseAck: true}}
				c.onRequest(faults)
				p := producer(t, c.connect(t), ProducerConfig{Compression: codec, BatchBytes: 1024})
				r := newResults()
				var want []string
				for i := range 200 {
					want = append(want, fmt.Sprintf("%s-%d", strings.Repeat("abc", 20), i))
					r.send(t, p, want[i])
				}
				flush(t, p)
				c.wantLog(t, want...)
			})
		})
	}
}

func TestSendRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		cl := c.connect(t)
		p := producer(t, cl, ProducerConfig{MaxRequestBytes: 1 << 12})
		big := rec(strings.Repeat("x", 1<<12))
		if err := p.Send(bg, big, nil); !errors.Is(err, ErrMessageTooLarge) || !strings.Contains(err.Error(), "4096") {
			t.Errorf("too large: %v", err)
		}
		start := time.Now()
		if err := p.Send(bg, Record{Topic: "none"}, nil); !errors.Is(err, ErrUnknownTopicOrPartition) || OutcomeOf(err) != NotWritten {
			t.Errorf("unknown topic: %v", err)
		}
		if d := time.Since(start); d < unknownTopicGrace || d > 2*unknownTopicGrace {
			t.Errorf("unknown topic took %v", d)
		}
		old := rec("x")
		old.Timestamp = time.UnixMilli(-5)
		if err := p.Send(bg, old, nil); err == nil || OutcomeOf(err) != NotWritten {
			t.Errorf("negative timestamp: %v", err)
		}
		if res := p.SendSync(bg, rec("fine")); res.Outcome != Written {
			t.Error(res)
		}
		if err := p.Close(bg); err != nil {
			t.Error(err)
		}
		if err := p.Send(bg, rec("late"), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if s := p.Stats(); s.BufferedBytes != 0 {
			t.Errorf("%+v", s)
		}
		if err := cl.Close(bg); err != nil {
			t.Error(err)
		}
		if _, err := cl.NewProducer(ProducerConfig{}); !errors.Is(err, ErrClosed) {
			t.Errorf("producer of a closed client: %v", err)
		}
	})
}

func TestTopicThatIsBeingMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		time.AfterFunc(time.Second, func() { c.topic("t", 1) })
		if res := p.SendSync(bg, rec("a")); res.Outcome != Written {
			t.Error(res)
		}
	})
}

func TestPartitionsThatAreAdded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{})
		if res := p.SendSync(bg, rec("a")); res.Outcome != Written {
			t.Fatal(res)
		}
		c.topic("t", 2) // another topic of the name, with two
		time.Sleep(6 * time.Minute)
		if res := p.SendSync(bg, Record{Topic: "t", Partition: ToPartition(1)}); res.Outcome != Written {
			t.Error(res)
		}
	})
}

func TestBufferBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{BufferBytes: 4096, MaxRequestBytes: 4096, BatchBytes: 1024, MaxBlock: time.Second, Linger: time.Minute})
		value := strings.Repeat("x", 900)
		c.brokers[1].host.pause()
		time.AfterFunc(500*time.Millisecond, c.brokers[1].host.resume)
		r := newResults()
		for i := range 20 { // does not fit at once, is sent before linger because somebody waits
			r.send(t, p, fmt.Sprint(value, i))
		}
		if p.Stats().Blocked == 0 {
			t.Error("nobody had to wait")
		}
		flush(t, p)
		c.brokers[1].host.pause()
		for i := range 4 {
			r.send(t, p, fmt.Sprint(value, "b", i))
		}
		start := time.Now()
		err := p.Send(bg, rec(value), nil)
		if !errors.Is(err, ErrBufferExhausted) || OutcomeOf(err) != NotWritten || time.Since(start) != time.Second {
			t.Errorf("full buffer: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(bg, time.Millisecond)
		defer cancel()
		if err := p.Send(ctx, rec(value), nil); !errors.Is(err, context.DeadlineExceeded) || OutcomeOf(err) != NotWritten {
			t.Errorf("full buffer, short context: %v", err)
		}
		c.brokers[1].host.resume()
		flush(t, p)
		if s := p.Stats(); s.BufferedBytes != 0 || s.RecordsWritten != 24 {
			t.Errorf("%+v", s)
		}
	})
}

func TestConfigNamesTheField(t *testing.T) {
	base := Config{Bootstrap: []string{"b1:9095"}}
	for field, cfg := range map[string]ProducerConfig{
		"Acks": {Acks: 9}, "Compression": {Compression: 9}, "MaxInFlight": {MaxInFlight: 6}, "Linger": {Linger: time.Hour},
		"BatchBytes": {BatchBytes: 10}, "MaxRequestBytes": {MaxRequestBytes: 10}, "RequestTimeout": {RequestTimeout: 1},
		"DeliveryTimeout": {DeliveryTimeout: time.Second}, "BufferBytes": {BufferBytes: 5}, "MaxBlock": {MaxBlock: -1},
	} {
		if err := cfg.Validate(base); !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), field+" is ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for field, cfg := range map[string]Config{
		"Bootstrap": {}, "Bootstrap has": {Bootstrap: []string{"localhost"}}, "RetryBackoffMax": {Bootstrap: base.Bootstrap, RetryBackoffMax: 1},
		"RequestTimeout": {Bootstrap: base.Bootstrap, RequestTimeout: time.Hour},
	} {
		if _, err := New(cfg); !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, cfg := range []ProducerConfig{{}, {DisableIdempotence: true, MaxInFlight: 6}, {Acks: AcksNone, MaxInFlight: 100}, {Linger: NoLinger}} {
		if err := cfg.Validate(base); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// More than five batches in flight are refused by configuration, since brokers remember five (P5).
func TestMoreThanFiveInFlightRefused(t *testing.T) {
	_, err := (&Client{cfg: Config{Bootstrap: []string{"b1:9095"}}}).NewProducer(ProducerConfig{MaxInFlight: 6})
	if !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), "MaxInFlight is 6, want 1 to 5") {
		t.Errorf("%v", err)
	}
}

// A batch is given up, by an abort or its deadline, while it is compressed, sent and answered. Its memory is used again only when nobody
// can hold it any more: nothing is stored that was never sent, and the race detector is silent.
func TestGivenUpWhileOthersHoldIt(t *testing.T) {
	c := newFakeCluster(t, 1)
	topic := c.topic("t", 2)
	for _, codec := range []record.Codec{record.CodecNone, record.CodecZstd} {
		p := producer(t, c.connect(t), ProducerConfig{Compression: codec, BatchBytes: 1024, Linger: -1, DisableIdempotence: true, MaxInFlight: 5})
		stop := make(chan struct{})
		var dropping sync.WaitGroup
		dropping.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.eachLane(func(l *lane) { l.drop(refusal(ReasonTransactionAbortable, "dropped")) })
					runtime.Gosched()
				}
			}
		})
		for i := range 4000 {
			r := Record{Topic: "t", Partition: ToPartition(int32(i % 2)), Value: []byte(strconv.Itoa(i))}
			if _, err := p.SendFuture(bg, r); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		dropping.Wait()
		if err := p.Flush(bg); err != nil {
			t.Fatal(err)
		}
	}
	for i, part := range topic.partitions {
		for _, v := range part.stored() {
			if n, err := strconv.Atoi(v); err != nil || n < 0 || n >= 4000 || n%2 != i {
				t.Fatalf("partition %d holds %q, which was never sent to it", i, v)
			}
		}
	}
}

// Close ends when its context does, whatever the broker takes: one that hangs and whose windows are full blocks who sends.
func TestCloseDoesNotWaitForAFullWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.topic("t", 1)
		p := producer(t, c.connect(t), ProducerConfig{Linger: NoLinger})
		p.SendSync(bg, rec("a"))
		c.brokers[1].host.pause()
		r := newResults()
		for i := range 4 {
			r.send(t, p, fmt.Sprint(i)+strings.Repeat("x", 500_000))
			synctest.Wait() // the window fills
		}
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		begin := time.Now()
		if err := p.Close(ctx); err == nil {
			t.Error("closed without an error")
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("took %v", d)
		}
		if n := len(r.got); n != 4 {
			t.Errorf("%d results", n)
		}
	})
}
