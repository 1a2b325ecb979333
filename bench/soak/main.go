// Command soak runs three brokerd processes at full load for long, and watches what they take: producers write as fast as they
// are answered, a consumer reads along, and transactions are made beside. It fails if the brokers ever have more than -memory, or if
// a group elects a leader: nothing is broken here, so every election is one for nothing. What it has seen so far is in the
// file -result, from the first look on; the last line says what came of it.
package main

import (
	"context"
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
	length     time.Duration
	every      time.Duration
	partitions int
	memory     float64
	series     time.Duration
	rest       time.Duration
	result     string
	set        []string
	dir        string
	keep       bool
}

func main() {
	var o options
	flag.DurationVar(&o.length, "for", time.Hour, "how long there is load")
	flag.DurationVar(&o.every, "every", 30*time.Second, "how often it is told how it goes")
	flag.IntVar(&o.partitions, "partitions", 24, "partitions of the topic that is written to")
	flag.DurationVar(&o.series, "series", 5*time.Minute, "how far apart the lines of the table in the end are")
	flag.DurationVar(&o.rest, "rest", time.Minute, "how long after the load it is seen what memory the brokers have kept; 0s: not")
	flag.Float64Var(&o.memory, "memory", 600, "the most memory that the three may have, MB; 0: any")
	flag.StringVar(&o.result, "result", "soak.json", "the file that all that was seen is written to")
	flag.BoolVar(&o.keep, "keep", false, "keep the brokers' directories and logs")
	flag.StringVar(&o.dir, "dir", ".", "where the brokers' directories are made")
	set := flag.String("set", "", "configuration keys for all brokers, KEY=VALUE,...")
	flag.Parse()
	if *set != "" {
		o.set = strings.Split(*set, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, remove, err := brokerproc.Workplace(o.dir, o.keep, "./cmd/brokerd")
	if err != nil {
		return err
	}
	defer remove()
	c, err := brokerproc.New(brokerproc.Options{Binary: filepath.Join(dir, "brokerd"), Dir: dir, Brokers: 3, Set: append([]string{
		// Retention keeps up with the load: the disk is bounded, whatever the length.
		"retention_check=5s", "raft.snapshot_bytes=16MiB"}, o.set...)})
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
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = cl.Close(end)
	}()
	l := &load{client: cl}
	if err := l.prepare(ctx, o.partitions); err != nil {
		return err
	}
	return watch(ctx, o, dir, c, cl, l)
}

// leastFree is what others on this machine are left of the disk.
const leastFree = 10 << 30

// watch loads the brokers for a time, tells every now and then how it goes, and judges in the end.
func watch(ctx context.Context, o options, dir string, c *brokerproc.Cluster, cl *client.Client, l *load) error {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	ended := l.start(loading)
	w := &watcher{cluster: c, client: cl, load: l, dir: dir, length: o.length, goal: o.memory, file: o.result}
	if err := w.begin(ctx); err != nil {
		stop()
		return errors.Join(err, ended())
	}
	go w.seek(loading)
	early := ""
	for end := w.began.Add(o.length); time.Now().Before(end); {
		if err := pass(ctx, min(o.every, time.Until(end))); err != nil {
			early = "it was interrupted"
			break // what there is so far is shown
		}
		if err := w.look(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
		if w.last.free < leastFree {
			early = fmt.Sprintf("the disk has only %.1f GB left", float64(w.last.free)/1e9)
			break
		}
	}
	stop()
	err := ended()
	w.rest(ctx, o.rest)
	return w.conclude(err, early, o.series)
}

func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
