package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// recordBytes is the size of a value.
const recordBytes = 1024

// warmUp is what passes before a measurement counts.
const warmUp = 500 * time.Millisecond

// client connects with acks=all and idempotence, which are kgo's defaults.
func client(v variant, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(v.addrs...), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordDeliveryTimeout(2 * time.Minute)}, opts...)...)
}

// withTopic makes a topic for one measurement, and removes it afterwards.
func withTopic(ctx context.Context, v variant, r *row, measure func(topic string) (sample, error)) (out sample, err error) {
	cl, err := client(v)
	if err != nil {
		return out, err
	}
	defer cl.Close()
	topic := fmt.Sprintf("speed-%s-%d", r.name, time.Now().UnixNano())
	configs := map[string]*string{}
	if v.flush {
		one := "1"
		configs["flush.messages"] = &one
	}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, r.partitions, 3, configs, topic); err != nil {
		return out, err
	}
	// Every partition has a leader, and a first record.
	for p := range r.partitions {
		first := &kgo.Record{Topic: topic, Partition: p, Value: []byte("first")}
		one, err := client(v, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1))
		if err != nil {
			return out, err
		}
		err = one.ProduceSync(ctx, first).FirstErr()
		one.Close()
		if err != nil {
			return out, err
		}
	}
	defer func() {
		over, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_, e := kadm.NewClient(cl).DeleteTopics(over, topic)
		err = errors.Join(err, e)
	}()
	settle()
	return measure(topic)
}

// during runs work until a measurement is over, and gives how much of count came in its time, how long that was in seconds, and what the
// brokers burned, in CPU seconds.
func (b *bench) during(ctx context.Context, v variant, r *row, count *atomic.Int64, work func(ctx context.Context) error) (n, seconds, cpu float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- work(ctx) }()
	wait := func(d time.Duration) error {
		select {
		case err := <-failed:
			failed <- nil
			return cmpErr(err, "the work ended early")
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(warmUp); err != nil {
		return 0, 0, 0, err
	}
	profiled := b.profile(v, r)
	before, burned, began := count.Load(), cpuSeconds(v.pids()), time.Now()
	if err := wait(b.options.duration); err != nil {
		return 0, 0, 0, err
	}
	n, seconds, cpu = float64(count.Load()-before), time.Since(began).Seconds(), cpuSeconds(v.pids())-burned
	profiled()
	cancel()
	return n, seconds, cpu, <-failed
}

func cmpErr(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return errors.New(otherwise)
}

// produce writes as fast as the client can.
func produce(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		cl, err := client(v, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(r.batch), kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(20_000))
		if err != nil {
			return sample{}, err
		}
		defer cl.Close()
		var acked atomic.Int64
		var failed atomic.Pointer[error]
		value := make([]byte, recordBytes)
		n, seconds, cpu, err := b.during(ctx, v, r, &acked, func(ctx context.Context) error {
			for ctx.Err() == nil && failed.Load() == nil {
				cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
					if err != nil {
						failed.Store(&err)
						return
					}
					acked.Add(1)
				})
			}
			return cl.Flush(context.WithoutCancel(ctx))
		})
		if e := failed.Load(); e != nil {
			err = errors.Join(err, *e)
		}
		return sample{value: n * recordBytes / 1e6 / seconds, cpu: cpu / (n * recordBytes / (1 << 30))}, err
	})
}

// perSecond is how many records a second are sent one after the other.
const perSecond = 300

// latency sends one record after the other, and does not wait for a batch to fill.
func latency(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		cl, err := client(v, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
		if err != nil {
			return sample{}, err
		}
		defer cl.Close()
		var took []float64
		ticker := time.NewTicker(time.Second / perSecond)
		defer ticker.Stop()
		value := make([]byte, recordBytes)
		for end := time.Now().Add(warmUp + b.options.duration); time.Now().Before(end); <-ticker.C {
			began := time.Now()
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: value}).FirstErr(); err != nil {
				return sample{}, err
			}
			if end.Sub(began) <= b.options.duration {
				took = append(took, time.Since(began).Seconds()*1e3)
			}
		}
		return sample{value: quantile(took, 0.5), p99: quantile(took, 0.99)}, nil
	})
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[int(math.Ceil(q*float64(len(v))))-1]
}

// filled is how many records are written before they are read.
func (b *bench) filled() int { return b.share(400_000) }

// share is how much of a fixed amount is measured.
func (b *bench) share(n int) int {
	if b.options.quick {
		return n / 20
	}
	return n
}

// fill writes records to a topic, in large batches.
func (b *bench) fill(ctx context.Context, v variant, topic string) error {
	cl, err := client(v, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(128<<10), kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(20_000))
	if err != nil {
		return err
	}
	defer cl.Close()
	var mu sync.Mutex
	var failed error
	value := make([]byte, recordBytes)
	for range b.filled() {
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	settle()
	return failed
}

// consume reads what is in the page cache.
func consume(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		if err := b.fill(ctx, v, topic); err != nil {
			return sample{}, err
		}
		cl, err := client(v, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(50<<20))
		if err != nil {
			return sample{}, err
		}
		defer cl.Close()
		profiled := b.profile(v, r)
		burned, began := cpuSeconds(v.pids()), time.Now()
		n := 0
		for n < b.filled() {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return sample{}, err
			}
			n += fetches.NumRecords()
		}
		seconds, cpu := time.Since(began).Seconds(), cpuSeconds(v.pids())-burned
		profiled()
		return sample{value: float64(n) * recordBytes / 1e6 / seconds, cpu: cpu / (float64(n) * recordBytes / (1 << 30))}, nil
	})
}

// transactions commits a hundred records on four of eight partitions, again and again.
func transactions(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		cl, err := client(v, kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
		if err != nil {
			return sample{}, err
		}
		defer cl.Close()
		value := make([]byte, recordBytes)
		once := func(n int) error {
			if err := cl.BeginTransaction(); err != nil {
				return err
			}
			var records []*kgo.Record
			for i := range 100 {
				records = append(records, &kgo.Record{Partition: int32((n + i) % 4 * 2), Value: value})
			}
			if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
				return err
			}
			return cl.EndTransaction(ctx, kgo.TryCommit)
		}
		for n, warm := 0, time.Now(); n == 0 || time.Since(warm) < warmUp; n++ { // the first one makes what transactions need
			if err := once(n); err != nil {
				return sample{}, err
			}
		}
		var took []float64
		began := time.Now()
		for time.Since(began) < b.options.duration {
			start := time.Now()
			if err := once(len(took)); err != nil {
				return sample{}, err
			}
			took = append(took, time.Since(start).Seconds()*1e3)
		}
		return sample{value: float64(len(took)) / time.Since(began).Seconds(), p99: quantile(took, 0.99)}, nil
	})
}
