package compat

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

func franzClient(t *testing.T, c *brokerproc.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 3, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// An idempotent producer writes with every codec while the leader of a partition is killed; everything is there once.
func TestFranzIdempotentThroughALeaderKill(t *testing.T) {
	const partitions, each = 4, 3000
	c := startCluster(t)
	admin := franzClient(t, c)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	createTopic(t, admin, "once", partitions)
	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()}, {"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()}}
	want := 0
	for i, codec := range codecs {
		cl := franzClient(t, c, kgo.DefaultProduceTopic("once"), kgo.ProducerBatchCompression(codec.codec), kgo.RecordDeliveryTimeout(90*time.Second))
		for n := range each {
			r := &kgo.Record{Key: fmt.Appendf(nil, "%d", n), Value: fmt.Appendf(nil, "%s-%d", codec.name, n)}
			cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("%s: %v", codec.name, err)
				}
			})
			if i == 1 && n == each/2 {
				kill(t, c, leaderOf(t, ctx, admin, "once", 0))
			}
		}
		want += each
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	reader := franzClient(t, c, kgo.ConsumeTopics("once"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for total := 0; total < want; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d: %v", total, want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; total++ })
	}
	for value, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", value, n)
		}
	}
	if len(seen) != want {
		t.Errorf("%d different records, want %d", len(seen), want)
	}
}

// leaderOf asks who leads a partition.
func leaderOf(t *testing.T, ctx context.Context, cl *kgo.Client, topic string, partition int32) int32 {
	t.Helper()
	m, err := kadm.NewClient(cl).Metadata(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	return m.Topics[topic].Partitions[partition].Leader
}

// kill kills a broker and starts it again.
func kill(t *testing.T, c *brokerproc.Cluster, id int32) {
	t.Helper()
	if err := c.Broker(id).Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Broker(id).Start(); err != nil {
		t.Fatal(err)
	}
}
