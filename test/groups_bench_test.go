package test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// BenchmarkRebalance has 100 members on 300 partitions, of which one leaves and another one comes: how long it takes until all have what they are to
// have, and how many partitions moved. Members poll for 10 ms at a time, as those that read do.
func BenchmarkRebalance(b *testing.B) {
	const members, partitions = 100, 300
	c := brokertest.Start(b, brokertest.Options{Configure: func(cfg *broker.Config) { cfg.Groups.Shards, cfg.Transactions.Shards = 1, 1 }})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cl := c.ClientWith(client.Config{})
	if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: partitions, ReplicationFactor: 1, WaitReady: time.Minute}); err != nil {
		b.Fatal(err)
	}
	var held, moved atomic.Int64
	var polls sync.WaitGroup
	defer polls.Wait()
	join := func() (leave func()) {
		life, end := context.WithCancel(ctx)
		g, err := cl.NewGroupConsumer(client.GroupConfig{GroupID: "g", Topics: []string{topic}, ConsumerConfig: client.ConsumerConfig{MaxWait: 5 * time.Second},
			OnAssigned: func(_ context.Context, list []record.TopicPartition) {
				held.Add(int64(len(list)))
				moved.Add(int64(len(list)))
			},
			OnRevoked: func(_ context.Context, list []record.TopicPartition) { held.Add(int64(-len(list))) }})
		if err != nil {
			b.Fatal(err)
		}
		left := make(chan struct{})
		polls.Go(func() {
			defer close(left)
			for life.Err() == nil {
				bounded, cancel := context.WithTimeout(life, 10*time.Millisecond)
				_, _ = g.Poll(bounded) // nothing is written; errors show as time
				cancel()
			}
			_ = g.Close(context.Background())
		})
		return func() { end(); <-left }
	}
	settle := func() {
		b.Helper()
		for {
			d, err := cl.DescribeGroup(ctx, "g")
			if err == nil && d.State == client.GroupStable && held.Load() == partitions && len(d.Members) == members {
				return
			}
			if ctx.Err() != nil {
				b.Fatalf("%d held, %v: %v", held.Load(), d.State, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	began := time.Now()
	var leaves []func()
	for range members {
		leaves = append(leaves, join())
	}
	settle()
	b.Logf("100 members together: %v, %d partitions moved", time.Since(began).Round(time.Millisecond), moved.Load())
	moved.Store(0)
	b.ResetTimer()
	for i := range b.N {
		leaves[i%members]()
		leaves[i%members] = join()
		settle()
	}
	b.StopTimer()
	b.ReportMetric(float64(moved.Load())/float64(b.N), "moved/op")
	var wg sync.WaitGroup
	for _, leave := range leaves {
		wg.Go(leave)
	}
	wg.Wait()
}

// BenchmarkTransform copies records, exactly once and at least once, in transactions of 100 ms: the ratio of the two is what exactly-once costs.
func BenchmarkTransform(b *testing.B) {
	for _, mode := range []string{"at least once", "exactly once"} {
		b.Run(mode, func(b *testing.B) {
			s := &scenario{c: brokertest.Start(b, brokertest.Options{})}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			cl := s.c.ClientWith(client.Config{})
			for _, name := range []string{topic, otherTopic} {
				if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: 3, ReplicationFactor: 3, WaitReady: time.Minute}); err != nil {
					b.Fatal(err)
				}
			}
			p, err := cl.NewProducer(client.ProducerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			value := make([]byte, 100)
			n := max(b.N, 1000)
			for i := range n {
				if err := p.Send(ctx, client.Record{Topic: topic, Key: fmt.Appendf(nil, "%d", i), Value: value}, nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := p.Flush(ctx); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if mode == "exactly once" {
				copyExactlyOnce(b, ctx, cl, n)
			} else {
				copyAtLeastOnce(b, ctx, cl, n)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

var copyConfig = client.GroupConfig{GroupID: "copy", Topics: []string{topic}, ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted}}

func copyExactlyOnce(b *testing.B, ctx context.Context, cl *client.Client, n int) {
	b.Helper()
	life, end := context.WithCancel(ctx)
	defer end()
	done := 0
	err := cl.Transform(life, client.TransformConfig{Group: copyConfig}, func(_ context.Context, in []client.Fetched, out *client.Output) error {
		for i := range in {
			for r, err := range in[i].Records() {
				if err != nil {
					return err
				}
				if err := out.Send(client.Record{Topic: otherTopic, Key: r.Key, Value: r.Value}); err != nil {
					return err
				}
				done++
			}
		}
		if done >= n {
			end() // it commits, and ends
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func copyAtLeastOnce(b *testing.B, ctx context.Context, cl *client.Client, n int) {
	b.Helper()
	g, err := cl.NewGroupConsumer(copyConfig)
	if err != nil {
		b.Fatal(err)
	}
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	committed := time.Now()
	for done := 0; done < n; {
		got, err := g.Poll(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for i := range got {
			for r, err := range got[i].Records() {
				if err == nil {
					err = p.Send(ctx, client.Record{Topic: otherTopic, Key: r.Key, Value: r.Value}, nil)
				}
				if err != nil {
					b.Fatal(err)
				}
				done++
			}
		}
		if time.Since(committed) < 100*time.Millisecond && done < n {
			continue
		}
		committed = time.Now()
		if err := p.Flush(ctx); err != nil {
			b.Fatal(err)
		}
		if err := g.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
	if err := g.Close(ctx); err != nil {
		b.Fatal(err)
	}
}
