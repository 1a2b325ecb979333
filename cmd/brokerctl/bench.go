package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

func (p *program) benchCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster",
		Long: `Measure how fast a cluster takes records, gives them, and answers single ones.

Without --topic a topic is made for the run and deleted after it. Values do not
compress. Figures are of the client's side: what a program would see.`,
	})
	cmd.AddCommand(p.benchProduce(), p.benchConsume(), p.benchLatency())
	var file string
	cmd.PersistentFlags().StringVar(&file, "cpu-profile", "", "write a CPU profile of this program to the file")
	for _, c := range cmd.Commands() {
		measure := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return profiled(file, func() error { return measure(cmd, args) })
		}
	}
	return cmd
}

// profiled runs f and writes a profile of where its CPU time went to a file; empty: it only runs f.
func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return &usageError{fmt.Errorf("--cpu-profile: %w", err)}
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(err, out.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}

// benchOptions are the flags that benchmarks share.
type benchOptions struct {
	topic       string
	partitions  int32
	replication int32
	configs     []string
	duration    time.Duration
	records     int64
	size        sizeFlag
	batch       sizeFlag
	inFlight    int
	buffer      sizeFlag
	producers   int
	linger      time.Duration
	acks        string
	compression string
	plain       bool
	rate        float64
}

func (o *benchOptions) topicFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.topic, "topic", "", "use this topic and keep it")
	f.Int32VarP(&o.partitions, "partitions", "p", 1, "of the topic that is made")
	f.Int32VarP(&o.replication, "replication-factor", "r", 0, "of the topic that is made; 0: min(3, brokers)")
	f.StringArrayVarP(&o.configs, "config", "c", nil, "name=value for the topic that is made, repeatable")
}

func (o *benchOptions) produceFlags(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.VarP(&o.size, "size", "s", "size of a value")
	f.Var(&o.batch, "batch", "size at which a batch is full")
	f.IntVar(&o.inFlight, "in-flight", 5, "batches of a partition on their way; at most 5 with idempotence")
	f.DurationVar(&o.linger, "linger", 5*time.Millisecond, "how long a batch waits for more records")
	f.StringVarP(&o.acks, "acks", "a", "all", "all, leader or none")
	f.StringVarP(&o.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.BoolVar(&o.plain, "no-idempotence", false, "retries may write records twice")
	p.completeCodecs(cmd)
}

// config makes the producer's configuration.
func (o *benchOptions) config() (client.ProducerConfig, error) {
	if err := o.size.value(); err != nil {
		return client.ProducerConfig{}, err
	}
	cfg, err := producerConfig(o.acks, o.compression, o.linger, o.plain)
	cfg.BatchBytes = int(o.batch)
	cfg.MaxInFlight = o.inFlight
	cfg.MaxRequestBytes = max(1<<20, int(o.batch)+1<<10, int(o.size)+1<<10)
	cfg.BufferBytes = max(64<<20, 4*int64(cfg.MaxRequestBytes))
	if o.buffer > 0 {
		cfg.MaxRequestBytes = max(int(o.batch), int(o.size)) + 1<<10
		cfg.BufferBytes = max(int64(o.buffer), int64(cfg.MaxRequestBytes))
	}
	return cfg, err
}

// withTopic runs f on --topic, or on a topic that it makes and deletes.
func (p *program) withTopic(ctx context.Context, c *client.Client, o *benchOptions, f func(topic client.Topic) error) (err error) {
	if o.topic != "" {
		t, _, err := c.DescribeTopic(ctx, o.topic)
		if err != nil {
			return err
		}
		return f(t)
	}
	configs, err := parsePairs("config", o.configs)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("bench-%08x", rand.Uint32())
	t, err := c.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: o.partitions, ReplicationFactor: o.replication, Configs: configs, WaitReady: p.flags.timeout})
	if err != nil {
		return changing(err)
	}
	defer func() {
		// Also after an interrupt: the topic is ours.
		if deleteErr := c.DeleteTopic(context.WithoutCancel(ctx), name); deleteErr != nil {
			err = errors.Join(err, fmt.Errorf("topic %s is left behind: %w", name, deleteErr))
		}
	}()
	return f(t)
}

// throughputJSON is the result of bench produce and bench consume.
type throughputJSON struct {
	What        string       `json:"what"`
	Partitions  int          `json:"partitions"`
	RecordSize  int64        `json:"record_size"`
	BatchBytes  int64        `json:"batch_bytes,omitempty"`
	InFlight    int          `json:"in_flight,omitempty"`
	Producers   int          `json:"producers,omitempty"`
	Acks        string       `json:"acks,omitempty"`
	Compression string       `json:"compression,omitempty"`
	Seconds     float64      `json:"seconds"`
	Records     int64        `json:"records"`
	Bytes       int64        `json:"bytes"`
	PerSecond   float64      `json:"records_per_second"`
	MBPerSecond float64      `json:"mb_per_second"`
	NotWritten  int64        `json:"not_written"`
	Unknown     int64        `json:"unknown"`
	Duplicates  int64        `json:"duplicate_batches"`
	Retries     int64        `json:"retried_batches"`
	Latency     *latencyJSON `json:"latency,omitempty"`
}

func (r *throughputJSON) rate(d time.Duration) {
	r.Seconds = d.Seconds()
	r.PerSecond = float64(r.Records) / d.Seconds()
	r.MBPerSecond = float64(r.Bytes) / d.Seconds() / 1e6
}

func (p *program) benchProduce() *cobra.Command {
	o := benchOptions{size: 1000, batch: 128 << 10}
	cmd := &cobra.Command{
		Use:   "produce",
		Short: "Write as fast as the cluster takes it",
		Long: `Write generated records as fast as the cluster takes them, or at --rate, and report
records and MB (10^6 bytes of values) per second. The latency is from Send to the
acknowledgement: at full speed most of it is spent waiting in the producer's buffer.`,
		Example: `  brokerctl bench produce --partitions 8 --batch 100k --duration 30s
  brokerctl bench produce --size 100 --linger 0 --in-flight 1
  brokerctl bench produce --rate 50000 -o json | jq .latency`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				return p.withTopic(cmd.Context(), c, &o, func(t client.Topic) error { return p.runBenchProduce(cmd.Context(), c, &o, t) })
			})
		},
	}
	o.topicFlags(cmd)
	o.produceFlags(p, cmd)
	f := cmd.Flags()
	f.DurationVarP(&o.duration, "duration", "d", 10*time.Second, "how long to write")
	f.Int64VarP(&o.records, "records", "n", 0, "write so many records instead")
	f.Var(&o.buffer, "buffer", "records that each producer holds at most, all of which are waited for at the end; 0: 64 MiB")
	f.IntVar(&o.producers, "producers", 1, "producers, each with a goroutine that sends")
	f.Float64Var(&o.rate, "rate", 0, "records per second of all producers; 0: as fast as possible")
	return cmd
}

func (p *program) runBenchProduce(ctx context.Context, c *client.Client, o *benchOptions, topic client.Topic) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	var latency histogram
	t := &tally{}
	start := time.Now()
	bar := p.startProgress(func() string {
		s := time.Since(start).Seconds()
		return fmt.Sprintf("%4.0f s  %9.0f records/s  %8.1f MB/s", s, float64(t.written.Load())/s, float64(t.written.Load())*float64(o.size)/s/1e6)
	})
	stats, err := sendFrom(ctx, c, cfg, o, topic, t, &latency)
	took := time.Since(start)
	bar.stop()
	if err != nil {
		return err
	}
	r := throughputJSON{
		What: "produce", Partitions: len(topic.Partitions), RecordSize: int64(o.size), BatchBytes: int64(o.batch), InFlight: o.inFlight, Producers: o.producers,
		Acks: o.acks, Compression: o.compression, Records: t.written.Load(), NotWritten: t.notWritten.Load(), Unknown: t.unknown.Load(),
		Duplicates: stats.Duplicates, Retries: stats.BatchesRetried,
	}
	if cfg.Acks == client.AcksNone {
		r.Records = r.Unknown
	}
	r.Bytes = r.Records * int64(o.size)
	r.rate(took)
	l := latency.json()
	r.Latency = &l
	if err := p.showThroughput(r, &latency); err != nil {
		return err
	}
	return t.err(cfg.Acks)
}

// sendFrom runs the producers to their end.
func sendFrom(ctx context.Context, c *client.Client, cfg client.ProducerConfig, o *benchOptions, topic client.Topic, t *tally, latency *histogram) (client.ProducerStats, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total client.ProducerStats
		first error
		sent  atomic.Int64
	)
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.records <= 0 {
		stop, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	for n := range o.producers {
		producer, err := c.NewProducer(cfg)
		if err != nil {
			return total, &usageError{err}
		}
		wg.Go(func() {
			err := sendLoop(stop, producer, o, topic, n, t, latency, &sent)
			if closeErr := producer.Close(ctx); err == nil {
				err = closeErr
			}
			s := producer.Stats()
			mu.Lock()
			defer mu.Unlock()
			total.Duplicates += s.Duplicates
			total.BatchesRetried += s.BatchesRetried
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return total, first
}

// sendLoop sends until stop ends or all records are out. Partitions take turns by the batch, so that
// each gets full ones.
func sendLoop(stop context.Context, producer *client.Producer, o *benchOptions, topic client.Topic, seed int, t *tally, latency *histogram, sent *atomic.Int64) error {
	next := generated(1<<62, int(o.size))
	pace := newPacer(o.rate / float64(o.producers))
	perTurn := max(1, int(o.batch)/(int(o.size)+16))
	r := client.Record{Topic: topic.Name}
	for n := 0; ; n++ {
		if o.records > 0 && sent.Add(1) > o.records {
			return nil
		}
		if !pace.wait(stop) {
			return nil
		}
		_, r.Value, _ = next() // never ends
		r.Partition = client.ToPartition(topic.Partitions[(seed+n/perTurn)%len(topic.Partitions)].Partition)
		begin := time.Now()
		err := producer.Send(stop, r, func(res client.Result) {
			latency.add(time.Since(begin))
			t.add(res)
		})
		if err != nil && stop.Err() != nil {
			return nil
		}
		if err != nil {
			return changing(err)
		}
	}
}

func (p *program) showThroughput(r throughputJSON, latency *histogram) error {
	if p.json() {
		return p.writeJSON(r)
	}
	t := newTable(">RECORDS", ">SECONDS", ">RECORDS/S", ">MB/S", ">RETRIED", ">NOT WRITTEN", ">UNKNOWN")
	t.row(r.Records, fmt.Sprintf("%.2f", r.Seconds), fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.1f", r.MBPerSecond), r.Retries, r.NotWritten, r.Unknown)
	if err := t.write(p.stdout); err != nil || latency == nil {
		return err
	}
	return writeTo(p.stdout, fmt.Sprintf("\nlatency  %v\n", latency))
}

func (p *program) benchConsume() *cobra.Command {
	o := benchOptions{size: 1000, batch: 128 << 10, inFlight: 5, acks: "all", compression: "none", producers: 1, linger: 5 * time.Millisecond}
	bytes := sizeFlag(1 << 30)
	var decode bool
	cmd := &cobra.Command{
		Use:   "consume",
		Short: "Read as fast as the cluster gives it",
		Long: `Read a topic from the beginning to its end and report MB (10^6 bytes of batches) per
second. Without --topic, a topic is made and filled with --bytes first.`,
		Example: `  brokerctl bench consume --bytes 2G --partitions 8
  brokerctl bench consume --topic orders --decode`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return p.with(func(c *client.Client) error {
				return p.withTopic(ctx, c, &o, func(t client.Topic) error {
					if o.topic == "" {
						if err := p.fill(ctx, c, o, t, int64(bytes)); err != nil {
							return err
						}
					}
					return p.runBenchConsume(ctx, c, t, decode)
				})
			})
		},
	}
	o.topicFlags(cmd)
	f := cmd.Flags()
	f.VarP(&o.size, "size", "s", "size of a value that is written first")
	f.Var(&o.batch, "batch", "size of a batch that is written first")
	f.StringVarP(&o.compression, "compression", "z", "none", "of what is written first")
	f.Var(&bytes, "bytes", "how much is written first")
	f.BoolVar(&decode, "decode", false, "read every record, not only batches")
	return cmd
}

// fill writes about bytes of values.
func (p *program) fill(ctx context.Context, c *client.Client, o benchOptions, t client.Topic, bytes int64) error {
	p.sayf("writing %s first", size(bytes))
	o.records = max(1, bytes/max(1, int64(o.size)))
	cfg, err := o.config()
	if err != nil {
		return err
	}
	done := &tally{}
	bar := p.startProgress(func() string {
		return fmt.Sprintf("written %s of %s", size(done.written.Load()*int64(o.size)), size(bytes))
	})
	_, err = sendFrom(ctx, c, cfg, &o, t, done, &histogram{})
	bar.stop()
	if err != nil {
		return err
	}
	return done.err(cfg.Acks)
}

func (p *program) runBenchConsume(ctx context.Context, c *client.Client, topic client.Topic, decode bool) error {
	o := consumeOptions{topic: topic.Name, from: "beginning"}
	plan, err := o.plan(ctx, c)
	if err != nil {
		return err
	}
	k, err := c.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest})
	if err != nil {
		return err
	}
	defer func() { _ = k.Close(ctx) }() // never fails; the topic may be deleted next
	if err := k.AssignTopic(ctx, topic.Name, client.Beginning()); err != nil {
		return err
	}
	r := throughputJSON{What: "consume", Partitions: len(topic.Partitions)}
	var bytes atomic.Int64
	start := time.Now()
	bar := p.startProgress(func() string {
		s := time.Since(start).Seconds()
		return fmt.Sprintf("%4.0f s  %8.1f MB/s", s, float64(bytes.Load())/s/1e6)
	})
	defer bar.stop()
	for left := len(plan); left > 0; {
		fs, err := k.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range fs {
			f := &fs[i]
			if f.Err != nil {
				return f.Err
			}
			for _, b := range f.Batches() {
				bytes.Add(int64(len(b)))
			}
			if !decode {
				r.Records += int64(f.Count())
			} else {
				for _, err := range f.Records() {
					if err != nil {
						return err
					}
					r.Records++
				}
			}
			if way, ok := plan[f.TopicPartition]; ok && f.Next >= way.stop {
				delete(plan, f.TopicPartition)
				left--
			}
		}
	}
	r.Bytes = bytes.Load()
	r.rate(time.Since(start))
	return p.showConsumed(r)
}

func (p *program) showConsumed(r throughputJSON) error {
	if p.json() {
		return p.writeJSON(r)
	}
	t := newTable(">RECORDS", ">SECONDS", ">RECORDS/S", ">MB/S")
	t.row(r.Records, fmt.Sprintf("%.2f", r.Seconds), fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.1f", r.MBPerSecond))
	return t.write(p.stdout)
}
