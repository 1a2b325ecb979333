package test

import (
	"context"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/workload"
)

// load is a workload that runs while a test breaks the cluster.
type load struct {
	t      *testing.T
	ctx    context.Context
	c      *brokertest.Cluster
	cl     *client.Client
	runner *workload.Runner
	stop   chan struct{}
	done   chan error
}

const topic = "orders"

func start(t *testing.T) *load {
	t.Helper()
	c := brokertest.Start(t, brokertest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	l := &load{t: t, ctx: ctx, c: c, cl: c.Client(), stop: make(chan struct{}), done: make(chan error, 1)}
	if _, err := l.cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 2, ReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	if err := l.cl.WaitReady(ctx, topic); err != nil {
		t.Fatal(err)
	}
	l.runner = workload.New(workload.Options{Topic: topic, Partitions: 2, Rate: 1500, Seed: 1})
	go func() { l.done <- l.runner.Run(ctx, l.cl, l.stop) }()
	l.progress()
	return l
}

// progress waits until more records have been acknowledged.
func (l *load) progress() {
	l.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for want := l.runner.Acked() + 100; l.runner.Acked() < want; {
		select {
		case <-ticker.C:
		case <-l.ctx.Done():
			l.t.Fatal("no progress")
		}
	}
}

// leader is the broker that leads partition 0.
func (l *load) leader() int32 {
	l.t.Helper()
	for {
		m, err := l.cl.Metadata(l.ctx, topic)
		if err == nil && m.Topics[0].Partitions[0].Leader > 0 {
			return m.Topics[0].Partitions[0].Leader
		}
		if l.ctx.Err() != nil {
			l.t.Fatalf("no leader: %v", err)
		}
	}
}

// judge ends the load, reads everything back and lets the checker decide.
func (l *load) judge() {
	l.t.Helper()
	close(l.stop)
	if err := <-l.done; err != nil {
		l.t.Fatal(err)
	}
	report, err := l.runner.Judge(l.ctx, l.cl, 3)
	if err != nil {
		l.t.Fatal(err)
	}
	if !report.OK() {
		l.t.Fatal(report)
	}
}

// TestLeaderCrash: the leader's machine loses its power, with what it had not synced; the others go
// on, it comes back, and each acknowledged record is there once.
func TestLeaderCrash(t *testing.T) {
	t.Parallel()
	l := start(t)
	for range 2 {
		id := l.leader()
		l.c.Crash(id)
		l.progress()
		l.c.Restart(id)
		l.progress()
	}
	l.judge()
}

// TestLeaderCutOff: a leader that nobody hears acknowledges nothing that counts.
func TestLeaderCutOff(t *testing.T) {
	t.Parallel()
	l := start(t)
	l.c.Isolate(l.leader(), true)
	l.progress()
	l.c.Network.HealAll()
	l.progress()
	l.judge()
}

// TestFullClusterPowerCut: all machines lose their power at once; what was acknowledged is there.
func TestFullClusterPowerCut(t *testing.T) {
	t.Parallel()
	l := start(t)
	l.c.PowerCut()
	for _, id := range l.c.Brokers() {
		l.c.StartAgain(id)
	}
	for _, id := range l.c.Brokers() {
		l.c.WaitReady(id)
	}
	l.progress()
	l.judge()
}
