// Command run measures three brokerd processes beside the lower-bound program of bench/limit, in turn
// in one run, so that each figure is a ratio on the same machine in the same minutes.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// options are the flags.
type options struct {
	rounds   int
	duration time.Duration
	only     string
	profiles string
	parent   string
	alone    bool
	set      []string
	output   string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "how often all is measured, one after the other; the median counts")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "of one measurement")
	flag.StringVar(&o.only, "only", "", "comma-separated rows to measure ("+strings.Join(rowNames(), ", ")+"); empty: all")
	flag.StringVar(&o.profiles, "profiles", "", "write CPU profiles of brokers and client into this directory, one for each row; slows what it measures")
	flag.StringVar(&o.parent, "dir", ".", "where to keep the data meanwhile; must be on the disk to be measured")
	flag.BoolVar(&o.alone, "alone", false, "do not run bench/limit; with --dir in memory, this shows what the processor alone allows")
	flag.Func("set", "KEY=VALUE for the brokers, repeatable", func(s string) error { o.set = append(o.set, s); return nil })
	flag.StringVar(&o.output, "o", "table", "table or json")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	rows, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, remove, err := brokerproc.Workplace(o.parent, false, "./cmd/brokerd", "./cmd/brokerctl", "./bench/limit")
	if err != nil {
		return err
	}
	defer remove()
	o.set = append([]string{"compaction.interval=" + compactionLook}, o.set...) // only for topics that are compacted
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
		o.set = append(o.set, "http.profiles=true")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3, Set: o.set})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	admin, err := client.New(client.Config{Bootstrap: c.GRPCAddrs()})
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	b := &bench{dir: dir, cluster: c, client: admin, options: o}
	defer b.close(context.WithoutCancel(ctx))
	results, err := b.all(ctx, rows)
	if err != nil {
		b.showLogs()
		return err
	}
	rss := float64(c.Usage().ResidentBytes) / 1e6
	results = append(results, result{What: "memory of the three brokers after the run", Unit: "MB", Ours: rss, Goal: "-"})
	return show(results, o.output)
}

// limitReport is what bench/limit says.
type limitReport struct {
	MBPerSecond float64 `json:"mb_per_s"`
	P50Micros   float64 `json:"p50_us"`
	P99Micros   float64 `json:"p99_us"`
}

func (b *bench) limit(ctx context.Context, r *row) (limitReport, error) {
	var l limitReport
	data := filepath.Join(b.dir, "limit-data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return l, err
	}
	err := output(ctx, &l, filepath.Join(b.dir, "limit"), append([]string{"-dir", data, "-o", "json", "-duration", b.options.duration.String()}, r.limit...)...)
	return l, err
}

// ctlReport is what brokerctl bench says, as far as it matters here.
type ctlReport struct {
	MBPerSecond float64 `json:"mb_per_second"`
	Bytes       float64 `json:"bytes"`
	Latency     struct {
		P50 float64 `json:"p50_us"`
		P99 float64 `json:"p99_us"`
	} `json:"latency"`
}

func (b *bench) ctl(ctx context.Context, args ...string) (ctlReport, error) {
	var r ctlReport
	args = append([]string{"bench"}, args...)
	args = append(args, "--bootstrap", strings.Join(b.cluster.GRPCAddrs(), ","), "-o", "json", "--quiet")
	args = append(args, b.flags...)
	return r, output(ctx, &r, filepath.Join(b.dir, "brokerctl"), args...)
}

func output(ctx context.Context, into any, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("%s: %w: %.200s", filepath.Base(name), err, out)
	}
	return nil
}
