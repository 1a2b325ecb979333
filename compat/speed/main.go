// Command speed measures three brokerd processes beside three brokers of Apache Kafka, through clients of Kafka, in turn in one run: what
// counts are the ratios. Run it in compat/:
//
//	go run ./speed                                    # everything, three rounds: some 7 minutes for each, and one before that warms up
//	go run ./speed -rounds 5 -o markdown              # the table of docs/performance.md
//	go run ./speed -only produce-1,produce-8          # some rows
//	go run ./speed -only gap -rounds 5 -o json
//
// Kafka is fetched from Maven Central the first time; java and mvn must be on the path. It has the heap that its own scripts give it, and
// does not wait for the disk unless a row says so ("flush": flush.messages=1). Both clusters stand on the same disk and both run the
// whole time: an idle Kafka costs a tenth of a core.
//
// A measurement that fails is told and left out; an interrupt (Ctrl-C) ends the run and shows what there is.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
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
	alone, quick   bool
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
	flag.BoolVar(&o.quick, "quick", false, "a fraction of everything, to see that it works; the figures say nothing")
	flag.Parse()
	if o.quick {
		o.duration = min(o.duration, 300*time.Millisecond)
	}
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop() // who interrupts a second time ends it at once
	results, err := b.all(ctx, chosen, stop)
	if err != nil {
		return err
	}
	if err := show(results, o.output); err != nil {
		return err
	}
	for _, f := range b.failed {
		fmt.Fprintln(os.Stderr, "failed:", f)
	}
	if len(b.failed) > 0 {
		return fmt.Errorf("%d measurements failed; the table is made of the others", len(b.failed))
	}
	return nil
}

// bench measures systems that run.
type bench struct {
	options   options
	dir       string
	classpath string
	systems   []*system
	// failed are measurements that came to nothing.
	failed []string
}

// patience is how long one measurement may take: what hangs costs its own figure.
const patience = 3 * time.Minute

// all measures the rows in turn, round after round, so that all see the same minutes.
func (b *bench) all(ctx context.Context, chosen []row, interrupted func()) ([]result, error) {
	defer func() {
		for _, s := range b.systems {
			s.close()
		}
	}()
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	memory := []result{b.memory("memory of three brokers, fresh", "at most a seventh")}
	samples := make([]map[string][]sample, len(chosen))
	for i := range samples {
		samples[i] = map[string][]sample{}
	}
	began := time.Now()
	for round := -1; round < b.options.rounds && ctx.Err() == nil; round++ {
		b.round(ctx, round, chosen, samples)
		took := time.Since(began)
		fmt.Fprintf(os.Stderr, "%d of %d rounds after the first, which warms up, in %.1f min; about %.0f min to go\n", round+1, b.options.rounds, took.Minutes(),
			(took / time.Duration(round+2) * time.Duration(b.options.rounds-round-1)).Minutes())
	}
	interrupted()
	var results []result
	for i, r := range chosen {
		results = append(results, conclude(&r, samples[i])...)
	}
	memory = append(memory, b.memory("memory of three brokers, after this load", "at most a fifth"))
	fmt.Fprintln(os.Stderr, "waiting for a minute, to see what memory is given back")
	time.Sleep(time.Minute)
	memory = append(memory, b.memory("memory of three brokers, a minute later", "at most a fifth"))
	return append(results, memory...), nil
}

// round measures every row on every system. A measurement that fails is noted, and the others go on.
func (b *bench) round(ctx context.Context, round int, chosen []row, samples []map[string][]sample) {
	for i := range chosen {
		r := &chosen[i]
		if round < 0 && r.cold {
			continue
		}
		for _, s := range b.variants(r) {
			if ctx.Err() != nil {
				return
			}
			began := time.Now()
			one, cancel := context.WithTimeout(ctx, patience)
			got, err := r.measure(one, b, s, r)
			cancel()
			if err != nil {
				if ctx.Err() == nil {
					b.failed = append(b.failed, fmt.Sprintf("round %d, %s, %s: %v", round+1, r.name, s, err))
					fmt.Fprintln(os.Stderr, b.failed[len(b.failed)-1])
				}
				got = sample{}
			} else {
				fmt.Fprintf(os.Stderr, "round %d, %s, %s: %s %s (%.0f s)\n", round+1, r.name, s, number(got.value), r.unit, time.Since(began).Seconds())
			}
			if round >= 0 { // the one before warms up: a JVM compiles what it runs often
				samples[i][s.String()] = append(samples[i][s.String()], got)
			}
			settle()
		}
	}
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

// memory is what the brokers hold.
func (b *bench) memory(what, goal string) result {
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
	return r
}

// settle gives the disk time: removing files, and writing back what was not synced, would slow what is measured next.
func settle() {
	unix.Sync()
	time.Sleep(300 * time.Millisecond)
}
