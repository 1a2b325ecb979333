package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
	"github.com/oncelog/oncelog/internal/netproxy"
)

const topic = "failover"

// fault is what happens to a broker, and what ends it.
type fault struct {
	name       string
	begin, end func(*brokerproc.Process) error
}

func parseFaults(list string) ([]fault, error) {
	known := map[string]fault{
		"stop":  {"stop", (*brokerproc.Process).Terminate, (*brokerproc.Process).Start},
		"kill":  {"kill", (*brokerproc.Process).Kill, (*brokerproc.Process).Start},
		"pause": {"pause", (*brokerproc.Process).Pause, (*brokerproc.Process).Resume},
		"cut":   {"cut", cut(netproxy.Rule{Cut: true}), cut(netproxy.Rule{})},
	}
	var faults []fault
	for _, name := range strings.Split(list, ",") {
		f, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("-faults: %q is unknown: want stop, kill, pause or cut", name)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// cut sets what becomes of all that a broker and the others send each other; what was held before is lost.
func cut(r netproxy.Rule) func(*brokerproc.Process) error {
	return func(p *brokerproc.Process) error {
		n := p.Network()
		n.Reset(p.ID)
		n.SetFrom(p.ID, r)
		n.SetTo(p.ID, r)
		return nil
	}
}

type measurement struct {
	options options
	cluster *brokerproc.Cluster
	client  *client.Client
}

// writer sends to one partition, one record after the other.
type writer struct {
	partition int32
	longest   atomic.Int64 // ns, since it was last reset
	begun     atomic.Int64 // when the send of the last acknowledged record began, unix ns
}

func (m *measurement) prepare(ctx context.Context) error {
	_, err := m.client.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: int32(m.options.partitions), ReplicationFactor: 3})
	if err != nil {
		return err
	}
	return m.client.WaitReady(ctx, topic)
}

// measure makes a fault again and again, to one broker after the other.
func (m *measurement) measure(ctx context.Context, f fault) (row, error) {
	ctx, cancel := context.WithCancel(ctx)
	p, err := m.client.NewProducer(client.ProducerConfig{})
	if err != nil {
		cancel()
		return row{}, err
	}
	writers := make([]*writer, m.options.partitions)
	var running sync.WaitGroup
	failed := make(chan error, len(writers))
	for i := range writers {
		w := &writer{partition: int32(i)}
		writers[i] = w
		running.Go(func() {
			if err := w.run(ctx, p, m.options.interval); err != nil {
				failed <- err
			}
		})
	}
	r, err := m.rounds(ctx, f, writers)
	cancel()
	running.Wait()
	close(failed)
	return r, errors.Join(err, <-failed, p.Close(context.WithoutCancel(ctx)))
}

func (w *writer) run(ctx context.Context, p *client.Producer, interval time.Duration) error {
	value := make([]byte, 100)
	pause := time.NewTicker(interval)
	defer pause.Stop()
	for {
		began := time.Now()
		res := p.SendSync(ctx, client.Record{Topic: topic, Partition: client.ToPartition(w.partition), Value: value})
		if ctx.Err() != nil {
			return nil
		}
		if res.Outcome != client.Written {
			return fmt.Errorf("partition %d: %v", w.partition, res)
		}
		took := int64(time.Since(began))
		for old := w.longest.Load(); took > old && !w.longest.CompareAndSwap(old, took); old = w.longest.Load() {
		}
		w.begun.Store(began.UnixNano())
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// rounds gives what there is so far with an error, too.
func (m *measurement) rounds(ctx context.Context, f fault, writers []*writer) (row, error) {
	waits, err := openWaits(m.options.samples, f.name)
	for n := 0; err == nil && n < m.options.rounds; n++ {
		var one roundWaits
		if one, err = m.round(ctx, f, n, writers); err == nil {
			err = waits.add(one)
		}
	}
	if waits == nil {
		return row{}, err
	}
	return waits.row(f.name), err
}

// round makes the fault once.
func (m *measurement) round(ctx context.Context, f fault, n int, writers []*writer) (one roundWaits, err error) {
	victim := m.cluster.Broker(int32(n%3) + 1)
	round := newStopwatch()
	if err := m.settle(ctx, round); err != nil {
		return one, err
	}
	mine, err := m.ledBy(ctx, victim.ID)
	if err != nil {
		return one, err
	}
	for _, w := range writers {
		w.longest.Store(0)
	}
	began := time.Now()
	if err := f.begin(victim); err != nil {
		return one, err
	}
	if err := acknowledged(ctx, writers, began); err != nil {
		return one, fmt.Errorf("%s of broker %d: %w", f.name, victim.ID, err)
	}
	round.lap("all answered")
	one.Fault = f.name
	for _, w := range writers {
		ms := float64(w.longest.Load()) / 1e6
		if slices.Contains(mine, w.partition) {
			one.Led = append(one.Led, ms)
		} else {
			one.OthersMax = max(one.OthersMax, ms)
		}
	}
	if err := f.end(victim); err != nil {
		return one, err
	}
	if err := victim.WaitReady(ctx); err != nil {
		return one, err
	}
	round.lap("broker ready")
	one.Seconds = time.Since(round.began).Seconds()
	fmt.Fprintf(os.Stderr, "failover: %s of broker %d, round %d of %d: it led %d, the longest wait was %.0f ms (%s)\n",
		f.name, victim.ID, n+1, m.options.rounds, len(one.Led), slices.Max(append(one.Led, 0)), round.text)
	return one, nil
}

// acknowledged waits until every writer has had an answer to a record that it began to send half a second
// after the fault: whatever the fault delayed has then been answered.
func acknowledged(ctx context.Context, writers []*writer, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	after := since.Add(500 * time.Millisecond).UnixNano()
	return poll(ctx, func(context.Context) bool {
		return !slices.ContainsFunc(writers, func(w *writer) bool { return w.begun.Load() < after })
	})
}

// settle waits until every replica is level and the partitions are where they are preferred.
func (m *measurement) settle(ctx context.Context, round *stopwatch) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := poll(ctx, m.level); err != nil {
		return fmt.Errorf("the replicas do not get level: %w", err)
	}
	round.lap("all level")
	// As in life, nobody has changed its leader for a while before the fault.
	since, balanced := time.Time{}, false
	err := poll(ctx, func(ctx context.Context) bool {
		if !m.balanced(ctx) || !m.level(ctx) {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		if !balanced {
			balanced = true
			round.lap("balanced")
		}
		return time.Since(since) >= m.options.calm
	})
	if err != nil {
		return fmt.Errorf("the leaders do not settle: %w", err)
	}
	round.lap("calm")
	return nil
}

// balanced says whether each partition is led by the broker that is preferred.
func (m *measurement) balanced(ctx context.Context) bool {
	d, err := m.client.Metadata(ctx, topic)
	if err != nil || len(d.Topics) != 1 || d.Topics[0].Err != nil {
		return false // A broker is on its way; ask again.
	}
	return !slices.ContainsFunc(d.Topics[0].Partitions, func(p client.Partition) bool { return p.Leader != p.Replicas[0] })
}

// level says whether every replica is there and has all but the newest 100 entries.
func (m *measurement) level(ctx context.Context) bool {
	groups, failed, err := m.client.RaftGroups(ctx, topic)
	if err != nil || len(failed) > 0 {
		return false
	}
	last := make(map[uint64]uint64)
	for _, g := range groups {
		last[g.GroupID] = max(last[g.GroupID], uint64(g.CommitIndex))
	}
	for _, g := range groups {
		if uint64(g.LastIndex)+100 < last[g.GroupID] {
			return false
		}
	}
	return len(groups) == 3*m.options.partitions
}

// stopwatch says what a round was spent on.
type stopwatch struct {
	began, last time.Time
	text        string
}

func newStopwatch() *stopwatch {
	now := time.Now()
	return &stopwatch{began: now, last: now}
}

func (s *stopwatch) lap(what string) {
	if s.text != "" {
		s.text += ", "
	}
	now := time.Now()
	s.text += fmt.Sprintf("%s %.1f s", what, now.Sub(s.last).Seconds())
	s.last = now
}

func (m *measurement) ledBy(ctx context.Context, broker int32) ([]int32, error) {
	d, err := m.client.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	var led []int32
	for _, p := range d.Topics[0].Partitions {
		if p.Leader == broker {
			led = append(led, p.Partition)
		}
	}
	return led, nil
}

func poll(ctx context.Context, done func(context.Context) bool) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !done(ctx) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
