package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/workload"
)

// compactedRun is a run of the compacted workload: writers change and delete keys in transactions on a compacted topic, while leaders
// are killed in the middle of passes, and broker after broker is away for longer than delete.retention.ms. In the end the topic
// holds the last committed value of each key, nothing that was deleted or aborted, and all replicas hold the same.
type compactedRun struct {
	o     options
	c     cluster
	cl    *client.Client
	rng   *rand.Rand
	topic string
	table *workload.Table

	mu     sync.Mutex // guards what follows
	passes map[string]bool
	faults map[string]int
}

// Passes are frequent and slow, so that faults meet them.
var compactedSettings = []string{"compaction.interval=200ms", "compaction.bytes_per_second=2MiB", "compaction.memory_bytes=1MiB", "retention_check=500ms"}

// deleteRetention is the delete.retention.ms of the topic.
const deleteRetention = time.Second

const (
	killInPass = "kill of a leader in a pass"
	longAway   = "broker away for longer than delete.retention.ms"
	pauseOfOne = "pause of a leader"
)

func compactedJob(ctx context.Context, o options, c cluster, cl *client.Client) error {
	r := &compactedRun{o: o, c: c, cl: cl, rng: rand.New(rand.NewPCG(o.seed, 3)), topic: fmt.Sprintf("compacted-%d", o.seed),
		table: workload.NewTable(fmt.Sprintf("compacted-%d", o.seed), int32(o.partitions)), passes: map[string]bool{}, faults: map[string]int{}}
	err := createWith(ctx, cl, client.TopicSpec{Name: r.topic, Partitions: int32(o.partitions), ReplicationFactor: 3, Configs: map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "65536", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01",
		"delete.retention.ms": fmt.Sprint(deleteRetention.Milliseconds()),
	}})
	if err != nil {
		return err
	}
	began := time.Now()
	err = r.load(ctx)
	if err == nil {
		err = r.judge(ctx)
	}
	r.print(time.Since(began))
	if err == nil && (r.agreed() == 0 || r.faults[killInPass] == 0 || r.faults[longAway] == 0) {
		err = errors.New("the run proves nothing: no pass, no leader that was killed in one, or no broker that was away")
	}
	return err
}

// load has writers write while the cluster is broken, and a little after.
func (r *compactedRun) load(ctx context.Context) error {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for i := range 4 {
		rng := rand.New(rand.NewPCG(r.o.seed, uint64(100+i)))
		wg.Go(func() { r.write(writing, fmt.Sprintf("%s-writer%d", r.topic, i), rng) })
	}
	err := r.torment(ctx)
	if err == nil {
		err = r.progress(ctx, "after the last fault")
	}
	stop()
	wg.Wait()
	return err
}

// write is a writer: one life after the other, each with a client of its own.
func (r *compactedRun) write(ctx context.Context, name string, rng *rand.Rand) {
	for ctx.Err() == nil {
		cl, err := client.New(client.Config{Bootstrap: r.c.Addrs(), RequestTimeout: 2 * time.Second, ConnectTimeout: time.Second})
		if err != nil {
			pause(ctx, 100*time.Millisecond)
			continue
		}
		r.table.Write(ctx, cl, name, rng)
		closed, cancel := context.WithCancel(context.Background())
		cancel()
		_ = cl.Close(closed) // what it has open is left to its next life
	}
}

// torment breaks one broker at a time, until there were enough faults of each kind and it has taken long enough.
func (r *compactedRun) torment(ctx context.Context) error {
	began := time.Now()
	for done := 0; done < r.o.faults || time.Since(began) < r.o.atLeast; done++ {
		if err := r.progress(ctx, "before the next fault"); err != nil {
			return err
		}
		var err error
		what := []string{killInPass, longAway, killInPass, pauseOfOne}[done%4]
		switch what {
		case longAway:
			brokers := r.c.Brokers()
			err = r.away(ctx, brokers[r.rng.IntN(len(brokers))])
		case killInPass:
			err = r.killInPass(ctx)
		default:
			err = r.pauseLeader(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		r.faults[what]++
		committed, aborted, _ := r.table.Counts()
		fmt.Printf("chaos: %4.0f s  %s survived; %d passes were agreed, %d transactions committed, %d aborted\n",
			time.Since(began).Seconds(), what, r.agreed(), committed, aborted)
	}
	return nil
}

// look asks for the replicas, as far as they answer, and notes what was agreed.
func (r *compactedRun) look(ctx context.Context) []client.RaftGroup {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	groups, _, err := r.cl.RaftGroups(ctx, r.topic)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range groups {
		if k := g.Compaction; k != nil && k.Agreed > 0 {
			r.passes[fmt.Sprint(g.Name, k.Agreed, k.Horizon)] = true
		}
	}
	return groups
}

// agreed is how many passes were seen to be agreed.
func (r *compactedRun) agreed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.passes)
}

// killInPass kills a leader that compacts. It comes back, and goes on.
func (r *compactedRun) killInPass(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		for _, g := range r.look(waiting) {
			if g.Ready && g.Compaction != nil && g.Compaction.Running {
				if err := r.c.Kill(g.Broker); err != nil {
					return err
				}
				err := r.progress(ctx, "without the broker")
				return errors.Join(err, r.back(ctx, g.Broker, r.c.Start))
			}
		}
		if !pause(waiting, 10*time.Millisecond) {
			return errors.New("no leader was seen to compact for 30 s")
		}
	}
}

// away kills a broker and keeps it away until the others have agreed to remove tombstones that were written after it went.
func (r *compactedRun) away(ctx context.Context, id int32) error {
	if err := r.c.Kill(id); err != nil {
		return err
	}
	went := map[string]client.RaftGroup{}
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for passed := false; !passed; {
		for _, g := range r.look(waiting) {
			if !g.Ready || g.Compaction == nil {
				continue
			}
			if _, ok := went[g.Name]; !ok {
				went[g.Name] = g
			}
			passed = passed || g.Compaction.Horizon > went[g.Name].HighWatermark
		}
		if !pause(waiting, 50*time.Millisecond) {
			return errors.New("no tombstones that were written since were removed within a minute")
		}
	}
	return r.back(ctx, id, r.c.Start)
}

// pauseLeader stops a leader without its knowledge.
func (r *compactedRun) pauseLeader(ctx context.Context) error {
	f := &faults{c: r.c, cl: r.cl, topic: r.topic, rng: r.rng}
	id, err := f.leader(ctx)
	if err != nil {
		return err
	}
	if err := r.c.Pause(id); err != nil {
		return err
	}
	err = r.progress(ctx, "without the leader")
	return errors.Join(err, r.back(ctx, id, r.c.Resume))
}

func (r *compactedRun) back(ctx context.Context, id int32, mend func(int32) error) error {
	if err := mend(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return r.c.WaitReady(ctx, id)
}

// progress waits until more transactions have been committed.
func (r *compactedRun) progress(ctx context.Context, when string) error {
	committed, _, _ := r.table.Counts()
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	for want := committed + 10; committed < want; committed, _, _ = r.table.Counts() {
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("no 10 commits in 45 s %s", when)
		}
	}
	return nil
}

// judge reads the table at once, and again when all that can be compacted is.
func (r *compactedRun) judge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, when := range []string{"at once", "compacted"} {
		if when == "compacted" {
			if err := r.table.Settle(ctx, r.cl, 3); err != nil {
				return err
			}
			r.look(ctx)
		}
		wrong, records, err := r.table.Check(ctx, r.cl)
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		fmt.Printf("chaos: %s the topic holds %d records\n", when, records)
		if len(wrong) > 0 {
			return fmt.Errorf("%s: a promise was broken: %d keys\n  %s", when, len(wrong), strings.Join(wrong, "\n  "))
		}
	}
	return workload.CompareReplicas(ctx, r.cl, r.topic, 3)
}

// print is the table of the run.
func (r *compactedRun) print(took time.Duration) {
	committed, aborted, keys := r.table.Counts()
	total := 0
	fmt.Printf("\nchaos: compacted, level %s, seed %d\n", r.o.level, r.o.seed)
	row := func(what string, value any) { fmt.Printf("  %-50s %v\n", what, value) }
	row("time", took.Round(time.Second))
	row("transactions committed, aborted", fmt.Sprintf("%d, %d", committed, aborted))
	row("keys", keys)
	row("passes that were agreed, as far as seen", r.agreed())
	for _, what := range []string{killInPass, longAway, pauseOfOne} {
		row(what, r.faults[what])
		total += r.faults[what]
	}
	fmt.Printf("\nchaos: result: %d faults %d records %d transactions\n", total, 0, committed+aborted)
}
