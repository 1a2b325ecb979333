package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	table  *workload.Table
	logs   *logBuffer
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
	s := &keeping{rng: rand.New(rand.NewPCG(seed, 5)), logs: logs}
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
	if s.table == nil {
		return // it has failed
	}
	committed, aborted, keys := s.table.Counts()
	t.Logf("seed %d: %d transactions, %d aborted, %d keys; %d passes, %d logs pulled anew", seed, committed+aborted, aborted, keys, passes, anew)
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
	s.table = workload.NewTable(keptTopic, s.partitions)
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
	s.trustClocks()
	for _, stop := range stops {
		stop()
	}
	s.note("writers have ended")
	s.judge(admin, "at once")
	// All that can be compacted is, and everywhere: in the segment that is written to lies the rest.
	ctx, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := s.table.Settle(ctx, admin, 3); err != nil {
		s.errorf("%v", err)
	}
	s.judge(admin, "later")
	ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := workload.CompareReplicas(ctx, admin, keptTopic, 3); err != nil {
		s.errorf("replicas: %v", err)
	}
}

// trustClocks starts the brokers again whose clock was wrong, as those ask for that do not trust theirs any more: by the time that they
// go by tombstones could be a day old only in a day. Some notice only when they lead.
func (s *keeping) trustClocks() {
	trace := s.trace.String()
	for id := range int32(8) {
		if strings.Contains(trace, fmt.Sprintf("the clock of broker %d is wrong", id)) {
			s.c.Stop(id)
			s.c.Restart(id)
			s.note(fmt.Sprintf("broker %d trusts its clock again", id))
		}
	}
}

// write is a writer: one life after the other.
func (s *keeping) write(ctx context.Context, name string, r *rand.Rand) {
	for life := 0; ctx.Err() == nil; life++ {
		cl := s.c.ClientOn(fmt.Sprintf("%s-%d", name, life), client.Config{RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second})
		s.table.Write(ctx, cl, name, r)
		closed, cancel := context.WithCancel(context.Background())
		cancel()
		_ = cl.Close(closed)
	}
}

// judge reads what is stored, as a table is read.
func (s *keeping) judge(admin *client.Client, when string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wrong, records, err := s.table.Check(ctx, admin)
	if err != nil {
		s.errorf("%s: %v", when, err)
		return
	}
	s.note(fmt.Sprintf("%s: %d records are stored", when, records))
	for _, w := range wrong {
		s.errorf("%s: %s", when, w)
	}
}
