package test

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

var (
	electionGroups = flag.Int("election-groups", 30, "partitions of TestElectionsOnASlowDisk")
	electionFlush  = flag.Duration("election-flush", 2*time.Millisecond, "how long a flush of a disk takes in TestElectionsOnASlowDisk")
	electionSerial = flag.Bool("election-serial", false, "each flush of TestElectionsOnASlowDisk takes in one sync only")
)

// On disks that flush for 2 ms, many groups elect no leader without need: none while the brokers are idle,
// one for each group whose leader was killed, none for the others, and none when the broker comes back. Each vote, and each first
// entry of a leader, is synced before it counts, which the disk of a broker does for all its groups, one flush after the other: what the
// other groups of the broker say to each other must not wait for that. Time is virtual: what the processor takes is not in it.
func TestElectionsOnASlowDisk(t *testing.T) {
	t.Parallel()
	const victim = 1
	configure := func(c *broker.Config) { c.LeaderBalance = 0 }
	brokertest.Simulate(t, brokertest.Options{Configure: configure}, func(t *testing.T, c *brokertest.Cluster) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		s := &scenario{t: t, ctx: ctx, c: c, cl: c.Client()}
		for _, id := range c.Brokers() {
			c.OneDevice(id, *electionFlush, !*electionSerial)
		}
		_, err := s.cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: int32(*electionGroups), ReplicationFactor: 3, WaitReady: 2 * time.Minute})
		s.must("create", err)
		at := s.elected()
		idle := func(when string) {
			t.Helper()
			before := s.doubts()
			<-time.After(20 * time.Second)
			if d := s.doubts() - before; d > 0 {
				t.Errorf("%v timeouts while the brokers are idle %s", d, when)
			}
			now := s.elected()
			for name, was := range at {
				if now[name] != was {
					t.Errorf("%s has elected while idle %s: %v, then %v", name, when, was, now[name])
				}
			}
		}
		idle("at first")

		began, before := time.Now(), s.doubts(2, 3)
		c.Crash(victim)
		led := 0
		s.until("all groups to have leaders", func() bool {
			now := s.elected()
			for name := range at {
				if l := now[name].leader; l == 0 || l == victim {
					return false
				}
			}
			return true
		})
		took := time.Since(began)
		now := s.elected()
		rounds := uint64(0)
		for name, was := range at {
			switch is := now[name]; {
			case was.leader == victim:
				led++
				rounds += is.term - was.term
				if is.term > was.term+1 {
					t.Errorf("%s took %d elections", name, is.term-was.term)
				}
			case is != was:
				t.Errorf("%s, whose leader lives, has elected: %v, then %v", name, was, is)
			}
		}
		t.Logf("%d groups, of which %d lost their leader; %d elections, all led after %v, %v timeouts", len(at), led, rounds, took, s.doubts(2, 3)-before)
		if led == 0 {
			t.Fatal("the victim led nothing")
		}
		at = now
		c.Restart(victim)
		c.WaitReady(victim)
		idle("when the broker is back")
	})
}

// election is who leads a group, and in which term.
type election struct {
	leader int32
	term   uint64
}

// elected tells of each group of the topic who leads it in the newest term.
func (s *scenario) elected() map[string]election {
	s.t.Helper()
	groups, _, err := s.cl.RaftGroups(s.ctx, topic)
	s.must("list groups", err)
	all := make(map[string]election)
	for _, g := range groups {
		e := all[g.Name]
		if g.Term > e.term {
			e = election{term: g.Term}
		}
		if g.Term == e.term && g.Role == "leader" {
			e.leader = g.Broker
		}
		all[g.Name] = e
	}
	return all
}

// doubts are how often replicas of brokers (none given: of all) have not heard of each other for too long.
func (s *scenario) doubts(brokers ...int32) (sum float64) {
	if len(brokers) == 0 {
		brokers = s.c.Brokers()
	}
	for _, id := range brokers {
		for _, name := range []string{"brokerd_raft_lease_losses_total", "brokerd_raft_heartbeat_timeouts_total", "brokerd_raft_disk_stalls_total"} {
			sum += s.c.Metric(id, name)
		}
	}
	return sum
}
