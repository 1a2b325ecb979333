package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

func TestAdminTopics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		cl := c.connect(t)
		topic, err := cl.CreateTopic(bg, TopicSpec{Name: "t", Partitions: 3})
		if err != nil || topic.Name != "t" || len(topic.Partitions) != 3 || topic.Partitions[1].Leader != 2 {
			t.Fatalf("%+v, %v", topic, err)
		}
		if _, err := cl.CreateTopic(bg, TopicSpec{Name: "t"}); !errors.Is(err, ErrTopicAlreadyExists) || OutcomeOf(err) != NotWritten {
			t.Errorf("again: %v", err)
		}
		if err := cl.WaitReady(bg, "t"); err != nil {
			t.Error(err)
		}
		if _, err := cl.AlterTopic(bg, TopicChange{Name: "t", Set: map[string]string{"retention.ms": "5"}}); err != nil {
			t.Error(err)
		}
		_, configs, err := cl.DescribeTopic(bg, "t")
		if err != nil || len(configs) != 1 || configs[0] != (ConfigEntry{Name: "retention.ms", Value: "5", Explicit: true}) {
			t.Errorf("%+v, %v", configs, err)
		}
		m, err := cl.Metadata(bg)
		if err != nil || len(m.Brokers) != 3 || len(m.Topics) != 1 || m.Controller != 1 {
			t.Errorf("%+v, %v", m, err)
		}
		if err := cl.DeleteTopic(bg, "t"); err != nil {
			t.Error(err)
		}
		if _, _, err := cl.DescribeTopic(bg, "t"); !errors.Is(err, ErrUnknownTopicOrPartition) {
			t.Errorf("deleted: %v", err)
		}
		m, err = cl.Metadata(bg, "t")
		if err != nil || m.Topics[0].Err == nil {
			t.Errorf("%+v, %v", m, err)
		}
		ctx, cancel := context.WithTimeout(bg, 5*time.Second)
		defer cancel()
		if err := cl.WaitReady(ctx, "t"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitReady: %v", err)
		}
	})
}

// A change is tried at another broker only while it has certainly not happened.
func TestChangesAreNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		cl := c.connect(t)
		c.controller = 3
		if _, err := cl.CreateTopic(bg, TopicSpec{Name: "a"}); err != nil {
			t.Errorf("two brokers that do not lead: %v", err)
		}
		c.controller = 0
		c.brokers[1].kill()
		time.Sleep(time.Second) // before the client has noticed, the outcome is Unknown
		if _, err := cl.CreateTopic(bg, TopicSpec{Name: "b"}); err != nil {
			t.Errorf("a dead broker: %v", err)
		}
		c.brokers[1].start()
		created := 0
		c.hooks["created"] = func(b *fakeBroker) {
			created++
			b.host.cut()
		}
		_, err := cl.CreateTopic(bg, TopicSpec{Name: "c"})
		if err == nil || OutcomeOf(err) != Unknown || created != 1 {
			t.Errorf("lost answer: %v, created %d times", err, created)
		}
		delete(c.hooks, "created")
		for _, b := range c.brokers {
			b.kill()
		}
		time.Sleep(time.Second) // as above
		start := time.Now()
		if _, err := cl.CreateTopic(bg, TopicSpec{Name: "d"}); OutcomeOf(err) != NotWritten || time.Since(start) > 31*time.Second {
			t.Errorf("nobody there: %v after %v", err, time.Since(start))
		}
	})
}

// A topic that does not exist is not waited for until all time is up.
func TestChangesOfUnknownTopicsEndSoon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		cl := c.connect(t)
		unknown := func() {
			t.Helper()
			start := time.Now()
			_, err := cl.AlterTopic(bg, TopicChange{Name: "nowhere", Partitions: 2})
			var e *Error
			if took := time.Since(start); !errors.As(err, &e) || e.Reason != ReasonUnknownTopicOrPartition || took < believeUnknown || took > 3*believeUnknown {
				t.Errorf("%v after %v", err, took)
			}
		}
		unknown()
		c.brokers[1].kill() // whichever order they are asked in
		c.brokers[2].kill()
		synctest.Wait() // a call over a connection that breaks meanwhile may have been made, and is told so
		for range 10 {
			unknown()
		}
	})
}

func TestInspect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		c.topic("t", 2)
		cl := c.connect(t)
		p := producer(t, cl, ProducerConfig{})
		for _, v := range []string{"a", "b"} {
			p.SendSync(bg, rec(v))
		}
		got, err := cl.ListOffsets(bg, ReadUncommitted, map[record.TopicPartition]Position{tp(0): End(), tp(1): Beginning(), tp(9): End()})
		if err != nil || got[tp(0)].Offset != 2 || got[tp(1)].Offset != 0 || !errors.Is(got[tp(9)].Err, ErrUnknownTopicOrPartition) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := cl.ListOffsets(bg, ReadUncommitted, map[record.TopicPartition]Position{tp(0): At(1)}); !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("At: %v", err)
		}
		if err := cl.TransferLeadership(bg, tp(0), 3); err != nil {
			t.Error(err)
		}
		states, truncated, err := cl.DescribeProducers(bg, tp(0)) // the leader is another one than we know
		if err != nil || truncated || len(states) != 1 || states[0].LastSequence != 1 || len(states[0].Batches) != 2 {
			t.Errorf("%+v, %v", states, err)
		}
		c.brokers[2].kill()
		groups, failed, err := cl.RaftGroups(bg, "")
		if err != nil || len(groups) != 2 || groups[1].Broker != 3 || len(failed) != 1 || failed[0].Broker != 2 {
			t.Errorf("%+v, %+v, %v", groups, failed, err)
		}
		c.ghosts = []*clientv1.Broker{{BrokerId: 9, Address: c.brokers[3].addr}} // nobody answers in the name of a dead one
		groups, failed, err = cl.RaftGroups(bg, "")
		if err != nil || len(groups) != 2 || len(failed) != 2 || failed[1].Broker != 9 || !strings.Contains(failed[1].Err.Error(), "that of broker 3") {
			t.Errorf("%+v, %+v, %v", groups, failed, err)
		}
		c.ghosts, c.deny = nil, &clientv1.Error{Reason: "CLUSTER_AUTHORIZATION_FAILED", Message: "alice may not describe the cluster"}
		if groups, failed, err = cl.RaftGroups(bg, ""); err == nil || !strings.Contains(err.Error(), "alice may not") {
			t.Errorf("%+v, %+v, %v: who is denied is told that brokers are silent", groups, failed, err)
		}
		c.deny = nil
		sums, failed, err := cl.Checksums(bg, tp(0), record.NoOffset)
		if err != nil || len(sums) != 2 || sums[0].UpTo != 2 || sums[0].CRC32C != 7 || len(failed) != 1 {
			t.Errorf("%+v, %+v, %v", sums, failed, err)
		}
	})
}

// A question that any broker can answer does not wait for one that is paused.
func TestPausedBrokerIsPassedBy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		cl := c.connect(t)
		if _, err := cl.Metadata(bg); err != nil {
			t.Fatal(err)
		}
		c.brokers[1].host.pause()
		c.brokers[2].host.pause()
		for range 10 {
			start := time.Now()
			if _, err := cl.Metadata(bg); err != nil || time.Since(start) > time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
	})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cl := newFakeCluster(t, 1).connect(t, func(c *Config) {
			c.Bootstrap = []string{"nobody:1"}
			c.RequestTimeout = 2 * time.Second
		})
		_, err := cl.Metadata(bg)
		if !errors.Is(err, ErrNetwork) || !strings.Contains(err.Error(), "nobody:1") {
			t.Errorf("%v", err)
		}
	})
}

// TestGroupCoordinatorIsRemembered: who asks a group again and again finds its coordinator once, and again when it has moved.
func TestGroupCoordinatorIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		cl := c.connect(t)
		c.coordinates = 1
		ask := func(wantFound int) {
			t.Helper()
			got, err := cl.GroupOffsets(bg, "readers", true, record.TopicPartition{Topic: "orders"})
			if err != nil || len(got) != 1 || got[0].Offset != 7 {
				t.Fatalf("%+v, %v", got, err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.found != wantFound {
				t.Errorf("the coordinator was looked for %d times, want %d", c.found, wantFound)
			}
		}
		for range 5 {
			ask(1)
		}
		c.mu.Lock()
		c.coordinates = 2
		c.mu.Unlock()
		ask(2)
		ask(2)
		for i := range 2*maxGroupCoordinators + 1 {
			cl.groupCoordinator(fmt.Sprint(i))
		}
		if n := len(cl.groups); n > maxGroupCoordinators {
			t.Errorf("%d coordinators are remembered, at most %d may be", n, maxGroupCoordinators)
		}
	})
}
