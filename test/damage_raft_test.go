package test

import (
	"strings"
	"testing"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// Damage that Raft meets before anybody looks for it, as it reads for a follower that was away: the leader stops, and another replica takes
// its place, as when it is found by the search. Small entries are read by Raft, large ones by the transport.
func TestDamageThatRaftMeets(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small entries": 4 << 10, "large entries": 40 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) { c.Limits.CacheBytes = 1 }}, map[string]string{"segment.bytes": "65536"})
			p := s.producer(client.ProducerConfig{BatchBytes: size})
			s.write(p, "0")
			leader := s.leader()
			away := leader%3 + 1
			s.c.Stop(away)
			value := strings.Repeat("x", size-1024)
			for range (4 << 20) / size {
				s.write(p, value)
			}
			s.flip(leader)
			s.c.Restart(away)
			s.until("another leader", func() bool { return s.leader() != leader })
			s.settled(s.partition().Replicas...) // a replica that has stopped is none
			s.replicasAgree()
		})
	}
}
