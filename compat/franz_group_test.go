package compat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// produceAll writes so many records with values "0", "1" and so on.
func produceAll(t *testing.T, ctx context.Context, c *brokerproc.Cluster, topic string, n int) {
	t.Helper()
	cl := franzClient(t, c, kgo.DefaultProduceTopic(topic))
	for i := range n {
		cl.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "%d", i), Value: fmt.Appendf(nil, "%d", i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// protocols are the two protocols of groups, the classic one in both of its ways to rebalance.
func protocols(t *testing.T, run func(t *testing.T, opts []kgo.Opt)) {
	for _, p := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"KIP-848", []kgo.Opt{kgo.ServerSideBalancer()}},
		{"classic, cooperative", nil},
		{"classic, eager", []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}},
	} {
		t.Run(p.name, func(t *testing.T) { run(t, p.opts) })
	}
}

// A copy that reads, writes and commits its position in one transaction copies each record once, through members that come and go and
// through a killed leader.
func TestFranzExactlyOnceCopy(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "exactly-once copies by three processes in groups of both protocols, through a kill")
	t.Parallel()
	protocols(t, func(t *testing.T, opts []kgo.Opt) {
		const records, partitions = 3000, 6
		c := startCluster(t)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		admin := franzClient(t, c)
		createTopic(t, admin, "in", partitions)
		createTopic(t, admin, "out", partitions)
		produceAll(t, ctx, c, "in", records)

		copying, stop := context.WithCancel(ctx)
		var workers sync.WaitGroup
		for w := range 3 {
			workers.Go(func() { copyOnce(t, copying, c, fmt.Sprintf("copy-%d", w), opts) })
		}
		seen := map[string]int{}
		reader := franzClient(t, c, kgo.ConsumeTopics("out"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		killed := false
		for total := 0; total < records; {
			began := time.Now()
			fetches := reader.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				t.Fatalf("after %d of %d: %v", total, records, err)
			}
			if waited := time.Since(began); waited > 2*time.Second {
				t.Logf("%v without a record, after %d of %d", waited, total, records)
			}
			fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; total++ })
			if !killed && total > records/3 {
				killed = true
				kill(t, c, leaderOf(t, ctx, admin, "out", 0))
			}
		}
		stop()
		workers.Wait()
		for v, n := range seen {
			if n != 1 {
				t.Errorf("%s was copied %d times", v, n)
			}
		}
		lag(t, ctx, admin, "copy", 0)
	})
}

// copyOnce copies from in to out until ctx ends.
func copyOnce(t *testing.T, ctx context.Context, c *brokerproc.Cluster, id string, opts []kgo.Opt) {
	s, err := kgo.NewGroupTransactSession(append([]kgo.Opt{
		kgo.SeedBrokers(c.KafkaAddrs()...), kgo.TransactionalID(id), kgo.ConsumerGroup("copy"), kgo.ConsumeTopics("in"), kgo.DefaultProduceTopic("out"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.TransactionTimeout(20 * time.Second),
		kgo.RequireStableFetchOffsets(), kgo.SessionTimeout(10 * time.Second),
	}, opts...)...)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	for ctx.Err() == nil {
		fetches := s.PollRecords(ctx, 100)
		if ctx.Err() != nil {
			return
		}
		if err := s.Begin(); err != nil {
			t.Errorf("%s: begin: %v", id, err)
			return
		}
		var mu sync.Mutex
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			s.Produce(ctx, &kgo.Record{Key: r.Key, Value: r.Value}, func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
			})
		})
		// Flushes; the session itself knows whether something failed.
		if _, err := s.End(context.WithoutCancel(ctx), kgo.TryCommit); err != nil && ctx.Err() == nil {
			t.Errorf("%s: end: %v (%v)", id, err, failed)
			return
		}
	}
}

// lag demands what a group has not yet read.
func lag(t *testing.T, ctx context.Context, admin *kgo.Client, group string, want int64) {
	t.Helper()
	var got int64
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		offsets, err := kadm.NewClient(admin).FetchOffsets(ctx, group)
		if err != nil {
			continue
		}
		ends, err := kadm.NewClient(admin).ListEndOffsets(ctx, "in")
		if err != nil {
			continue
		}
		got = 0
		ends.Each(func(o kadm.ListedOffset) {
			at, _ := offsets.Lookup(o.Topic, o.Partition)
			got += o.Offset - at.At
		})
		if got == want {
			return
		}
	}
	t.Errorf("group %s lags by %d, want %d", group, got, want)
}

// Members that come and go read everything at least once and commit where they are; the group is shown as it is.
func TestFranzGroup(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "groups of both protocols with members that come and go")
	t.Parallel()
	protocols(t, func(t *testing.T, opts []kgo.Opt) {
		const records, partitions = 4000, 8
		c := startCluster(t)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		admin := franzClient(t, c)
		createTopic(t, admin, "in", partitions)
		produceAll(t, ctx, c, "in", records)
		var mu sync.Mutex
		seen := map[string]bool{}
		all := make(chan struct{})
		read := func(ctx context.Context, max int) {
			cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...), kgo.ConsumerGroup("readers"), kgo.ConsumeTopics("in"),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(200 * time.Millisecond), kgo.SessionTimeout(10 * time.Second)}, opts...)...)
			if err != nil {
				t.Error(err)
				return
			}
			defer cl.CloseAllowingRebalance()
			for n := 0; n < max && ctx.Err() == nil; {
				fetches := cl.PollRecords(ctx, 50)
				fetches.EachRecord(func(r *kgo.Record) {
					n++
					mu.Lock()
					defer mu.Unlock()
					seen[string(r.Value)] = true
					if len(seen) == records {
						select {
						case <-all:
						default:
							close(all)
						}
					}
				})
			}
		}
		reading, stop := context.WithCancel(ctx)
		var members sync.WaitGroup
		for i := range 4 {
			members.Go(func() {
				if i%2 == 0 {
					read(reading, 300) // leaves early
				}
				read(reading, 1<<30)
			})
		}
		select {
		case <-all:
		case <-ctx.Done():
			t.Errorf("%d of %d records were read", len(seen), records)
		}
		lag(t, ctx, admin, "readers", 0)
		listed := func() (kadm.ListedGroup, error) {
			groups, err := kadm.NewClient(admin).ListGroups(ctx)
			return groups["readers"], err
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if g, err := listed(); err == nil && g.State == "Stable" {
				break
			} else if time.Now().After(deadline) {
				t.Errorf("the group is listed as %+v, %v", g, err)
				break
			}
		}
		stop()
		members.Wait()
		// A member that was joining when it ended stays until its session is over.
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			deleted, err := kadm.NewClient(admin).DeleteGroups(ctx, "readers")
			if err == nil && deleted["readers"].Err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Errorf("deleting the group: %+v, %v", deleted["readers"], err)
				break
			}
		}
	})
}
