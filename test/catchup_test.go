package test

import (
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

// behind is a cluster whose Raft window is short, so that a broker that was away for a while has to
// pull the log from a peer. What is written has to come in batches that are small beside a snapshot's bytes:
// a few large ones would make one snapshot, and the window begins at the one before.
func behind(t *testing.T) *scenario {
	t.Helper()
	return behindWith(t, broker.Sabotage{})
}

// behindWith is behind on brokers with a planted bug.
func behindWith(t *testing.T, bug broker.Sabotage) *scenario {
	t.Helper()
	return beginWith(t, brokertest.Options{Sabotage: bug, Configure: func(c *broker.Config) {
		c.Raft.SnapshotBytes = 64 * broker.KiB
	}}, map[string]string{"segment.bytes": "65536"})
}

// follower is a broker that does not lead.
func (s *scenario) follower() int32 { return s.leader()%3 + 1 }

// filled are n values of 4 KiB that say what number they are.
func filled(from, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%08d", from+i) + strings.Repeat(string(rune('a'+i%26)), 4<<10)
	}
	return list
}

// send writes values, several at once, and insists that all are written.
func (s *scenario) send(p *client.Producer, values []string) {
	s.t.Helper()
	futures := make([]*client.Future, len(values))
	for i, v := range values {
		f, err := p.SendFuture(s.ctx, rec(v))
		if err != nil {
			s.t.Fatal(err)
		}
		futures[i] = f
	}
	for _, f := range futures {
		if res := f.Result(s.ctx); res.Outcome != client.Written {
			s.t.Fatal(res)
		}
	}
}

// raftGroup is a broker's view of the one partition.
func (s *scenario) raftGroup(id int32) client.RaftGroup {
	s.t.Helper()
	groups, _, err := s.cl.RaftGroups(s.ctx, topic)
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(groups, func(g client.RaftGroup) bool { return g.Broker == id && g.Name != "metadata" })
	if i < 0 {
		return client.RaftGroup{}
	}
	return groups[i]
}

// beyondWindow makes sure that the leader's Raft cannot feed a replica that ends at an index.
func (s *scenario) beyondWindow(last record.Index) {
	s.t.Helper()
	s.until("the leader to forget what a follower lacks", func() bool {
		g := s.raftGroup(s.leader())
		return g.FirstIndex > last+1
	})
}

// caughtUp waits until a broker has what the leader has.
func (s *scenario) caughtUp(id int32) {
	s.t.Helper()
	s.until("the broker to catch up", func() bool {
		here, there := s.raftGroup(id), s.raftGroup(s.leader())
		return here.Problem == "" && here.HighWatermark > 0 && here.HighWatermark == there.HighWatermark
	})
}

// lag stops a follower and writes more than Raft's window holds.
func (s *scenario) lag(p *client.Producer) (id int32, values []string) {
	s.t.Helper()
	values = filled(0, 50)
	s.send(p, values)
	id = s.follower()
	last := s.raftGroup(id).LastIndex
	s.c.Stop(id)
	more := filled(50, 1000)
	s.send(p, more)
	s.beyondWindow(last)
	return id, append(values, more...)
}

// TestCatchUpPastTheWindow: a broker that comes back too late for Raft's window pulls the log from a
// peer, and then holds the same, byte for byte, while writing goes on.
func TestCatchUpPastTheWindow(t *testing.T) {
	t.Parallel()
	s := behind(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
	id, values := s.lag(p)
	s.c.StartAgain(id)
	more := filled(len(values), 200)
	s.send(p, more)
	s.c.WaitReady(id)
	s.caughtUp(id)
	if got := s.c.Metric(id, "brokerd_catch_up_bytes_total"); got < 1000*4096/2 {
		t.Fatalf("only %v bytes were pulled", got)
	}
	s.replicasAgree()
	s.wantStored(append(values, more...)...)
	// It can lead with what it pulled.
	s.c.Stop(s.leader())
	s.wantStored(append(values, more...)...)
}

// TestKilledInTheMiddleOfCatchUp: a broker that dies while it pulls, by a power cut or a kill, more than
// once, goes on when it is back.
func TestKilledInTheMiddleOfCatchUp(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name string
		die  func(*brokertest.Cluster, int32)
	}{{"crash", (*brokertest.Cluster).Crash}, {"kill", (*brokertest.Cluster).Kill}} {
		t.Run(how.name, func(t *testing.T) {
			s := behind(t)
			p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
			id, values := s.lag(p)
			for range 3 {
				s.c.SlowDisk(id, 20*time.Millisecond)
				s.c.StartAgain(id)
				s.until("the broker to pull", func() bool {
					return s.c.Metric(id, "brokerd_catching_up_replicas") == 1 && s.c.Metric(id, "brokerd_catch_up_bytes_total") > 0 ||
						s.c.Metric(id, "brokerd_catch_ups_total") > 0
				})
				how.die(s.c, id)
			}
			s.c.SlowDisk(id, 0)
			s.c.Restart(id)
			s.caughtUp(id)
			s.replicasAgree()
			s.wantStored(values...)
		})
	}
}

// TestLeaderKilledInTheMiddleOfCatchUp: the peer that a broker pulls from dies; it goes on with another.
func TestLeaderKilledInTheMiddleOfCatchUp(t *testing.T) {
	t.Parallel()
	s := behind(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
	id, values := s.lag(p)
	s.c.SlowDisk(id, 20*time.Millisecond)
	s.c.StartAgain(id)
	s.until("the broker to pull", func() bool { return s.c.Metric(id, "brokerd_catch_up_bytes_total") > 0 })
	first := s.leader()
	s.c.Crash(first)
	s.c.SlowDisk(id, 0)
	s.c.WaitReady(id)
	more := filled(len(values), 20) // a majority is there again
	s.send(p, more)
	s.caughtUp(id)
	s.c.Restart(first)
	s.caughtUp(first)
	s.replicasAgree()
	s.wantStored(append(values, more...)...)
}

// TestCutInTheMiddleOfCatchUp: the network to the peer breaks while a broker pulls, more than once; it goes on from where it
// was, no faster than it is allowed to, and writing is not held up by it.
func TestCutInTheMiddleOfCatchUp(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.Raft.SnapshotBytes = 64 * broker.KiB
		c.CatchUp.BytesPerSecond = 4 * broker.MiB
	}}, map[string]string{"segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
	id, values := s.lag(p)
	began := time.Now()
	s.c.StartAgain(id)
	for n := range 3 {
		s.until("the broker to pull", func() bool {
			return s.c.Metric(id, "brokerd_catch_up_bytes_total") > float64((n+1)*256<<10)
		})
		for _, other := range s.c.Brokers() {
			s.c.Network.ResetConns(s.c.Host(id), s.c.Host(other))
		}
		more := filled(len(values), 5)
		s.send(p, more)
		values = append(values, more...)
	}
	s.c.WaitReady(id)
	s.caughtUp(id)
	pulled := s.c.Metric(id, "brokerd_catch_up_bytes_total")
	if least := time.Duration((pulled - 2<<20) / (4 << 20) * float64(time.Second)); time.Since(began) < least {
		t.Errorf("%.0f bytes in %s: want %s at least", pulled, time.Since(began), least)
	}
	if pulled > 3*1050*4096 {
		t.Errorf("%.0f bytes were pulled for %d: what is there is pulled again", pulled, 1000*4096)
	}
	s.replicasAgree()
	s.wantStored(values...)
}
