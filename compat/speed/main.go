// Command speed measures three brokerd processes beside three brokers of Apache Kafka, through clients of Kafka, in turn in one run: what
// counts are the ratios. Run it in compat/:
//
//	go run ./speed                                    # everything, three rounds
//	go run ./speed -only produce-1,produce-8          # some rows
//	go run ./speed -only gap -rounds 5 -o json
//
// Kafka is fetched from Maven Central the first time; java and mvn must be on the path. It has the heap that its own scripts give it, and
// does not wait for the disk unless a row says so ("flush": flush.messages=1). Both clusters stand on the same disk and both run the
// whole time: an idle Kafka costs a tenth of a core.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/oncelog/oncelog/compat/apachekafka"
)

type options struct {
	rounds         int
	duration       time.Duration
	only           string
	parent, output string
	profiles       string
	alone          bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "how often all is measured, one after the other, after a first round that does not count; the median counts")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of one measurement, after half a second that does not count")
	flag.StringVar(&o.only, "only", "", "comma-separated rows ("+strings.Join(rowNames(), ", ")+"); empty: all")
	flag.StringVar(&o.parent, "dir", ".", "where to keep the data meanwhile; must be on the disk to be measured")
	flag.StringVar(&o.output, "o", "table", "table, markdown or json")
	flag.StringVar(&o.profiles, "profiles", "", "write CPU profiles of our brokers into this directory, one for each row; slows what it measures")
	flag.BoolVar(&o.alone, "alone", false, "do not run Kafka")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.parent, ".bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "brokerd"), "./cmd/brokerd")
	build.Dir, build.Stderr = "..", os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build brokerd: %w", err)
	}
	b := &bench{options: o, dir: dir}
	if !o.alone {
		if b.classpath, err = apachekafka.Classpath(apachekafka.DefaultVersion); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	results, err := b.all(ctx, chosen)
	if err != nil {
		return err
	}
	return show(results, o.output)
}

// bench measures systems that run.
type bench struct {
	options   options
	dir       string
	classpath string
	systems   []*system
}

// all measures the rows in turn, round after round, so that all see the same minutes.
func (b *bench) all(ctx context.Context, chosen []row) ([]result, error) {
	defer func() {
		for _, s := range b.systems {
			s.close()
		}
	}()
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	var memory []result
	if err := b.memory(&memory, "memory of three brokers, fresh", "at most a seventh"); err != nil {
		return nil, err
	}
	samples := make([]map[string][]sample, len(chosen))
	for round := -1; round < b.options.rounds; round++ {
		for i := range chosen {
			if samples[i] == nil {
				samples[i] = map[string][]sample{}
			}
			for _, s := range b.variants(&chosen[i]) {
				if round < 0 && chosen[i].cold {
					continue
				}
				began := time.Now()
				got, err := chosen[i].measure(ctx, b, s, &chosen[i])
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", chosen[i].name, s, err)
				}
				fmt.Fprintf(os.Stderr, "round %d, %s, %s: %.1f (%.0f s)\n", round+1, chosen[i].name, s, got.value, time.Since(began).Seconds())
				if round >= 0 { // the one before warms up: a JVM compiles what it runs often
					samples[i][s.String()] = append(samples[i][s.String()], got)
				}
				settle()
			}
		}
	}
	var results []result
	for i, r := range chosen {
		results = append(results, conclude(&r, samples[i])...)
	}
	if err := b.memory(&memory, "memory of three brokers, after this load", "at most a fifth"); err != nil {
		return nil, err
	}
	return append(results, memory...), nil
}

// variants are what a row is measured on: ours, Kafka, and Kafka that waits for the disk if that makes a difference.
func (b *bench) variants(r *row) (list []variant) {
	for _, s := range b.systems {
		list = append(list, variant{s, false})
		if s.kafka && r.flushes {
			list = append(list, variant{s, true})
		}
	}
	return list
}

// variant is a system, and how its topics are made.
type variant struct {
	*system
	flush bool
}

func (v variant) String() string {
	if v.flush {
		return "kafka flush"
	}
	return v.name
}

// start starts what is measured; the time that each takes is one of the results of "ready".
func (b *bench) start(ctx context.Context) error {
	ours, err := startOurs(ctx, b.dir, b.options.profiles != "")
	if err != nil {
		return err
	}
	b.systems = append(b.systems, ours)
	if b.options.alone {
		return nil
	}
	c, err := newKafka(ctx, b.dir)
	if err != nil {
		return err
	}
	kafka, err := c.start(ctx)
	if err != nil {
		return err
	}
	b.systems = append(b.systems, kafka)
	return nil
}

// memory notes what the brokers hold.
func (b *bench) memory(into *[]result, what, goal string) error {
	r := result{What: what, Unit: "MB", Goal: goal, LessIsBetter: true}
	for _, s := range b.systems {
		mb := 0.0
		for _, pid := range s.pids() {
			mb += residentMB(pid)
		}
		if s.kafka {
			r.Kafka = mb
		} else {
			r.Ours = mb
		}
	}
	if r.Kafka > 0 {
		r.Ratio = r.Ours / r.Kafka
	}
	*into = append(*into, r)
	return nil
}

// settle gives the disk time: removing files, and writing back what was not synced, would slow what is measured next.
func settle() {
	unix.Sync()
	time.Sleep(300 * time.Millisecond)
}
