package test

import (
	"slices"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// broker is a broker as the cluster has it.
func (s *scenario) broker(id int32) (client.Broker, bool) {
	m, err := s.cl.Metadata(s.ctx)
	if err != nil {
		return client.Broker{}, false
	}
	i := slices.IndexFunc(m.Brokers, func(b client.Broker) bool { return b.ID == id })
	if i < 0 {
		return client.Broker{}, false
	}
	return m.Brokers[i], true
}

// A topic gets one replica instead of three while the preferred leader is dead: one that lives keeps everything. To leave it to the
// dead one is refused.
func TestFewerReplicasWhileOneIsDead(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.send(p, numbers(100))
	dead := s.partition().Replicas[0]
	s.c.Crash(dead)
	s.write(p, "100")
	s.until("it to be known dead", func() bool { b, ok := s.broker(dead); return ok && !b.Alive })
	s.until("it to be refused", func() bool {
		_, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {dead}}, ReplicationFactor: 1})
		if err == nil {
			t.Fatal("the partition is left to a dead broker")
		}
		return strings.Contains(err.Error(), "have to live")
	})
	s.until("it to be begun", func() bool { // the broker that is asked may hear later who is dead
		_, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, ReplicationFactor: 1})
		return err == nil
	})
	var kept int32
	s.until("one replica", func() bool {
		q := s.partition()
		kept = q.Replicas[0]
		return len(q.Replicas) == 1 && kept != dead && q.Leader == kept
	})
	s.write(p, "101")
	s.c.StartAgain(dead)
	s.settled(kept)
	s.write(p, "102")
	s.wantStored(numbers(103)...)
}

// A broker dies that a partition is on its way to: draining it leads the move elsewhere.
func TestDrainEndsAMoveThatWaits(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Brokers: 5}, nil)
	p := s.producer(client.ProducerConfig{})
	s.write(p, "0")
	before, away := s.partition().Replicas, s.others(5)[0]
	s.c.Stop(away)
	if _, err := s.cl.Reassign(s.ctx, client.Reassignment{Topic: topic, Partitions: map[int32][]int32{0: {before[0], before[1], away}}}); err != nil {
		t.Fatal(err)
	}
	s.write(p, "1")
	if err := s.cl.DrainBroker(s.ctx, away, true); err != nil {
		t.Fatal(err)
	}
	s.until("the partition to be elsewhere", func() bool {
		q := s.partition()
		return !slices.Contains(q.Replicas, away) && len(q.Target)+len(q.Joining) == 0 && len(q.Replicas) == 3
	})
	s.until("the broker to be forgotten", func() bool { return s.cl.UnregisterBroker(s.ctx, away) == nil })
	s.write(p, "2")
	s.wantStored(numbers(3)...)
}
