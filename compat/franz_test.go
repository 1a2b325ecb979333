package compat

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

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
	ran(t, "franz-go", franzVersion(), "idempotent producer, every codec, through a kill")
	t.Parallel()
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

// leaderOf waits until somebody leads a partition, and says who.
func leaderOf(t *testing.T, ctx context.Context, cl *kgo.Client, topic string, partition int32) int32 {
	t.Helper()
	for {
		m, err := kadm.NewClient(cl).Metadata(ctx, topic)
		if p, ok := m.Topics[topic].Partitions[partition]; err == nil && ok && p.Leader > 0 {
			return p.Leader
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s/%d has no leader: %v", topic, partition, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
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

// Transactions through a killed leader: what was committed is read once, what was aborted never. The same with the protocol of
// clients from before Kafka 4 (transaction version 1).
func TestFranzTransactions(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "transactions of version 2 and, as a client of Kafka 3.9, of version 1, through a kill")
	t.Parallel()
	for _, version := range []struct {
		name string
		opts []kgo.Opt
	}{{"2", nil}, {"1", []kgo.Opt{kgo.MaxVersions(kversion.V3_9_0())}}} {
		t.Run("transaction version "+version.name, func(t *testing.T) { transact(t, version.opts) })
	}
}

func transact(t *testing.T, opts []kgo.Opt) {
	const rounds, each = 40, 50
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "txn", 3)
	cl := franzClient(t, c, append(opts, kgo.TransactionalID("job"), kgo.DefaultProduceTopic("txn"), kgo.TransactionTimeout(30*time.Second))...)
	want := map[string]bool{}
	for round := range rounds {
		if round == rounds/2 {
			kill(t, c, leaderOf(t, ctx, admin, "txn", 1))
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var values []string
		for n := range each {
			v := fmt.Sprintf("%d-%d", round, n)
			values = append(values, v)
			cl.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "%d", n), Value: []byte(v)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Logf("round %d: %v", round, err)
				}
			})
		}
		err := cl.Flush(ctx)
		commit := kgo.TransactionEndTry(err == nil && round%3 != 0)
		end := cl.EndTransaction(ctx, commit)
		if errors.Is(end, kerr.OperationNotAttempted) || errors.Is(end, kerr.TransactionAbortable) {
			commit = kgo.TryAbort // as the client's documentation asks
			end = cl.EndTransaction(ctx, commit)
		}
		if end != nil {
			t.Fatalf("round %d, commit %v: %v", round, commit, end)
		}
		if bool(commit) {
			for _, v := range values {
				want[v] = true
			}
		}
	}
	seen := map[string]int{}
	reader := franzClient(t, c, kgo.ConsumeTopics("txn"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	for total := 0; total < len(want); {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d: %v", total, len(want), err)
		}
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; total++ })
	}
	for v, n := range seen {
		if n != 1 || !want[v] {
			t.Errorf("%s is there %d times, committed: %v", v, n, want[v])
		}
	}
	// A connection to the broker that was killed breaks once more than the client repeats.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		described, err := kadm.NewClient(admin).DescribeTransactions(ctx, "job")
		if state := described["job"].State; err == nil && (strings.HasSuffix(state, "Commit") || strings.HasSuffix(state, "Abort")) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("the id is described as %+v, %v", described["job"], err)
		}
	}
}
