// Package workload sends unique values to a topic while somebody breaks the cluster, reads everything
// back, and hands both to package checker to judge.
package workload

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/checker"
	"github.com/oncelog/oncelog/record"
)

// Options say what to send.
type Options struct {
	Topic      string
	Partitions int32
	// Producers send at once, each a process of the history. Default 3.
	Producers int
	// Interval is the pause of a producer between two records. Default 500 µs.
	Interval time.Duration
	// Plain switches idempotence off: the counter-run, which must show duplicates.
	Plain bool
	// DeliveryTimeout bounds one record. Default 1 minute.
	DeliveryTimeout time.Duration
	// RequestTimeout bounds one attempt. Default 1 s.
	RequestTimeout time.Duration
	Seed           uint64
}

// Runner sends until it is stopped.
type Runner struct {
	options  Options
	recorder checker.Recorder
	acked    atomic.Int64
}

// New makes a runner; nothing is sent before Run.
func New(o Options) *Runner {
	if o.Producers == 0 {
		o.Producers = 3
	}
	if o.Interval == 0 {
		o.Interval = 500 * time.Microsecond
	}
	if o.DeliveryTimeout == 0 {
		o.DeliveryTimeout = time.Minute
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = time.Second
	}
	return &Runner{options: o}
}

// Acked is how many records have been acknowledged so far: progress.
func (r *Runner) Acked() int64 { return r.acked.Load() }

// Sends gives the history so far.
func (r *Runner) Sends() []checker.Send { return r.recorder.Sends() }

// Run sends from all producers until stop is closed, then waits until every record is decided.
func (r *Runner) Run(ctx context.Context, cl *client.Client, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make(chan error, r.options.Producers)
	for process := range r.options.Producers {
		wg.Go(func() {
			if err := r.produce(ctx, cl, process, stop); err != nil {
				errs <- fmt.Errorf("producer %d: %w", process, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (r *Runner) produce(ctx context.Context, cl *client.Client, process int, stop <-chan struct{}) error {
	o := r.options
	p, err := cl.NewProducer(client.ProducerConfig{
		DisableIdempotence: o.Plain, Linger: 2 * time.Millisecond, BatchBytes: 1 << 10,
		DeliveryTimeout: o.DeliveryTimeout, RequestTimeout: o.RequestTimeout,
	})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(o.Seed, uint64(process)))
	ticker := time.NewTicker(o.Interval)
	defer ticker.Stop()
	for seq := uint64(0); ; seq++ {
		select {
		case <-stop:
			return p.Close(ctx)
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		tp := record.TopicPartition{Topic: o.Topic, Partition: rng.Int32N(o.Partitions)}
		value := uint64(process)<<40 | seq
		n := r.recorder.Begin(process, tp, value)
		err := p.Send(ctx, client.Record{Topic: tp.Topic, Partition: client.ToPartition(tp.Partition), Value: Encode(value)}, func(res client.Result) {
			switch res.Outcome {
			case client.Written:
				r.acked.Add(1)
				r.recorder.End(n, checker.Written, res.Offset)
			case client.NotWritten:
				r.recorder.End(n, checker.NotWritten, record.NoOffset)
			default:
				r.recorder.End(n, checker.Unknown, record.NoOffset)
			}
		})
		if err != nil {
			r.recorder.End(n, checker.NotWritten, record.NoOffset)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
}

// Encode makes a record's value; Decode reads it.
func Encode(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// Decode reads what Encode made.
func Decode(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("value of %d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// ReadBack reads a topic from its beginning to its end as of the call.
func ReadBack(ctx context.Context, cl *client.Client, topic string) ([]checker.Read, error) {
	ends, err := ends(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetError})
	if err != nil {
		return nil, err
	}
	defer func() { _ = k.Close(ctx) }()
	if err := k.AssignTopic(ctx, topic, client.Beginning()); err != nil {
		return nil, err
	}
	left := make(map[record.TopicPartition]record.Offset)
	for tp, end := range ends {
		if end > 0 {
			left[tp] = end
		}
	}
	var reads []checker.Read
	for len(left) > 0 {
		fetched, err := k.Poll(ctx)
		if err != nil {
			return nil, fmt.Errorf("read back, %d partitions left: %w", len(left), err)
		}
		for i := range fetched {
			f := &fetched[i]
			if f.Err != nil {
				return nil, f.Err
			}
			for rec, err := range f.Records() {
				if err != nil {
					return nil, err
				}
				v, err := Decode(rec.Value)
				if err != nil {
					return nil, err
				}
				reads = append(reads, checker.Read{Topic: f.Topic, Partition: f.Partition, Offset: rec.Offset, Value: v})
			}
			if f.Next >= left[f.TopicPartition] {
				delete(left, f.TopicPartition)
			}
		}
	}
	return reads, nil
}

// ends are the high watermarks of all partitions. A leader may just be moving: it asks again until
// ctx ends.
func ends(ctx context.Context, cl *client.Client, topic string) (map[record.TopicPartition]record.Offset, error) {
	for {
		found, err := endsNow(ctx, cl, topic)
		if err == nil {
			return found, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func endsNow(ctx context.Context, cl *client.Client, topic string) (map[record.TopicPartition]record.Offset, error) {
	m, err := cl.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	at := make(map[record.TopicPartition]client.Position)
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			at[record.TopicPartition{Topic: t.Name, Partition: p.Partition}] = client.End()
		}
	}
	listed, err := cl.ListOffsets(ctx, client.ReadUncommitted, at)
	if err != nil {
		return nil, err
	}
	out := make(map[record.TopicPartition]record.Offset)
	for tp, l := range listed {
		if l.Err != nil {
			return nil, fmt.Errorf("end of %s: %w", tp, l.Err)
		}
		out[tp] = l.Offset
	}
	return out, nil
}

// CompareReplicas says where replicas hold different records at equal offsets; nothing: they agree.
// Replicas that have not caught up yet are asked again until ctx ends.
func CompareReplicas(ctx context.Context, cl *client.Client, topic string, replicas int) error {
	ends, err := ends(ctx, cl, topic)
	if err != nil {
		return err
	}
	for tp, end := range ends {
		for {
			err := compare(ctx, cl, tp, end, replicas)
			if err == nil {
				break
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return err
			}
		}
	}
	return nil
}

func compare(ctx context.Context, cl *client.Client, tp record.TopicPartition, end record.Offset, replicas int) error {
	sums, failed, err := cl.Checksums(ctx, tp, end)
	switch {
	case err != nil:
		return err
	case len(failed) > 0:
		return fmt.Errorf("%s: %v", tp, failed)
	case len(sums) != replicas:
		return fmt.Errorf("%s: %d replicas answered, want %d", tp, len(sums), replicas)
	}
	for _, s := range sums {
		if s.UpTo != end || s.From != sums[0].From || s.CRC32C != sums[0].CRC32C {
			return fmt.Errorf("%s: replicas differ below offset %d: %+v", tp, end, sums)
		}
	}
	return nil
}
