package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
	"github.com/oncelog/oncelog/record"
)

// producer is one process of the history.
type producer struct {
	s      *run
	notes  *history.Producer
	client *client.Producer
}

func (s *run) producer(cl *client.Client, cfg client.ProducerConfig) *producer {
	c, err := cl.NewProducer(cfg)
	if err != nil {
		s.problem("make a producer: %v", err)
		return nil
	}
	return &producer{s: s, notes: s.history.NewProducer(), client: c}
}

// startProducers starts producers with one seed's taste in batches and haste. They go on until they
// are stopped, and then wait until everything they sent is decided.
func (s *run) startProducers(n int) (stop func()) {
	var all []func(context.Context)
	for i := range n {
		r := rand.New(rand.NewPCG(s.o.Seed, 100+uint64(i)))
		cl := s.client(fmt.Sprintf("p%d", i+1))
		all = append(all, func(ctx context.Context) { s.produce(ctx, cl, r) })
	}
	return s.together(all)
}

// together runs functions at once; stop ends them and waits for all.
func (s *run) together(all []func(context.Context)) (stop func()) {
	return s.c.Go(func(ctx context.Context) {
		var running sync.WaitGroup
		for _, f := range all {
			running.Go(func() { f(ctx) })
		}
		running.Wait()
	})
}

// config is a producer's configuration as chance has it.
func (s *run) config(r *rand.Rand) client.ProducerConfig {
	return client.ProducerConfig{
		DisableIdempotence: s.o.Plain,
		Linger:             pick(r, client.NoLinger, time.Millisecond, 20*time.Millisecond),
		BatchBytes:         pick(r, 1<<10, 4<<10),
		Compression:        pick(r, record.CodecNone, record.CodecNone, record.CodecLZ4, record.CodecZstd),
		RequestTimeout:     pick(r, 300*time.Millisecond, time.Second, 2*time.Second),
		DeliveryTimeout:    pick(r, 5*time.Second, 30*time.Second, 2*time.Minute),
	}
}

// produce sends bursts until ctx ends. Now and then the process dies and another begins.
func (s *run) produce(ctx context.Context, cl *client.Client, r *rand.Rand) {
	for ctx.Err() == nil {
		p := s.producer(cl, s.config(r))
		if p == nil {
			return
		}
		life, die := context.WithTimeout(ctx, between(r, 5*time.Second, 60*time.Second))
		p.bursts(life, r)
		die()
		if ctx.Err() == nil && r.IntN(2) == 0 {
			dead, cancel := context.WithCancel(context.Background())
			cancel()
			_ = p.client.Close(dead) // What is under way stays undecided.
			continue
		}
		if err := p.client.Close(context.Background()); err != nil {
			s.problem("close producer %d: %v", p.notes.ID(), err)
		}
	}
}

// bursts sends some records, waits, sends some more.
func (p *producer) bursts(ctx context.Context, r *rand.Rand) {
	for {
		partition := r.Int32N(p.s.partitions)
		for range 1 + r.IntN(12) {
			p.send(partition, r.IntN(250), func(client.Result) {})
		}
		select {
		case <-time.After(time.Duration(r.ExpFloat64() * float64(200*time.Millisecond))):
		case <-ctx.Done():
			return
		}
	}
}

// send sends the next value; without done it waits for the result.
func (p *producer) send(partition int32, size int, done func(client.Result)) client.Result {
	sent := p.notes.Send(record.TopicPartition{Topic: topic, Partition: partition})
	result := make(chan client.Result, 1)
	rec := client.Record{Topic: topic, Partition: client.ToPartition(partition), Value: sent.Payload(size)}
	err := p.client.Send(context.Background(), rec, func(res client.Result) {
		p.s.told(sent, res)
		result <- res
	})
	if err != nil {
		sent.NotWritten(err.Error())
		return client.Result{TopicPartition: sent.Key, Outcome: client.NotWritten, Err: err}
	}
	if done != nil {
		return client.Result{}
	}
	return <-result
}

// told takes down what became of a record.
func (s *run) told(sent history.Sent, res client.Result) {
	why := fmt.Sprint(res.Err)
	switch res.Outcome {
	case client.Written:
		sent.Written(res.Offset, res.Duplicate)
		s.ends.raise(sent.Key.Partition, int64(res.Offset)+1)
	case client.NotWritten:
		sent.NotWritten(why)
	default:
		sent.Unknown(why)
	}
}

// ends are the highest offsets that anybody has been told of, by partition.
type ends struct {
	list [8]atomic.Int64
}

func (e *ends) raise(partition int32, to int64) {
	for {
		old := e.list[partition].Load()
		if old >= to || e.list[partition].CompareAndSwap(old, to) {
			return
		}
	}
}

// startReaders starts a consumer of each isolation level and the watcher.
func (s *run) startReaders() (stop func()) {
	watcher := s.client("w1")
	all := []func(context.Context){func(ctx context.Context) { s.watch(ctx, watcher) }}
	return s.together(append(all, s.readers()...))
}

// readers are a consumer of each isolation level.
func (s *run) readers() (all []func(context.Context)) {
	for i, isolation := range []client.Isolation{client.ReadUncommitted, client.ReadCommitted} {
		cl := s.client(fmt.Sprintf("c%d", i+1))
		all = append(all, func(ctx context.Context) {
			if err := workload.ReadAlong(ctx, cl, topic, isolation, s.history); err != nil {
				s.problem("a consumer cannot go on: %v", err)
			}
		})
	}
	return all
}

// watch asks for the ends of all partitions. An answer never lies below what somebody was told of
// before the question was asked.
func (s *run) watch(ctx context.Context, cl *client.Client) {
	at := make(map[record.TopicPartition]client.Position)
	for i := range s.partitions {
		at[record.TopicPartition{Topic: topic, Partition: i}] = client.End()
	}
	for ctx.Err() == nil {
		least := make([]int64, s.partitions)
		for i := range least {
			least[i] = s.ends.list[i].Load()
		}
		listed, err := cl.ListOffsets(ctx, client.ReadUncommitted, at)
		for tp, l := range listed {
			if err != nil || l.Err != nil {
				continue
			}
			if int64(l.Offset) < least[tp.Partition] {
				s.problem("partition %d: its end is said to be %d after offset %d was acknowledged", tp.Partition, l.Offset, least[tp.Partition]-1)
			}
			s.ends.raise(tp.Partition, int64(l.Offset))
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
