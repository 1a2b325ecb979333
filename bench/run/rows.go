package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// row is one thing that is measured, of ours and of the limit.
type row struct {
	name, what string
	partitions int32
	// ours are arguments of brokerctl bench, limit those of bench/limit; none: nothing to compare with.
	ours, limit []string
	goal        string
	kind        kind
	// measure gives figures of its own kind; then all of the above but name is empty.
	measure func(context.Context, *bench) ([]figure, error)
	// ownProfiles: measure takes them itself, of what it measures.
	ownProfiles bool
}

type kind uint8

const (
	produce kind = iota // MB/s
	latency             // p50
	consume             // MB/s; the duration is what reading takes
)

// rows are all of them.
var rows = slices.Concat(logRows, transactionRows, compactionRows, tlsRows, aclRows)

// logRows are measured by brokerctl bench, beside bench/limit. 64 in flight are 16 producers with 4 each: one idempotent producer has five at most.
var logRows = []row{
	{name: "100k-1", what: "produce, 1 partition, 100 KiB batches, 5 in flight", goal: "ratio >= 0.55", partitions: 1,
		ours:  []string{"produce", "--batch", "102400", "--size", "1000"},
		limit: []string{"-partitions", "1", "-in-flight", "5", "-batch-bytes", "102400"}},
	{name: "100k-8", what: "produce, 8 partitions, 100 KiB batches, 5 in flight", goal: "ratio >= 0.6", partitions: 8,
		ours:  []string{"produce", "--batch", "102400", "--size", "1000"},
		limit: []string{"-partitions", "8", "-in-flight", "5", "-batch-bytes", "102400"}},
	{name: "16k-1", what: "produce, 1 partition, 16 KiB batches, 5 in flight", goal: "ratio >= 0.4", partitions: 1,
		ours:  []string{"produce", "--batch", "16384", "--size", "1000"},
		limit: []string{"-partitions", "1", "-in-flight", "5", "-batch-bytes", "16384"}},
	{name: "1k-1", what: "produce, 1 partition, one 1 KiB record, 64 in flight", goal: "ratio >= 0.3", partitions: 1,
		ours:  []string{"produce", "--batch", "1024", "--size", "1024", "--linger", "0", "--buffer", "65536", "--producers", "16", "--in-flight", "4"},
		limit: []string{"-partitions", "1", "-in-flight", "64", "-batch-bytes", "1024"}},
	{name: "1k-500", measure: manyPartitions},
	{name: "latency", what: "one 100-byte record at a time, p50", goal: "ratio <= 3", partitions: 1, kind: latency,
		ours:  []string{"latency", "--size", "100"},
		limit: []string{"-partitions", "1", "-in-flight", "1", "-batch-bytes", "100"}},
	{name: "consume", what: "consume, 1 partition, page cache", goal: ">= 600", partitions: 1, kind: consume,
		ours: []string{"consume"}},
}

// filled is what is written before it is consumed: 1 GB.
var filled = []string{"produce", "--batch", "131072", "--size", "1000", "--records", "1000000"}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// choose finds the rows of a comma-separated list.
func choose(list string) ([]row, error) {
	if list == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(rowNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("there is no row %q, but %s", name, strings.Join(rowNames(), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

// result is one figure: ours beside the limit's.
type result struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Ours  float64 `json:"ours"`
	Limit float64 `json:"limit,omitempty"`
	// Ratio is the median of the rounds' ratios, Least and Most their ends.
	Ratio float64 `json:"ratio,omitempty"`
	Least float64 `json:"ratio_least,omitempty"`
	Most  float64 `json:"ratio_most,omitempty"`
	// CPU is what the three brokers burned for each GiB of values, in seconds.
	CPU  float64 `json:"broker_cpu_s_per_gib,omitempty"`
	Goal string  `json:"goal"`
}

// bench measures a running cluster.
type bench struct {
	dir     string
	cluster *brokerproc.Cluster
	client  *client.Client
	// flags are given to brokerctl.
	flags   []string
	options options
	// others are clusters with other settings, by name.
	others map[string]*bench
}

// sample is what the rounds of one row have given.
type sample struct {
	ours, limit, ratio, cpu []float64
	// own are those of a row's figures, whose last values stand in figures.
	own     []sample
	figures []figure
}

func (s *sample) add(ours, limit float64) {
	s.ours = append(s.ours, ours)
	if limit > 0 {
		s.limit, s.ratio = append(s.limit, limit), append(s.ratio, ours/limit)
	}
}

func (s *sample) result(what, unit, goal string) result {
	r := result{What: what, Unit: unit, Ours: median(s.ours), CPU: median(s.cpu), Goal: goal}
	if len(s.limit) > 0 {
		r.Limit, r.Ratio = median(s.limit), median(s.ratio)
		r.Least, r.Most = slices.Min(s.ratio), slices.Max(s.ratio)
	}
	return r
}

// all measures the rows in turn, round after round, so that all see the same minutes.
func (b *bench) all(ctx context.Context, rows []row) ([]result, error) {
	samples := make([]sample, len(rows))
	for range b.options.rounds {
		for i := range rows {
			if err := b.once(ctx, &rows[i], &samples[i]); err != nil {
				return nil, err
			}
		}
	}
	var results []result
	for i, r := range rows {
		s := &samples[i]
		for n, f := range s.figures {
			results = append(results, s.own[n].result(f.what, f.unit, f.goal))
		}
		switch {
		case r.measure != nil:
		case r.kind == latency:
			results = append(results, s.result(r.what, "us", r.goal))
		default:
			results = append(results, s.result(r.what, "MB/s", r.goal))
		}
	}
	return results, nil
}

// once measures a row, the limit first.
func (b *bench) once(ctx context.Context, r *row, s *sample) error {
	if r.measure != nil {
		return b.onceOwn(ctx, r, s)
	}
	var l limitReport
	compare := r.limit != nil && !b.options.alone
	if compare {
		var err error
		if l, err = b.limit(ctx, r); err != nil {
			return err
		}
		settle()
	}
	out, burned, err := b.ours(ctx, r)
	if err != nil {
		return err
	}
	settle()
	if out.Bytes > 0 {
		s.cpu = append(s.cpu, burned/(out.Bytes/(1<<30)))
	}
	ours, limit := out.MBPerSecond, l.MBPerSecond
	if r.kind == latency {
		ours, limit = out.Latency.P50, l.P50Micros
	}
	s.add(ours, limit)
	return nil
}

// onceOwn measures a row that has figures of its own.
func (b *bench) onceOwn(ctx context.Context, r *row, s *sample) error {
	var profiling sync.WaitGroup
	if b.options.profiles != "" && !r.ownProfiles {
		b.profile(ctx, &profiling, r)
	}
	figures, err := r.measure(ctx, b)
	profiling.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if s.figures = figures; s.own == nil {
		s.own = make([]sample, len(figures))
	}
	for i, f := range figures {
		s.own[i].add(f.ours, f.limit)
	}
	settle()
	return nil
}

// settle gives the disk time: removing files, and writing back what was not synced, would slow
// what is measured next.
func settle() {
	unix.Sync()
	time.Sleep(300 * time.Millisecond)
}

// ours measures a row on a topic of its own; burned is the CPU time of the brokers meanwhile, in seconds.
func (b *bench) ours(ctx context.Context, r *row) (out ctlReport, burned float64, err error) {
	topic := fmt.Sprintf("bench-%s-%d", r.name, time.Now().UnixNano())
	if _, err := b.client.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: r.partitions, ReplicationFactor: 3, WaitReady: time.Minute}); err != nil {
		return out, 0, err
	}
	defer func() {
		err = errors.Join(err, b.client.DeleteTopic(ctx, topic))
	}()
	if r.kind == consume {
		if _, err := b.ctl(ctx, append(slices.Clone(filled), "--topic", topic)...); err != nil {
			return out, 0, err
		}
		settle()
	}
	args := append(slices.Clone(r.ours), "--topic", topic)
	if r.kind != consume {
		args = append(args, "--duration", b.options.duration.String())
	}
	var profiling sync.WaitGroup
	if dir := b.options.profiles; dir != "" {
		args = append(args, "--cpu-profile", filepath.Join(dir, r.name+"-client.pprof"))
		b.profile(ctx, &profiling, r)
	}
	before := b.cluster.Usage().CPUSeconds
	out, err = b.ctl(ctx, args...)
	burned = b.cluster.Usage().CPUSeconds - before
	profiling.Wait()
	return out, burned, err
}

// median is 0 for nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
