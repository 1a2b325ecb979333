package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

const (
	busyTopic = "soak"
	txnTopic  = "soak-transactions"
	// txnPartitions are few: a transaction is about one of each.
	txnPartitions = 4
	recordBytes   = 1 << 10
	// kept bounds what lies on the disk for each partition and replica; old segments go meanwhile.
	kept    = 64 << 20
	segment = 16 << 20
	// timedOfAll: one record of so many is timed.
	timedOfAll = 16
)

// load is what the brokers are busy with.
type load struct {
	client *client.Client
	// written and read are bytes of values, transactions those that were committed.
	written, read, transactions atomic.Int64
	// acks are the times from a record's Send to its answer, which passes through a full buffer; commits those from Begin to the answer of Commit.
	acks, commits latencies

	mu  sync.Mutex
	err error
}

func (l *load) prepare(ctx context.Context, partitions int) error {
	configs := map[string]string{"retention.bytes": strconv.Itoa(kept), "segment.bytes": strconv.Itoa(segment)}
	for topic, n := range map[string]int{busyTopic: partitions, txnTopic: txnPartitions} {
		if _, err := l.client.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: int32(n), ReplicationFactor: 3, Configs: configs, WaitReady: time.Minute}); err != nil {
			return err
		}
	}
	return nil
}

// start begins the load, which ends with ctx; ended waits for that and gives the first thing that went wrong.
func (l *load) start(ctx context.Context) (ended func() error) {
	var running sync.WaitGroup
	for _, do := range []func(context.Context) error{l.produce, l.consume, l.transact} {
		running.Go(func() {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				l.mu.Lock()
				l.err = errors.Join(l.err, err)
				l.mu.Unlock()
			}
		})
	}
	return func() error {
		running.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err
	}
}

// produce writes as fast as the brokers answer.
func (l *load) produce(ctx context.Context) error {
	p, err := l.client.NewProducer(client.ProducerConfig{BatchBytes: 100 << 10})
	if err != nil {
		return err
	}
	value := make([]byte, recordBytes)
	failed := make(chan error, 1)
	answered := func(res client.Result) {
		if res.Outcome == client.Written {
			l.written.Add(recordBytes)
			return
		}
		select {
		case failed <- fmt.Errorf("a record was not written: %v", res):
		default:
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		then := answered
		if n%timedOfAll == 0 {
			began := time.Now()
			then = func(res client.Result) {
				l.acks.add(time.Since(began))
				answered(res)
			}
		}
		if err := p.Send(ctx, client.Record{Topic: busyTopic, Value: value}, then); err != nil {
			break
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := p.Close(end); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// consume reads along. Where it does not keep up, retention lets it go on at the log start.
func (l *load) consume(ctx context.Context) error {
	k, err := l.client.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest})
	if err != nil {
		return err
	}
	defer func() { _ = k.Close(context.WithoutCancel(ctx)) }()
	m, err := l.client.Metadata(ctx, busyTopic)
	if err != nil {
		return err
	}
	var all []record.TopicPartition
	for _, p := range m.Topics[0].Partitions {
		all = append(all, record.TopicPartition{Topic: busyTopic, Partition: p.Partition})
	}
	if err := k.Assign(ctx, all...); err != nil {
		return err
	}
	for ctx.Err() == nil {
		fetched, err := k.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range fetched {
			for r, err := range fetched[i].Records() {
				if err != nil {
					return err
				}
				l.read.Add(int64(len(r.Value)))
			}
		}
	}
	return nil
}

// transact makes one transaction after the other, each of which writes to all partitions.
func (l *load) transact(ctx context.Context) error {
	p, err := l.client.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: "soak"})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close(context.WithoutCancel(ctx)) }()
	if err := p.InitTransactions(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		began := time.Now()
		if err := p.Begin(); err != nil {
			return err
		}
		for n := range int32(txnPartitions) {
			if err := p.Send(ctx, client.Record{Topic: txnTopic, Partition: client.ToPartition(n), Value: make([]byte, recordBytes)}, nil); err != nil {
				return err
			}
		}
		if err := p.Commit(ctx); err != nil {
			return err
		}
		l.commits.add(time.Since(began))
		l.transactions.Add(1)
	}
	return nil
}
