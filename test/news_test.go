package test

import (
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// What one broker has said is done, the others know a moment later: whoever may now do something is not denied it by the next broker.
func TestChangesOfMetadataAreKnownSoon(t *testing.T) {
	t.Parallel()
	brokertest.Simulate(t, brokertest.Options{}, func(t *testing.T, cluster *brokertest.Cluster) {
		s := beginOn(t, cluster)
		_ = s.leader() // the topic's creation is known to all
		applied := func() (least, most uint64) {
			groups, _, err := s.cl.RaftGroups(s.ctx, "")
			s.must("ask brokers", err)
			least = 1 << 62
			for _, g := range groups {
				if g.Name == "metadata" {
					least, most = min(least, uint64(g.AppliedIndex)), max(most, uint64(g.AppliedIndex))
				}
			}
			return least, most
		}
		for n := range 10 {
			<-time.After(time.Duration(n)*137*time.Millisecond + 2*time.Second) // at rest
			value := "3600000"
			if n%2 == 1 {
				value = "7200000"
			}
			_, err := s.cl.AlterTopic(s.ctx, client.TopicChange{Name: topic, Set: map[string]string{"retention.ms": value}})
			s.must("change the topic", err)
			began := time.Now()
			for least, most := applied(); least < most; least, most = applied() {
				<-time.After(5 * time.Millisecond)
			}
			if took := time.Since(began); took > 150*time.Millisecond {
				t.Errorf("change %d: after %v all brokers knew it", n, took)
			}
		}
	})
}
