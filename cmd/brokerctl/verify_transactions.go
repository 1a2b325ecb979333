package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
)

// usualTransactions is how many are begun in a second where --rate does not say.
const usualTransactions = 50

// runVerifyTransactions runs transactions for the duration, reads beside them, waits until all have ended, and reads everything
// back.
func (p *program) runVerifyTransactions(ctx context.Context, c *client.Client, o *verifyOptions, cfg client.ProducerConfig, topic client.Topic, h *history.Recorder) error {
	rate := o.bench.rate
	switch {
	case !o.rateGiven:
		rate = usualTransactions
	case rate <= 0:
		rate = -1 // as fast as they end
	}
	txns := workload.NewTxns(workload.TxnOptions{
		Topic: topic.Name, Partitions: int32(len(topic.Partitions)), Producers: o.bench.producers, Rate: rate,
		Size: int(o.bench.size), Producer: cfg, Seed: rand.Uint64(), Recorder: h,
	})
	if err := p.loadVerifyTransactions(ctx, c, o, topic, txns); err != nil {
		return err
	}
	settled, cancel := context.WithTimeout(ctx, o.settle)
	defer cancel()
	if err := workload.AwaitEnds(settled, c, topic.Name+"-"); err != nil {
		p.sayf("%v; see brokerctl txn why %s", err, topic.Name)
	}
	if err := txns.AskOffsets(settled, c); err != nil {
		return err
	}
	return p.readBack(settled, c, topic, h)
}

// loadVerifyTransactions runs transactions for the duration, and reads beside them.
func (p *program) loadVerifyTransactions(ctx context.Context, c *client.Client, o *verifyOptions, topic client.Topic, txns *workload.Txns) error {
	start := time.Now()
	n := txns.Counts()
	bar := p.startProgress(func() string {
		return fmt.Sprintf("%4.0f s  transactions: %d begun, %d committed, %d aborted, %d undecided, %d by zombies; %d records", time.Since(start).Seconds(),
			n.Begun.Load(), n.Committed.Load(), n.Aborted.Load(), n.Undecided.Load(), n.Zombies.Load(), n.Records.Load())
	})
	defer bar.stop()
	stopReaders := p.readAlong(ctx, c, o.readers, topic.Name, txns.History())
	defer stopReaders()
	watching, stopWatching := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { txns.WatchOffsets(watching, c) })
	defer watcher.Wait()
	defer stopWatching()
	running, stop := context.WithTimeout(ctx, o.bench.duration)
	defer stop()
	err := txns.Run(ctx, func(int) *client.Client { return c }, running.Done())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
