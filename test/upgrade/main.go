// Command upgrade replaces the executable of three brokers one after the other while brokerctl verify writes, reads and at the
// end judges every record, and does so in transactions beside that. Each broker waits until can-restart allows it; then the
// feature level is raised as far as all know, and the brokers are restarted once more: some files change their format at a start.
// scripts/upgrade.sh builds both executables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

type options struct {
	old, fresh, ctl string
	length          time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.old, "old", "", "the brokerd to begin with")
	flag.StringVar(&o.fresh, "new", "bin/brokerd", "the brokerd to end with")
	flag.StringVar(&o.ctl, "brokerctl", "bin/brokerctl", "the new brokerctl")
	flag.DurationVar(&o.length, "for", time.Minute, "how long to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.length+5*time.Minute)
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
	verifiers := []*exec.Cmd{ctl("verify", "--duration", o.length.String(), "--quiet"),
		ctl("verify", "--transactions", "--duration", o.length.String(), "--quiet")}
	for _, v := range verifiers {
		v.Stdout = os.Stdout
		if err := v.Start(); err != nil {
			return err
		}
	}
	may := func(id int32) bool {
		return ctl("cluster", "can-restart", fmt.Sprint(id), "--quiet", "-o", "json").Run() == nil
	}
	began := time.Now()
	err = roll(ctx, c, o.fresh, may)
	if err == nil {
		fmt.Printf("all brokers run the new version after %.0f s\n", time.Since(began).Seconds())
		err = raise(ctx, c)
	}
	if err == nil {
		err = roll(ctx, c, o.fresh, may)
	}
	if err == nil {
		err = converted(c)
	}
	for _, v := range verifiers {
		if err != nil {
			_ = v.Process.Kill() // its verdict means nothing now
		}
		if e := v.Wait(); err == nil {
			err = e
		}
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

// roll restarts one broker after the other with another executable.
func roll(ctx context.Context, c *brokerproc.Cluster, fresh string, may func(id int32) bool) error {
	for _, p := range c.Brokers() {
		pass(ctx, 5*time.Second) // so that records are written by each mix of versions
		for !may(p.ID) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("broker %d may not be restarted: %w", p.ID, err)
			}
			pass(ctx, 200*time.Millisecond)
		}
		began := time.Now()
		p.Use(fresh)
		if err := errors.Join(p.Terminate(), p.Start()); err != nil {
			return err
		}
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
		fmt.Printf("broker %d runs the new version, and was away for %.1f s\n", p.ID, time.Since(began).Seconds())
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
