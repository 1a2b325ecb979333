package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/workload"
)

// faults breaks and mends the cluster.
type faults struct {
	c      cluster
	cl     *client.Client
	topic  string
	rng    *rand.Rand
	runner *workload.Runner
	// kinds are the faults to be made, in turn; nil: all, by chance.
	kinds []string
}

// run kills leaders until there were enough, with pauses, cuts and what else the network can do between.
func (f *faults) run(ctx context.Context, kills int) error {
	if err := f.progress(ctx, "before the first fault"); err != nil {
		return err
	}
	for done, n := 0, 0; done < kills; n++ {
		id, err := f.leader(ctx)
		if err != nil {
			return err
		}
		what := choose(f.rng, f.c, f.kinds, n)
		if err := f.one(ctx, what, id); err != nil {
			return fmt.Errorf("%s, broker %d: %w", what, id, err)
		}
		if what == "kill" || f.kinds != nil {
			done++
		}
		fmt.Printf("chaos: %s, broker %d: survived, %d of %d kills, %d records acknowledged\n", what, id, done, kills, f.runner.Acked())
	}
	return nil
}

// choose picks a fault: of kinds in turn, or, of all, more often a kill than anything else.
func choose(rng *rand.Rand, c cluster, kinds []string, n int) string {
	if kinds != nil {
		return kinds[n%len(kinds)]
	}
	switch rng.IntN(4) {
	case 0:
		return "pause"
	case 1:
		if c.Network() != nil {
			return networkFaults[rng.IntN(len(networkFaults))]
		}
		return "cut"
	}
	return "kill"
}

// begin begins a fault of a broker; end undoes it. detail is what is to be told beside.
func begin(c cluster, rng *rand.Rand, what string, id int32) (detail string, end func() error, err error) {
	switch what {
	case "kill":
		return "", func() error { return c.Start(id) }, c.Kill(id)
	case "pause":
		return "", func() error { return c.Resume(id) }, c.Pause(id)
	case "cut":
		ok, err := c.Cut(id)
		if err == nil && !ok {
			err = errors.New("this level cannot cut")
		}
		return "", func() error { return c.Heal(id) }, err
	}
	if c.Network() == nil {
		return "", nil, fmt.Errorf("this level has no proxy for %q", what)
	}
	detail, end = breakNetwork(c.Network(), rng, c.Brokers(), what, id)
	return detail, end, nil
}

// one breaks a broker, lets the others go on, mends it, and waits until it is ready.
func (f *faults) one(ctx context.Context, what string, id int32) error {
	detail, end, err := begin(f.c, f.rng, what, id)
	if err != nil {
		return err
	}
	f.runner.History().Fault("%s, broker %d%s", what, id, detail)
	// The other two have a quorum and must go on without it.
	if silences(what) {
		err = awaitElsewhere(ctx, f.cl, f.topic, id)
	}
	err = errors.Join(err, f.progress(ctx, "without the broker"))
	pause(ctx, time.Duration(f.rng.IntN(1000))*time.Millisecond)
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	f.runner.History().Fault("broker %d is back", id)
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := f.c.WaitReady(ready, id); err != nil {
		return err
	}
	return f.progress(ctx, "with the broker again")
}

// progress waits until more records have been acknowledged.
func (f *faults) progress(ctx context.Context, when string) error {
	want := f.runner.Acked() + 200
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for f.runner.Acked() < want {
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("no progress for 30 s %s", when)
		}
	}
	return nil
}

// leader picks a broker that leads a partition.
func (f *faults) leader(ctx context.Context) (int32, error) {
	for {
		m, err := f.cl.Metadata(ctx, f.topic)
		if err == nil && len(m.Topics) == 1 && len(m.Topics[0].Partitions) > 0 {
			p := m.Topics[0].Partitions[f.rng.IntN(len(m.Topics[0].Partitions))]
			if p.Leader >= 0 {
				return p.Leader, nil
			}
		}
		if !pause(ctx, 20*time.Millisecond) {
			return -1, fmt.Errorf("no leader is known: %w", errors.Join(err, ctx.Err()))
		}
	}
}
