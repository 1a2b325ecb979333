package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
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
	check    string
	showMost int
}

func (p *program) verifyCommand() *cobra.Command {
	o := verifyOptions{bench: benchOptions{size: 64, batch: 4 << 10}}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that a cluster loses, doubles and reorders nothing",
		Long: `Write unique records for a while, from several producers with several batches in
flight, read while they are written, then read everything back and compare it with
what the producers were told. Break the cluster meanwhile: kill, pause, disconnect.

  lost                  acknowledged and not in the log
  duplicate             in the log more than once
  refused but written   reported not written, and in the log
  misplaced             not at the offset that was acknowledged
  reordered             a producer's records in another order than they were sent
  phantom               in the log and never sent
  inconsistent          one offset, two values
  replicas differ       replicas with the same end and other records

Records whose outcome is unknown may be there once or not at all. Exit code 5 if
anything is found, or if nothing was written. With --no-idempotence duplicates are to
be expected, which shows that the faults bite and that the check sees.`,
		Example: `  brokerctl verify --duration 1m
  brokerctl verify --partitions 8 --producers 8 --history run.jsonl
  brokerctl verify --check run.jsonl
  brokerctl verify --no-idempotence      # breaks, while brokers are killed`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.check != "" {
				return p.checkFile(o.check, o.showMost)
			}
			return p.with(func(c *client.Client) error { return p.verify(cmd.Context(), c, &o) })
		},
	}
	o.bench.topicFlags(cmd)
	_ = cmd.Flags().Set("partitions", "4") // a valid number
	o.bench.produceFlags(p, cmd)
	f := cmd.Flags()
	f.DurationVarP(&o.bench.duration, "duration", "d", 30*time.Second, "how long to write")
	f.Float64Var(&o.bench.rate, "rate", 2000, "records per second of all producers; 0: as fast as possible")
	f.IntVar(&o.bench.producers, "producers", 4, "producers")
	f.IntVar(&o.readers, "readers", 1, "readers while it is written")
	f.DurationVar(&o.delivery, "delivery-timeout", 2*time.Minute, "when a record's outcome is reported at the latest")
	f.DurationVar(&o.request, "request-timeout", 10*time.Second, "when an unanswered batch's connection is given up")
	f.DurationVar(&o.settle, "settle", 2*time.Minute, "how long to wait afterwards until all partitions can be read")
	f.BoolVar(&o.keep, "keep", false, "do not delete the topic that was made")
	f.StringVar(&o.history, "history", "", "write what happened to this file, one JSON object a line")
	f.StringVar(&o.check, "check", "", "check this file instead of running anything")
	f.IntVar(&o.showMost, "show", 10, "how many anomalies to show in full")
	return cmd
}

// verdictJSON is the result of verify.
type verdictJSON struct {
	OK         bool           `json:"ok"`
	Sent       int64          `json:"sent"`
	Written    int64          `json:"written"`
	NotWritten int64          `json:"not_written"`
	Unknown    int64          `json:"unknown"`
	Duplicates int64          `json:"duplicate_acks"`
	Read       int64          `json:"read"`
	Anomalies  map[string]int `json:"anomalies"`
	Shown      []anomaly      `json:"shown"`
}

func (p *program) checkFile(name string, most int) error {
	f, err := os.Open(name)
	if err != nil {
		return usagef("flag --check: %w", err)
	}
	defer f.Close()
	h, err := readHistory(bufio.NewReader(f))
	if err != nil {
		return usagef("flag --check: %s: %w", name, err)
	}
	return p.judge(h, most)
}

// judge checks a history and prints the verdict.
func (p *program) judge(h *history, most int) error {
	found := h.check()
	v := verdictJSON{OK: len(found) == 0, Anomalies: map[string]int{}, Shown: found[:min(len(found), most)]}
	for _, e := range h.events {
		switch {
		case e.Type == "final":
			v.Read++
		case e.Type != "send":
			continue
		case e.Outcome == client.Written.String():
			v.Written++
		case e.Outcome == client.NotWritten.String():
			v.NotWritten++
		default:
			v.Unknown++
		}
		if e.Duplicate {
			v.Duplicates++
		}
	}
	v.Sent = v.Written + v.NotWritten + v.Unknown
	v.OK = v.OK && v.Written > 0
	for _, a := range found {
		v.Anomalies[a.Kind]++
	}
	if v.Shown == nil {
		v.Shown = []anomaly{}
	}
	if err := p.printVerdict(v, len(found)); err != nil {
		return err
	}
	if v.Written == 0 && len(found) == 0 {
		return &checkError{"nothing was written: the run proves nothing; write for longer, or look at why records are refused"}
	}
	if !v.OK {
		return &checkError{"the history is not what it should be: " + plural(int64(len(found)), "anomaly")}
	}
	return nil
}

func (p *program) printVerdict(v verdictJSON, found int) error {
	if p.json() {
		return p.writeJSON(v)
	}
	t := newTable(">SENT", ">WRITTEN", ">NOT WRITTEN", ">UNKNOWN", ">FOUND BY RETRY", ">READ BACK")
	t.row(v.Sent, v.Written, v.NotWritten, v.Unknown, v.Duplicates, v.Read)
	if err := t.write(p.stdout); err != nil {
		return err
	}
	if v.OK {
		return writeTo(p.stdout, "\nok: nothing lost, doubled, reordered or made up\n")
	}
	var b strings.Builder
	b.WriteString("\n")
	if found == 0 {
		b.WriteString("nothing was written\n")
	}
	for _, kind := range anomalyKinds {
		if n := v.Anomalies[kind]; n > 0 {
			fmt.Fprintf(&b, "%-20s %d\n", kind, n)
		}
	}
	for _, a := range v.Shown {
		fmt.Fprintf(&b, "\n%s: %s\n", a.Kind, a.What)
		for _, e := range a.Events {
			fmt.Fprintf(&b, "    %s\n", e)
		}
	}
	if more := found - len(v.Shown); more > 0 {
		fmt.Fprintf(&b, "\nand %d more (--show, or -o json)\n", more)
	}
	return writeTo(p.stdout, b.String())
}

// anomalyKinds in the order of the help.
var anomalyKinds = []string{"lost", "duplicate", "refused but written", "misplaced", "reordered", "phantom", "inconsistent", "replicas differ"}

func (p *program) verify(ctx context.Context, c *client.Client, o *verifyOptions) error {
	made := o.bench.topic == ""
	topic, err := p.verifyTopic(ctx, c, &o.bench)
	if err != nil {
		return err
	}
	h := &history{}
	err = p.workload(ctx, c, o, topic, h)
	if err == nil {
		err = p.readBack(ctx, c, o, topic, h)
	}
	if o.history != "" {
		if writeErr := saveHistory(o.history, h); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
	}
	if err != nil {
		return err
	}
	verdict := p.judge(h, o.showMost)
	if made && !o.keep && verdict == nil {
		if err := c.DeleteTopic(ctx, topic.Name); err != nil {
			p.sayf("topic %s is left behind: %v", topic.Name, err)
		}
	} else if made {
		p.sayf("topic %s is kept", topic.Name)
	}
	return verdict
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

func saveHistory(name string, h *history) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := h.write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// workload writes for the duration, and reads beside it.
func (p *program) workload(ctx context.Context, c *client.Client, o *verifyOptions, topic client.Topic, h *history) error {
	cfg, err := o.bench.config()
	if err != nil {
		return err
	}
	cfg.DeliveryTimeout, cfg.RequestTimeout = o.delivery, o.request
	t := &tally{}
	var sent atomic.Int64
	start := time.Now()
	bar := p.startProgress(func() string {
		return fmt.Sprintf("%4.0f s  %d sent, %v, %d found by retry", time.Since(start).Seconds(), sent.Load(), t, t.duplicates.Load())
	})
	defer bar.stop()

	reading, stopReading := context.WithCancel(ctx)
	var readers, writers sync.WaitGroup
	defer readers.Wait()
	defer stopReading()
	for n := range o.readers {
		readers.Go(func() {
			if err := readAlong(reading, c, topic, n+1, h); err != nil {
				p.sayf("reader %d: %v", n+1, err)
			}
		})
	}
	writing, stopWriting := context.WithTimeout(ctx, o.bench.duration)
	defer stopWriting()
	errs := make([]error, o.bench.producers)
	for n := range o.bench.producers {
		producer, err := c.NewProducer(cfg)
		if err != nil {
			return &usageError{err}
		}
		writers.Go(func() {
			errs[n] = writeUnique(writing, producer, o, topic, n+1, h, t, &sent)
			// Every record has its outcome by its delivery timeout.
			if err := producer.Close(ctx); err != nil && errs[n] == nil {
				errs[n] = err
			}
		})
	}
	writers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// writeUnique sends unique values until ctx ends.
func writeUnique(ctx context.Context, producer *client.Producer, o *verifyOptions, topic client.Topic, name int, h *history, t *tally, sent *atomic.Int64) error {
	pace := newPacer(o.bench.rate / float64(o.bench.producers))
	padding := strings.Repeat(".", max(0, int(o.bench.size)-20))
	rng := rand.New(rand.NewPCG(uint64(name), 0))
	for n := int64(1); pace.wait(ctx); n++ {
		part := topic.Partitions[rng.IntN(len(topic.Partitions))].Partition
		value := fmt.Sprintf("%d-%d", name, n)
		e := event{Type: "send", Partition: part, Value: value, Producer: name, N: n}
		told := func(r client.Result) {
			e.Outcome, e.Offset, e.Duplicate = r.Outcome.String(), r.Offset, r.Duplicate
			if r.Err != nil {
				e.Error = r.Err.Error()
			}
			h.add(e)
			t.add(r)
		}
		r := client.Record{Topic: topic.Name, Partition: client.ToPartition(part), Key: []byte(value), Value: []byte(padding)}
		err := producer.Send(ctx, r, told)
		switch {
		case err == nil:
			sent.Add(1)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, client.ErrClosed):
			return err
		default: // the buffer stayed full: this one was not taken
			told(client.Result{Outcome: client.NotWritten, Offset: record.NoOffset, Err: err})
		}
	}
	return nil
}

// readAlong reads while it is written, until ctx ends.
func readAlong(ctx context.Context, c *client.Client, topic client.Topic, name int, h *history) error {
	k, err := c.NewConsumer(client.ConsumerConfig{Reset: client.ResetError})
	if err != nil {
		return err
	}
	defer func() { _ = k.Close(ctx) }() // never fails
	if err := k.AssignTopic(ctx, topic.Name, client.Beginning()); err != nil {
		return err
	}
	for {
		fs, err := k.Poll(ctx)
		if err != nil {
			return nil // the end of the run
		}
		if err := note(fs, "read", name, h); err != nil {
			return err
		}
	}
}

// note puts what a reader saw into the history.
func note(fs []client.Fetched, kind string, reader int, h *history) error {
	for i := range fs {
		f := &fs[i]
		if f.Err != nil {
			return f.Err
		}
		for r, err := range f.Records() {
			if err != nil {
				return err
			}
			h.add(event{Type: kind, Partition: f.Partition, Value: string(r.Key), Offset: r.Offset, Reader: reader})
		}
	}
	return nil
}

// readBack reads everything once the cluster has settled, and takes the replicas' checksums.
func (p *program) readBack(ctx context.Context, c *client.Client, o *verifyOptions, topic client.Topic, h *history) error {
	settled, cancel := context.WithTimeout(ctx, o.settle)
	defer cancel()
	if err := c.WaitReady(settled, topic.Name); err != nil {
		return err
	}
	plan, err := (&consumeOptions{topic: topic.Name, from: "beginning"}).plan(settled, c)
	if err != nil {
		return err
	}
	k, err := c.NewConsumer(client.ConsumerConfig{Reset: client.ResetError})
	if err != nil {
		return err
	}
	defer func() { _ = k.Close(ctx) }() // never fails
	if err := k.AssignTopic(settled, topic.Name, client.Beginning()); err != nil {
		return err
	}
	for len(plan) > 0 {
		fs, err := k.Poll(settled)
		if err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		if err := note(fs, "final", 0, h); err != nil {
			return err
		}
		for tp, way := range plan {
			if pos, ok, err := k.Position(tp); err == nil && ok && pos >= way.stop {
				delete(plan, tp)
			}
		}
	}
	sums, _, err := compareReplicas(settled, c, topic.Name, nil)
	if err != nil {
		return err
	}
	for _, s := range sums {
		if s.Error != "" {
			p.sayf("broker %d gives no checksum of partition %d: %s", s.Broker, s.Partition, s.Error)
			continue
		}
		h.add(event{Type: "replica", Partition: s.Partition, Offset: s.UpTo, Broker: s.Broker, CRC32C: s.CRC32C})
	}
	return nil
}
