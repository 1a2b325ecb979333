package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oncelog/oncelog/record"
)

// torment breaks brokers and workers until there were enough transactions and faults. One broker is broken at a time, so that the others must go
// on; workers are broken beside it.
func (r *copyRun) torment(ctx context.Context) error {
	if err := r.progress(ctx, 20, "before the first fault"); err != nil {
		return err
	}
	began, done := time.Now(), 0
	for done < r.o.faults || r.counts.begun.Load() < r.o.transactions || time.Since(began) < r.o.atLeast {
		if err := r.oneRound(ctx); err != nil {
			return err
		}
		done++
		fmt.Printf("chaos: %4.0f s  %d faults of brokers, %d transactions, %d copies\n", time.Since(began).Seconds(), done, r.counts.begun.Load(), r.counts.copied.Load())
	}
	return nil
}

// oneRound is a fault of a broker, with one of a worker in the middle of it, mostly.
func (r *copyRun) oneRound(ctx context.Context) error {
	what, id, err := r.target(ctx)
	if err != nil {
		return err
	}
	how := choose(r.rng, r.c, r.o.kinds(), r.rng.IntN(len(networkFaults)))
	detail, end, err := begin(r.c, r.rng, how, id)
	r.h.Fault("%s, broker %d, %s%s", how, id, what, detail)
	r.faults[how+" of "+what]++
	if err != nil {
		return fmt.Errorf("%s, broker %d: %w", how, id, err)
	}
	wake := r.hitWorker()
	// The other two have a quorum and must go on without it.
	err = r.progress(ctx, 10, fmt.Sprintf("after %s of broker %d, %s", how, id, what))
	pause(ctx, time.Duration(r.rng.IntN(1500))*time.Millisecond)
	wake()
	return errors.Join(err, end(), r.mended(ctx, id))
}

// mended waits until a broker whose fault is over is ready.
func (r *copyRun) mended(ctx context.Context, id int32) error {
	r.h.Fault("broker %d is back", id)
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.c.WaitReady(ready, id); err != nil {
		return err
	}
	return r.progress(ctx, 10, "with the broker again")
}

// hitWorker does something to a worker. wake ends it.
func (r *copyRun) hitWorker() (wake func()) {
	n := r.rng.IntN(workers)
	what := []string{"kill of a worker", "kill of a worker", "pause of a worker", "zombie", "zombie", ""}[r.rng.IntN(6)]
	if what == "" {
		return func() {}
	}
	r.h.Fault("%s: number %d", what, n)
	r.faults[what]++
	if what == "kill of a worker" {
		r.crew.kill(n)
		return func() {}
	}
	resume, err := r.crew.pause(n, what == "zombie")
	if err != nil {
		fmt.Printf("chaos: %v\n", err)
	}
	return func() {
		r.h.Fault("end of %s: number %d", what, n)
		resume()
	}
}

// target picks a broker by what it does.
func (r *copyRun) target(ctx context.Context) (what string, id int32, err error) {
	brokers := r.c.Brokers()
	id = brokers[r.rng.IntN(len(brokers))]
	switch r.rng.IntN(5) {
	case 0, 1:
		topic := []string{r.from, r.to}[r.rng.IntN(2)]
		if m, err := r.cl.Metadata(ctx, topic); err == nil && len(m.Topics) == 1 && len(m.Topics[0].Partitions) > 0 {
			if leader := m.Topics[0].Partitions[r.rng.IntN(len(m.Topics[0].Partitions))].Leader; leader > 0 {
				return "a leader", leader, nil
			}
		}
	case 2:
		if t, err := r.cl.DescribeTransaction(ctx, fmt.Sprintf("%s-%d", r.group, r.rng.IntN(workers))); err == nil {
			return "a transaction coordinator", t.Coordinator, nil
		}
	case 3:
		if g, err := r.cl.DescribeGroup(ctx, r.group); err == nil {
			return "the group coordinator", g.Coordinator, nil
		}
	}
	return "any broker", id, ctx.Err()
}

// progress waits until more transactions have been committed.
func (r *copyRun) progress(ctx context.Context, n int64, when string) error {
	began := time.Now()
	want := r.counts.committed.Load() + n
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	last, at := r.counts.committed.Load(), time.Now()
	for r.counts.committed.Load() < want {
		if now := r.counts.committed.Load(); now > last {
			last, at = now, time.Now()
		}
		r.slowed = max(r.slowed, time.Since(at))
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("no %d commits in %s %s; %s", n, time.Since(began).Round(time.Second), when, r.held(context.WithoutCancel(ctx)))
		}
	}
	return nil
}

// held says what keeps readers from the copy.
func (r *copyRun) held(ctx context.Context) string {
	var all []record.TopicPartition
	for n := range int32(r.o.partitions) {
		all = append(all, record.TopicPartition{Topic: r.from, Partition: n}, record.TopicPartition{Topic: r.to, Partition: n})
	}
	list, err := r.cl.WhatHolds(ctx, all...)
	if err != nil {
		return err.Error()
	}
	for i := range list {
		if list[i].Blocked() > 0 {
			return fmt.Sprintf("%+v", list[i])
		}
	}
	return "nothing is held back"
}
