// Command scale measures what many partitions cost: three brokerd processes with one topic, idle, then with a broker killed and started
// again. It says how long it takes until every partition is led and can be written to, and what that takes of memory, files and processor.
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
	partitions int
	idle       time.Duration
	output     string
	set        settings
	keep       bool
	profiles   string
	idleOnly   bool
}

// settings are -set KEY=VALUE, given any number of times.
type settings []string

func (s *settings) String() string { return strings.Join(*s, ",") }

func (s *settings) Set(v string) error {
	*s = append(*s, v)
	return nil
}

func main() {
	var o options
	flag.IntVar(&o.partitions, "partitions", 2000, "partitions of the topic, each with three replicas")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long the idle brokers are watched")
	flag.StringVar(&o.output, "o", "table", "table or json")
	flag.Var(&o.set, "set", "a setting of the brokers, KEY=VALUE; may be repeated")
	flag.BoolVar(&o.keep, "keep", false, "keep the brokers' directories and logs")
	flag.StringVar(&o.profiles, "profiles", "", "write profiles of the idle brokers (CPU, heap, goroutines) into this directory; slows what it measures")
	flag.BoolVar(&o.idleOnly, "idle-only", false, "end after the idle brokers were watched")
	flag.Parse()
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, "scale:", err)
			os.Exit(1)
		}
		o.set = append(o.set, "http.profiles=true")
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	dir, remove, err := brokerproc.Workplace(".", o.keep, "./cmd/brokerd")
	if err != nil {
		return err
	}
	defer remove()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3, Set: o.set})
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
	defer func() { _ = cl.Close(context.WithoutCancel(ctx)) }()
	m := &measurement{options: o, cluster: c, client: cl, dir: dir}
	err = m.all(ctx)
	return show(m.rows, o.output, err)
}

// row is one figure.
type row struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// show prints what was measured, also when the rest could not be.
func show(rows []row, format string, err error) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if e := enc.Encode(rows); err == nil {
			err = e
		}
		return err
	}
	for _, r := range rows {
		fmt.Printf("%-66s %10.2f %s\n", r.What, r.Value, r.Unit)
	}
	return err
}
