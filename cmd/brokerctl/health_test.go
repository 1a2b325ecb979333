package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/vfs"
)

// TestHealthFinds breaks a cluster in one way after the other: each time the trouble has its finding, and after it is
// mended, none.
func TestHealthFinds(t *testing.T) {
	brokertest.Simulate(t, brokertest.Options{LogLevel: quietLevel}, func(t *testing.T, c *brokertest.Cluster) {
		ctx := context.Background()
		cl := c.Client()
		if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: "orders", Partitions: 3, ReplicationFactor: 3, WaitReady: time.Minute}); err != nil {
			t.Fatal(err)
		}
		stop := c.Go(func(ctx context.Context) { write(ctx, cl) })
		defer stop()
		r := &healthRig{t: t, cl: cl}
		r.until("to be well", func(kinds []string) bool { return len(kinds) == 0 })
		began := time.Now()
		defer func() { t.Logf("%s of virtual time", time.Since(began)) }()
		for _, story := range []struct {
			name  string
			do    func()
			kinds []string
			undo  func()
		}{
			{"a broker is dead", func() { c.Kill(3) }, []string{"broker_dead", "under_replicated", "majority_at_risk"}, func() { c.Restart(3) }},
			{"a disk is slow", func() { c.SlowDisk(2, 700*time.Millisecond) }, []string{"disk_slow"}, func() { c.SlowDisk(2, 0) }},
			{"a disk hangs", func() { c.SlowDisk(2, 8*time.Second) }, []string{"disk_hangs"}, func() { c.SlowDisk(2, 0) }},
			{"a disk is full", func() { d := c.Disk(1); d.SetCapacity(d.Used()) }, []string{"disk_full"}, func() { c.Disk(1).SetCapacity(0) }},
			{"clocks differ", func() { c.SetClock(2, 20*time.Second) }, []string{"clocks_differ"}, func() { c.SetClock(2, 0) }},
			{"a sync fails", func() { c.Disk(3).FailNth(vfs.OpSync, ".seg", 1, errors.New("input/output error")) }, []string{"replica_stopped"}, func() { c.Kill(3); c.Restart(3) }},
			{"a broker is drained", func() { r.must(cl.DrainBroker(ctx, 2, true)) }, []string{"draining"}, func() { r.must(cl.DrainBroker(ctx, 2, false)) }},
		} {
			story.do()
			r.until(story.name, func(kinds []string) bool {
				return !slices.ContainsFunc(story.kinds, func(k string) bool { return !slices.Contains(kinds, k) })
			})
			story.undo()
			r.until("to be well after "+story.name, func(kinds []string) bool { return len(kinds) == 0 })
		}
	})
}

// quietLevel is above all that brokers say.
const quietLevel = slog.Level(100)

type healthRig struct {
	t  *testing.T
	cl *client.Client
}

func (r *healthRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// until looks each second of virtual time, for five minutes.
func (r *healthRig) until(what string, yes func(kinds []string) bool) {
	r.t.Helper()
	var text string
	for range 300 {
		v, err := look(context.Background(), r.cl)
		if err == nil {
			h := v.health()
			var kinds []string
			for _, f := range h.Findings {
				kinds = append(kinds, f.Kind)
				if f.What == "" || f.Do == "" {
					r.t.Errorf("finding without words: %+v", f)
				}
			}
			if yes(kinds) {
				return
			}
			var out bytes.Buffer
			r.must((&program{stdout: &out}).printHealth(h))
			text = out.String()
		} else {
			text = err.Error()
		}
		pass(context.Background(), time.Second)
	}
	r.t.Fatalf("waiting for %s: %s", what, text)
}

// pass lets virtual time pass.
func pass(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// write keeps all disks busy.
func write(ctx context.Context, cl *client.Client) {
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		return
	}
	defer p.Close(context.Background())
	for n := int32(0); ctx.Err() == nil; n++ {
		i := n % 3
		_ = p.Send(ctx, client.Record{Topic: "orders", Partition: client.ToPartition(i), Value: []byte("x")}, func(client.Result) {}) // what comes of it is not the question
		pass(ctx, 500*time.Millisecond)
	}
}

// DescribeBroker answers for brokers that are well, or as a test says.
func (f *fakeCluster) DescribeBroker(context.Context, *clientv1.DescribeBrokerRequest) (*clientv1.DescribeBrokerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &clientv1.DescribeBrokerResponse{BrokerId: 1, Version: "v0.1.0", TimeMs: time.Now().UnixMilli(), MaxFeatureLevel: 1,
		Disk: &clientv1.Disk{FreeBytes: 60 << 30, TotalBytes: 100 << 30, SlowestSyncMs: 3}}
	if f.full {
		r.Disk = &clientv1.Disk{FreeBytes: 4096, TotalBytes: 100 << 30, Full: true, StalledMs: 7000, SlowestSyncMs: 900}
		r.MaxFeatureLevel = 2
	}
	return r, nil
}

func (f *fakeCluster) SetFeatureLevel(_ context.Context, req *clientv1.SetFeatureLevelRequest) (*clientv1.SetFeatureLevelResponse, error) {
	return &clientv1.SetFeatureLevelResponse{}, nil
}

func TestBulletFits(t *testing.T) {
	text := bullet("  → ", strings.Repeat("word ", 60))
	for line := range strings.Lines(text) {
		if n := len([]rune(line)); n > 101 || !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "  → ") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}
