// Package workload sends unique values to a topic while somebody breaks the cluster, reads while it is
// written and everything at the end, and takes it all down for package history to judge.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/record"
)

// Options say what to send.
type Options struct {
	Topic      string
	Partitions int32
	// Producers send at once, each a process of the history. Default 3.
	Producers int
	// Rate is how many records all producers together send in a second. Default 6000; negative: as fast
	// as they are taken.
	Rate float64
	// Size of a record's value in bytes, or the least that can be checked. Default the latter.
	Size int
	// Producer configures the producers. Default: small batches, 1 s for a request, 1 min for delivery,
	// so that faults meet many of them.
	Producer client.ProducerConfig
	// Seed decides which partition each record goes to.
	Seed uint64
	// Recorder takes the history down. Default: one in memory.
	Recorder *history.Recorder
}

// Runner sends until it is stopped.
type Runner struct {
	options Options
	counts  Counts
}

// Counts is progress.
type Counts struct {
	Sent, Written, NotWritten, Unknown, Duplicates atomic.Int64
}

// New makes a runner; nothing is sent before Run.
func New(o Options) *Runner {
	if o.Producers == 0 {
		o.Producers = 3
	}
	if o.Rate == 0 {
		o.Rate = 6000
	}
	if o.Recorder == nil {
		o.Recorder = history.NewRecorder()
	}
	p := &o.Producer
	orDefault(&p.Linger, 2*time.Millisecond)
	orDefault(&p.BatchBytes, 1<<10)
	orDefault(&p.RequestTimeout, time.Second)
	orDefault(&p.DeliveryTimeout, time.Minute)
	return &Runner{options: o}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Counts gives the progress.
func (r *Runner) Counts() *Counts { return &r.counts }

// Acked is how many records have been acknowledged so far.
func (r *Runner) Acked() int64 { return r.counts.Written.Load() }

// History is what takes down the history.
func (r *Runner) History() *history.Recorder { return r.options.Recorder }

// Run sends from all producers until stop is closed, then waits until every record is decided.
func (r *Runner) Run(ctx context.Context, cl *client.Client, stop <-chan struct{}) error {
	producers := make([]*client.Producer, r.options.Producers)
	for i := range producers {
		var err error
		if producers[i], err = cl.NewProducer(r.options.Producer); err != nil {
			return err
		}
	}
	errs := make([]error, len(producers))
	var wg sync.WaitGroup
	for i, p := range producers {
		wg.Go(func() {
			if err := errors.Join(r.produce(ctx, p, i, stop), p.Close(ctx)); err != nil {
				errs[i] = fmt.Errorf("producer %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *Runner) produce(ctx context.Context, p *client.Producer, i int, stop <-chan struct{}) error {
	o := r.options
	notes := o.Recorder.NewProducer()
	rng := rand.New(rand.NewPCG(o.Seed, uint64(i)))
	start := time.Now()
	for n := 0; ; n++ {
		due := start
		if o.Rate > 0 {
			due = start.Add(time.Duration(float64(n) * float64(o.Producers) / o.Rate * float64(time.Second)))
		}
		if !waitUntil(ctx, due, stop) {
			return ctx.Err()
		}
		sent := notes.Send(record.TopicPartition{Topic: o.Topic, Partition: rng.Int32N(o.Partitions)})
		r.counts.Sent.Add(1)
		err := p.Send(ctx, client.Record{Topic: o.Topic, Partition: client.ToPartition(sent.Key.Partition), Value: sent.Payload(o.Size)}, func(res client.Result) { r.told(sent, res) })
		if err != nil { // It was not taken.
			r.told(sent, client.Result{Outcome: client.NotWritten, Err: err})
			if errors.Is(err, client.ErrClosed) {
				return err
			}
		}
	}
}

// waitUntil waits for a moment; false: stop is closed or ctx has ended.
func waitUntil(ctx context.Context, due time.Time, stop <-chan struct{}) bool {
	t := time.NewTimer(max(0, time.Until(due)))
	defer t.Stop()
	select {
	case <-stop:
		return false
	case <-ctx.Done():
		return false
	default:
	}
	select {
	case <-t.C:
		return true
	case <-stop:
	case <-ctx.Done():
	}
	return false
}

func (r *Runner) told(sent history.Sent, res client.Result) {
	switch res.Outcome {
	case client.Written:
		r.counts.Written.Add(1)
		if res.Duplicate {
			r.counts.Duplicates.Add(1)
		}
		sent.Written(res.Offset, res.Duplicate)
	case client.NotWritten:
		r.counts.NotWritten.Add(1)
		sent.NotWritten(text(res.Err))
	default:
		r.counts.Unknown.Add(1)
		sent.Unknown(text(res.Err))
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Judge reads a topic to its end, compares the replicas, and checks the whole history of the run.
func (r *Runner) Judge(ctx context.Context, cl *client.Client, replicas int) (*history.Report, error) {
	h := r.History()
	if err := ReadBack(ctx, cl, r.options.Topic, h); err != nil {
		return nil, err
	}
	if err := Checksums(ctx, cl, r.options.Topic, replicas, h); err != nil {
		return nil, err
	}
	return history.Check(h.Source(), history.Options{})
}
