package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/oncelog/oncelog/client"
)

// compactionRows measure what compaction costs those who write meanwhile.
var compactionRows = []row{{name: "compaction", measure: besideCompaction}}

const (
	// compactedBytes of values of compactedValue bytes are written to compactedKeys keys before they are compacted: at the usual
	// compaction.bytes_per_second that takes some seconds.
	compactedBytes, compactedValue, compactedKeys = 160 << 20, 1000, 16_000
	// compactionLook is the compaction.interval of the brokers.
	compactionLook = "1s"
)

// besideCompaction times single records, written to the log that is compacted, before a pass and during it.
func besideCompaction(ctx context.Context, b *bench) (_ []figure, err error) {
	topic := fmt.Sprintf("bench-compaction-%d", time.Now().UnixNano())
	_, err = b.client.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 3, WaitReady: time.Minute, Configs: map[string]string{
		"cleanup.policy": "compact", "segment.bytes": fmt.Sprint(16 << 20), "min.cleanable.dirty.ratio": "0.1", "min.compaction.lag.ms": "86400000",
	}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.client.DeleteTopic(ctx, topic)) }()
	if err := b.fillKeys(ctx, topic); err != nil {
		return nil, err
	}
	settle()
	p, err := b.client.NewProducer(client.ProducerConfig{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	timed := func(while func() bool) []time.Duration {
		var took []time.Duration
		for end := time.Now().Add(b.options.duration); time.Now().Before(end) && while() && err == nil; {
			begin := time.Now()
			err = p.SendSync(ctx, client.Record{Topic: topic, Key: fmt.Appendf(nil, "late %d", rand.IntN(100)), Value: make([]byte, 100)}).Err
			took = append(took, time.Since(begin))
		}
		return took
	}
	timed(func() bool { return true }) // the first ones open connections
	without := timed(func() bool { return true })
	if err != nil {
		return nil, err
	}
	if _, err := b.client.AlterTopic(ctx, client.TopicChange{Name: topic, Set: map[string]string{"min.compaction.lag.ms": "0"}}); err != nil {
		return nil, err
	}
	if err := b.awaitPass(ctx, topic); err != nil {
		return nil, err
	}
	looked, running := time.Now(), true
	during := timed(func() bool {
		if time.Since(looked) > 200*time.Millisecond {
			running, looked = b.compacts(ctx, topic) > 0, time.Now()
		}
		return running
	})
	if err == nil && len(during) < 200 {
		err = fmt.Errorf("the passes ended after %d records", len(during))
	}
	if err != nil {
		return nil, err
	}
	var list []figure
	for _, q := range []struct {
		name, goal string
		at         float64
	}{{"p50", "-", 0.5}, {"p99", "ratio <= 2", 0.99}} {
		list = append(list, figure{what: "one record at a time while its log is compacted, " + q.name + "; limit: without that", unit: "us",
			ours: micros(during, q.at), limit: micros(without, q.at), goal: q.goal})
	}
	return list, nil
}

func micros(took []time.Duration, at float64) float64 {
	slices.Sort(took)
	return float64(took[int(at*float64(len(took)-1))]) / float64(time.Microsecond)
}

// fillKeys writes what there is to be compacted.
func (b *bench) fillKeys(ctx context.Context, topic string) error {
	p, err := b.client.NewProducer(client.ProducerConfig{})
	if err != nil {
		return err
	}
	value := make([]byte, compactedValue)
	for range compactedBytes / compactedValue {
		r := client.Record{Topic: topic, Key: fmt.Appendf(nil, "key %d", rand.IntN(compactedKeys)), Value: value}
		if err = p.Send(ctx, r, nil); err != nil {
			break
		}
	}
	if err == nil {
		err = p.Flush(ctx)
	}
	return errors.Join(err, p.Close(ctx))
}

// compacts is how many of the topic's replicas are in a pass.
func (b *bench) compacts(ctx context.Context, topic string) (n int) {
	groups, _, err := b.client.RaftGroups(ctx, topic)
	for _, g := range groups {
		if err == nil && g.Compaction != nil && g.Compaction.Running {
			n++
		}
	}
	return n
}

// awaitPass waits until all replicas compact.
func (b *bench) awaitPass(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for b.compacts(ctx, topic) < 3 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.New("the replicas do not begin to compact at once")
		}
	}
	return nil
}
