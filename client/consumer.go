package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Position is where to read from: At, Beginning, End or Since.
type Position struct {
	kind positionKind
	// offset with atOffset, ms since 1970 with since
	value int64
}

type positionKind uint8

const (
	byPolicy positionKind = iota // the zero Position: where ConsumerConfig.Reset says
	atOffset
	beginning
	end
	since
	newest
)

// At is the position of an offset.
func At(o record.Offset) Position { return Position{atOffset, int64(o)} }

// Beginning is the position of the oldest record.
func Beginning() Position { return Position{kind: beginning} }

// End is the position behind the newest record: only what comes later is read.
func End() Position { return Position{kind: end} }

// Newest is the position of the record with the largest timestamp, the first of them if there are
// several; the end if there is no record.
func Newest() Position { return Position{kind: newest} }

// Since is the position of the first record with at least this time; the end if there is none.
func Since(t time.Time) Position { return Position{since, t.UnixMilli()} }

// Consumer reads partitions that it is told to read. Its methods may be called by many goroutines,
// but only one should call Poll, or it is a matter of luck who gets what.
type Consumer struct {
	c     *Client
	cfg   ConsumerConfig
	conns *conns

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: the fetcher should look again
	ready  chan struct{} // capacity 1: Poll should look again

	mu       sync.Mutex // guards what follows
	parts    map[record.TopicPartition]*part
	order    []*part // Poll and fetches take turns in this order
	turn     int     // Poll's
	first    int     // the fetches'
	brokers  map[int32]*fetchBroker
	buffered int64 // bytes of fetched batches that Poll has not returned
	reserved int64 // bytes that outstanding fetches may bring
	closed   bool
}

// part is one assigned partition.
type part struct {
	tp     record.TopicPartition
	seeks  uint64 // rises with every Seek: answers to earlier questions are dropped
	paused bool

	target Position // where to go; meaningful while !placed
	placed bool     // next and position are offsets
	next   record.Offset
	pos    record.Offset // of what Poll returns next
	queue  []Fetched     // fetched, not yet returned
	// bytes are those of queue, and those that are fetched and not checked yet: unchecked. last is
	// done of the latest of the latter; nil: there is none.
	bytes, unchecked int64
	last             chan struct{}
	stopped          bool      // an error that only Seek ends has been reported
	failure          error     // that error, while what came before it is being checked
	topic            string    // id of the topic that position belongs to; empty until it is known
	missing          time.Time // since when the partition does not exist; zero: it does

	flight   *flight // the question that is out for it
	epoch    int32   // the newest in which a leader of it is known
	failures int
	retryAt  time.Time
}

// NewConsumer makes a consumer. The error is that of ConsumerConfig.Validate, or that the client is
// closed.
func (c *Client) NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	k := &Consumer{
		c: c, cfg: cfg.withDefaults(), conns: newConns(c.cfg), wake: make(chan struct{}, 1), ready: make(chan struct{}, 1),
		parts: make(map[record.TopicPartition]*part), brokers: make(map[int32]*fetchBroker),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	if err := c.adopt(k); err != nil {
		k.cancel()
		return nil, err
	}
	k.wg.Go(k.run)
	return k, nil
}

// Assign makes these the partitions to read, in place of any before. Those that were assigned
// already keep their position; new ones begin where ConsumerConfig.Reset says, unless Seek is
// called. It waits for the metadata of new ones: an unknown topic or partition is an error, and
// nothing changes. To leave partitions out asks no broker.
func (k *Consumer) Assign(ctx context.Context, tps ...record.TopicPartition) error {
	bounded, cancel := context.WithTimeout(ctx, k.c.cfg.RequestTimeout)
	defer cancel()
	defer context.AfterFunc(k.ctx, cancel)()
	for _, tp := range k.notAssigned(tps) {
		t, err := k.c.meta.topic(bounded, tp.Topic)
		if err != nil {
			return err
		}
		if tp.Partition < 0 || int(tp.Partition) >= len(t.parts) {
			return refusal(ReasonUnknownTopicOrPartition, "topic %s has partitions 0 to %d", tp.Topic, len(t.parts)-1).at(tp)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return refusal(ReasonClosed, "consumer is closed")
	}
	old := k.parts
	k.parts = make(map[record.TopicPartition]*part, len(tps))
	k.order = k.order[:0]
	for _, tp := range tps {
		if k.parts[tp] != nil {
			continue
		}
		p := old[tp]
		if p == nil {
			p = &part{tp: tp}
		}
		delete(old, tp)
		k.parts[tp] = p
		k.order = append(k.order, p)
	}
	for _, p := range old {
		k.drop(p)
	}
	signal(k.wake)
	return nil
}

func (k *Consumer) notAssigned(tps []record.TopicPartition) []record.TopicPartition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(tps), func(tp record.TopicPartition) bool { return k.parts[tp] != nil })
}

// AssignTopic assigns all partitions of a topic and sets their position.
func (k *Consumer) AssignTopic(ctx context.Context, topic string, from Position) error {
	bounded, cancel := context.WithTimeout(ctx, k.c.cfg.RequestTimeout)
	defer cancel()
	t, err := k.c.meta.topic(bounded, topic)
	if err != nil {
		return err
	}
	tps := make([]record.TopicPartition, len(t.parts))
	for i := range tps {
		tps[i] = record.TopicPartition{Topic: topic, Partition: int32(i)}
	}
	if err := k.Assign(ctx, tps...); err != nil {
		return err
	}
	for _, tp := range tps {
		if err := k.Seek(tp, from); err != nil {
			return err
		}
	}
	return nil
}

// Assignment lists the assigned partitions, sorted.
func (k *Consumer) Assignment() []record.TopicPartition {
	k.mu.Lock()
	defer k.mu.Unlock()
	tps := make([]record.TopicPartition, 0, len(k.order))
	for _, p := range k.order {
		tps = append(tps, p.tp)
	}
	sortPartitions(tps)
	return tps
}

// Seek moves a partition. What was fetched for it is dropped. Positions other than offsets are
// looked up by the next Poll.
func (k *Consumer) Seek(tp record.TopicPartition, to Position) error {
	if to.kind == atOffset && to.value < 0 {
		return invalid("Position", "is offset %d, want at least 0", to.value).at(tp)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.part(tp)
	if err != nil {
		return err
	}
	k.drop(p)
	k.place(p, to)
	p.topic, p.missing = "", time.Time{}
	signal(k.wake)
	return nil
}

// place sets a partition's position. Needs mu.
func (k *Consumer) place(p *part, to Position) {
	p.target, p.placed = to, to.kind == atOffset
	if p.placed {
		p.next = record.Offset(to.value)
		if len(p.queue) == 0 && p.last == nil { // else pos follows what Poll takes out of it
			p.pos = p.next
		}
	}
	p.failures, p.retryAt = 0, time.Time{}
}

// drop forgets what was fetched for a partition and what is asked for it. Needs mu.
func (k *Consumer) drop(p *part) {
	p.seeks++
	k.buffered -= p.bytes
	p.queue, p.bytes, p.unchecked, p.stopped = nil, 0, 0, false
	p.last, p.failure = nil, nil
	k.leave(p)
}

// part finds an assigned partition. Needs mu.
func (k *Consumer) part(tp record.TopicPartition) (*part, error) {
	p := k.parts[tp]
	switch {
	case k.closed:
		return nil, refusal(ReasonClosed, "consumer is closed")
	case p == nil:
		return nil, invalid("TopicPartition", "is not assigned; call Assign first").at(tp)
	}
	return p, nil
}

// Pause stops Poll from returning a partition's records until Resume. What is fetched is kept.
func (k *Consumer) Pause(tp record.TopicPartition) error { return k.setPaused(tp, true) }

// Resume ends a Pause.
func (k *Consumer) Resume(tp record.TopicPartition) error { return k.setPaused(tp, false) }

func (k *Consumer) setPaused(tp record.TopicPartition, paused bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.part(tp)
	if err != nil {
		return err
	}
	p.paused = paused
	signal(k.wake)
	signal(k.ready)
	return nil
}

// Position is the offset from which the next Poll returns records of a partition. ok is false
// while it is not known: the partition has a Position that no broker has been asked about yet.
func (k *Consumer) Position(tp record.TopicPartition) (o record.Offset, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.part(tp)
	if err != nil {
		return record.NoOffset, false, err
	}
	if !p.placed {
		return record.NoOffset, false, nil
	}
	return p.pos, true, nil
}

// Poll waits for records and returns what is there, at most MaxPollBytes, partitions in turn; each
// partition's batches are in order, and its position moves behind them. Failures of single
// partitions that do not pass by themselves are in Fetched.Err; such a partition gives nothing more
// until Seek. The error is that ctx has ended, or that the consumer is closed.
func (k *Consumer) Poll(ctx context.Context) ([]Fetched, error) { return k.poll(ctx, nil) }

// poll is Poll that also ends, with nothing, when there is news.
func (k *Consumer) poll(ctx context.Context, news <-chan struct{}) ([]Fetched, error) {
	for {
		k.mu.Lock()
		if k.closed {
			k.mu.Unlock()
			return nil, refusal(ReasonClosed, "consumer is closed")
		}
		got := k.collect()
		k.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-k.ready:
		case <-news:
			return nil, nil
		case <-k.ctx.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// positions gives the position of each of some partitions that has one.
func (k *Consumer) positions(of []record.TopicPartition) map[record.TopicPartition]record.Offset {
	k.mu.Lock()
	defer k.mu.Unlock()
	got := make(map[record.TopicPartition]record.Offset, len(of))
	for _, tp := range of {
		if p := k.parts[tp]; p != nil && p.placed {
			got[tp] = p.pos
		}
	}
	return got
}

// collect takes what is buffered, beginning with the partition after the one that was last. Needs
// mu.
func (k *Consumer) collect() []Fetched {
	var got []Fetched
	left := k.cfg.MaxPollBytes
	n := len(k.order)
	for i := 0; i < n && left > 0; i++ {
		p := k.order[(k.turn+i)%n]
		if p.paused {
			continue
		}
		for len(p.queue) > 0 && left > 0 {
			f := p.queue[0]
			p.queue[0] = Fetched{}
			p.queue = p.queue[1:]
			p.bytes -= int64(f.bytes)
			k.buffered -= int64(f.bytes)
			p.pos = f.Next
			got = append(got, f)
			left -= f.bytes
		}
		if left <= 0 {
			k.turn = (k.turn + i + 1) % n
			signal(k.ready) // there may be more
		}
	}
	signal(k.wake) // there is room again
	return got
}

// Close stops fetching and waits for all goroutines. What was fetched and not polled is dropped.
func (k *Consumer) Close(context.Context) error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.wg.Wait()
	k.conns.close()
	k.c.release(k)
	return nil
}

// signal puts a token into a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
