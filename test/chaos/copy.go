package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
	"github.com/oncelog/oncelog/record"
)

// copyRun is a run of the copy job: producers fill a topic, workers copy it to another one exactly once, and meanwhile brokers and workers are
// killed, paused and cut off. In the end the copy holds everything once, in order.
type copyRun struct {
	o      options
	c      cluster
	cl     *client.Client
	h      *history.Recorder
	rng    *rand.Rand
	crew   *crew
	input  *workload.Runner
	from   string
	to     string
	group  string
	counts copyCounts
	faults map[string]int
	slowed time.Duration // the longest time without a transaction
}

// copyCounts is what workers have done so far.
type copyCounts struct {
	begun, committed, aborted, copied atomic.Int64
}

const workers = 4

// copyJob runs it on a cluster.
func copyJob(ctx context.Context, o options, c cluster, cl *client.Client) error {
	name := fmt.Sprintf("copy-%d", o.seed)
	r := &copyRun{
		o: o, c: c, cl: cl, rng: rand.New(rand.NewPCG(o.seed, 2)), from: name + "-in", to: name + "-out", group: name, faults: make(map[string]int),
	}
	for _, topic := range []string{r.from, r.to} {
		if err := create(ctx, cl, topic, o.partitions); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "oncelog-copy-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // It lies in the temporary directory.
	file := filepath.Join(dir, "history.jsonl")
	if o.keep != "" {
		file = o.keep
	}
	if r.h, err = history.CreateFile(file, fmt.Sprintf("chaos, copy job, level %s, seed %d", o.level, o.seed)); err != nil {
		return err
	}
	err = r.run(ctx, dir)
	if err := errors.Join(err, r.h.Close()); err != nil {
		if kept := filepath.Join(os.TempDir(), name+".jsonl"); o.keep == "" && os.Rename(file, kept) == nil {
			file = kept
		}
		return fmt.Errorf("%w; see brokerctl verify --history %s", err, file)
	}
	return nil
}

func (r *copyRun) run(ctx context.Context, dir string) error {
	began := time.Now()
	l, err := net.Listen("unix", filepath.Join(dir, "notes"))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	go r.h.Serve(l, r.counts.take)
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	r.crew = &crew{
		binary: binary, addrs: r.c.Addrs(), notes: l.Addr().String(), from: r.from, to: r.to, group: r.group, seed: r.o.seed, deathRate: 120,
		transform: true,
	}
	r.input = workload.New(workload.Options{Topic: r.from, Partitions: int32(r.o.partitions), Producers: 2, Rate: 300, Seed: r.o.seed, Recorder: r.h})
	stopReading, reader := r.readAlong(ctx)
	defer stopReading()
	stop := make(chan struct{})
	written := make(chan error, 1)
	go func() { written <- r.input.Run(ctx, r.cl, stop) }()
	if err := r.crew.start(workers); err != nil {
		return err
	}
	err = r.torment(ctx)
	close(stop)
	err = errors.Join(err, <-written)
	if err == nil {
		err = r.settle(ctx)
	}
	err = errors.Join(err, r.crew.stop())
	if err == nil {
		err = r.judge(ctx, stopReading, reader)
	}
	r.print(time.Since(began))
	return err
}

// take counts what a worker has done.
func (n *copyCounts) take(e *history.Event) {
	switch e.Kind {
	case history.Begin:
		n.begun.Add(1)
	case history.Committed:
		n.committed.Add(1)
	case history.Aborted:
		n.aborted.Add(1)
	case history.Send:
		n.copied.Add(1)
	}
}

// readAlong reads the copy while it is made. stop ends it; the channel gives what it read and why it ended, if not by that.
func (r *copyRun) readAlong(ctx context.Context) (stop func(), result <-chan error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- workload.ReadAlong(ctx, r.cl, r.to, client.ReadCommitted, r.h) }()
	return cancel, ended
}

// settle waits until the group is at the end of the input and no transaction is open.
func (r *copyRun) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		behind, err := r.behind(ctx)
		if err == nil && behind == "" {
			break
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("the group does not come to the end of its input: %s%w", behind, errors.Join(err, ctx.Err()))
		}
	}
	return workload.AwaitEnds(ctx, r.cl, r.group)
}

// behind says where the group is not at the end; "": nowhere.
func (r *copyRun) behind(ctx context.Context) (string, error) {
	at := make(map[record.TopicPartition]client.Position)
	for n := range int32(r.o.partitions) {
		at[record.TopicPartition{Topic: r.from, Partition: n}] = client.End()
	}
	ends, err := r.cl.ListOffsets(ctx, client.ReadCommitted, at)
	if err != nil {
		return "", err
	}
	offsets, err := r.cl.GroupOffsets(ctx, r.group, true, slices.Collect(maps.Keys(at))...)
	if err != nil {
		return "", err
	}
	for _, o := range offsets {
		end := ends[o.TopicPartition]
		if end.Err != nil {
			return "", end.Err
		}
		if o.Unstable || max(o.Offset, 0) != end.Offset {
			return fmt.Sprintf("%v is at offset %d of %d, unstable %t; ", o.TopicPartition, o.Offset, end.Offset, o.Unstable), nil
		}
	}
	return "", nil
}

// judge reads everything back and has it judged twice: by the checker, and record by record.
func (r *copyRun) judge(ctx context.Context, stopReading func(), reader <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	stopReading()
	if err := <-reader; err != nil {
		return fmt.Errorf("the reader of the copy: %w", err)
	}
	for _, topic := range []string{r.from, r.to} {
		if err := workload.ReadBack(ctx, r.cl, topic, r.h); err != nil {
			return err
		}
		if err := workload.Checksums(ctx, r.cl, topic, 3, r.h); err != nil {
			return err
		}
	}
	report, err := history.Check(r.h.Source(), history.Options{})
	if err != nil {
		return err
	}
	fmt.Printf("chaos: %s\n", report)
	if !report.OK() {
		return fmt.Errorf("a promise was broken, or nothing is proved: %s", report.Doubt())
	}
	return r.compare(ctx)
}

// compare holds the copy against the original: the same records in the same order in each partition.
func (r *copyRun) compare(ctx context.Context) error {
	want, err := readAll(ctx, r.cl, r.from, func(x *record.Record) []byte { return x.Value })
	if err != nil {
		return err
	}
	got, err := readAll(ctx, r.cl, r.to, func(x *record.Record) []byte { return x.Key })
	if err != nil {
		return err
	}
	for n := range int32(r.o.partitions) {
		if a, b := want[n], got[n]; !slices.Equal(a, b) {
			at := 0
			for at < min(len(a), len(b)) && a[at] == b[at] {
				at++
			}
			return fmt.Errorf("partition %d: %d records, and %d in the copy; they differ from number %d on", n, len(a), len(b), at)
		}
	}
	return nil
}

// readAll gives a part of all committed records of a topic, by partition.
func readAll(ctx context.Context, cl *client.Client, topic string, part func(*record.Record) []byte) (map[int32][]string, error) {
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	if err != nil {
		return nil, err
	}
	defer func() { _ = k.Close(ctx) }() // never fails
	if err := k.AssignTopic(ctx, topic, client.Beginning()); err != nil {
		return nil, err
	}
	at := make(map[record.TopicPartition]client.Position)
	for _, tp := range k.Assignment() {
		at[tp] = client.End()
	}
	left, err := cl.ListOffsets(ctx, client.ReadCommitted, at)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(left, func(_ record.TopicPartition, end client.ListedOffset) bool { return end.Err == nil && end.Offset == 0 })
	all := make(map[int32][]string)
	for len(left) > 0 {
		fetched, err := k.Poll(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read to its end: %w", topic, err)
		}
		for i := range fetched {
			f := &fetched[i]
			for x, err := range f.Records() {
				if err != nil {
					return nil, err
				}
				all[f.Partition] = append(all[f.Partition], string(part(x)))
			}
			if end, ok := left[f.TopicPartition]; ok && f.Next >= end.Offset {
				delete(left, f.TopicPartition)
			}
		}
	}
	return all, nil
}

// print is the table of the run.
func (r *copyRun) print(took time.Duration) {
	w := r.crew
	w.mu.Lock()
	defer w.mu.Unlock()
	total := 0
	list := ""
	for _, what := range slices.Sorted(maps.Keys(r.faults)) {
		total += r.faults[what]
		list += fmt.Sprintf(", %s %d", what, r.faults[what])
	}
	list += fmt.Sprintf(", deaths of workers inside a transaction %d", w.died)
	fmt.Printf("\nchaos: level %s, seed %d\n", r.o.level, r.o.seed)
	for _, row := range []struct {
		what  string
		value any
	}{
		{"time", took.Round(time.Second)},
		{"records of the input", r.input.Acked()},
		{"transactions begun", r.counts.begun.Load()},
		{"committed, aborted", fmt.Sprintf("%d, %d", r.counts.committed.Load(), r.counts.aborted.Load())},
		{"faults", fmt.Sprintf("%d: %s", total+w.died, list[2:])},
		{"workers that were replaced while paused", w.zombies},
		{"workers that ended since they were replaced", w.fenced},
		{"longest time without a commit", r.slowed.Round(time.Millisecond)},
	} {
		fmt.Printf("  %-45s %v\n", row.what, row.value)
	}
	fmt.Printf("\nchaos: result: %d faults %d records %d transactions\n", total+w.died, r.input.Acked(), r.counts.begun.Load())
}
