package kafka

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// held collects batches that are proposed and not decided.
type held struct {
	mu   sync.Mutex
	list []heldBatch
	more chan struct{}
}

type heldBatch struct {
	req  partition.ProduceRequest
	done func(partition.ProduceResult, error)
}

func newHeld() *held { return &held{more: make(chan struct{}, 1000)} }

func (h *held) produce(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
	h.mu.Lock()
	h.list = append(h.list, heldBatch{req, done})
	h.mu.Unlock()
	h.more <- struct{}{}
}

func (h *held) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-h.more:
		case <-time.After(10 * time.Second):
			t.Fatal("the batches were not proposed")
		}
	}
}

func (h *held) decide(i int, base int64) {
	h.mu.Lock()
	b := h.list[i]
	h.mu.Unlock()
	b.done(partition.ProduceResult{BaseOffset: record.Offset(base), LogStart: 0, LogAppendTime: -1}, nil)
}

// A5: five produce requests of one connection are proposed in order without waiting for each other, and answered in order however
// they are decided; what comes behind them is answered behind them.
func TestFiveInFlightKeepTheirOrder(t *testing.T) {
	r := newRig(t, nil)
	h := newHeld()
	r.log.produce = h.produce
	w := r.dial()
	req := produceOf(9, -1, "t", batchOf("v"))
	for range 5 {
		w.send(req)
	}
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version = 9
	w.send(meta)
	h.await(t, 5)
	for i := 4; i >= 0; i-- {
		h.decide(i, int64(i))
	}
	for i := range 5 {
		resp := w.recv(int32(i+1), req).(*kmsg.ProduceResponse)
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Errorf("answer %d: %+v", i, p)
		}
	}
	w.recv(6, meta)
}

// A request that waits makes nobody wait but those behind it on its own connection.
func TestALongPollHoldsNobody(t *testing.T) {
	r := newRig(t, nil)
	begun := make(chan struct{})
	r.log.fetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		close(begun)
		<-ctx.Done()
		return make([]partition.FetchedPartition, len(req.Partitions))
	}
	w := r.dial()
	w.send(fetchOf(11, "t", 0))
	<-begun
	r.works()
	// The client goes: the wait ends with it.
	_ = w.conn.Close()
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.fetchPartitions) == 0 })
}

func waitFor(t testing.TB, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
		<-time.After(time.Millisecond)
	}
}

// Frames that are no requests cost their own connection, and nothing is left of them.
func TestHostileFramesCostTheirConnection(t *testing.T) {
	r := newRig(t, func(c *Config) { c.FrameTimeout = 300 * time.Millisecond; c.MaxRequestBytes = 1 << 20 })
	frame := func(size int32, key, version int16, body ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(size))
		b = binary.BigEndian.AppendUint16(b, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		b = binary.BigEndian.AppendUint32(b, 1)
		return append(b, body...)
	}
	huge := make([]byte, 100<<10)
	for i := range huge {
		huge[i] = 0xff
	}
	many := binary.BigEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 0}, 60_000)
	many = append(many, make([]byte, 4*60_000)...)
	for _, c := range []struct {
		name   string
		bytes  []byte
		reason string
	}{
		{"negative size", frame(-1, 3, 1), "bad_frame"},
		{"size 0", frame(0, 3, 1), "bad_frame"},
		{"no header", frame(8, 3, 1), "bad_frame"},
		{"client id longer than the frame", frame(12, 3, 1, 0x7f, 0xff, 0, 0), "bad_frame"},
		{"tags without end", frame(14, 3, 9, 0, 0, 0xff, 0xff, 0xff, 0xff), "bad_frame"},
		{"too large", frame(maxPlainBytes+1, 3, 1), "too_large"},
		{"too large produce", frame(1<<20+1, 0, 9), "too_large"},
		{"TLS", []byte{0x16, 0x03, 0x01, 0x02, 0, 1, 0, 1, 0xfc, 3, 3, 1}, "too_large"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "too_large"},
		{"a frame that never ends", frame(1000, 3, 1, 1, 2, 3), "slow_frame"},
		{"a header that never ends", []byte{0, 0, 0}, "slow_frame"},
		{"a large frame that never ends", append(frame(1<<20, 0, 9), huge...), "slow_frame"},
		{"an array of more than there is", frame(14, 3, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff), "bad_frame"},
		{"a million partitions", append(frame(int32(8+len(many)), 0, 3), many...), "too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, said := r.server.metricOf(r.server.metrics.closed.WithLabelValues(c.reason)), len(r.said.String())
			w := r.dial()
			if _, err := w.conn.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			w.gone()
			if got := r.server.metricOf(r.server.metrics.closed.WithLabelValues(c.reason)); got != before+1 {
				t.Errorf("not closed as %s:\n%s", c.reason, r.said.String())
			}
			waitFor(t, func() bool { // the client may hear of it first
				return strings.Contains(r.said.String()[said:], `msg="connection closed"`) && strings.Contains(r.said.String()[said:], "reason="+c.reason)
			})
			r.works()
		})
	}
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
}

// Only what has come is made ready for: a client that announces much does not make the broker hold it.
func TestAnnouncedBytesAreNotHeld(t *testing.T) {
	r := newRig(t, nil)
	w := r.dial()
	b := binary.BigEndian.AppendUint32(nil, 90<<20)
	b = append(b, 0, 0, 0, 9, 0, 0, 0, 1)
	if _, err := w.conn.Write(b); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) > 0 })
	if got := r.server.metricOf(r.server.metrics.readingBytes); got > firstStep {
		t.Errorf("%v bytes are held for an announcement", got)
	}
}

// A client that has sent a large request is believed when it announces the next one, up to provenStep.
func TestProvenClientsAreMadeReadyFor(t *testing.T) {
	r := newRig(t, nil)
	w := r.dial()
	req := produceOf(9, -1, "t", batchOf(strings.Repeat("0123456789abcdef", 2*provenStep/16)))
	b := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
	for i, want := range []int{firstStep, provenStep} {
		if _, err := w.conn.Write(b[:headLen]); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) > 0 })
		if got := r.server.metricOf(r.server.metrics.readingBytes); got != float64(want) {
			t.Errorf("request %d: %v bytes are made ready, want %d", i+1, got, want)
		}
		if _, err := w.conn.Write(b[headLen:]); err != nil {
			t.Fatal(err)
		}
		w.recv(1, req)
		waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
	}
}

// A connection whose request finds no room waits, and goes on when there is.
func TestRequestsWaitForRoom(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{ProduceBytes: 100_000}) })
	h := newHeld()
	r.log.produce = h.produce
	req := produceOf(9, -1, "t", batchOf(strings.Repeat("v", 60_000)))
	first, second := r.dial(), r.dial()
	first.send(req)
	h.await(t, 1)
	second.send(req)
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.waits) == 1 })
	h.decide(0, 0)
	first.recv(1, req)
	h.await(t, 1)
	h.decide(1, 1)
	second.recv(1, req)
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
}

// Requests that together find no room, each with a part of it in its hands, are served one after the other.
func TestRequestsThatShareTheRoom(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{ProduceBytes: 512 << 10}) })
	value := make([]byte, 300<<10)
	for i := range value {
		value[i] = byte(i * 7)
	}
	req := produceOf(9, -1, "t", batchOf(string(value)))
	b := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
	wires := []*wire{r.dial(), r.dial()}
	for i, w := range wires {
		if _, err := w.conn.Write(b[:headLen+firstStep]); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool {
			return r.server.metricOf(r.server.metrics.readingBytes) == float64((i+1)*growth*firstStep)
		})
	}
	for _, w := range wires {
		if _, err := w.conn.Write(b[headLen+firstStep:]); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range wires {
		w.recv(1, req)
	}
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
}

// A request that finds no room for as long as a request may take costs its connection; the client sends it again.
func TestARequestWaitsForRoomNoLongerThanItMay(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Shared = frontdoor.NewShared(frontdoor.Limits{ProduceBytes: 100_000})
		c.FrameTimeout = 100 * time.Millisecond
	})
	h := newHeld()
	r.log.produce = h.produce
	req := produceOf(9, -1, "t", batchOf(strings.Repeat("v", 60_000)))
	first, second := r.dial(), r.dial()
	first.send(req)
	h.await(t, 1)
	second.send(req)
	second.gone()
	if got := r.server.metricOf(r.server.metrics.closed.WithLabelValues("no_room")); got != 1 {
		t.Errorf("%v connections were closed for want of room", got)
	}
	h.decide(0, 0)
	first.recv(1, req)
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	r := newRig(t, func(c *Config) { c.IdleTimeout = 50 * time.Millisecond })
	h := newHeld()
	r.log.produce = h.produce
	busy := r.dial()
	req := produceOf(9, -1, "t", batchOf("v"))
	busy.send(req)
	h.await(t, 1)
	r.dial().gone()
	h.decide(0, 0)
	busy.recv(1, req) // it was not idle
	busy.gone()
}

// A client that does not read its answers is cut off, and what they held is given back.
func TestAClientThatNeverReads(t *testing.T) {
	r := newRig(t, func(c *Config) { c.WriteTimeout = 100 * time.Millisecond })
	r.log.fetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		n := req.Room.Take(ctx, 8<<20)
		req.Room.Give(n - 8<<20)
		return []partition.FetchedPartition{{TopicPartition: req.Partitions[0].TopicPartition, Batches: [][]byte{make([]byte, 8<<20)}, Bytes: 8 << 20}}
	}
	w := r.dial()
	for range 5 {
		w.send(fetchOf(11, "t", 0))
	}
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.closed.WithLabelValues("slow_reader")) == 1 })
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.fetchingBytes) == 0 })
}

// P32: with acks 0 nothing is answered; a failure ends the connection, so that the client looks for the leader.
func TestAcksNone(t *testing.T) {
	r := newRig(t, nil)
	var fail atomic.Bool
	r.log.produce = func(_ partition.ProduceRequest, done func(partition.ProduceResult, error)) {
		if fail.Load() {
			done(partition.ProduceResult{}, errFake)
			return
		}
		done(partition.ProduceResult{}, nil)
	}
	w := r.dial()
	w.send(produceOf(9, 0, "t", batchOf("v")))
	meta := kmsg.NewPtrMetadataRequest()
	w.recv(w.send(meta), meta)
	fail.Store(true)
	w.send(produceOf(9, 0, "t", batchOf("v")))
	w.gone()
}

// What was read is answered when the server stops, and waits end.
func TestStopAnswersWhatIsUnderWay(t *testing.T) {
	r := newRig(t, nil)
	h := newHeld()
	r.log.produce = h.produce
	fetching := make(chan struct{})
	r.log.fetch = func(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		close(fetching)
		<-ctx.Done()
		return make([]partition.FetchedPartition, len(req.Partitions))
	}
	producer, consumer, idle := r.dial(), r.dial(), r.dial()
	req, fetch := produceOf(9, -1, "t", batchOf("v")), fetchOf(11, "t", 0)
	producer.send(req)
	consumer.send(fetch)
	h.await(t, 1)
	<-fetching
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.Stop(context.Background()) }()
	consumer.recv(1, fetch)
	consumer.gone()
	idle.gone()
	h.decide(0, 9)
	if got := producer.recv(1, req).(*kmsg.ProduceResponse).Topics[0].Partitions[0].BaseOffset; got != 9 {
		t.Errorf("base offset %d", got)
	}
	producer.gone()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{Connections: 2}) })
	r.works()
	r.works()
	r.dial().gone()
}

// Whatever comes, the server answers others afterwards and holds nothing.
func TestRandomFrames(t *testing.T) {
	r := newRig(t, func(c *Config) { c.FrameTimeout = 20 * time.Millisecond; c.IdleTimeout = 20 * time.Millisecond })
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		w := r.dial()
		_, _ = w.conn.Write(randomFrame(rng))
		_ = w.conn.Close()
	}
	r.works()
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
}

// randomFrame is a good frame with some bytes changed, or cut short.
func randomFrame(rng *rand.Rand) []byte {
	list := keys()
	key := list[rng.IntN(len(list))]
	e := endpoints[key]
	req := kmsg.RequestForKey(key)
	req.SetVersion(e.min + int16(rng.IntN(int(e.max-e.min)+1)))
	b := encode(req, 1)
	for range rng.IntN(4) {
		b[rng.IntN(len(b))] = byte(rng.Uint32())
	}
	if rng.IntN(3) == 0 {
		b = b[:rng.IntN(len(b))]
	}
	return b
}

func fetchOf(version int16, topic string, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = version, 60_000, 1, 50<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch, p.LastFetchedEpoch = offset, 50<<20, -1, -1
	req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return req
}

// A request that says that it has hundreds of millions of tags, and has none, is refused at once: the codec once counted them all down.
func TestTagsThatAreNotThere(t *testing.T) {
	e := endpoints[65]
	body := []byte{0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}
	began := time.Now()
	r := &request{endpoint: e, frame: body}
	if err := r.decode(head{int32(len(body) + 8), 65, 0, 1}); err == nil {
		t.Error("it was accepted")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A panic costs its connection, and nothing is left of the request.
func TestAPanicCostsItsConnection(t *testing.T) {
	r := newRig(t, nil)
	r.log.produce = func(partition.ProduceRequest, func(partition.ProduceResult, error)) { panic("a bug") }
	w := r.dial()
	w.send(produceOf(9, -1, "t", batchOf(strings.Repeat("v", 50_000))))
	w.gone()
	r.works()
	waitFor(t, func() bool { return r.server.metricOf(r.server.metrics.readingBytes) == 0 })
	if got := r.server.metricOf(r.server.metrics.panics); got != 1 {
		t.Errorf("%v panics were counted", got)
	}
	r.panics = 1
}

// piped is a listener whose connections have no sockets.
type piped struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *piped) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *piped) Addr() net.Addr { return &net.TCPAddr{} }

// Ten thousand connections that say nothing, after a first request, cost little each.
func TestIdleConnectionsCostLittle(t *testing.T) {
	const many, most = 10_000, 24 << 10 // bytes each, with both ends of a pipe
	r := newRig(t, nil)
	l := &piped{conns: make(chan net.Conn), done: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(testListener, l) }()
	defer func() { _ = l.Close(); <-served }()
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := memory()
	req := kmsg.NewPtrApiVersionsRequest()
	ends := make([]net.Conn, many)
	for i := range ends {
		client, server := net.Pipe()
		ends[i] = client
		l.conns <- server
		w := &wire{t: t, conn: client}
		w.ask(req)
	}
	each := (memory() - before) / many
	t.Logf("%d bytes each, %d goroutines", each, runtime.NumGoroutine())
	if each > most {
		t.Errorf("an idle connection costs %d bytes, want at most %d", each, most)
	}
	for _, c := range ends {
		_ = c.Close()
	}
}

// A topic that is described has leaders from its first moment on, as in Kafka: a broker that has not heard of them waits, a bounded
// time for all topics together.
func TestMetadataWaitsForFirstLeaders(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.image = imageOf(t, "t", 2)
	p, _ := r.cluster.image.Topic("t")
	first, second := p.Partitions[0].Group, p.Partitions[1].Group
	r.cluster.first = func(ctx context.Context, groups []metadata.GroupID) {
		if !slices.Equal(groups, []metadata.GroupID{first, second}) {
			t.Errorf("waits for groups %v", groups)
		}
		if until, ok := ctx.Deadline(); !ok || time.Until(until) > firstLeaderWait {
			t.Error("nothing bounds the wait")
		}
		r.cluster.leaders = map[metadata.GroupID]int32{first: 1, second: 1}
	}
	name := kmsg.NewMetadataRequestTopic()
	name.Topic = kmsg.StringPtr("t")
	for _, topics := range [][]kmsg.MetadataRequestTopic{nil, {name}} {
		r.cluster.leaders = nil
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.Topics = 12, topics
		for _, got := range r.dial().ask(req).(*kmsg.MetadataResponse).Topics[0].Partitions {
			if got.Leader != 1 || got.ErrorCode != 0 {
				t.Errorf("partition %d: leader %d, error %d", got.Partition, got.Leader, got.ErrorCode)
			}
		}
	}
}
