package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/internal/workload"
)

// verifyOptions are the flags of verify.
type verifyOptions struct {
	bench    benchOptions
	readers  int
	delivery time.Duration
	request  time.Duration
	settle   time.Duration
	keep     bool
	history  string
	record   string
	showMost int

	transactions bool
	rateGiven    bool
}

func (p *program) verifyCommand() *cobra.Command {
	o := verifyOptions{bench: benchOptions{size: 64, batch: 4 << 10}}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that a cluster loses, doubles and reorders nothing",
		Long: `Write unique records for a while, from several producers with several batches in
flight, read while they are written, then read everything back, compare the replicas,
and judge the whole history. Break the cluster meanwhile: kill, pause, disconnect.
With --history judge one that was recorded, by --record or by another program for any
cluster that speaks like Kafka.

With --transactions each producer has a transactional id and writes small transactions
over several partitions, which carry an offset of a group of its own. A quarter is
aborted; now and then a producer dies inside a transaction, another one takes its id,
and the dead one wakes up and tries to commit.

` + anomalyHelp() + `
Records whose outcome is unknown may be there once or not at all. 3:17 is record 17
that process 3 sent to a partition. Each finding comes with the shortest part of the
history that shows it. With --no-idempotence duplicates and disorder are to be
expected, which shows that the faults bite and that the check sees.

Exit codes: 0 sound; 5 something was found, or the history proves nothing, since
nothing was written or not everything was read; 2 the file holds no history.`,
		Example: `  brokerctl verify --duration 1m
  brokerctl verify --partitions 8 --producers 8 --record run.jsonl
  brokerctl verify --transactions --duration 1m
  brokerctl verify --history run.jsonl
  brokerctl verify --no-idempotence      # breaks, while brokers are killed`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.history != "" && o.record != "" {
				return usagef("flags --history and --record exclude each other")
			}
			if o.transactions && (o.history != "" || o.bench.plain) {
				return usagef("flag --transactions excludes --history and --no-idempotence")
			}
			if o.history != "" {
				return p.judge(history.File(o.history), o.showMost)
			}
			o.rateGiven = cmd.Flags().Changed("rate")
			return p.with(func(c *client.Client) error { return p.verify(cmd.Context(), c, &o) })
		},
	}
	o.bench.topicFlags(cmd)
	_ = cmd.Flags().Set("partitions", "4") // a valid number
	o.bench.produceFlags(p, cmd)
	f := cmd.Flags()
	f.DurationVarP(&o.bench.duration, "duration", "d", 30*time.Second, "how long to write")
	f.Float64Var(&o.bench.rate, "rate", 2000, "records per second of all producers, with --transactions transactions (50 if not given); 0: as fast as possible")
	f.BoolVar(&o.transactions, "transactions", false, "write in transactions, and abort some")
	f.IntVar(&o.bench.producers, "producers", 4, "producers")
	f.IntVar(&o.readers, "readers", 2, "readers while it is written, of all and of committed data in turn")
	f.DurationVar(&o.delivery, "delivery-timeout", 2*time.Minute, "when a record's outcome is reported at the latest")
	f.DurationVar(&o.request, "request-timeout", 10*time.Second, "when an unanswered batch's connection is given up")
	f.DurationVar(&o.settle, "settle", 2*time.Minute, "how long to wait afterwards until all partitions can be read")
	f.BoolVar(&o.keep, "keep", false, "do not delete the topic that was made")
	f.StringVar(&o.record, "record", "", "keep the history in this file")
	f.StringVar(&o.history, "history", "", "judge the history in this file instead of running anything")
	f.IntVar(&o.showMost, "show", 5, "how many findings of each kind to show in full")
	return cmd
}

// anomalyHelp lists what verify finds.
func anomalyHelp() string {
	var b strings.Builder
	for _, a := range history.Anomalies {
		fmt.Fprintf(&b, "  %-20s  %s\n", a.Anomaly, a.Meaning)
	}
	return b.String()
}

// verdictJSON is the result of verify.
type verdictJSON struct {
	OK    bool   `json:"ok"`
	Doubt string `json:"doubt,omitempty"`
	*history.Report
}

// judge checks a history and prints the verdict.
func (p *program) judge(events history.Source, most int) error {
	if most < 1 {
		return usagef("flag --show: %d, want at least 1", most)
	}
	var read atomic.Int64
	bar := p.startProgress(func() string { return fmt.Sprintf("%d events checked", read.Load()) })
	report, err := history.Check(events, history.Options{MaxShown: most, Progress: read.Store})
	bar.stop()
	switch {
	case errors.Is(err, history.ErrFormat), errors.Is(err, os.ErrNotExist):
		return usagef("flag --history: %w", err)
	case err != nil:
		return err
	}
	if err := p.printVerdict(report); err != nil {
		return err
	}
	switch {
	case report.Total() > 0:
		return &checkError{"the history is not what it should be: " + plural(report.Total(), "finding")}
	case !report.OK():
		return &checkError{"the history proves nothing: " + report.Doubt()}
	}
	return nil
}

func (p *program) printVerdict(r *history.Report) error {
	if p.json() {
		return p.writeJSON(verdictJSON{r.OK(), r.Doubt(), r})
	}
	t := newTable(">SENT", ">WRITTEN", ">NOT WRITTEN", ">UNKNOWN", ">FOUND BY RETRY", ">READ BACK", ">FAULTS")
	t.row(r.Sent, r.Written, r.NotWritten, r.Unknown, r.FoundByRetry, r.Stored, r.Faults)
	if err := t.write(p.stdout); err != nil {
		return err
	}
	if r.Committed+r.Aborted+r.Undecided > 0 {
		t := newTable(">TRANSACTIONS COMMITTED", ">ABORTED", ">UNDECIDED", ">OFFSET COMMITS")
		t.row(r.Committed, r.Aborted, r.Undecided, r.OffsetCommits)
		if err := writeTo(p.stdout, "\n"); err != nil {
			return err
		}
		if err := t.write(p.stdout); err != nil {
			return err
		}
	}
	return writeTo(p.stdout, "\n"+verdictText(r))
}

// verdictText is what stands below the tables.
func verdictText(r *history.Report) string {
	if r.OK() {
		return "ok: nothing lost, doubled, reordered or made up\n"
	}
	var b strings.Builder
	if doubt := r.Doubt(); doubt != "" {
		fmt.Fprintf(&b, "%s\n", doubt)
	}
	for _, a := range history.Anomalies {
		if n := r.Counts[a.Anomaly]; n > 0 {
			fmt.Fprintf(&b, "%-20s  %9d  %s\n", a.Anomaly, n, a.Meaning)
		}
	}
	for i := range r.Findings {
		fmt.Fprintf(&b, "\n%s\n", &r.Findings[i])
	}
	if more := r.Total() - int64(len(r.Findings)); more > 0 {
		fmt.Fprintf(&b, "\nand %d more (--show, or -o json)\n", more)
	}
	return b.String()
}

func (p *program) verify(ctx context.Context, c *client.Client, o *verifyOptions) error {
	cfg, err := o.bench.config()
	if err != nil {
		return err
	}
	cfg.DeliveryTimeout, cfg.RequestTimeout = o.delivery, o.request
	if err := cfg.Validate(client.Config{}); err != nil {
		return &usageError{err}
	}
	made := o.bench.topic == ""
	topic, err := p.verifyTopic(ctx, c, &o.bench)
	if err != nil {
		return err
	}
	file, temporary := o.record, o.record == ""
	if temporary {
		file = filepath.Join(os.TempDir(), topic.Name+".jsonl")
	}
	h, err := history.CreateFile(file, "brokerctl verify of topic "+topic.Name)
	if err != nil {
		return err
	}
	runIt := p.runVerify
	if o.transactions {
		runIt = p.runVerifyTransactions
	}
	if err = errors.Join(runIt(ctx, c, o, cfg, topic, h), h.Close()); err == nil {
		err = p.judge(history.File(file), o.showMost)
	}
	switch {
	case !temporary:
	case err == nil:
		_ = os.Remove(file) // It lies in the temporary directory.
	default:
		p.sayf("the history is kept in %s", file)
	}
	if made && !o.keep && err == nil {
		if err := c.DeleteTopic(ctx, topic.Name); err != nil {
			p.sayf("topic %s is left behind: %v", topic.Name, err)
		}
	} else if made {
		p.sayf("topic %s is kept", topic.Name)
	}
	return err
}

// verifyTopic gives --topic, which must be empty for a verdict to mean anything, or makes one.
func (p *program) verifyTopic(ctx context.Context, c *client.Client, o *benchOptions) (client.Topic, error) {
	if o.topic == "" {
		configs, err := parsePairs("config", o.configs)
		if err != nil {
			return client.Topic{}, err
		}
		name := fmt.Sprintf("verify-%08x", rand.Uint32())
		t, err := c.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: o.partitions, ReplicationFactor: o.replication, Configs: configs, WaitReady: p.flags.timeout})
		return t, changing(err)
	}
	t, _, err := c.DescribeTopic(ctx, o.topic)
	if err != nil {
		return t, err
	}
	e, err := lookUpEnds(ctx, c, t, client.ReadUncommitted)
	if err != nil {
		return t, err
	}
	for n, pair := range e {
		if pair[1].Err != nil {
			return t, pair[1].Err
		}
		if pair[1].Offset > 0 {
			return t, usagef("flag --topic: %s/%d holds records already; verify needs a topic of its own", o.topic, n)
		}
	}
	return t, nil
}

// runVerify writes for the duration, reads beside it, and reads everything back.
func (p *program) runVerify(ctx context.Context, c *client.Client, o *verifyOptions, cfg client.ProducerConfig, topic client.Topic, h *history.Recorder) error {
	rate := o.bench.rate
	if rate <= 0 {
		rate = -1 // as fast as they are taken
	}
	runner := workload.New(workload.Options{
		Topic: topic.Name, Partitions: int32(len(topic.Partitions)), Producers: o.bench.producers, Rate: rate,
		Size: int(o.bench.size), Producer: cfg, Seed: rand.Uint64(), Recorder: h,
	})
	if err := p.loadVerify(ctx, c, o, topic, runner); err != nil {
		return err
	}
	settled, cancel := context.WithTimeout(ctx, o.settle)
	defer cancel()
	return p.readBack(settled, c, topic, h)
}

// readBack reads everything once all partitions can be read, and compares the replicas.
func (p *program) readBack(ctx context.Context, c *client.Client, topic client.Topic, h *history.Recorder) error {
	if err := c.WaitReady(ctx, topic.Name); err != nil {
		return err
	}
	if err := workload.ReadBack(ctx, c, topic.Name, h); err != nil {
		return err
	}
	if err := workload.Checksums(ctx, c, topic.Name, len(topic.Partitions[0].Replicas), h); err != nil {
		p.sayf("the replicas are not compared: %v", err)
	}
	return nil
}

// loadVerify writes for the duration, and reads beside it.
func (p *program) loadVerify(ctx context.Context, c *client.Client, o *verifyOptions, topic client.Topic, runner *workload.Runner) error {
	start := time.Now()
	n := runner.Counts()
	bar := p.startProgress(func() string {
		return fmt.Sprintf("%4.0f s  %d sent, %d written, %d not written, %d unknown, %d found by retry", time.Since(start).Seconds(),
			n.Sent.Load(), n.Written.Load(), n.NotWritten.Load(), n.Unknown.Load(), n.Duplicates.Load())
	})
	defer bar.stop()
	stopReaders := p.readAlong(ctx, c, o.readers, topic.Name, runner.History())
	defer stopReaders()
	writing, stopWriting := context.WithTimeout(ctx, o.bench.duration)
	defer stopWriting()
	err := runner.Run(ctx, c, writing.Done())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readAlong starts readers of all and of committed data in turn; stop ends them and waits.
func (p *program) readAlong(ctx context.Context, c *client.Client, n int, topic string, h *history.Recorder) (stop func()) {
	reading, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			isolation := []client.Isolation{client.ReadUncommitted, client.ReadCommitted}[i%2]
			if err := workload.ReadAlong(reading, c, topic, isolation, h); err != nil {
				p.sayf("a reader ended: %v", err)
			}
		})
	}
	return func() {
		cancel()
		readers.Wait()
	}
}
