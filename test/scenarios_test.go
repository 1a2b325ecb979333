package test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// ackLost writes a record to a leader whose answers are lost, waits until the record is committed, and
// gives the future of the result.
func (s *scenario) ackLost(p *client.Producer, value string, offset int64) (f *client.Future, leader int32) {
	s.t.Helper()
	leader = s.leader()
	s.c.Network.Cut(s.c.Host(leader), "client")
	f, err := p.SendFuture(s.ctx, rec(value))
	if err != nil {
		s.t.Fatal(err)
	}
	follower := clientv1.NewAdminServiceClient(s.dial(leader%3 + 1))
	s.until("see the record committed", func() bool {
		r, err := follower.ListRaftGroups(s.ctx, &clientv1.ListRaftGroupsRequest{Topic: topic})
		return err == nil && len(r.GetGroups()) == 1 && r.GetGroups()[0].GetHighWatermark() == offset+1
	})
	return f, leader
}

// wantDuplicate insists that the record was found by a retry, at an offset.
func (s *scenario) wantDuplicate(f *client.Future, offset record.Offset) {
	s.t.Helper()
	if res := f.Result(s.ctx); res.Outcome != client.Written || res.Offset != offset || !res.Duplicate {
		s.t.Fatalf("%v, duplicate %t; want a duplicate at offset %d", res, res.Duplicate, offset)
	}
}

// TestAckLostAndResent: the record is committed, its answer is lost, the client sends it again; it
// is stored once, and the second answer says so.
func TestAckLostAndResent(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.write(p, "first")
	f, leader := s.ackLost(p, "second", 1)
	s.c.Network.ResetConns(s.c.Host(leader), "client") // with the answer in it
	s.c.Network.HealAll()
	s.wantDuplicate(f, 1)
	s.write(p, "third")
	s.wantStored("first", "second", "third")
}

// TestLeaderDiesAfterReplicationBeforeAck: the record is on the followers and committed, and its leader
// dies before the client hears of it; the client asks the next leader, which knows.
func TestLeaderDiesAfterReplicationBeforeAck(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.write(p, "first")
	f, leader := s.ackLost(p, "second", 1)
	s.c.Crash(leader)
	s.c.Network.HealAll()
	s.wantDuplicate(f, 1)
	s.write(p, "third")
	s.wantStored("first", "second", "third")
}

// TestLeaderDiesWithBatchesInFlight: whatever the dead leader had done with what was in flight, each
// record is stored once, in order.
func TestLeaderDiesWithBatchesInFlight(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger, BatchBytes: 1 << 10, RequestTimeout: time.Second})
	s.write(p, "0")
	leader := s.leader()
	s.writeMany(p, 1000, func(i int) {
		if i == 500 {
			s.c.Kill(leader)
		}
	})
	s.wantStored(append([]string{"0"}, numbers(1000)...)...)
}

// TestGapAndRecovery: a batch among five in flight is refused for good, those behind it are refused
// because of the gap, and the client heals it: they are written once, in order, under a new epoch.
func TestGapAndRecovery(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{}, map[string]string{"max.message.bytes": "4096"})
	for _, id := range s.c.Brokers() {
		s.c.SlowDisk(id, 30*time.Millisecond) // So that five are in flight.
	}
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger, BatchBytes: 1 << 10})
	s.write(p, "0")
	large := strings.Repeat("x", 8<<10)
	var futures []*client.Future
	var want []string
	for i := range 60 {
		value := strconv.Itoa(i)
		if i%20 == 10 {
			value = large
		} else {
			want = append(want, value)
		}
		f, err := p.SendFuture(s.ctx, rec(value))
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
		sent := p.Stats().BatchesSent
		s.until("it is on its way, or five are", func() bool { return p.Stats().BatchesSent > sent || i%20 != 10 })
	}
	for i, f := range futures {
		switch res := f.Result(s.ctx); {
		case i%20 == 10:
			if res.Outcome != client.NotWritten || !errors.Is(res.Err, client.ErrMessageTooLarge) {
				t.Errorf("the large record %d: %v", i, res)
			}
		case res.Outcome != client.Written:
			t.Errorf("record %d: %v", i, res)
		}
	}
	if st := p.Stats(); st.NewIdentities == 0 || st.Contradictions != 0 {
		t.Errorf("want a gap that was healed, and no contradictions: %+v", st)
	}
	s.wantStored(append([]string{"0"}, want...)...)
}

// TestProducerRestartedWithNewID: a limit that is documented. A program that starts again has a new
// producer id, and what it sends again by hand is stored again.
func TestProducerRestartedWithNewID(t *testing.T) {
	t.Parallel()
	s := begin(t)
	for range 2 {
		p := s.producer(client.ProducerConfig{})
		s.write(p, "same")
		if err := p.Close(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.wantStored("same", "same")
}

// TestOrderWithFiveInFlightUnderRetries: connections break again and again; order holds, nothing is
// lost or doubled.
func TestOrderWithFiveInFlightUnderRetries(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger, BatchBytes: 1 << 10, RequestTimeout: time.Second})
	for _, id := range s.c.Brokers() {
		s.c.SlowDisk(id, 50*time.Millisecond) // So that what has been sent is still in flight when links break.
	}
	var sent int64
	s.writeMany(p, 2000, func(i int) {
		if i%300 != 299 {
			return
		}
		s.until("a batch is on its way", func() bool { return int64(p.Stats().BatchesSent) > sent })
		sent = int64(p.Stats().BatchesSent)
		for _, id := range s.c.Brokers() {
			s.c.Network.ResetConns(s.c.Host(id), "client")
		}
	})
	if st := p.Stats(); st.BatchesRetried == 0 || st.Contradictions != 0 {
		t.Fatalf("want retries and no contradictions: %+v", st)
	}
	s.wantStored(numbers(2000)...)
}

// TestMoreThanFiveInFlightRefusedByConfiguration: brokers remember five batches.
func TestMoreThanFiveInFlightRefusedByConfiguration(t *testing.T) {
	t.Parallel()
	base := client.Config{Bootstrap: []string{"b1:9095"}}
	if err := (client.ProducerConfig{MaxInFlight: 6}).Validate(base); !errors.Is(err, client.ErrInvalidConfig) {
		t.Fatalf("six in flight: %v", err)
	}
	for _, cfg := range []client.ProducerConfig{{MaxInFlight: 5}, {MaxInFlight: 6, DisableIdempotence: true}} {
		if err := cfg.Validate(base); err != nil {
			t.Fatalf("%d in flight, plain %t: %v", cfg.MaxInFlight, cfg.DisableIdempotence, err)
		}
	}
}

// TestDeliveryTimeout: when its time is up the sender is told what is certain. A record that is stored,
// although nobody said so, is unknown; one that never left is not written.
func TestDeliveryTimeout(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{RequestTimeout: 300 * time.Millisecond, DeliveryTimeout: time.Second})
	s.write(p, "before")
	want := func(when string, res client.Result, started time.Time, outcome client.Outcome) {
		t.Helper()
		if took := time.Since(started); took > 4*time.Second || res.Outcome != outcome || !errors.Is(res.Err, client.ErrDeliveryTimeout) {
			t.Fatalf("%s: %v after %v, want %v within the timeout", when, res, took, outcome)
		}
	}

	for _, id := range s.c.Brokers() {
		s.c.Network.Cut(s.c.Host(id), "client")
	}
	started := time.Now()
	want("unanswered", p.SendSync(s.ctx, rec("during")), started, client.Unknown)
	s.c.Network.HealAll()
	s.until("write again", func() bool { return p.SendSync(s.ctx, rec("after")).Outcome == client.Written })
	s.wantStored("before", "during", "after")

	s.c.PowerCut()
	started = time.Now()
	want("nobody there", p.SendSync(s.ctx, rec("never")), started, client.NotWritten)
	for _, id := range s.c.Brokers() {
		s.c.StartAgain(id)
	}
	s.until("write again", func() bool { return p.SendSync(s.ctx, rec("end")).Outcome == client.Written })
	s.wantStored("before", "during", "after", "end")
}

// TestAcksNoneLosesWhatItMay: the leader takes a record that it cannot replicate, and dies. Nobody was
// promised anything, nobody hears of it, and it is gone.
func TestAcksNoneLosesWhatItMay(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{RequestTimeout: time.Second})
	s.write(p, "before")
	none := s.producer(client.ProducerConfig{Acks: client.AcksNone})
	if res := none.SendSync(s.ctx, rec("none")); res.Outcome != client.Unknown || res.Err != nil {
		t.Fatalf("acks none: %v", res)
	}
	s.until("see it stored, as nothing went wrong", func() bool { return slices.Equal(s.stored(), []string{"before", "none"}) })
	old := s.leader()
	last := s.raftGroup(old).LastIndex
	s.c.Isolate(old, false)
	if res := none.SendSync(s.ctx, rec("lost")); res.Outcome != client.Unknown || res.Err != nil {
		t.Fatalf("acks none: %v", res)
	}
	admin := clientv1.NewAdminServiceClient(s.dial(old))
	s.until("the old leader has it in its log", func() bool {
		r, err := admin.ListRaftGroups(s.ctx, &clientv1.ListRaftGroupsRequest{Topic: topic})
		return err == nil && len(r.GetGroups()) == 1 && r.GetGroups()[0].GetLastIndex() > uint64(last)
	})
	s.c.Crash(old)
	s.write(p, "after")
	s.c.Network.HealAll()
	s.c.Restart(old)
	s.replicasAgree()
	s.wantStored("before", "none", "after")
}

// TestAcksLeaderAndAllLoseNothing: a leader that cannot replicate acknowledges nothing; with acks leader
// too, which is as strong as all. What is acknowledged in the end is there, once.
func TestAcksLeaderAndAllLoseNothing(t *testing.T) {
	t.Parallel()
	for name, acks := range map[string]client.Acks{"leader": client.AcksLeader, "all": client.AcksAll} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			p := s.producer(client.ProducerConfig{Acks: acks, RequestTimeout: time.Second})
			s.write(p, "before")
			old := s.leader()
			s.c.Isolate(old, false)
			f, err := p.SendFuture(s.ctx, rec("doubtful"))
			if err != nil {
				t.Fatal(err)
			}
			s.until("another leads", func() bool { return s.leader() != old })
			s.c.Crash(old)
			if res := f.Result(s.ctx); res.Outcome != client.Written || res.Offset != 1 {
				t.Fatalf("acks %s: %v, want it written at offset 1", name, res)
			}
			s.c.Network.HealAll()
			s.c.Restart(old)
			s.replicasAgree()
			s.wantStored("before", "doubtful")
		})
	}
}

// TestMinorityLeaderLosesNothing: a leader that is cut off from the others acknowledges nothing, and
// what it took is not in the way of what its successor acknowledges.
func TestMinorityLeaderLosesNothing(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{RequestTimeout: time.Second})
	s.write(p, "before")
	id, old := s.newID(), s.leader()
	s.c.Isolate(old, false)
	res, err := s.ask(old, &clientv1.ProduceRequest{RequestId: 1, Topic: topic, TimeoutMs: 2000, Batch: batchOf(id, 0, "doubtful")})
	if err == nil && res.GetError() == nil {
		t.Fatalf("a leader without a majority acknowledged: %v", res)
	}
	s.write(p, "after")
	s.c.Network.HealAll()
	s.replicasAgree()
	got := s.stored()
	if !slices.Equal(slices.DeleteFunc(slices.Clone(got), func(v string) bool { return v == "doubtful" }), []string{"before", "after"}) || len(got) > 3 {
		t.Fatalf("stored %q", got)
	}
	if len(got) == 3 && res.GetError().GetOutcome() == clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
		t.Fatalf("stored %q after %v", got, res)
	}
}

// TestReplicasAgree: after deaths and cuts all three brokers hold the same bytes at equal offsets.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{Linger: client.NoLinger, BatchBytes: 1 << 10, RequestTimeout: time.Second})
	first := s.leader()
	s.writeMany(p, 600, func(i int) {
		switch i {
		case 100:
			s.c.Crash(first)
		case 300:
			s.c.StartAgain(first)
		case 500:
			s.c.Isolate(first%3+1, false)
		}
	})
	s.c.Network.HealAll()
	s.c.WaitReady(first)
	s.replicasAgree()
	s.wantStored(numbers(600)...)
}

// TestAcksNoneFollowsTheLeader: nobody answers a producer with acks none, but it hears that its broker leads no more: what it
// sends goes to the next leader soon, and not when it happens to look again.
func TestAcksNoneFollowsTheLeader(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) { c.LeaderBalance = 24 * time.Hour }}, nil)
	// A client of its own, which nobody else makes look at the metadata.
	p, err := s.c.Client().NewProducer(client.ProducerConfig{Acks: client.AcksNone, Linger: client.NoLinger})
	if err != nil {
		t.Fatal(err)
	}
	send := func() { p.SendSync(s.ctx, rec("x")) }
	send()
	s.until("see the first record", func() bool { return len(s.stored()) > 0 })
	old := s.leader()
	if err := s.cl.TransferLeadership(s.ctx, only, -1); err != nil {
		t.Fatal(err)
	}
	s.until("see another leader", func() bool { return s.leader() != old })
	before := len(s.stored())
	begin := time.Now()
	s.until("see records of the producer again", func() bool {
		send()
		return len(s.stored()) > before+2
	})
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}
