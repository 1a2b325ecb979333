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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// row is one figure: ours beside the limit's.
type row struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Ours  float64 `json:"ours"`
	Limit float64 `json:"limit"`
	Ratio float64 `json:"ratio"`
	Goal  string  `json:"goal"`
}

func main() {
	rounds := flag.Int("rounds", 3, "pairs of measurements; the median counts")
	duration := flag.Duration("duration", 4*time.Second, "of one measurement")
	output := flag.String("o", "table", "table or json")
	flag.Parse()
	if err := run(*rounds, *duration, *output); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, duration time.Duration, output string) error {
	dir, err := os.MkdirTemp(".", ".bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	for name, pkg := range map[string]string{"brokerd": "./cmd/brokerd", "brokerctl": "./cmd/brokerctl", "limit": "./bench/limit"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	b := &bench{dir: dir, addrs: strings.Join(c.GRPCAddrs(), ","), rounds: rounds, duration: duration}
	rows, err := b.all(ctx)
	if err != nil {
		return err
	}
	rss := 0.0
	for _, p := range c.Brokers() {
		rss += residentMB(p.PID())
	}
	rows = append(rows, row{What: "memory of the three brokers after the run", Unit: "MB", Ours: rss, Goal: "-"})
	return show(rows, output)
}

type bench struct {
	dir, addrs string
	rounds     int
	duration   time.Duration
}

func (b *bench) all(ctx context.Context) ([]row, error) {
	var rows []row
	for _, partitions := range []int{1, 8} {
		r, err := b.produce(ctx, partitions)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	latency, err := b.latency(ctx)
	if err != nil {
		return nil, err
	}
	consume, err := b.consume(ctx)
	return append(rows, latency, consume), err
}

// produce compares MB/s with batches of 100 KiB, five in flight for each partition.
func (b *bench) produce(ctx context.Context, partitions int) (row, error) {
	var ours, limits []float64
	for range b.rounds {
		l, err := b.limit(ctx, partitions, 5, 102400)
		if err != nil {
			return row{}, err
		}
		var out struct {
			MBPerSecond float64 `json:"mb_per_second"`
		}
		err = b.ctl(ctx, &out, "bench", "produce", "--partitions", strconv.Itoa(partitions), "--replication-factor", "3",
			"--batch", "102400", "--size", "1000", "--duration", b.duration.String())
		if err != nil {
			return row{}, err
		}
		ours, limits = append(ours, out.MBPerSecond), append(limits, l.MBPerSecond)
	}
	o, l := median(ours), median(limits)
	return row{What: fmt.Sprintf("produce, %d partitions, 100 KiB batches, 5 in flight", partitions), Unit: "MB/s",
		Ours: o, Limit: l, Ratio: o / l, Goal: "ratio >= 0.4"}, nil
}

// latency compares the p50 of one 100-byte record at a time.
func (b *bench) latency(ctx context.Context) (row, error) {
	var ours, limits []float64
	for range b.rounds {
		l, err := b.limit(ctx, 1, 1, 100)
		if err != nil {
			return row{}, err
		}
		var out struct {
			Latency struct {
				P50 float64 `json:"p50_us"`
			} `json:"latency"`
		}
		if err := b.ctl(ctx, &out, "bench", "latency", "--replication-factor", "3", "--size", "100", "--duration", b.duration.String()); err != nil {
			return row{}, err
		}
		ours, limits = append(ours, out.Latency.P50), append(limits, l.P50Micros)
	}
	o, l := median(ours), median(limits)
	return row{What: "one 100-byte record at a time, p50", Unit: "us", Ours: o, Limit: l, Ratio: o / l, Goal: "ratio <= 4"}, nil
}

func (b *bench) consume(ctx context.Context) (row, error) {
	var ours []float64
	for range b.rounds {
		var out struct {
			MBPerSecond float64 `json:"mb_per_second"`
		}
		if err := b.ctl(ctx, &out, "bench", "consume", "--replication-factor", "3", "--bytes", "512M", "--size", "1000"); err != nil {
			return row{}, err
		}
		ours = append(ours, out.MBPerSecond)
	}
	return row{What: "consume, 1 partition, page cache", Unit: "MB/s", Ours: median(ours), Goal: ">= 400"}, nil
}

// limitReport is what bench/limit says.
type limitReport struct {
	MBPerSecond float64 `json:"mb_per_s"`
	P50Micros   float64 `json:"p50_us"`
}

func (b *bench) limit(ctx context.Context, partitions, inFlight, batch int) (limitReport, error) {
	var r limitReport
	data := filepath.Join(b.dir, "limit-data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return r, err
	}
	err := output(ctx, &r, filepath.Join(b.dir, "limit"), "-dir", data, "-o", "json", "-partitions", strconv.Itoa(partitions),
		"-in-flight", strconv.Itoa(inFlight), "-batch-bytes", strconv.Itoa(batch), "-duration", b.duration.String())
	return r, err
}

func (b *bench) ctl(ctx context.Context, into any, args ...string) error {
	return output(ctx, into, filepath.Join(b.dir, "brokerctl"), append(args, "--bootstrap", b.addrs, "-o", "json", "--quiet")...)
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

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// residentMB is a process's resident memory.
func residentMB(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

func show(rows []row, format string) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	fmt.Printf("%-52s %-5s %9s %9s %6s  %s\n", "what", "unit", "oncelog", "limit", "ratio", "goal")
	for _, r := range rows {
		limit, ratio := "-", "-"
		if r.Limit > 0 {
			limit, ratio = fmt.Sprintf("%.1f", r.Limit), fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Printf("%-52s %-5s %9.1f %9s %6s  %s\n", r.What, r.Unit, r.Ours, limit, ratio, r.Goal)
	}
	return nil
}
