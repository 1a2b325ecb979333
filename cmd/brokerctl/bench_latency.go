package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

func (p *program) benchLatency() *cobra.Command {
	o := benchOptions{size: 100, batch: 128 << 10}
	var clients int
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "Time single records from Send to acknowledgement",
		Long: `Write one record at a time and measure how long each takes. With --clients, that many
do so side by side. With --rate, records are due at fixed times and their latency
counts from then, so that a cluster which stalls cannot hide it by being asked less.`,
		Example: `  brokerctl bench latency
  brokerctl bench latency --clients 64 --partitions 8
  brokerctl bench latency --rate 1000 --duration 1m`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clients < 1 {
				return usagef("flag --clients: is %d, want at least 1", clients)
			}
			return p.with(func(c *client.Client) error {
				return p.withTopic(cmd.Context(), c, &o, func(t client.Topic) error {
					return p.runBenchLatency(cmd.Context(), c, &o, t, clients)
				})
			})
		},
	}
	o.topicFlags(cmd)
	o.linger, o.inFlight = 0, 5
	f := cmd.Flags()
	f.VarP(&o.size, "size", "s", "size of a value")
	f.StringVarP(&o.acks, "acks", "a", "all", "all or leader")
	f.StringVarP(&o.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.BoolVar(&o.plain, "no-idempotence", false, "retries may write records twice")
	f.DurationVarP(&o.duration, "duration", "d", 10*time.Second, "how long to measure")
	f.IntVar(&clients, "clients", 1, "how many write side by side")
	f.Float64Var(&o.rate, "rate", 0, "records per second of all clients; 0: each writes when its last one is done")
	p.completeCodecs(cmd)
	return cmd
}

func (p *program) runBenchLatency(ctx context.Context, c *client.Client, o *benchOptions, topic client.Topic, clients int) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	if cfg.Acks == client.AcksNone {
		return usagef("flag --acks: with none nobody answers, and there is nothing to time")
	}
	producer, err := c.NewProducer(cfg)
	if err != nil {
		return &usageError{err}
	}
	var latency histogram
	t := &tally{}
	// The first record pays for connections and the producer id.
	if res := producer.SendSync(ctx, client.Record{Topic: topic.Name}); res.Err != nil {
		return res.Err
	}
	start := time.Now()
	bar := p.startProgress(func() string {
		return fmt.Sprintf("%4.0f s  %d records  p50 %v  p99 %v", time.Since(start).Seconds(), latency.n.Load(), brief(latency.quantile(0.5)), brief(latency.quantile(0.99)))
	})
	stop, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			next := generated(1<<62, int(o.size))
			pace := newPacer(o.rate / float64(clients))
			pace.next = pace.next.Add(time.Duration(i) * pace.every / time.Duration(clients))
			for first := true; ; first = false {
				due := pace.next
				if !pace.wait(stop) && (!first || ctx.Err() != nil) { // one at least, however short the time
					return
				}
				if pace.every == 0 {
					due = time.Now()
				}
				_, value, _ := next() // never ends
				res := producer.SendSync(ctx, client.Record{Topic: topic.Name, Partition: client.ToPartition(int32(i % len(topic.Partitions))), Value: value})
				latency.add(time.Since(due))
				t.add(res)
				if errors.Is(res.Err, client.ErrClosed) {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	bar.stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := producer.Close(ctx); err != nil {
		return err
	}
	return p.showLatency(o, clients, t, &latency, took, cfg)
}

// latencyReport is the result of bench latency.
type latencyReport struct {
	Clients    int         `json:"clients"`
	RecordSize int64       `json:"record_size"`
	Rate       float64     `json:"rate"`
	Seconds    float64     `json:"seconds"`
	PerSecond  float64     `json:"records_per_second"`
	NotWritten int64       `json:"not_written"`
	Unknown    int64       `json:"unknown"`
	Latency    latencyJSON `json:"latency"`
}

func (p *program) showLatency(o *benchOptions, clients int, t *tally, h *histogram, took time.Duration, cfg client.ProducerConfig) error {
	r := latencyReport{
		Clients: clients, RecordSize: int64(o.size), Rate: o.rate, Seconds: took.Seconds(), PerSecond: float64(h.n.Load()) / took.Seconds(),
		NotWritten: t.notWritten.Load(), Unknown: t.unknown.Load(), Latency: h.json(),
	}
	if p.json() {
		if err := p.writeJSON(r); err != nil {
			return err
		}
		return t.err(cfg.Acks)
	}
	out := newTable(">CLIENTS", ">RECORDS", ">RECORDS/S", ">P50", ">P90", ">P99", ">P99.9", ">MAX")
	out.row(clients, h.n.Load(), fmt.Sprintf("%.0f", r.PerSecond), brief(h.quantile(0.5)), brief(h.quantile(0.9)), brief(h.quantile(0.99)),
		brief(h.quantile(0.999)), brief(time.Duration(h.max.Load())))
	if err := out.write(p.stdout); err != nil {
		return err
	}
	return t.err(cfg.Acks)
}
