// Package sim runs a whole cluster with its clients for a minute of virtual time, breaks it as a seed
// says, and decides whether every promise was kept.
//
// One seed is one cluster of three brokers (package brokertest), some idempotent producers with up to
// five batches in flight, consumers that read along, and a watcher that asks for the ends of the
// partitions. When the faults are over the cluster must become whole by itself, everything that was
// sent must be decided, and what is stored must fit what everybody was told.
package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
	"github.com/oncelog/oncelog/record"
)

// Options say what to run. The zero value, with a seed, is the usual run.
type Options struct {
	Seed uint64
	// Lasts is for how much virtual time the cluster is broken. Default 1 minute.
	Lasts time.Duration
	// Plain switches idempotence off.
	Plain bool
	// LogLevel is the least severe level of the brokers' logs. Default: info.
	LogLevel slog.Leveler
	// Sabotage and LyingDisks plant bugs, which must be found.
	Sabotage   broker.Sabotage
	LyingDisks bool
}

// Result is what became of a seed.
type Result struct {
	// Report is what the history checker says.
	Report *history.Report
	// Problems are what went wrong besides: a cluster that does not come back, replicas that stay
	// behind, ends that go back.
	Problems []string
	// Trace tells what was done, with times; Logs is what the brokers said about it.
	Trace string
	Logs  []byte
}

// OK says whether every promise was kept.
func (r *Result) OK() bool { return r.Report != nil && r.Report.OK() && len(r.Problems) == 0 }

// String is a line, and more if something was wrong.
func (r *Result) String() string {
	var b strings.Builder
	if r.Report != nil {
		fmt.Fprintf(&b, "%d faults, %d records found by a retry; %s", r.Report.Faults, r.Report.FoundByRetry, r.Report)
	}
	for _, p := range r.Problems {
		b.WriteString("\n  " + p)
	}
	return b.String()
}

const topic = "orders"

// Run runs one seed. Whether a broken promise fails the test is the caller's decision; what cannot be
// run at all fails it here.
func Run(t *testing.T, o Options) *Result {
	t.Helper()
	if o.Lasts == 0 {
		o.Lasts = time.Minute
	}
	r := &Result{}
	logs := &logBuffer{}
	brokertest.Simulate(t, cluster(o, logs), func(t *testing.T, c *brokertest.Cluster) {
		t.Helper()
		s := &run{t: t, o: o, c: c, result: r, rng: rand.New(rand.NewPCG(o.Seed, 2)), began: time.Now(), history: history.NewRecorder()}
		s.run()
	})
	r.Logs = logs.bytes()
	return r
}

// logBuffer keeps the brokers' logs: at most maxLogs bytes, the last ones.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

const maxLogs = 16 << 20

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.text)+len(p) > maxLogs {
		l.text = append(l.text[:0], l.text[len(l.text)/2:]...)
	}
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *logBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// cluster is what a seed's cluster is like.
func cluster(o Options, logs io.Writer) brokertest.Options {
	r := rand.New(rand.NewPCG(o.Seed, 3))
	snapshot := pick(r, 4*broker.KiB, 4*broker.KiB, 16*broker.KiB, 64*broker.KiB)
	c := brokertest.Options{
		Brokers: o.brokers(), Seed: o.Seed, LogLevel: o.LogLevel, Log: logs, Sabotage: o.Sabotage, LyingDisks: o.LyingDisks,
		Latency: pick(r, 0, 200*time.Microsecond, time.Millisecond), Jitter: pick(r, 0, time.Millisecond, 5*time.Millisecond),
		SyncTime: pick(r, 0, time.Millisecond, 10*time.Millisecond),
		Configure: func(cfg *broker.Config) {
			cfg.Raft.SnapshotBytes = snapshot
			cfg.RetentionCheck = time.Second
		},
	}
	if o.LogLevel == nil {
		c.LogLevel = slog.LevelInfo
	}
	return c
}

// brokers is how many there are: three, and with some seeds four, so that partitions can move.
func (o Options) brokers() int {
	if rand.New(rand.NewPCG(o.Seed, 4)).IntN(3) == 0 {
		return 4
	}
	return 3
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// run is one seed under way.
type run struct {
	t      *testing.T
	o      Options
	c      *brokertest.Cluster
	result *Result
	rng    *rand.Rand
	began  time.Time

	partitions int32
	history    *history.Recorder
	ends       ends

	// mu guards result.
	mu sync.Mutex
}

// note adds a line to the trace.
func (s *run) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Trace += fmt.Sprintf("%9.3fs %s\n", time.Since(s.began).Seconds(), what)
}

// maxProblems bounds what is kept of problems: one bug shows itself many times.
const maxProblems = 20

// problem says that a promise was broken.
func (s *run) problem(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	s.note("PROBLEM: " + what)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.result.Problems) < maxProblems {
		s.result.Problems = append(s.result.Problems, what)
	}
}

func (s *run) run() {
	s.t.Helper()
	s.partitions = 1 + s.rng.Int32N(3)
	admin := s.client("admin")
	s.create(admin)
	stopProducers := s.startProducers(2 + s.rng.IntN(2))
	stopReaders := s.startReaders()
	err := s.c.Torment(s.o.Lasts, brokertest.Nemesis{
		Faults: s.faults(admin),
		Every:  between(s.rng, time.Second, 4*time.Second), Lasts: between(s.rng, time.Second, 5*time.Second),
		Aim:  func() int32 { return s.leader(admin) },
		Note: func(what string) { s.history.Fault("%s", what); s.note(what) },
	})
	s.note("the cluster is mended")
	if err == nil {
		err = s.c.Mend()
	}
	if err != nil {
		s.problem("the cluster does not come back: %v", err)
		return
	}
	s.note("every broker is ready")
	s.probe(admin)
	s.settle(admin)
	stopProducers()
	s.note("everything sent is decided")
	stopReaders()
	s.judge(admin)
}

// faults are those of brokertest, and what an operator does.
func (s *run) faults(admin *client.Client) []brokertest.Fault {
	faults := append(brokertest.Faults(), brokertest.Fault{Name: "transfer", Weight: 2, Begin: func(_ *brokertest.Cluster, id int32, _ *rand.Rand) (string, func()) {
		return s.transfer(admin, id), nil
	}})
	if s.o.brokers() > 3 {
		faults = append(faults, brokertest.Fault{Name: "move", Weight: 6, Begin: func(_ *brokertest.Cluster, _ int32, r *rand.Rand) (string, func()) {
			return s.move(admin, r), nil
		}})
	}
	return faults
}

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// client makes a client on a host of its own.
func (s *run) client(host string) *client.Client {
	s.t.Helper()
	return s.c.ClientOn(host, client.Config{RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second})
}

func (s *run) create(admin *client.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	configs := map[string]string{"segment.bytes": "65536", "segment.ms": pick(s.rng, "5000", "604800000")}
	if _, err := admin.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: s.partitions, ReplicationFactor: 3, Configs: configs}); err != nil {
		s.t.Fatal(err)
	}
	if err := admin.WaitReady(ctx, topic); err != nil {
		s.t.Fatal(err)
	}
}

// leader is a broker that leads a partition, 0 if that cannot be learned at once.
func (s *run) leader(admin *client.Client) int32 {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	m, err := admin.Metadata(ctx, topic)
	if err != nil || len(m.Topics) != 1 || len(m.Topics[0].Partitions) == 0 {
		return 0
	}
	p := m.Topics[0].Partitions[s.rng.IntN(len(m.Topics[0].Partitions))]
	return max(p.Leader, 0)
}

// transfer hands a partition over to a broker.
func (s *run) transfer(admin *client.Client, to int32) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	tp := record.TopicPartition{Topic: topic, Partition: s.rng.Int32N(s.partitions)}
	err := admin.TransferLeadership(ctx, tp, to)
	return fmt.Sprintf("leadership of %s is handed to broker %d: %v", tp, to, err)
}

// move begins to move a partition, or calls off what is under way.
func (s *run) move(admin *client.Client, r *rand.Rand) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if r.IntN(4) == 0 {
		_, err := admin.CancelReassignments(ctx, topic)
		return fmt.Sprintf("moves are called off: %v", err)
	}
	var to []int32
	for _, i := range r.Perm(4)[:3] {
		to = append(to, int32(i+1))
	}
	partition := r.Int32N(s.partitions)
	_, err := admin.Reassign(ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{partition: to}})
	return fmt.Sprintf("partition %d moves to %v: %v", partition, to, err)
}

// settle insists that what is on its way arrives.
func (s *run) settle(admin *client.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		m, err := admin.Metadata(ctx, topic)
		if err == nil && len(m.Topics) == 1 && !slices.ContainsFunc(m.Topics[0].Partitions, client.Partition.Changing) {
			s.note("every partition is where it shall be")
			break
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			s.problem("partitions do not arrive where they shall be: %+v, %v", m.Topics, err)
			return
		}
	}
	if err := s.c.AwaitWhole(ctx, admin); err != nil {
		s.problem("%v", err)
		return
	}
	s.note("every group is whole")
}

// probe insists that a cluster that is whole takes a record in every partition soon.
func (s *run) probe(admin *client.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p := s.producer(admin, client.ProducerConfig{RequestTimeout: time.Second, DeliveryTimeout: 15 * time.Second})
	if p == nil {
		return
	}
	for i := range s.partitions {
		if res := p.send(i, 0, nil); res.Outcome != client.Written {
			s.problem("partition %d of the mended cluster takes no record within 15 s: %v", i, res)
		}
	}
	_ = p.client.Close(ctx)
}

// judge reads everything back and lets the checker decide.
func (s *run) judge(admin *client.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := workload.ReadBack(ctx, admin, topic, s.history); err != nil {
		s.problem("what is stored cannot be read: %v", err)
		return
	}
	if err := workload.Checksums(ctx, admin, topic, 3, s.history); err != nil {
		s.problem("replicas: %v", err)
	}
	report, err := history.Check(s.history.Source(), history.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.result.Report = report
}
