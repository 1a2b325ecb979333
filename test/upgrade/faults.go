package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// faults kills and pauses brokers. A nil one does nothing.
type faults struct {
	c   *brokerproc.Cluster
	rng *rand.Rand
	// kill: the last fault was one. Of two in a row one is a kill and one a pause.
	kill          bool
	kills, pauses int
}

func newFaults(c *brokerproc.Cluster, seed uint64) *faults {
	fmt.Printf("faults are chosen by --seed %d\n", seed)
	return &faults{c: c, rng: rand.New(rand.NewPCG(seed, 0))}
}

// one breaks a broker other than one that is left alone (0: none is), and mends it. A pause is shorter or longer than what the
// others take for a death.
func (f *faults) one(ctx context.Context, when string, not int32) error {
	if f == nil {
		return nil
	}
	p := f.c.Brokers()[f.rng.IntN(3)]
	for p.ID == not {
		p = f.c.Brokers()[f.rng.IntN(3)]
	}
	if f.kill = !f.kill; (f.kills+f.pauses)%2 == 0 {
		f.kill = f.rng.IntN(2) == 0
	}
	if f.kill {
		away := time.Duration(f.rng.IntN(2000)) * time.Millisecond
		f.kills++
		fmt.Printf("%s: broker %d is killed, and away for %v\n", when, p.ID, away)
		if err := p.Kill(); err != nil {
			return err
		}
		pass(ctx, away)
		if err := p.Start(); err != nil {
			return err
		}
		return p.WaitReady(ctx)
	}
	away := time.Duration(300+f.rng.IntN(5000)) * time.Millisecond
	f.pauses++
	fmt.Printf("%s: broker %d is paused for %v\n", when, p.ID, away)
	if err := p.Pause(); err != nil {
		return err
	}
	pass(ctx, away)
	if err := p.Resume(); err != nil {
		return err
	}
	return p.WaitReady(ctx)
}

// beside begins a fault of another broker somewhere in the stop and the start of one. done waits until it is mended.
func (f *faults) beside(ctx context.Context, id int32) (done func() error) {
	if f == nil {
		return func() error { return nil }
	}
	after := time.Duration(f.rng.IntN(1000)) * time.Millisecond
	mended := make(chan error, 1)
	go func() {
		pass(ctx, after)
		mended <- f.one(ctx, fmt.Sprintf("%v into the step of broker %d", after, id), id)
	}()
	return func() error { return <-mended }
}

// enough says how much was broken, and that it was what was to be shown.
func (f *faults) enough() error {
	if f == nil {
		return nil
	}
	fmt.Printf("brokers were killed %d times and paused %d times meanwhile\n", f.kills, f.pauses)
	if f.kills == 0 || f.pauses == 0 {
		return fmt.Errorf("%d kills and %d pauses: both were to be", f.kills, f.pauses)
	}
	return nil
}
