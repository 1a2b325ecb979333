package test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// A broker that was away gets back the partitions that it is preferred for, while producers write on.
func TestPreferredLeadersComeBack(t *testing.T) {
	t.Parallel()
	c := brokertest.Start(t, brokertest.Options{Configure: func(c *broker.Config) { c.LeaderBalance = 2 * time.Second }})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := &scenario{t: t, ctx: ctx, c: c, cl: c.Client()}
	if _, err := s.cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 6, ReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.cl.WaitReady(ctx, topic); err != nil {
		t.Fatal(err)
	}
	partitions := func() []client.Partition {
		m, err := s.cl.Metadata(ctx, topic)
		if err != nil || len(m.Topics) != 1 {
			return nil
		}
		return m.Topics[0].Partitions
	}
	spread := func() bool {
		list := partitions()
		for _, p := range list {
			if p.Leader != p.Replicas[0] {
				return false
			}
		}
		return len(list) == 6
	}
	s.until("leaders are spread at first", spread)
	s.c.Crash(1)
	s.until("broker 1 leads nothing", func() bool {
		list := partitions()
		for _, p := range list {
			if p.Leader == 1 || p.Leader < 0 {
				return false
			}
		}
		return len(list) == 6
	})
	s.until("broker 1 is missed", func() bool {
		m, err := s.cl.Metadata(ctx)
		if err != nil {
			return false
		}
		for _, b := range m.Brokers {
			if b.ID == 1 {
				return !b.Alive
			}
		}
		return false
	})
	s.c.Restart(1)
	p := s.producer(client.ProducerConfig{})
	for n := 0; !spread(); n++ {
		if res := p.SendSync(ctx, client.Record{Topic: topic, Value: []byte("while leaders move")}); res.Outcome != client.Written {
			t.Fatalf("record %d: %v", n, res)
		}
	}
}

// Coordinators go back as partitions do: the brokers share that work again after one was away.
func TestCoordinatorsComeBack(t *testing.T) {
	t.Parallel()
	s := beginTransactionsWith(t, func(c *broker.Config) { c.LeaderBalance = time.Second })
	ids := make([]string, 12)
	for i := range ids {
		ids[i] = fmt.Sprint("tx-", i)
		s.transactional(ids[i])
	}
	coordinators := func() map[int32]bool {
		found := make(map[int32]bool)
		for _, id := range ids {
			found[s.coordinatorOf(id)] = true
		}
		return found
	}
	s.until("the coordinators are spread", func() bool { return len(coordinators()) == 3 })
	s.c.Crash(1)
	s.until("broker 1 coordinates nothing", func() bool { return !coordinators()[1] })
	s.c.Restart(1)
	s.until("the coordinators are spread again", func() bool { return len(coordinators()) == 3 })
}

// Any broker can be asked over the Kafka protocol to let a partition be led by its preferred leader again: whoever leads it hands it over.
func TestPreferredLeadersAreElected(t *testing.T) {
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) { c.LeaderBalance = 0 }}, nil)
	preferred := s.partition().Replicas[0]
	other := 1 + preferred%3
	third := 1 + other%3
	wires := make(map[int32]*kafkaWire)
	for i, addr := range s.c.KafkaAddrs() {
		wires[int32(i)+1] = dialKafka(t, s.c, addr)
	}
	for _, asked := range []int32{other, third, preferred} {
		s.until("another to lead", func() bool {
			if s.partition().Leader != preferred {
				return s.partition().Leader == other
			}
			_ = s.cl.TransferLeadership(s.ctx, only, other)
			return false
		})
		req := kmsg.NewPtrElectLeadersRequest()
		req.Version, req.TimeoutMillis = 2, 10_000
		req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: topic, Partitions: []int32{0}}}
		s.until("broker to know the leader", func() bool {
			return kafkaMetadata(wires[asked], topic).Topics[0].Partitions[0].Leader == other
		})
		resp := wires[asked].ask(req).(*kmsg.ElectLeadersResponse)
		if p := resp.Topics[0].Partitions[0]; resp.ErrorCode != 0 || p.ErrorCode != 0 {
			t.Fatalf("broker %d, asked while %d leads: code %d, %d, %v", asked, other, resp.ErrorCode, p.ErrorCode, p.ErrorMessage)
		}
		if got := kafkaMetadata(wires[asked], topic).Topics[0].Partitions[0].Leader; got != preferred {
			t.Errorf("broker %d says that %d leads, want %d", asked, got, preferred)
		}
		resp = wires[asked].ask(req).(*kmsg.ElectLeadersResponse)
		if got := resp.Topics[0].Partitions[0].ErrorCode; got != 84 {
			t.Errorf("once more: code %d, want ELECTION_NOT_NEEDED", got)
		}
	}
}
