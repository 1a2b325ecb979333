package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// TestClockJumps: the leader's clock jumps ahead by more than producers and records are kept. Nothing
// acknowledged goes, and no producer that may send again is forgotten; not after leadership went to a broker
// whose clock was always wrong, either.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	const days = 24 * time.Hour
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.RetentionCheck, c.ProducerIDExpirationCheck = 100*time.Millisecond, time.Second
	}}, map[string]string{"retention.ms": fmt.Sprint((10 * days).Milliseconds()), "message.timestamp.type": "LogAppendTime"})
	id, late := s.newID(), s.newID()
	b := func(n int) record.Batch { return batchOf(id, record.Sequence(n), fmt.Sprint(n)) }
	s.wantWritten(s.produce(b(0)), 0, false)

	leader := s.leader()
	s.c.SetClock(leader, 30*days)
	s.until("see the jump noticed", func() bool { return s.c.Metric(leader, "brokerd_clock_jump_seconds") > 0 })
	s.wantWritten(s.produce(b(0)), 0, true)
	s.wantWritten(s.produce(b(1)), 1, false)
	s.c.SetClock(leader, -30*days)
	s.until("see it back", func() bool { return s.c.Metric(leader, "brokerd_clock_jump_seconds") == 0 })
	s.wantWritten(s.produce(b(2)), 2, false)
	s.wantWritten(s.produce(batchOf(late, 0, "late")), 3, false)

	// All that is known of the second producer is stamped 30 days ago. The next leader's clock is right.
	if err := s.cl.TransferLeadership(s.ctx, only, -1); err != nil {
		t.Fatal(err)
	}
	s.until("see another leader", func() bool { return s.leader() != leader })
	begin := time.Now()
	s.until("two checks for idle producers", func() bool { return time.Since(begin) > 2500*time.Millisecond })
	s.wantWritten(s.produce(b(2)), 2, true)
	s.wantWritten(s.produce(batchOf(late, 0, "late")), 3, true)
	s.wantStored("0", "1", "2", "late")
	for _, id := range s.c.Brokers() {
		if n := s.c.Metric(id, "brokerd_producer_expired_total"); n != 0 {
			t.Errorf("broker %d: %v producers expired", id, n)
		}
	}
}

// TestClockBehind: to a broker whose clock is far behind, records are from the future. It says so, and takes
// nothing.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	s := begin(t)
	s.c.SetClock(s.leader(), -48*time.Hour)
	res := s.producer(client.ProducerConfig{}).SendSync(s.ctx, rec("now"))
	if e, ok := res.Err.(*client.Error); !ok || e.Reason != "INVALID_TIMESTAMP" || res.Outcome != client.NotWritten {
		t.Fatalf("answered %v", res)
	}
	s.wantStored()
}
