package test

import (
	"errors"
	"slices"
	"testing"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/client"
)

// TestAckLostAndResent: the record is committed, its answer is lost, the client sends it again; it
// is stored once, and the second answer says so.
func TestAckLostAndResent(t *testing.T) {
	s := begin(t)
	p := s.producer(client.ProducerConfig{})
	s.write(p, "first")
	leader := s.leader()
	s.c.Network.Cut(s.c.Host(leader), "client")
	f, err := p.SendFuture(s.ctx, rec("second"))
	if err != nil {
		t.Fatal(err)
	}
	follower := clientv1.NewAdminServiceClient(s.dial(leader%3 + 1))
	s.until("see the record committed", func() bool {
		r, err := follower.ListRaftGroups(s.ctx, &clientv1.ListRaftGroupsRequest{Topic: topic})
		return err == nil && len(r.GetGroups()) == 1 && r.GetGroups()[0].GetHighWatermark() == 2
	})
	s.c.Network.ResetConns(s.c.Host(leader), "client") // with the answer in it
	s.c.Network.HealAll()
	if res := f.Result(s.ctx); res.Outcome != client.Written || res.Offset != 1 || !res.Duplicate {
		t.Fatalf("%v, duplicate %t; want a duplicate at offset 1", res, res.Duplicate)
	}
	s.wantStored("first", "second")
}

// TestLeaderDiesAfterReplication: whatever the dead leader had done with what was in flight, each
// record is stored once, in order.
func TestLeaderDiesAfterReplication(t *testing.T) {
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

// TestProducerRestartedWithNewID: a limit that is documented. A program that starts again has a new
// producer id, and what it sends again by hand is stored again.
func TestProducerRestartedWithNewID(t *testing.T) {
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

// TestDeliveryTimeout: nobody answers; the sender is told in time, and what it is told fits the log.
func TestDeliveryTimeout(t *testing.T) {
	s := begin(t)
	p := s.producer(client.ProducerConfig{RequestTimeout: 300 * time.Millisecond, DeliveryTimeout: time.Second})
	s.write(p, "before")
	var hosts []string
	for _, id := range s.c.Brokers() {
		hosts = append(hosts, s.c.Host(id))
	}
	s.c.Network.Isolate("client", hosts...)
	started := time.Now()
	res := p.SendSync(s.ctx, rec("during"))
	if took := time.Since(started); took > 3*time.Second || res.Outcome == client.Written {
		t.Fatalf("%v after %v; want not written or unknown within the timeout", res, took)
	}
	s.c.Network.HealAll()
	s.until("write again", func() bool { return p.SendSync(s.ctx, rec("after")).Outcome == client.Written })
	got := s.stored()
	n := 0
	for _, v := range got {
		if v == "during" {
			n++
		}
	}
	if n > 1 || n == 1 && res.Outcome == client.NotWritten {
		t.Fatalf("told %v, stored %q", res, got)
	}
}

// TestAcksNoneAndLeader: none promises nothing, leader as much as all.
func TestAcksNoneAndLeader(t *testing.T) {
	s := begin(t)
	if res := s.producer(client.ProducerConfig{Acks: client.AcksNone}).SendSync(s.ctx, rec("none")); res.Outcome != client.Unknown || res.Err != nil {
		t.Fatalf("acks none: %v", res)
	}
	s.until("see it stored", func() bool { return slices.Equal(s.stored(), []string{"none"}) })
	if res := s.write(s.producer(client.ProducerConfig{Acks: client.AcksLeader}), "leader"); res.Offset != 1 {
		t.Fatalf("acks leader: %v", res)
	}
	s.wantStored("none", "leader")
}

// TestMinorityLeaderLosesNothing: a leader that is cut off from the others acknowledges nothing, and
// what it took is not in the way of what its successor acknowledges.
func TestMinorityLeaderLosesNothing(t *testing.T) {
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
