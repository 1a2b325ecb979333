package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Record is what a producer sends. It is copied before Send returns.
type Record struct {
	Topic string
	// Partition names one with ToPartition; the zero value leaves it to the partitioner.
	Partition Target
	// Key and Value may be nil, which is null and not the same as empty.
	Key, Value []byte
	Headers    []record.Header
	// Timestamp is the record's time, to the millisecond; zero: now. Topics with
	// message.timestamp.type=LogAppendTime replace it.
	Timestamp time.Time
}

// Target is the choice of a partition: none, or ToPartition(n).
type Target int32

// ToPartition chooses a partition.
func ToPartition(n int32) Target { return Target(n + 1) }

// Producer writes records. It is safe for use by many goroutines; one per process is usually
// enough, and shares batches best. Records of one partition are written in the order in which
// Send was called for them.
type Producer struct {
	c           *Client
	cfg         ProducerConfig
	conns       *conns
	budget      budget
	clock       *clock
	ids         ids
	compression *record.Compression
	batches     sync.Pool
	// brokerTimeout is told to brokers: they should give up before we do.
	brokerTimeout time.Duration

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	closed atomic.Bool

	// txn is the transaction that everything sent belongs to; nil: the producer has none.
	txn *transactions

	// topics is replaced, not changed, so that Send needs no lock.
	topics atomic.Pointer[map[string]*producerTopic]
	mu     sync.Mutex // guards the replacing of topics and of lanes, and sinks
	sinks  map[int32]*sink
	// settling makes lanes follow one view at a time; it is taken before every other lock.
	settling sync.Mutex

	stats producerCounters
}

// producerTopic is one topic's lanes, by partition.
type producerTopic struct {
	name   string
	lanes  atomic.Pointer[[]*lane]
	sticky sticky
}

// NewProducer makes a producer. The error is that of ProducerConfig.Validate, or that the client
// is closed.
func (c *Client) NewProducer(cfg ProducerConfig) (*Producer, error) {
	if err := cfg.Validate(c.cfg); err != nil {
		return nil, err
	}
	return c.newProducer(cfg, nil)
}

// newProducer makes a producer, of transactions if txn is set.
func (c *Client) newProducer(cfg ProducerConfig, txn *transactions) (*Producer, error) {
	p := &Producer{c: c, cfg: cfg.withDefaults(c.cfg), txn: txn, conns: newConns(c.cfg), clock: newClock(), sinks: make(map[int32]*sink)}
	if p.cfg.CompressionLevel != 0 {
		p.compression = record.NewCompression(p.cfg.Compression, p.cfg.CompressionLevel)
	} else {
		p.compression = record.NewCompression(p.cfg.Compression)
	}
	p.brokerTimeout = p.cfg.RequestTimeout - min(p.cfg.RequestTimeout/4, 2*time.Second)
	p.budget.limit, p.budget.onWait = p.cfg.BufferBytes, p.pressed
	p.ids.p = p
	p.topics.Store(&map[string]*producerTopic{})
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := c.adopt(p); err != nil {
		p.cancel()
		return nil, err
	}
	p.wg.Go(func() { p.clock.run(p.ctx) })
	p.wg.Go(p.follow)
	return p, nil
}

// Send hands a record to the producer, waiting at most MaxBlock for room and for the topic's
// metadata. If it returns an error the record was not taken, will not be written, and done is not
// called. Otherwise done, which may be nil, is called once with the result: for the records of one
// partition in order and never two at a time. A done that blocks delays only later calls of the
// same partition.
func (p *Producer) Send(ctx context.Context, r Record, done func(Result)) error {
	_, err := p.send(ctx, &r, telling{callback: done}, false)
	return err
}

// SendFuture is Send with a Future in place of a callback.
func (p *Producer) SendFuture(ctx context.Context, r Record) (*Future, error) {
	f := &Future{done: make(chan struct{})}
	if _, err := p.send(ctx, &r, telling{future: f}, false); err != nil {
		return nil, err
	}
	return f, nil
}

// SendSync sends a record without linger and waits for its result. A ctx that ends while the
// record is on its way leaves the outcome Unknown.
func (p *Producer) SendSync(ctx context.Context, r Record) Result {
	f := &Future{done: make(chan struct{})}
	tp, err := p.send(ctx, &r, telling{future: f}, true)
	if err != nil {
		return Result{TopicPartition: tp, Outcome: NotWritten, Offset: record.NoOffset, AppendTime: -1, Err: err}
	}
	res := f.Result(ctx)
	res.TopicPartition = tp
	return res
}

func (p *Producer) send(ctx context.Context, r *Record, tell telling, urgent bool) (record.TopicPartition, error) {
	if p.closed.Load() {
		return record.TopicPartition{Topic: r.Topic, Partition: -1}, refusal(ReasonClosed, "producer is closed")
	}
	now := time.Now()
	ts := r.Timestamp
	if ts.IsZero() {
		ts = now
	}
	var probe record.Builder
	size := probe.SizeWith(ts.UnixMilli(), r.Key, r.Value, r.Headers)
	l, err := p.lane(ctx, r, size)
	if err != nil {
		return record.TopicPartition{Topic: r.Topic, Partition: -1}, err
	}
	if size > p.cfg.MaxRequestBytes {
		return l.tp, refusal(ReasonMessageTooLarge, "record takes %d bytes, MaxRequestBytes is %d", size, p.cfg.MaxRequestBytes).at(l.tp)
	}
	if !p.budget.tryTake(int64(size)) {
		if err := p.wait(ctx, int64(size)); err != nil {
			return l.tp, err
		}
		now = time.Now()
	}
	if err := l.append(now, ts.UnixMilli(), r, tell, urgent, int64(size)); err != nil {
		p.budget.give(int64(size))
		return l.tp, err
	}
	return l.tp, nil
}

// wait waits for room in the buffer.
func (p *Producer) wait(ctx context.Context, size int64) error {
	p.stats.blocked.Add(1)
	bounded, cancel := context.WithTimeout(ctx, p.cfg.MaxBlock)
	defer cancel()
	if p.budget.take(bounded, size) {
		return nil
	}
	switch {
	case p.closed.Load():
		return refusal(ReasonClosed, "producer is closed")
	case ctx.Err() != nil:
		return canceled(ctx, NotWritten, "waiting for room in the buffer")
	}
	return &Error{Reason: ReasonBufferExhausted, Outcome: NotWritten, Retriable: true, Message: fmt.Sprintf(
		"buffer of %d bytes stayed full for MaxBlock %v; brokers are slower than the records come, or out of reach", p.cfg.BufferBytes, p.cfg.MaxBlock)}
}

// pressed is called when somebody has to wait for room: batches are then sent without linger.
func (p *Producer) pressed() {
	p.eachLane(func(l *lane) {
		l.mu.Lock()
		l.schedule(time.Now())
		l.mu.Unlock()
	})
}

// lane finds the lane of a record's partition.
func (p *Producer) lane(ctx context.Context, r *Record, size int) (*lane, error) {
	t := (*p.topics.Load())[r.Topic]
	if t == nil {
		var err error
		if t, err = p.learn(ctx, r.Topic); err != nil {
			return nil, err
		}
	}
	lanes := *t.lanes.Load()
	n := len(lanes)
	if r.Partition > 0 {
		i := int(r.Partition) - 1
		if i >= n {
			return nil, refusal(ReasonUnknownTopicOrPartition, "topic %s has partitions 0 to %d", r.Topic, n-1).at(record.TopicPartition{Topic: r.Topic, Partition: int32(i)})
		}
		return lanes[i], nil
	}
	if p.cfg.Partitioner != nil {
		if i := p.cfg.Partitioner(*r, n); i >= 0 {
			if int(i) >= n {
				return nil, invalid("Partitioner", "gave %d, want -1 to %d", i, n-1)
			}
			return lanes[i], nil
		}
	}
	if r.Key != nil {
		return lanes[KeyPartition(r.Key, n)], nil
	}
	view := p.c.meta.view.Load()
	return lanes[t.sticky.pick(n, size, p.cfg.BatchBytes, func(i int32) bool {
		_, _, _, ok := view.leaderOf(lanes[i].tp)
		return ok
	})], nil
}

// learn makes the lanes of a topic that is sent to for the first time.
func (p *Producer) learn(ctx context.Context, topic string) (*producerTopic, error) {
	if topic == "" {
		return nil, refusal("INVALID_TOPIC_EXCEPTION", "Record.Topic is empty")
	}
	bounded, cancel := context.WithTimeout(ctx, p.cfg.MaxBlock)
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel)
	defer stop()
	view, err := p.c.meta.topic(bounded, topic)
	if err != nil {
		return nil, err
	}
	t := p.resize(topic, len(view.parts))
	if t == nil {
		return nil, refusal(ReasonClosed, "producer is closed")
	}
	p.settle()
	return t, nil
}

// resize makes sure that a topic has n lanes; nil on a closed producer.
func (p *Producer) resize(topic string, n int) *producerTopic {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return nil
	}
	old := *p.topics.Load()
	t := old[topic]
	if t == nil {
		t = &producerTopic{name: topic}
		t.lanes.Store(&[]*lane{})
		next := make(map[string]*producerTopic, len(old)+1)
		for k, v := range old {
			next[k] = v
		}
		next[topic] = t
		defer p.topics.Store(&next) // when its lanes are there
	}
	lanes := *t.lanes.Load()
	if len(lanes) < n {
		grown := append(make([]*lane, 0, n), lanes...)
		for i := len(lanes); i < n; i++ {
			grown = append(grown, newLane(p, record.TopicPartition{Topic: topic, Partition: int32(i)}))
		}
		t.lanes.Store(&grown)
	}
	return t
}

// follow moves lanes to the brokers that lead them, with every new view of the cluster.
func (p *Producer) follow() {
	for {
		_, changed := p.c.meta.watch()
		p.settle()
		select {
		case <-changed:
		case <-p.ctx.Done():
			return
		}
	}
}

// settle brings lanes and sinks in line with the newest view. Never with an older one than before: nothing would move them again, and their records
// would go to a broker that leads no more until they are given up.
func (p *Producer) settle() {
	p.settling.Lock()
	defer p.settling.Unlock()
	v := p.c.meta.view.Load()
	for name, t := range *p.topics.Load() {
		tv := v.topics[name]
		if tv == nil || tv.err != nil {
			continue
		}
		if len(tv.parts) > len(*t.lanes.Load()) {
			p.resize(name, len(tv.parts))
		}
		for _, l := range *t.lanes.Load() {
			l.belong(tv.id)
			broker, addr, epoch, ok := v.leaderOf(l.tp)
			if !ok {
				l.move(nil, -1)
			} else if s := p.sink(broker, addr); s != nil {
				l.move(s, epoch)
			}
		}
	}
}

// sink gives the sink for a broker, a new one if its address has changed; nil on a closed producer.
func (p *Producer) sink(broker int32, addr string) *sink {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return p.sinks[broker]
	}
	s := p.sinks[broker]
	if s == nil || s.addr != addr {
		if s != nil {
			s.stop()
		}
		s = newSink(p, broker, addr)
		p.sinks[broker] = s
	}
	return s
}

// heard reacts to a refusal: who leads may have changed.
func (p *Producer) heard(tp record.TopicPartition, err *Error) {
	if p.c.meta.hint(tp, err.Leader) {
		return
	}
	if err.staleMetadata() {
		p.c.meta.refresh()
	}
}

func (p *Producer) eachLane(f func(*lane)) {
	for _, t := range *p.topics.Load() {
		for _, l := range *t.lanes.Load() {
			f(l)
		}
	}
}

// Flush sends everything that was taken before, without linger, and waits until all of it has its
// result and all callbacks have returned. The error is that ctx ended first.
func (p *Producer) Flush(ctx context.Context) error {
	var waits []<-chan struct{}
	p.eachLane(func(l *lane) {
		if w := l.flush(); w != nil {
			waits = append(waits, w)
		}
	})
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return canceled(ctx, Unknown, "flushing")
		}
	}
	return nil
}

// Close takes no more records, flushes as long as ctx allows, reports what is left as it stands
// (NotWritten where that is certain, else Unknown), and waits for all callbacks and goroutines. The
// error is that ctx ended before everything was delivered.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	again := p.closed.Swap(true)
	p.mu.Unlock()
	if again {
		<-p.ctx.Done()
		p.wg.Wait()
		return nil
	}
	p.budget.close()
	err := p.Flush(ctx)
	cause := refusal(ReasonClosed, "producer was closed before the record was acknowledged")
	p.eachLane(func(l *lane) { l.shut(cause) })
	// A sink whose broker takes nothing sits in Send until its stream ends.
	defer context.AfterFunc(ctx, p.cancel)()
	p.mu.Lock()
	sinks := p.sinks
	p.mu.Unlock()
	for _, s := range sinks {
		s.stop()
	}
	for _, s := range sinks {
		<-s.done
	}
	p.cancel()
	p.conns.close()
	p.wg.Wait()
	p.c.release(p)
	return err
}

// newBatch opens a batch.
func (p *Producer) newBatch(now time.Time) *batch {
	b, _ := p.batches.Get().(*batch)
	if b == nil {
		b = &batch{builder: p.compression.NewBuilder()}
	}
	b.created, b.deadline = now, now.Add(p.cfg.DeliveryTimeout)
	b.lingerAt = now.Add(max(p.cfg.Linger, 0))
	b.transactional = p.txn != nil
	return b
}

// recycle keeps a batch's memory for another, unless it is larger than what batches usually take.
func (p *Producer) recycle(b *batch) {
	if b.size() > 2*p.cfg.BatchBytes {
		return
	}
	b.builder.Reset()
	clear(b.tellings)
	*b = batch{builder: b.builder, tellings: b.tellings[:0]}
	p.batches.Put(b)
}

// finish completes the futures of resolved batches.
func (p *Producer) finish(done []resolution) {
	for _, r := range done {
		for _, t := range r.b.tellings {
			if t.future != nil {
				t.future.res = r.result(t)
				close(t.future.done)
			}
		}
		p.retire(r)
	}
}

// account notes what has become of a batch. It runs under its lane's mutex.
func (p *Producer) account(r *resolution) {
	p.stats.count(*r)
	p.budget.give(r.b.reserved)
	if p.txn != nil && r.outcome != Written {
		p.txn.recordFailed(r.err)
	}
}

// call calls a resolved batch's callbacks. It runs on the lane's delivering goroutine.
func (p *Producer) call(r resolution) {
	for _, t := range r.b.tellings {
		if t.callback != nil {
			t.callback(r.result(t))
		}
	}
	for _, f := range r.b.flushes {
		close(f)
	}
	p.retire(r)
}

// retire recycles a batch when its last user is done with it, if nobody else can hold it any more.
func (p *Producer) retire(r resolution) {
	if r.b.users.Add(-1) == 0 && r.b.builder != nil && r.lane.hasLetGo(r.b) {
		p.recycle(r.b)
	}
}

// result is what one record's sender is told.
func (r *resolution) result(t telling) Result {
	res := Result{
		TopicPartition: r.lane.tp, Outcome: r.outcome, Offset: record.NoOffset,
		AppendTime: r.b.ack.appended, Duplicate: r.b.ack.duplicate,
	}
	if r.b.ack.base != record.NoOffset {
		res.Offset = r.b.ack.base + record.Offset(t.delta)
	}
	if r.err != nil {
		res.Err = r.err
	}
	return res
}

// invalidRecord is the error for a record that cannot be encoded.
func (p *Producer) invalidRecord(tp record.TopicPartition, err error) error {
	e := refusal("INVALID_RECORD", "%v", err)
	var re *record.Error
	if errors.As(err, &re) {
		e.Reason, e.Message = re.Code.String(), re.Message
	}
	return e.at(tp)
}
