// Command upgrade replaces the executable of three brokers one after the other, while brokerctl verify writes, reads and judges
// every record, in transactions beside that, and while brokers that are not being replaced are killed and paused: before each
// replacement and in the middle of it. Each broker waits until can-restart allows it; then the feature level is raised as far as
// all know, and the brokers are restarted once more under the same troubles: some files change their format at a start. The seed
// that is printed chooses the faults. scripts/upgrade.sh builds both executables.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

type options struct {
	old, fresh, ctl string
	length          time.Duration
	seed            uint64
	calm            bool
}

func main() {
	var o options
	flag.StringVar(&o.old, "old", "", "the brokerd to begin with")
	flag.StringVar(&o.fresh, "new", "bin/brokerd", "the brokerd to end with")
	flag.StringVar(&o.ctl, "brokerctl", "bin/brokerctl", "the new brokerctl")
	flag.DurationVar(&o.length, "for", 40*time.Second, "how long to write before what was written is judged; it is gone on with anew until all brokers are replaced")
	flag.Uint64Var(&o.seed, "seed", 0, "chooses the faults; 0: by chance")
	flag.BoolVar(&o.calm, "calm", false, "only replace, break nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*o.length+8*time.Minute)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "oncelog-upgrade-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := brokerproc.New(brokerproc.Options{Binary: o.old, Dir: dir, Brokers: 3})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	ctl := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, o.ctl, append([]string{"--bootstrap", strings.Join(c.GRPCAddrs(), ",")}, args...)...)
		cmd.Stderr = os.Stderr
		return cmd
	}
	r := roller{c: c, fresh: o.fresh, may: func(id int32) bool {
		return ctl("cluster", "can-restart", fmt.Sprint(id), "--quiet", "-o", "json").Run() == nil
	}}
	if !o.calm {
		r.faults = newFaults(c, cmp.Or(o.seed, rand.Uint64()|1))
	}
	judged := startVerifiers(o.length, ctl)
	err = upgrade(ctx, c, &r)
	if e := judged(err != nil); err == nil {
		err = e
	}
	if err == nil {
		err = r.faults.enough()
	}
	if err != nil {
		for _, p := range c.Brokers() {
			if text, e := os.ReadFile(p.LogFile()); e == nil {
				fmt.Fprintf(os.Stderr, "broker %d:\n%s\n", p.ID, text[max(0, len(text)-4000):])
			}
		}
	}
	return err
}

// upgrade is the whole of it.
func upgrade(ctx context.Context, c *brokerproc.Cluster, r *roller) error {
	began := time.Now()
	if err := r.roll(ctx); err != nil {
		return err
	}
	fmt.Printf("all brokers run the new version after %.0f s\n", time.Since(began).Seconds())
	if err := raise(ctx, c); err != nil {
		return err
	}
	if err := r.roll(ctx); err != nil {
		return err
	}
	return converted(c)
}

// startVerifiers writes with and without transactions, in rounds. judged lets the last ones end and gives the first verdict
// that is bad; what is given up has none.
func startVerifiers(length time.Duration, ctl func(args ...string) *exec.Cmd) (judged func(giveUp bool) error) {
	over, gone := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	var mu sync.Mutex
	var failed error
	// They end at different times, so that there is always one that writes.
	for _, args := range [][]string{{"verify", "--duration", length.String(), "--quiet"},
		{"verify", "--transactions", "--duration", (length * 3 / 2).String(), "--quiet"}} {
		running.Go(func() {
			for {
				v := ctl(args...)
				v.Stdout = os.Stdout
				if err := oneVerdict(v, gone); err != nil {
					mu.Lock()
					if failed == nil {
						failed = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
					}
					mu.Unlock()
					return
				}
				select {
				case <-over:
					return
				case <-gone:
					return
				default:
				}
			}
		})
	}
	return func(giveUp bool) error {
		if giveUp {
			close(gone)
		}
		close(over)
		running.Wait()
		return failed
	}
}

func oneVerdict(v *exec.Cmd, gone <-chan struct{}) error {
	if err := v.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- v.Wait() }()
	select {
	case err := <-exited:
		return err
	case <-gone:
		_ = v.Process.Kill() // its verdict means nothing now
		return <-exited
	}
}

// roller restarts brokers with another executable.
type roller struct {
	c     *brokerproc.Cluster
	fresh string
	may   func(id int32) bool
	// faults is nil if nothing is to be broken.
	faults *faults
}

// roll restarts one broker after the other.
func (r *roller) roll(ctx context.Context) error {
	for _, p := range r.c.Brokers() {
		pass(ctx, 3*time.Second) // so that records are written by each mix of versions
		if err := r.faults.one(ctx, "before the step", 0); err != nil {
			return err
		}
		for !r.may(p.ID) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("broker %d may not be restarted: %w", p.ID, err)
			}
			pass(ctx, 200*time.Millisecond)
		}
		began := time.Now()
		meanwhile := r.faults.beside(ctx, p.ID)
		p.Use(r.fresh)
		err := errors.Join(p.Terminate(), p.Start())
		if err == nil {
			err = p.WaitReady(ctx)
		}
		took := time.Since(began)
		if err := errors.Join(err, meanwhile()); err != nil {
			return err
		}
		fmt.Printf("broker %d runs the new version, and was away for %.1f s\n", p.ID, took.Seconds())
	}
	return nil
}

// raise lets the cluster use what all brokers know.
func raise(ctx context.Context, c *brokerproc.Cluster) error {
	cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs()})
	if err != nil {
		return err
	}
	defer cl.Close(context.Background())
	m, err := cl.Metadata(ctx)
	if err != nil {
		return err
	}
	states, failed, err := cl.DescribeBrokers(ctx)
	if err != nil || len(failed) > 0 || len(states) == 0 {
		return fmt.Errorf("brokers do not answer: %v, %w", failed, err)
	}
	level := states[0].MaxFeatureLevel
	for _, s := range states {
		level = min(level, s.MaxFeatureLevel)
	}
	if level <= m.FeatureLevel {
		fmt.Printf("feature level %d is the newest that this version knows\n", m.FeatureLevel)
		return nil
	}
	if err := cl.SetFeatureLevel(ctx, level); err != nil {
		return err
	}
	fmt.Printf("the feature level is raised from %d to %d\n", m.FeatureLevel, level)
	return nil
}

// converted makes sure that no coordinator's log is in a Bolt file any more (docs/decisions/0013).
func converted(c *brokerproc.Cluster) error {
	logs := 0
	for _, p := range c.Brokers() {
		shards := filepath.Join(p.DataDir(), "coordinators", "*")
		bolt, err := filepath.Glob(filepath.Join(shards, "log.db"))
		if err != nil {
			return err
		}
		if len(bolt) > 0 {
			return fmt.Errorf("broker %d has Bolt logs after the upgrade: %v", p.ID, bolt)
		}
		found, err := filepath.Glob(filepath.Join(shards, "log", "meta"))
		if err != nil {
			return err
		}
		logs += len(found)
	}
	if logs == 0 {
		return errors.New("no coordinator has a log")
	}
	fmt.Printf("all %d logs of coordinators are record logs\n", logs)
	return nil
}

func pass(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
