// Command failover measures how long writers wait when a broker goes: killed, told to stop, paused, or cut off from the others.
// Three brokerd processes hold a topic; one writer for each partition sends one record after the
// other. What counts is the longest time from a send to its acknowledgement, for each partition.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

type options struct {
	partitions, rounds int
	interval, calm     time.Duration
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
	flag.DurationVar(&o.calm, "calm", 3*time.Second, "how long before a fault every partition has been led by the broker that is preferred, and every replica level")
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3,
		Proxied: strings.Contains(o.faults, "cut"), Set: []string{"leader_balance=1s"}})
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
		r, failed := m.measure(ctx, f)
		rows = append(rows, r)
		if err = failed; err != nil {
			break // what there is so far is shown
		}
	}
	return errors.Join(show(rows, o.output), err)
}

func show(rows []row, format string) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	fmt.Println("How long writers waited, ms. Each partition that the broker led counts once for each round; then the longest wait of each round.")
	fmt.Printf("%-6s %-10s %6s %8s %8s %8s %8s   %s\n", "fault", "of", "n", "p50", "p99", "max", "goal p99", "reached")
	for _, r := range rows {
		for _, line := range []struct {
			of string
			quantiles
		}{{"partitions", r.Waits}, {"rounds", r.Longest}} {
			goal, reached := "-", "-"
			if r.Goal > 0 {
				goal, reached = fmt.Sprintf("%.0f", r.Goal), "no"
				if line.P99 <= r.Goal {
					reached = "yes"
				}
			}
			fmt.Printf("%-6s %-10s %6d %8.0f %8.0f %8.0f %8s   %s\n", r.Fault, line.of, line.N, line.P50, line.P99, line.Max, goal, reached)
		}
	}
	for _, r := range rows {
		fmt.Printf("%s: a partition that the broker did not lead waited for %.0f ms at most; a round took %.0f s\n", r.Fault, r.OthersMax, r.RoundSeconds)
	}
	return nil
}
