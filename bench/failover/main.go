// Command failover measures how long writers wait when a broker goes: killed, told to stop, paused, or cut off from the others.
// Three brokerd processes hold a topic; one writer for each partition sends one record after the
// other. What counts is the longest time from a send to its acknowledgement, for each partition.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

type options struct {
	partitions, rounds int
	interval           time.Duration
	faults             string
	samples            string
	output             string
	keep               bool
}

func main() {
	var o options
	flag.IntVar(&o.partitions, "partitions", 100, "partitions of the topic, each with a writer")
	flag.IntVar(&o.rounds, "rounds", 10, "how often each fault is made")
	flag.DurationVar(&o.interval, "interval", 20*time.Millisecond, "pause of a writer between an acknowledgement and its next record")
	flag.StringVar(&o.faults, "faults", "stop,kill,pause", "which: stop (SIGTERM), kill (SIGKILL), pause (SIGSTOP), cut (off from the other brokers; clients reach it)")
	flag.StringVar(&o.samples, "samples", "", "a file that the waits of every round are added to; the table is of all that are in it, so that a long measurement can be made in pieces")
	flag.StringVar(&o.output, "o", "table", "table or json")
	flag.BoolVar(&o.keep, "keep", false, "keep the brokers' directories and logs")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	faults, err := parseFaults(o.faults)
	if err != nil {
		return err
	}
	dir, remove, err := brokerproc.Workplace(".", o.keep, "./cmd/brokerd")
	if err != nil {
		return err
	}
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3,
		Proxied: strings.Contains(o.faults, "cut"), Set: []string{"leader_balance=2s"}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs()})
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close(ctx) }()
	m := &measurement{options: o, cluster: c, client: cl}
	if err := m.prepare(ctx); err != nil {
		return err
	}
	var rows []row
	for _, f := range faults {
		r, err := m.measure(ctx, f)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	return show(rows, o.output)
}

func show(rows []row, format string) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	fmt.Printf("%-6s %7s %10s %9s %9s %9s   %s\n", "fault", "rounds", "partitions", "p50 ms", "p99 ms", "max ms", "longest wait of writers to partitions that the broker led; others max")
	for _, r := range rows {
		fmt.Printf("%-6s %7d %10d %9.0f %9.0f %9.0f   others %.0f\n", r.Fault, r.Rounds, r.Partitions, r.P50, r.P99, r.Max, r.OthersMax)
	}
	return nil
}
