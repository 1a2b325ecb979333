package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/workload"
	"github.com/oncelog/oncelog/record"
)

var compactedSeeds = flag.Int("compacted", 1, "how many seeds of the compacted workload to run")

// TestCompactedSeeds runs the compacted workload: writers, each with keys of its own, commit and abort at random on a compacted topic
// while the cluster is broken and broker after broker is away for longer than delete.retention.ms. In the end the latest value of each
// key is one that its writer has committed last, or may have; what was deleted last is not there; and all replicas hold the
// same bytes.
func TestCompactedSeeds(t *testing.T) {
	first, count, step := *firstFlag, uint64(*compactedSeeds), uint64(1)
	if *seedFlag != 0 {
		first, count, step = *seedFlag, uint64(*timesFlag), 0
	}
	if *forFlag > 0 {
		first = uint64(time.Now().UnixNano()) / 1000
	}
	for n := range count {
		t.Run(fmt.Sprint("seed", first+n*step), func(t *testing.T) {
			t.Parallel()
			compactedSeed(t, first+n*step)
		})
	}
}

// keeping is a seed of the compacted workload.
type keeping struct {
	t          *testing.T
	c          *brokertest.Cluster
	rng        *rand.Rand
	began      time.Time
	partitions int32

	mu     sync.Mutex
	trace  strings.Builder
	failed atomic.Bool
	// may holds the values that a key can have; "" stands for none.
	may map[string][]string
	// transactions and aborted count what was written.
	committed, aborted int
}

func (s *keeping) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.trace, "%9.3fs %s\n", time.Since(s.began).Seconds(), what)
}

func (s *keeping) errorf(format string, args ...any) {
	s.t.Helper()
	s.failed.Store(true)
	s.t.Errorf(format, args...)
}

func compactedSeed(t *testing.T, seed uint64) {
	t.Helper()
	logs := &logBuffer{}
	o := cluster(Options{Seed: seed}, logs)
	shape := o.Configure
	memory := pick(rand.New(rand.NewPCG(seed, 6)), broker.MiB, 64*broker.MiB)
	o.Configure = func(cfg *broker.Config) {
		shape(cfg)
		cfg.Transactions.Shards, cfg.Groups.Shards = 2, 2
		cfg.Transactions.TimeoutCheck = 100 * time.Millisecond
		cfg.RetentionCheck = 500 * time.Millisecond
		cfg.Compaction.Interval, cfg.Compaction.BytesPerSecond = 200*time.Millisecond, 4*broker.MiB
		cfg.Compaction.MemoryBytes = memory
	}
	o.LogLevel = slog.LevelInfo
	if *debugFlag {
		o.LogLevel = slog.LevelDebug
	}
	s := &keeping{rng: rand.New(rand.NewPCG(seed, 5)), may: map[string][]string{}}
	defer func() { // a simulation that fails does not return
		if t.Failed() || s.failed.Load() {
			t.Log("\n" + s.trace.String())
			t.Logf("the brokers' logs are in %s. Again: go test ./test/sim -run TestCompactedSeeds -v -seed %d", keepLogs(seed, logs.bytes()), seed)
		}
	}()
	brokertest.Simulate(t, o, func(t *testing.T, c *brokertest.Cluster) {
		s.t, s.c, s.began = t, c, time.Now()
		s.run()
	})
	passes := strings.Count(string(logs.bytes()), "msg=compacted") + strings.Count(string(logs.bytes()), `"compacted"`)
	anew := strings.Count(string(logs.bytes()), "compacted and pulled anew")
	t.Logf("seed %d: %d transactions, %d aborted, %d keys; %d passes, %d logs pulled anew", seed, s.committed+s.aborted, s.aborted, len(s.may), passes, anew)
	if passes == 0 {
		t.Error("nothing was compacted")
	}
}

const keptTopic = "state"

func (s *keeping) run() {
	s.t.Helper()
	s.partitions = 1 + s.rng.Int32N(2)
	admin := s.c.ClientOn("admin", client.Config{RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	_, err := admin.CreateTopic(ctx, client.TopicSpec{Name: keptTopic, Partitions: s.partitions, ReplicationFactor: 3, Configs: map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "65536", "segment.ms": pick(s.rng, "3000", "604800000"),
		"min.cleanable.dirty.ratio": pick(s.rng, "0.01", "0.3"), "delete.retention.ms": pick(s.rng, "0", "1000", "3000"),
	}})
	if err == nil {
		err = admin.WaitReady(ctx, keptTopic)
	}
	cancel()
	if err != nil {
		s.t.Fatal(err)
	}
	var stops []func()
	for i := range 3 + s.rng.IntN(2) {
		r := rand.New(rand.NewPCG(s.rng.Uint64(), uint64(i)))
		stops = append(stops, s.c.Go(func(ctx context.Context) { s.write(ctx, fmt.Sprint("writer", i), r) }))
	}
	faults := append(brokertest.Faults(), brokertest.Fault{Name: "transfer", Weight: 3, Begin: func(_ *brokertest.Cluster, id int32, r *rand.Rand) (string, func()) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		tp := record.TopicPartition{Topic: keptTopic, Partition: r.Int32N(s.partitions)}
		return fmt.Sprintf("%s is handed to broker %d: %v", tp, id, admin.TransferLeadership(ctx, tp, id)), nil
	}})
	err = s.c.Torment(30*time.Second, brokertest.Nemesis{
		Faults: faults, Every: between(s.rng, time.Second, 4*time.Second), Lasts: between(s.rng, 2*time.Second, 8*time.Second), Note: s.note})
	if err == nil {
		err = s.c.Mend()
	}
	if err != nil {
		s.errorf("the cluster does not come back: %v", err)
		return
	}
	s.note("the cluster is mended")
	time.Sleep(3 * time.Second)
	for _, stop := range stops {
		stop()
	}
	s.note("writers have ended")
	s.judge(admin, "at once")
	// All that can be compacted is, and everywhere: in the segment that is written to lies the rest.
	if err := s.settle(admin); err != nil {
		s.errorf("compaction does not come to its end: %v", err)
	}
	s.judge(admin, "later")
	ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := workload.CompareReplicas(ctx, admin, keptTopic, 3); err != nil {
		s.errorf("replicas: %v", err)
	}
}

// settle waits until every replica has done what was agreed, and nothing more is due.
func (s *keeping) settle(admin *client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for quiet := 0; quiet < 10; {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		groups, failed, err := admin.RaftGroups(ctx, keptTopic)
		agreed := map[string]client.Compaction{}
		done := err == nil && len(failed) == 0 && len(groups) == 3*int(s.partitions)
		for _, g := range groups {
			k := g.Compaction
			if k == nil || !k.Done || k.Running || g.Ready && k.Due {
				done = false
				continue
			}
			if other, ok := agreed[g.Name]; ok && (other.Agreed != k.Agreed || other.Horizon != k.Horizon) {
				done = false
			}
			agreed[g.Name] = *k
		}
		if quiet++; !done {
			quiet = 0
		}
	}
	return nil
}

// write is a writer: one transaction after the other, each over some of its keys.
func (s *keeping) write(ctx context.Context, name string, r *rand.Rand) {
	for life := 0; ctx.Err() == nil; life++ {
		cl := s.c.ClientOn(fmt.Sprintf("%s-%d", name, life), client.Config{RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second})
		s.transactions(ctx, cl, name, r)
		closed, cancel := context.WithCancel(context.Background())
		cancel()
		_ = cl.Close(closed)
	}
}

// transactions goes on until one fails, or the writer lets go of one that is open.
func (s *keeping) transactions(ctx context.Context, cl *client.Client, name string, r *rand.Rand) {
	p, err := cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: name, TransactionTimeout: 5 * time.Second})
	if err == nil {
		err = p.InitTransactions(ctx)
	}
	for n := 0; err == nil && ctx.Err() == nil && r.IntN(60) > 0; n++ {
		if err = p.Begin(); err != nil {
			break
		}
		wrote := map[string]string{}
		for range 1 + r.IntN(6) {
			i := r.IntN(12)
			key, value := fmt.Sprintf("%s/%d", name, i), ""
			rec := client.Record{Topic: keptTopic, Key: []byte(key), Partition: client.ToPartition(int32(i) % s.partitions)}
			if r.IntN(5) > 0 {
				value = fmt.Sprintf("%s/%d", time.Since(s.began), r.Uint64())
				rec.Value = []byte(value + " " + strings.Repeat("x", r.IntN(3000)))
			}
			if err = p.Send(ctx, rec, func(client.Result) {}); err != nil {
				break
			}
			wrote[key] = value
		}
		if err != nil {
			break
		}
		if r.IntN(3) == 0 {
			err = p.Abort(ctx)
			s.ended(&s.aborted, nil)
		} else {
			// From here on it may be committed; once the next one is, this one is decided.
			s.allow(wrote)
			if err = p.Commit(ctx); err == nil {
				s.ended(&s.committed, wrote)
			}
		}
		select {
		case <-time.After(time.Duration(r.IntN(150)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// allow notes values that keys may have from now on.
func (s *keeping) allow(wrote map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range wrote {
		if s.may[k] == nil {
			s.may[k] = []string{""}
		}
		s.may[k] = append(s.may[k], v)
	}
}

// ended notes that a transaction has: its values are those of its keys.
func (s *keeping) ended(count *int, wrote map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count++
	for k, v := range wrote {
		s.may[k] = []string{v}
	}
}

// judge reads what is stored, as a table is read.
func (s *keeping) judge(admin *client.Client, when string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, records, err := readTable(ctx, admin, keptTopic, s.partitions)
	if err != nil {
		s.errorf("%s: %v", when, err)
		return
	}
	s.note(fmt.Sprintf("%s: %d records are stored, %d keys", when, records, len(got)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, may := range s.may {
		if !slices.Contains(may, got[key]) {
			s.errorf("%s: key %s is %q, want one of %q", when, key, got[key], may)
		}
	}
	for key := range got {
		if s.may[key] == nil {
			s.errorf("%s: key %s is %q, and was never committed", when, key, got[key])
		}
	}
}

// readTable reads a topic to its end, committed records only, and gives the last value of each key, up to a space.
func readTable(ctx context.Context, cl *client.Client, topic string, partitions int32) (map[string]string, int, error) {
	var all []record.TopicPartition
	at := map[record.TopicPartition]client.Position{}
	for n := range partitions {
		all = append(all, record.TopicPartition{Topic: topic, Partition: n})
		at[all[n]] = client.End()
	}
	ends, err := cl.ListOffsets(ctx, client.ReadUncommitted, at)
	if err != nil {
		return nil, 0, err
	}
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	if err == nil {
		err = k.Assign(ctx, all...)
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = k.Close(ctx) }()
	table, records := map[string]string{}, 0
	left := len(all)
	done := map[record.TopicPartition]bool{}
	for tp, e := range ends {
		if e.Offset == 0 {
			done[tp] = true
			left--
		}
	}
	for left > 0 {
		fetched, err := k.Poll(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("not read to the end, a transaction is open maybe: %w", err)
		}
		for i := range fetched {
			f := &fetched[i]
			tp := f.TopicPartition
			for r, err := range f.Records() {
				if err != nil {
					return nil, 0, err
				}
				records++
				if r.Value == nil {
					delete(table, string(r.Key))
					continue
				}
				value, _, _ := strings.Cut(string(r.Value), " ")
				table[string(r.Key)] = value
			}
			if e, ok := ends[tp]; ok && f.Next >= e.Offset && !done[tp] {
				done[tp] = true
				left--
			}
		}
	}
	return table, records, nil
}
