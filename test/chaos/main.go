// Command chaos kills, pauses and cuts brokers while producers write, then reads everything back and
// lets the history checker judge. scripts/chaos.sh runs it at each level.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/netproxy"
	"github.com/oncelog/oncelog/internal/workload"
)

// cluster is what the faults are done to.
type cluster interface {
	Addrs() []string
	Brokers() []int32
	Kill(id int32) error
	Start(id int32) error
	Pause(id int32) error
	Resume(id int32) error
	// Cut takes a broker off the network; false: this level cannot.
	Cut(id int32) (bool, error)
	Heal(id int32) error
	// Network carries what brokers send to each other; nil: this level has none of ours.
	Network() *netproxy.Network
	WaitReady(ctx context.Context, id int32) error
	Close()
}

type options struct {
	level      string
	binary     string
	kills      int
	seed       uint64
	partitions int
	plain      bool
	network    bool
	keep       string
	timeout    time.Duration

	copy         bool
	compacted    bool
	transactions int64
	faults       int
	atLeast      time.Duration
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(workerMain(os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.level, "level", "process", "process: brokerd processes; compose: the containers of deploy/docker-compose.yml, which must be up")
	flag.StringVar(&o.binary, "brokerd", "bin/brokerd", "the broker, at level process")
	flag.IntVar(&o.kills, "kills", 10, "how many times the leader of a partition is killed")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "decides the faults")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flag.BoolVar(&o.plain, "without-idempotence", false, "the counter-run: it succeeds only if duplicates are found and nothing is lost")
	flag.BoolVar(&o.network, "network", false, "break nothing but the network between the brokers, -kills times, each kind of fault in turn")
	flag.BoolVar(&o.copy, "copy", false, "run the copy job: workers copy a topic in transactions, and are broken too")
	flag.BoolVar(&o.compacted, "compacted", false, "run the compacted workload, at level process: keys are changed and deleted in transactions while logs are compacted")
	flag.Int64Var(&o.transactions, "transactions", 1000, "with -copy: how many transactions there are at the least")
	flag.IntVar(&o.faults, "faults", 10, "with -copy and -compacted: how many faults of brokers; those of workers come on top")
	flag.DurationVar(&o.atLeast, "for", 0, "with -copy and -compacted: how long at the least")
	flag.StringVar(&o.keep, "history", "", "write the history to this file")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "bounds the whole run")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v (seed %d)\n", err, o.seed)
		os.Exit(1)
	}
}

// kinds are the faults to choose from; nil: all.
func (o options) kinds() []string {
	if o.network {
		return networkFaults
	}
	return nil
}

func run(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	switch {
	case o.compacted:
		fmt.Printf("chaos: compacted, level %s, seed %d, %d faults\n", o.level, o.seed, o.faults)
	case o.copy:
		fmt.Printf("chaos: copy job, level %s, seed %d, %d transactions, %d faults of brokers\n", o.level, o.seed, o.transactions, o.faults)
	default:
		fmt.Printf("chaos: level %s, seed %d, %d leader kills, idempotence %t\n", o.level, o.seed, o.kills, !o.plain)
	}
	c, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	cl, err := client.New(client.Config{Bootstrap: c.Addrs(), RequestTimeout: 2 * time.Second})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = cl.Close(end)
	}()
	switch {
	case o.compacted:
		return compactedJob(ctx, o, c, cl)
	case o.copy:
		return copyJob(ctx, o, c, cl)
	}
	topic := fmt.Sprintf("chaos-%d", o.seed)
	if err := create(ctx, cl, topic, o.partitions); err != nil {
		return err
	}
	file := cmp.Or(o.keep, filepath.Join(os.TempDir(), topic+".jsonl"))
	h, err := history.CreateFile(file, fmt.Sprintf("chaos, level %s, seed %d, idempotence %t", o.level, o.seed, !o.plain))
	if err != nil {
		return err
	}
	runner := workload.New(workload.Options{
		Topic: topic, Partitions: int32(o.partitions), Producer: client.ProducerConfig{DisableIdempotence: o.plain}, Seed: o.seed, Recorder: h,
	})
	err = load(ctx, cl, runner, topic, func() error {
		return (&faults{c: c, cl: cl, topic: topic, rng: rand.New(rand.NewPCG(o.seed, 1)), runner: runner, kinds: o.kinds()}).run(ctx, o.kills)
	})
	if err == nil {
		err = judge(ctx, cl, runner, o.plain)
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return fmt.Errorf("%w; see brokerctl verify --history %s", err, file)
	}
	if o.keep == "" {
		_ = os.Remove(file) // It lies in the temporary directory.
	}
	return nil
}

// load writes and reads while the cluster is broken.
func load(ctx context.Context, cl *client.Client, runner *workload.Runner, topic string, breakIt func() error) error {
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	stop := make(chan struct{})
	ended := make(chan error, 3)
	go func() { ended <- runner.Run(ctx, cl, stop) }()
	for _, isolation := range []client.Isolation{client.ReadUncommitted, client.ReadCommitted} {
		go func() { ended <- workload.ReadAlong(reading, cl, topic, isolation, runner.History()) }()
	}
	err := breakIt()
	close(stop)
	err = errors.Join(err, <-ended) // A reader only ends by an error before it is told to.
	stopReading()
	return errors.Join(err, <-ended, <-ended)
}

func open(ctx context.Context, o options) (cluster, error) {
	switch {
	case o.level == "process" && o.compacted:
		return openProcesses(ctx, o.binary, compactedSettings...)
	case o.level == "process":
		return openProcesses(ctx, o.binary)
	case o.compacted:
		return nil, fmt.Errorf("level %q: -compacted runs at level process", o.level)
	case o.level == "compose":
		return openCompose(ctx)
	default:
		return nil, fmt.Errorf("level %q: want process or compose", o.level)
	}
}

// create makes the topic.
func create(ctx context.Context, cl *client.Client, topic string, partitions int) error {
	return createWith(ctx, cl, client.TopicSpec{Name: topic, Partitions: int32(partitions), ReplicationFactor: 3})
}

// createWith asks again while the cluster settles.
func createWith(ctx context.Context, cl *client.Client, spec client.TopicSpec) error {
	for {
		_, err := cl.CreateTopic(ctx, spec)
		if err == nil {
			return cl.WaitReady(ctx, spec.Name)
		}
		var e *client.Error
		if errors.As(err, &e) && e.Reason == "TOPIC_ALREADY_EXISTS" {
			return cl.WaitReady(ctx, spec.Name)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("create topic: %w", err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// judge reads back, checks, and compares the replicas. A run without idempotence must show duplicates,
// and may show nothing else but their disorder.
func judge(ctx context.Context, cl *client.Client, runner *workload.Runner, plain bool) error {
	report, err := runner.Judge(ctx, cl, 3)
	if err != nil {
		return err
	}
	fmt.Printf("chaos: %s\n", report)
	fmt.Printf("chaos: result: %d faults %d records %d transactions\n", (report.Faults+1)/2, report.Written, 0)
	switch {
	case report.Doubt() != "":
		return errors.New("the run proves nothing: " + report.Doubt())
	case !plain && !report.OK():
		return errors.New("a promise was broken")
	case plain && report.Total() > report.Counts[history.Duplicate]+report.Counts[history.Reordered]:
		return errors.New("without idempotence, too, there may be nothing but duplicates and disorder")
	case plain && report.Counts[history.Duplicate] == 0:
		return errors.New("no duplicates without idempotence: the faults do not bite, or the checker is blind")
	}
	return nil
}
