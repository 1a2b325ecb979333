package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	"github.com/oncelog/oncelog/record"
)

// TestTransformSeeds copies one topic to another exactly once, by some processes that die, hang and come back as zombies, on a cluster that
// is broken as a seed says. In the end each partition of the copy holds what the original holds, in the same order, and the group's offsets
// agree. -seed, -first, -seeds and -times are those of TestSeeds; by default it runs a quarter as many.
func TestTransformSeeds(t *testing.T) {
	eachSeed(t, transformSeed)
}

// eachSeed runs the seeds that the flags name, at once.
func eachSeed(t *testing.T, run func(t *testing.T, seed uint64)) {
	t.Helper()
	first, count, step := *firstFlag, uint64(max(1, *seedsFlag/4)), uint64(1)
	if *seedFlag != 0 {
		first, count, step = *seedFlag, uint64(*timesFlag), 0
	}
	for n := range count {
		seed := first + n*step
		t.Run(fmt.Sprint("seed", seed, "/", n), func(t *testing.T) {
			t.Parallel()
			run(t, seed)
		})
	}
}

const copyTopic = "copy"

// copying is one seed under way.
type copying struct {
	t          *testing.T
	c          *brokertest.Cluster
	rng        *rand.Rand
	partitions int32
	began      time.Time

	copied  atomic.Int64 // calls of the function
	workers atomic.Int64

	mu    sync.Mutex // guards trace
	trace strings.Builder
}

func (s *copying) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.trace, "%9.3fs %s\n", time.Since(s.began).Seconds(), what)
}

func transformSeed(t *testing.T, seed uint64) {
	t.Helper()
	logs := &logBuffer{}
	o := cluster(Options{Seed: seed}, logs)
	shape := o.Configure
	o.Configure = func(cfg *broker.Config) {
		shape(cfg)
		cfg.Transactions.Shards, cfg.Groups.Shards = 2, 2
		cfg.Transactions.TimeoutCheck = 100 * time.Millisecond
		cfg.Groups.SessionTimeout, cfg.Groups.HeartbeatInterval = 3*time.Second, 500*time.Millisecond
	}
	if *debugFlag {
		o.LogLevel = slog.LevelDebug
	}
	s := &copying{rng: rand.New(rand.NewPCG(seed, 5))}
	brokertest.Simulate(t, o, func(t *testing.T, c *brokertest.Cluster) {
		s.t, s.c, s.began = t, c, time.Now()
		s.run()
	})
	if t.Failed() || *seedFlag != 0 && *timesFlag == 1 {
		t.Log("\n" + s.trace.String())
	}
	if t.Failed() {
		t.Logf("the brokers' logs are in %s. Again: scripts/chaos.sh --only sim --seed %d", keepLogs(seed, logs.bytes()), seed)
	}
	t.Logf("seed %d: %d calls of the function, %d processes", seed, s.copied.Load(), s.workers.Load())
}

func (s *copying) client(host string) *client.Client {
	var logger *slog.Logger
	if *debugFlag {
		logger = slog.New(slog.NewTextHandler(noteWriter{s, host}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return s.c.ClientOn(host, client.Config{RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second, Logger: logger})
}

// noteWriter puts what a client logs into the trace.
type noteWriter struct {
	s    *copying
	host string
}

func (w noteWriter) Write(p []byte) (int, error) {
	w.s.note(w.host + ": " + strings.TrimSpace(string(p)))
	return len(p), nil
}

func (s *copying) run() {
	s.t.Helper()
	s.partitions = 1 + s.rng.Int32N(3)
	admin := s.client("admin")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	for _, name := range []string{topic, copyTopic} {
		_, err := admin.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: s.partitions, ReplicationFactor: 3})
		if err == nil {
			err = admin.WaitReady(ctx, name)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	cancel()
	stopProducer := s.c.Go(s.produce)
	var stops []func()
	for i := range 2 + s.rng.IntN(2) {
		r := rand.New(rand.NewPCG(s.rng.Uint64(), uint64(i)))
		stops = append(stops, s.c.Go(func(ctx context.Context) { s.work(ctx, r) }))
	}
	err := s.c.Torment(40*time.Second, brokertest.Nemesis{Every: between(s.rng, time.Second, 4*time.Second), Lasts: between(s.rng, time.Second, 5*time.Second), Note: s.note})
	if err == nil {
		err = s.c.Mend()
	}
	if err != nil {
		s.t.Errorf("the cluster does not come back: %v", err)
		return
	}
	s.note("the cluster is mended")
	stopProducer()
	s.note("everything sent is decided")
	s.awaitCopied(admin)
	for _, stop := range stops {
		stop()
	}
	s.note("the workers have ended")
	s.judge(admin)
}

// produce writes numbers until ctx ends.
func (s *copying) produce(ctx context.Context) {
	p, err := s.client("producer").NewProducer(client.ProducerConfig{})
	if err != nil {
		s.t.Error(err)
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		for partition := range s.partitions {
			err := p.Send(context.Background(), client.Record{Topic: topic, Partition: client.ToPartition(partition), Value: fmt.Appendf(nil, "%d/%d", partition, n)}, nil)
			if err != nil {
				s.note("send: " + err.Error())
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if err := p.Close(context.Background()); err != nil {
		s.t.Error(err)
	}
}

// work is one worker after the other. Each lives for some seconds; then it stops as it should, or it is cut off for a while or for ever and
// another one begins.
func (s *copying) work(ctx context.Context, r *rand.Rand) {
	var old sync.WaitGroup
	defer old.Wait()
	for ctx.Err() == nil {
		n := s.workers.Add(1)
		host := fmt.Sprint("worker", n)
		life, end := context.WithCancel(ctx)
		seed := r.Uint64()
		ended := make(chan struct{})
		old.Go(func() {
			defer close(ended)
			defer end()
			s.transform(life, host, seed)
		})
		select {
		case <-time.After(between(r, 3*time.Second, 25*time.Second)):
		case <-ctx.Done():
			return
		case <-ended:
			continue
		}
		switch r.IntN(3) {
		case 0:
			s.note(host + " stops")
			end()
			<-ended
		case 1:
			s.note(host + " hangs")
			s.c.Network.Freeze(host)
			old.Go(func() {
				select {
				case <-time.After(between(rand.New(rand.NewPCG(uint64(n), 1)), time.Second, 15*time.Second)):
				case <-ctx.Done():
				}
				s.note(host + " goes on, as a zombie maybe")
				s.c.Network.Thaw(host)
				select {
				case <-time.After(5 * time.Second):
				case <-ctx.Done():
				}
				end()
			})
		default:
			s.note(host + " is cut off until the end")
			for _, id := range s.c.Brokers() {
				s.c.Network.Isolate(host, s.c.Host(id))
			}
		}
	}
}

// transform is one process.
func (s *copying) transform(ctx context.Context, host string, seed uint64) {
	cl := s.client(host)
	r := rand.New(rand.NewPCG(seed, 1))
	err := cl.Transform(ctx, client.TransformConfig{
		Group:              client.GroupConfig{ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest}, GroupID: "copiers", Topics: []string{topic}},
		TransactionTimeout: between(r, time.Second, 5*time.Second), CommitInterval: between(r, time.Millisecond, 200*time.Millisecond),
	}, func(_ context.Context, in []client.Fetched, out *client.Output) error {
		s.copied.Add(1)
		for i := range in {
			for r, err := range in[i].Records() {
				if err != nil {
					return err
				}
				if err := out.Send(client.Record{Topic: copyTopic, Partition: client.ToPartition(in[i].Partition), Value: slices.Clone(r.Value)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.note(fmt.Sprintf("%s ends: %v", host, err))
	closed, cancel := context.WithCancel(context.Background())
	cancel()
	_ = cl.Close(closed)
}

func (s *copying) all(name string) []record.TopicPartition {
	var list []record.TopicPartition
	for n := range s.partitions {
		list = append(list, record.TopicPartition{Topic: name, Partition: n})
	}
	return list
}

// awaitCopied waits until the group has come to the end of the topic.
func (s *copying) awaitCopied(admin *client.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var last string
	for {
		at := map[record.TopicPartition]client.Position{}
		for _, tp := range s.all(topic) {
			at[tp] = client.End()
		}
		ends, err := admin.ListOffsets(ctx, client.ReadCommitted, at)
		var offsets []client.CommittedOffset
		if err == nil {
			offsets, err = admin.GroupOffsets(ctx, "copiers", true, s.all(topic)...)
		}
		done := err == nil
		last = fmt.Sprint(err)
		for _, o := range offsets {
			done = done && !o.Unstable && o.Offset == ends[o.TopicPartition].Offset
			last += fmt.Sprintf("; %v is at %d of %d, unstable %t", o.TopicPartition, o.Offset, ends[o.TopicPartition].Offset, o.Unstable)
		}
		if done {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			s.t.Errorf("the group does not come to the end: %s", last)
			return
		}
	}
}

// judge compares the copy with the original.
func (s *copying) judge(admin *client.Client) {
	s.t.Helper()
	want, got := s.read(admin, topic), s.read(admin, copyTopic)
	records := 0
	for n := range s.partitions {
		records += len(want[n])
		if slices.Equal(want[n], got[n]) {
			continue
		}
		at := 0
		for at < min(len(want[n]), len(got[n])) && want[n][at] == got[n][at] {
			at++
		}
		s.t.Errorf("partition %d: %d records, and %d in the copy; they differ from the %dth on: %v, and %v in the copy", n, len(want[n]), len(got[n]), at,
			want[n][at:min(at+5, len(want[n]))], got[n][at:min(at+5, len(got[n]))])
	}
	s.note(fmt.Sprintf("%d records compared", records))
	if records == 0 {
		s.t.Error("nothing was written")
	}
}

// read gives all values of a topic that readers of committed data see, by partition.
func (s *copying) read(admin *client.Client, name string) [][]string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	at := map[record.TopicPartition]client.Position{}
	for _, tp := range s.all(name) {
		at[tp] = client.End()
	}
	ends, err := admin.ListOffsets(ctx, client.ReadUncommitted, at)
	k, failure := admin.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	if err = errors.Join(err, failure); err == nil {
		err = k.Assign(ctx, s.all(name)...)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = k.Close(ctx) }()
	values := make([][]string, s.partitions)
	left := make(map[record.TopicPartition]bool)
	for tp, e := range ends {
		left[tp] = e.Offset > 0
	}
	for slices.Contains(slices.Collect(maps.Values(left)), true) {
		fetched, err := k.Poll(ctx)
		if err != nil {
			s.t.Errorf("%s cannot be read to its end, a transaction is open maybe: %v", name, err)
			return values
		}
		for i := range fetched {
			f := &fetched[i]
			for r, err := range f.Records() {
				if err != nil {
					s.t.Fatal(err)
				}
				values[f.Partition] = append(values[f.Partition], string(r.Value))
			}
			left[f.TopicPartition] = f.Next < ends[f.TopicPartition].Offset
		}
	}
	return values
}
