// Package record runs transactions through franz-go on any cluster that speaks like Kafka, and records a history that brokerctl verify
// --history judges. It is what "brokerctl verify --transactions" is for brokers of ours.
package record

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/history"
	root "github.com/oncelog/oncelog/record"
)

// Options say what to run.
type Options struct {
	// Bootstrap are Kafka addresses.
	Bootstrap []string
	// Topic is made, with Partitions and Replicas; it must not exist.
	Topic      string
	Partitions int32
	Replicas   int16
	// Producers run at once, each with a transactional id of its own.
	Producers int
	// Lasts is for how long.
	Lasts time.Duration
	Seed  uint64
	// To takes the history down.
	To *history.Recorder
}

// Run runs transactions for a while, of which some are aborted and some are left behind by producers that are replaced and come back, reads
// beside them, and reads everything in the end.
func Run(ctx context.Context, o Options) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...))
	if err != nil {
		return err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	if _, err := admin.CreateTopic(ctx, o.Partitions, o.Replicas, nil, o.Topic); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var readers, producers sync.WaitGroup
	for _, uncommitted := range []bool{false, true} {
		readers.Go(func() { _ = o.read(reading, uncommitted, nil) }) // it ends with reading
	}
	running, stop := context.WithTimeout(ctx, o.Lasts)
	defer stop()
	errs := make([]error, o.Producers)
	for i := range o.Producers {
		producers.Go(func() { errs[i] = o.produce(ctx, running.Done(), i) })
	}
	producers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	err = o.readBack(ctx, admin)
	stopReading()
	readers.Wait()
	return err
}

// readBack reads the committed data of all partitions to the end.
func (o *Options) readBack(ctx context.Context, admin *kadm.Client) error {
	for {
		high, err := admin.ListEndOffsets(ctx, o.Topic)
		if err != nil {
			return err
		}
		stable, err := admin.ListCommittedOffsets(ctx, o.Topic)
		if err != nil {
			return err
		}
		ends := make(map[int32]int64)
		open := false
		stable.Each(func(l kadm.ListedOffset) {
			ends[l.Partition] = l.Offset
			h, _ := high.Lookup(o.Topic, l.Partition)
			open = open || l.Err != nil || h.Err != nil || h.Offset > l.Offset
		})
		if !open {
			return o.read(ctx, false, ends)
		}
		select { // a transaction that was left behind is aborted at its timeout
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("a transaction stays open: %w", ctx.Err())
		}
	}
}

func (o *Options) key(partition int32) root.TopicPartition {
	return root.TopicPartition{Topic: o.Topic, Partition: partition}
}

// read reads from the start until ctx ends, or to the ends.
func (o *Options) read(ctx context.Context, uncommitted bool, ends map[int32]int64) error {
	from := make(map[int32]kgo.Offset)
	for p := range o.Partitions {
		from[p] = kgo.NewOffset().At(0)
	}
	isolation := kgo.ReadCommitted()
	if uncommitted {
		isolation = kgo.ReadUncommitted()
	}
	// Markers come too: they tell how far the reader is.
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: from}), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	notes := o.To.NewConsumer(uncommitted)
	at := make(map[int32]int64)
	for p := range o.Partitions {
		notes.Assign(o.key(p), 0)
	}
	for {
		done := ends != nil
		for p, end := range ends {
			done = done && at[p] >= end
		}
		if done {
			break
		}
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			var got []history.Got
			for _, r := range f.Records {
				if !r.Attrs.IsControl() {
					got = append(got, history.Got{Offset: root.Offset(r.Offset), Payload: r.Value})
				}
				at[f.Partition] = r.Offset + 1
			}
			if len(f.Records) > 0 {
				notes.Poll(o.key(f.Partition), got, root.Offset(at[f.Partition]))
			}
		})
	}
	for p, end := range ends {
		notes.Final(o.key(p), 0, root.Offset(end), root.Offset(end))
	}
	return nil
}

// producer is one owner of a transactional id.
type producer struct {
	o     *Options
	cl    *kgo.Client
	notes *history.Producer
	rng   *rand.Rand
}

// produce is one owner of a transactional id after the other.
func (o *Options) produce(ctx context.Context, stop <-chan struct{}, n int) error {
	rng := rand.New(rand.NewPCG(o.Seed, uint64(n)))
	var old *producer // has a transaction open
	for {
		p, err := o.newProducer(n, rng.Uint64())
		if err != nil {
			return err
		}
		for life := 1 + rng.IntN(15); life > 0; life-- {
			select {
			case <-stop:
				p.cl.Close()
				return nil
			default:
			}
			if err := p.transaction(ctx); err != nil {
				break // the next owner finds out
			}
			if old != nil { // p has begun, so that old is a zombie
				old.send(ctx)
				_ = old.end(ctx, true)
				old.cl.Close()
				old = nil
			}
		}
		if rng.IntN(2) == 0 && p.begin() == nil {
			p.send(ctx)
			old = p
			continue
		}
		p.cl.Close()
	}
}

func (o *Options) newProducer(n int, seed uint64) (*producer, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...), kgo.TransactionalID(fmt.Sprintf("%s-%d", o.Topic, n)), kgo.TransactionTimeout(10*time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(2*time.Millisecond))
	if err != nil {
		return nil, err
	}
	return &producer{o, cl, o.To.NewProducer(), rand.New(rand.NewPCG(seed, 0))}, nil
}

func (p *producer) begin() error {
	if err := p.cl.BeginTransaction(); err != nil {
		return err
	}
	p.notes.Begin()
	return nil
}

// send sends some records and waits. What is not known to be written may be.
func (p *producer) send(ctx context.Context) (failed error) {
	var mu sync.Mutex
	for range 1 + p.rng.IntN(8) {
		sent := p.notes.Send(p.o.key(p.rng.Int32N(p.o.Partitions)))
		p.cl.Produce(ctx, &kgo.Record{Topic: p.o.Topic, Partition: sent.Key.Partition, Value: sent.Payload(0)}, func(r *kgo.Record, err error) {
			if err == nil {
				sent.Written(root.Offset(r.Offset), false)
				return
			}
			sent.Unknown(err.Error())
			mu.Lock()
			defer mu.Unlock()
			failed = err
		})
	}
	if err := p.cl.Flush(ctx); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}

// transaction is one from its beginning to its end. An error says that the producer is of no more use.
func (p *producer) transaction(ctx context.Context) error {
	if err := p.begin(); err != nil {
		return err
	}
	err := p.send(ctx)
	return p.end(ctx, err == nil && p.rng.IntN(4) > 0)
}

// end commits or aborts. CONCURRENT_TRANSACTIONS, timeouts and whatever else is not sure count as unknown.
func (p *producer) end(ctx context.Context, commit bool) error {
	if commit {
		p.notes.Commit()
	} else {
		p.notes.Abort()
	}
	err := p.cl.EndTransaction(ctx, kgo.TransactionEndTry(commit))
	switch {
	case err == nil && commit:
		p.notes.Committed()
	case err == nil || !commit:
		p.notes.Aborted("") // nobody has asked to commit it
	case errors.Is(err, kerr.OperationNotAttempted), errors.Is(err, kerr.TransactionAbortable):
		p.notes.Aborted(err.Error())
	default:
		p.notes.Undecided(err.Error())
	}
	return err
}
