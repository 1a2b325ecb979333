package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// figure is one number of a row that has several. limit is what it is compared with; 0: nothing.
type figure struct {
	what, unit  string
	ours, limit float64
	goal        string
}

// transactionRows measure with the client in this process.
var transactionRows = []row{
	{name: "txn-1", measure: transactionsOf(1, "one producer", ">= 140", "<= 7")},
	{name: "txn-32", measure: transactionsOf(32, "32 producers", "-", "-")},
	{name: "eos", measure: exactlyOnce},
	{name: "committed", measure: readCommitted},
}

const (
	// transactionRecords of 100 bytes are in one transaction, spread over transactionPartitions.
	transactionRecords    = 100
	transactionPartitions = 4
	// copiedRecords are read, and written again.
	copiedRecords = 400_000
	// readRecords of 1,000 bytes are read at each isolation level, readRounds times.
	readRecords, readRounds = 250_000, 4
)

// topicOf makes a topic that is deleted when done is called.
func (b *bench) topicOf(ctx context.Context, partitions int32) (name string, done func() error, err error) {
	name = fmt.Sprintf("bench-%d", time.Now().UnixNano())
	_, err = b.client.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: partitions, ReplicationFactor: 3, WaitReady: time.Minute})
	return name, func() error { return b.client.DeleteTopic(ctx, name) }, err
}

// transactionsOf measures transactions from Begin to the answer of Commit.
func transactionsOf(producers int, who, rate, p50 string) func(context.Context, *bench) ([]figure, error) {
	return func(ctx context.Context, b *bench) (_ []figure, err error) {
		var best limitReport // what one small record takes in the same minutes
		if !b.options.alone {
			if best, err = b.limit(ctx, &row{limit: []string{"-partitions", "1", "-in-flight", "1", "-batch-bytes", "100"}}); err != nil {
				return nil, err
			}
			settle()
		}
		topic, done, err := b.topicOf(ctx, transactionPartitions)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, done()) }()
		took := make([][]time.Duration, producers)
		errs := make([]error, producers)
		var ready, wg sync.WaitGroup
		start := make(chan time.Time)
		ready.Add(producers)
		for i := range producers {
			wg.Go(func() {
				p, err := b.transactional(ctx, fmt.Sprintf("%s-%d", topic, i), topic)
				ready.Done()
				if errs[i] = err; err != nil {
					return
				}
				for end := <-start; time.Now().Before(end) && errs[i] == nil; {
					begin := time.Now()
					errs[i] = oneTransaction(ctx, p, topic)
					took[i] = append(took[i], time.Since(begin))
				}
				errs[i] = errors.Join(errs[i], p.Close(ctx))
			})
		}
		ready.Wait()
		begin := time.Now()
		end := begin.Add(b.options.duration)
		for i := range producers {
			if errs[i] == nil {
				start <- end
			}
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		all := slices.Concat(took...)
		slices.Sort(all)
		at := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1000 }
		what := fmt.Sprintf("transactions, 100 records, 4 partitions, %s", who)
		return []figure{
			{what: what, unit: "/s", ours: float64(len(all)) / time.Since(begin).Seconds(), goal: rate},
			{what: "  p50, beside one replicated 100-byte write", unit: "ms", ours: at(0.5), limit: best.P50Micros / 1000, goal: p50},
			{what: "  p99", unit: "ms", ours: at(0.99), goal: "-"},
		}, nil
	}
}

// transactional is a producer that has had its first transaction, which pays for connections.
func (b *bench) transactional(ctx context.Context, id, topic string) (*client.TransactionalProducer, error) {
	p, err := b.client.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: id})
	if err != nil {
		return nil, err
	}
	if err := p.InitTransactions(ctx); err != nil {
		return nil, err
	}
	return p, oneTransaction(ctx, p, topic)
}

var hundredBytes = make([]byte, 100)

func oneTransaction(ctx context.Context, p *client.TransactionalProducer, topic string) error {
	if err := p.Begin(); err != nil {
		return err
	}
	for i := range transactionRecords {
		if err := p.Send(ctx, client.Record{Topic: topic, Partition: client.ToPartition(int32(i % transactionPartitions)), Value: hundredBytes}, nil); err != nil {
			return err
		}
	}
	return p.Commit(ctx)
}

// exactlyOnce copies a topic exactly once and at least once, both in steps of 100 ms.
func exactlyOnce(ctx context.Context, b *bench) (_ []figure, err error) {
	from, doneFrom, err := b.topicOf(ctx, 3)
	if err != nil {
		return nil, err
	}
	to, doneTo, err := b.topicOf(ctx, 3)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, doneFrom(), doneTo()) }()
	p, err := b.client.NewProducer(client.ProducerConfig{})
	if err != nil {
		return nil, err
	}
	for i := range copiedRecords {
		if err := p.Send(ctx, client.Record{Topic: from, Key: fmt.Appendf(nil, "%d", i), Value: hundredBytes}, nil); err != nil {
			return nil, err
		}
	}
	if err := p.Close(ctx); err != nil {
		return nil, err
	}
	copies := []func(ctx context.Context, b *bench, group, from, to string) (int, time.Duration, error){copyAtLeastOnce, copyExactlyOnce}
	rates := make([]float64, len(copies))
	for i, copyAll := range copies {
		settle()
		n, took, err := copyAll(ctx, b, fmt.Sprintf("%s-%d", to, i), from, to)
		if err != nil {
			return nil, err
		}
		rates[i] = float64(n) / took.Seconds() / 1000
	}
	return []figure{{what: "copy exactly once in 100 ms, beside at least once", unit: "k/s", ours: rates[1], limit: rates[0], goal: "ratio >= 0.8"}}, nil
}

func copyGroup(id, from string) client.GroupConfig {
	return client.GroupConfig{GroupID: id, Topics: []string{from}, ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted}}
}

// copyExactlyOnce counts from the first record to the end of the last transaction.
func copyExactlyOnce(ctx context.Context, b *bench, group, from, to string) (n int, took time.Duration, err error) {
	life, end := context.WithCancel(ctx)
	defer end()
	var begin time.Time
	err = b.client.Transform(life, client.TransformConfig{Group: copyGroup(group, from)}, func(_ context.Context, in []client.Fetched, out *client.Output) error {
		if n == 0 {
			begin = time.Now()
		}
		for i := range in {
			for r, err := range in[i].Records() {
				if err == nil {
					err = out.Send(client.Record{Topic: to, Key: r.Key, Value: r.Value})
				}
				if err != nil {
					return err
				}
				n++
			}
		}
		if n >= copiedRecords {
			end() // it commits, and ends
		}
		return nil
	})
	return n, time.Since(begin), err
}

func copyAtLeastOnce(ctx context.Context, b *bench, group, from, to string) (n int, took time.Duration, err error) {
	g, err := b.client.NewGroupConsumer(copyGroup(group, from))
	if err != nil {
		return 0, 0, err
	}
	p, err := b.client.NewProducer(client.ProducerConfig{})
	if err != nil {
		return 0, 0, err
	}
	var begin, committed time.Time
	for n < copiedRecords {
		got, err := g.Poll(ctx)
		if err != nil {
			return n, 0, err
		}
		if n == 0 {
			begin, committed = time.Now(), time.Now()
		}
		for i := range got {
			for r, err := range got[i].Records() {
				if err == nil {
					err = p.Send(ctx, client.Record{Topic: to, Key: r.Key, Value: r.Value}, nil)
				}
				if err != nil {
					return n, 0, err
				}
				n++
			}
		}
		if time.Since(committed) < 100*time.Millisecond && n < copiedRecords {
			continue
		}
		committed = time.Now()
		if err := errors.Join(p.Flush(ctx), g.Commit(ctx)); err != nil {
			return n, 0, err
		}
	}
	took = time.Since(begin)
	return n, took, errors.Join(g.Close(ctx), p.Close(ctx))
}

// readCommitted compares what the two isolation levels cost the brokers.
func readCommitted(ctx context.Context, b *bench) (_ []figure, err error) {
	topic, done, err := b.topicOf(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	p, err := b.client.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: topic})
	if err != nil {
		return nil, err
	}
	if err := p.InitTransactions(ctx); err != nil {
		return nil, err
	}
	value := make([]byte, 1000)
	for i := range readRecords {
		if i%1000 == 0 {
			if err := p.Begin(); err != nil {
				return nil, err
			}
		}
		if err := p.Send(ctx, client.Record{Topic: topic, Value: value}, nil); err != nil {
			return nil, err
		}
		if i%1000 == 999 {
			end := p.Commit
			if i%10_000 == 9_999 {
				end = p.Abort // one in ten is aborted
			}
			if err := end(ctx); err != nil {
				return nil, err
			}
		}
	}
	if err := p.Close(ctx); err != nil {
		return nil, err
	}
	settle()
	var cpu [2]float64
	for range readRounds {
		for level, isolation := range []client.Isolation{client.ReadUncommitted, client.ReadCommitted} {
			before := b.cluster.Usage().CPUSeconds
			if err := b.readAll(ctx, topic, isolation); err != nil {
				return nil, err
			}
			cpu[level] += b.cluster.Usage().CPUSeconds - before
		}
	}
	gib := float64(readRounds*readRecords*len(value)) / (1 << 30)
	return []figure{{what: "brokers' CPU for a GiB, read_committed beside uncommitted", unit: "s", ours: cpu[1] / gib, limit: cpu[0] / gib, goal: "ratio <= 1.05"}}, nil
}

// readAll reads a topic's first partition to its end.
func (b *bench) readAll(ctx context.Context, topic string, isolation client.Isolation) error {
	tp := record.TopicPartition{Topic: topic}
	at := map[record.TopicPartition]client.Position{tp: client.End()}
	ends, err := b.client.ListOffsets(ctx, client.ReadCommitted, at)
	if err != nil {
		return err
	}
	k, err := b.client.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: isolation})
	if err != nil {
		return err
	}
	if err := errors.Join(k.Assign(ctx, tp), k.Seek(tp, client.Beginning())); err != nil {
		return err
	}
	for next := record.Offset(0); next < ends[tp].Offset; {
		got, err := k.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range got {
			if got[i].Err != nil {
				return got[i].Err
			}
			next = got[i].Next
		}
	}
	return k.Close(ctx)
}
