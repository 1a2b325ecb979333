package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// partition is the one partition as the cluster has it.
func (s *scenario) partition() client.Partition {
	s.t.Helper()
	var p client.Partition
	s.until("see the partition", func() bool {
		m, err := s.cl.Metadata(s.ctx, topic)
		if err != nil || len(m.Topics) != 1 || len(m.Topics[0].Partitions) == 0 {
			return false
		}
		p = m.Topics[0].Partitions[0]
		return true
	})
	return p
}

// settled waits until the partition is on these brokers, whoever of them is preferred, and nothing is on its way any more.
func (s *scenario) settled(brokers ...int32) {
	s.t.Helper()
	s.until(fmt.Sprintf("the partition to be on %v", brokers), func() bool {
		p := s.partition()
		return !p.Changing() && slices.Equal(slices.Sorted(slices.Values(p.Replicas)), slices.Sorted(slices.Values(brokers))) && p.Leader > 0
	})
	s.until("all replicas to have everything", func() bool {
		leader := s.raftGroup(s.leader())
		for _, id := range brokers {
			if g := s.raftGroup(id); g.HighWatermark != leader.HighWatermark || g.Problem != "" {
				return false
			}
		}
		return true
	})
}

// others are the brokers of a cluster of n that do not hold the partition.
func (s *scenario) others(n int32) (list []int32) {
	held := s.partition().Replicas
	for id := int32(1); id <= n; id++ {
		if !slices.Contains(held, id) {
			list = append(list, id)
		}
	}
	return list
}

// replicaDirs counts the directories of replicas on a broker.
func (s *scenario) replicaDirs(id int32) (n int) {
	s.t.Helper()
	disk := s.c.Disk(id)
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if err != nil {
			return // a file
		}
		for _, name := range names {
			if name == "log" {
				n++
			}
			walk(dir + "/" + name)
		}
	}
	walk("")
	return n
}

// A partition moves to other brokers, one after the other, its leader too, while producers write; what they
// wrote is there once, in order, and on the brokers that it left nothing stays.
func TestPartitionMovesUnderLoad(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Brokers: 5}, map[string]string{"segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{BatchBytes: 4 << 10})
	const steps = 1000
	written := 0
	more := func() {
		futures := make([]*client.Future, steps)
		for i := range futures {
			f, err := p.SendFuture(s.ctx, rec(fmt.Sprint(written)))
			if err != nil {
				t.Fatal(err)
			}
			futures[i] = f
			written++
		}
		for _, f := range futures {
			if res := f.Result(s.ctx); res.Outcome != client.Written {
				t.Fatal(res)
			}
		}
	}
	more()
	first := s.partition().Replicas
	free := s.others(5)
	move := func(to ...int32) {
		t.Helper()
		got, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: to}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Partitions[0].Target, to) {
			t.Fatalf("answered target %v, want %v", got.Partitions[0].Target, to)
		}
		more()
		s.settled(to...)
		more()
	}
	move(first[0], first[1], free[0])
	move(free[1], free[0], first[1])
	move(free[0], free[1], first[2])
	s.wantStored(numbers(written)...)
	s.replicasAgree()
	for _, id := range []int32{first[0], first[1]} {
		s.until("the old replica's directory to go", func() bool { return s.replicaDirs(id) == 0 })
	}
	if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {1, 1, 2}}}); err == nil || !strings.Contains(err.Error(), "two replicas on broker 1") {
		t.Errorf("a broker named twice: %v", err)
	}
	if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {1, 2, 9}}}); err == nil || !strings.Contains(err.Error(), "broker 9") {
		t.Errorf("an unknown broker: %v", err)
	}
}

// A move to a broker that is away is called off; the partition stays as it was, and the move can be made
// later.
func TestMoveIsCancelled(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Brokers: 4}, nil)
	p := s.producer(client.ProducerConfig{})
	s.write(p, "0")
	before, away := s.partition().Replicas, s.others(4)[0]
	s.c.Stop(away)
	to := []int32{before[0], before[1], away}
	if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: to}}); err != nil {
		t.Fatal(err)
	}
	s.write(p, "1")
	s.until("the partition to wait for the broker that is away", func() bool {
		got := s.partition()
		return slices.Equal(got.Target, to) && slices.Contains(got.Joining, away)
	})
	if _, err := s.cl.CancelReassignments(s.ctx, topic); err != nil {
		t.Fatal(err)
	}
	s.until("the move to be called off", func() bool {
		got := s.partition()
		return slices.Equal(got.Replicas, before) && len(got.Target) == 0
	})
	s.write(p, "2")
	s.c.StartAgain(away)
	s.settled(before...)
	if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: to}}); err != nil {
		t.Fatal(err)
	}
	s.settled(to...)
	s.wantStored(numbers(3)...)
}

// A topic with one replica gets three, and one again, with everything in it.
func TestReplicationFactorChanges(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 1 << 10})
	s.writeMany(p, 500, func(int) {})
	set := func(n int32) {
		t.Helper()
		if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, ReplicationFactor: n}); err != nil {
			t.Fatal(err)
		}
		s.until(fmt.Sprintf("%d replicas", n), func() bool { q := s.partition(); return !q.Changing() && len(q.Replicas) == int(n) })
	}
	set(1)
	s.write(p, "500")
	set(3)
	s.settled(s.partition().Replicas...)
	s.c.Crash(s.leader())
	s.write(p, "501")
	s.wantStored(numbers(502)...)
}

// A broker that is drained gives up all it has, while producers write; then it can be forgotten. One that is
// dead as well.
func TestDrainedBrokerCanBeForgotten(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		t.Run(map[bool]string{false: "alive", true: "dead"}[dead], func(t *testing.T) {
			s := beginWith(t, brokertest.Options{Brokers: 4}, nil)
			if _, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: "more", Partitions: 12, ReplicationFactor: 3}); err != nil {
				t.Fatal(err)
			}
			p := s.producer(client.ProducerConfig{BatchBytes: 1 << 10})
			s.writeMany(p, 100, func(int) {})
			gone := s.partition().Replicas[0]
			if err := s.cl.UnregisterBroker(s.ctx, gone); err == nil || !strings.Contains(err.Error(), "holds a replica") {
				t.Fatalf("a broker with replicas was forgotten: %v", err)
			}
			if dead {
				s.c.Crash(gone)
			}
			if err := s.cl.DrainBroker(s.ctx, gone, true); err != nil {
				t.Fatal(err)
			}
			s.write(p, "100")
			s.until("the broker to hold nothing", func() bool {
				m, err := s.cl.Metadata(s.ctx)
				if err != nil {
					return false
				}
				i := slices.IndexFunc(m.Brokers, func(b client.Broker) bool { return b.ID == gone })
				if i < 0 {
					t.Fatalf("the broker is not there: %+v", m.Brokers)
				}
				// The broker that answers may not have applied the drain yet.
				if !m.Brokers[i].Draining {
					return false
				}
				if dead {
					return !slices.ContainsFunc(m.Topics, func(tp client.Topic) bool {
						return slices.ContainsFunc(tp.Partitions, func(p client.Partition) bool { return slices.Contains(p.Replicas, gone) })
					})
				}
				return m.Brokers[i].Replicas == 0
			})
			s.write(p, "101")
			s.until("the broker to be forgotten", func() bool { return s.cl.UnregisterBroker(s.ctx, gone) == nil })
			s.wantStored(numbers(102)...)
		})
	}
}

// A replica whose disk lost its directory is replaced by a new one on the same broker, which gets everything
// from the others, past Raft's window too.
func TestLostReplicaIsRebuilt(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.Raft.SnapshotBytes = 64 * broker.KiB
	}}, map[string]string{"segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{BatchBytes: 8 << 10})
	s.send(p, filled(0, 100))
	victim := s.follower()
	s.c.Stop(victim)
	s.removeReplicas(victim)
	s.send(p, filled(100, 100))
	s.c.StartAgain(victim)
	s.until("the lost replica is replaced", func() bool { return s.c.Metric(victim, "brokerd_catch_up_bytes_total") > 0 })
	s.settled(s.partition().Replicas...)
	s.send(p, filled(200, 10))
	s.settled(s.partition().Replicas...)
	s.replicasAgree()
	if n := s.replicaDirs(victim); n != 1 {
		t.Errorf("%d directories of replicas are left on broker %d", n, victim)
	}
	s.until("it leads", func() bool {
		_ = s.cl.TransferLeadership(s.ctx, only, victim)
		return s.leader() == victim
	})
	s.wantStored(slices.Concat(filled(0, 100), filled(100, 100), filled(200, 10))...)
}

// A cluster that one broker founded keeps its transactions and groups when that broker is gone, once two others
// have joined: metadata, transaction and group coordinators have been spread over them.
func TestFounderMayGo(t *testing.T) {
	t.Parallel()
	s := beginAlone(t)
	for _, id := range []int32{s.c.Add(), s.c.Add()} {
		s.c.WaitReady(id)
	}
	s.until("the brokers' own topics to have three replicas", func() bool {
		m, err := s.cl.Metadata(s.ctx)
		if err != nil {
			return false
		}
		internal := 0
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if !t.Internal {
					continue
				}
				if internal++; len(p.Replicas) != 3 || p.Changing() {
					return false
				}
			}
		}
		return internal > 0
	})
	s.until("all groups to have three voters", func() bool {
		groups, _, err := s.cl.RaftGroups(s.ctx, "")
		if err != nil {
			return false
		}
		for _, g := range groups {
			if g.Role == "leader" && len(g.Voters) != 3 && !strings.HasPrefix(g.Name, "alone/") {
				return false
			}
		}
		return true
	})
	if _, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	s.transact(only, "2")
	s.c.Kill(1)
	s.transact(only, "3")
	s.wantStored("2", "3")
}

// beginAlone begins with one broker that has coordinated a transaction.
func beginAlone(t *testing.T) *scenario {
	t.Helper()
	c := brokertest.Start(t, brokertest.Options{Brokers: 1})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s := &scenario{t: t, ctx: ctx, c: c, cl: c.Client()}
	if _, err := s.cl.CreateTopic(ctx, client.TopicSpec{Name: "alone", Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	s.transact(record.TopicPartition{Topic: "alone"}, "1")
	return s
}

// transact writes a record in a transaction of its own, always under the same transactional id.
func (s *scenario) transact(tp record.TopicPartition, value string) {
	s.t.Helper()
	p := s.transactional("mover")
	defer func() { _ = p.Close(s.ctx) }()
	s.must("begin", p.Begin())
	s.put(p, tp, value)
	s.must("commit", p.Commit(s.ctx))
}

// removeReplicas removes a broker's replicas of partitions from its disk.
func (s *scenario) removeReplicas(id int32) {
	s.t.Helper()
	disk := s.c.Disk(id)
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if err != nil {
			return
		}
		for _, name := range names {
			path := dir + "/" + name
			if name == "partitions" {
				below, err := disk.List(path)
				if err != nil {
					s.t.Fatal(err)
				}
				for _, replica := range below {
					if err := disk.RemoveAll(path + "/" + replica); err != nil {
						s.t.Fatal(err)
					}
				}
				continue
			}
			walk(path)
		}
	}
	walk("")
}

// Fewer replicas, and more again before the group has removed those that were to go, one of which leads: they serve until they
// are removed, since the group may have no majority without them.
func TestReplicasComeBackBeforeTheyAreGone(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 1 << 10})
	s.writeMany(p, 500, func(int) {})
	other := s.partition().Replicas[1]
	s.until("it leads", func() bool {
		_ = s.cl.TransferLeadership(s.ctx, only, other)
		return s.leader() == other
	})
	for _, n := range []int32{1, 3} {
		if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, ReplicationFactor: n}); err != nil {
			t.Fatal(n, err)
		}
	}
	s.until("the members to be what they shall be", func() bool { return !s.partition().Changing() })
	s.write(p, "500")
	s.settled(s.partition().Replicas...)
	s.wantStored(numbers(501)...)
}

// A move is called off in the middle of a copy: what was copied goes, nobody is left without a vote, the next move to the same
// broker has all of catch_up.bytes_per_second, and the partition is what it was.
func TestMoveIsCancelledInTheMiddleOfACopy(t *testing.T) {
	t.Parallel()
	const rate = 1 << 20
	brokertest.Simulate(t, brokertest.Options{Brokers: 4, LogLevel: silent, Configure: func(c *broker.Config) {
		c.Raft.SnapshotBytes, c.CatchUp.BytesPerSecond = 64*broker.KiB, rate
	}}, func(t *testing.T, cluster *brokertest.Cluster) {
		s := beginConfigured(t, cluster, map[string]string{"segment.bytes": "65536"})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		s.ctx = ctx
		p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
		s.send(p, filled(0, 4000)) // 16 s at this rate
		before, to := s.partition().Replicas, s.others(4)[0]
		s.beyondWindow(0)
		if _, err := s.cl.Reassign(ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {before[0], before[1], to}}}); err != nil {
			t.Fatal(err)
		}
		s.until("a part of it to be copied", func() bool { return s.c.Metric(to, "brokerd_catch_up_bytes_total") > 1<<20 })
		if _, err := s.cl.CancelReassignments(ctx, topic); err != nil {
			t.Fatal(err)
		}
		copied := s.c.Metric(to, "brokerd_catch_up_bytes_total")
		if copied > 8<<20 {
			t.Fatalf("%v bytes were copied: nothing is left to be called off", copied)
		}
		s.settled(before...)
		s.until("the copy to be removed", func() bool { return s.partitionDirs(to) == 0 })
		s.until("nobody to be without a vote", func() bool {
			g := s.raftGroup(s.leader())
			return len(g.Learners) == 0 && len(g.Voters) == 3
		})

		began := time.Now()
		if _, err := s.cl.Reassign(ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {before[0], before[1], to}}}); err != nil {
			t.Fatal(err)
		}
		s.settled(before[0], before[1], to)
		if took, most := time.Since(began), 25*time.Second; took > most {
			t.Errorf("the next move took %v: does the one before still copy?", took)
		}
		s.replicasAgree()
		s.wantStored(filled(0, 4000)...)
	})
}

// partitionDirs counts what is below the directory for replicas of partitions on a broker.
func (s *scenario) partitionDirs(id int32) (n int) {
	s.t.Helper()
	disk := s.c.Disk(id)
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if err != nil {
			return // a file
		}
		for _, name := range names {
			if name == "partitions" {
				below, _ := disk.List(dir + "/" + name)
				n += len(below)
				continue
			}
			walk(dir + "/" + name)
		}
	}
	walk("")
	return n
}
