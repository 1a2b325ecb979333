package test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// TestRetryToNewLeaderIsAnsweredWithFirstOffset: what a producer sent is remembered by all replicas.
func TestRetryToNewLeaderIsAnsweredWithFirstOffset(t *testing.T) {
	t.Parallel()
	s := begin(t)
	s.write(s.producer(client.ProducerConfig{}), "other")
	b := batchOf(s.newID(), 0, "a", "b", "c")
	s.wantWritten(s.produce(b), 1, false)
	old := s.leader()
	s.c.Kill(old)
	s.until("see another leader", func() bool { return s.leader() != old })
	s.wantWritten(s.produce(b), 1, true)
	s.wantStored("other", "a", "b", "c")
}

// TestGapIsRefused: a batch that is not the next one is not written.
func TestGapIsRefused(t *testing.T) {
	t.Parallel()
	s := begin(t)
	id := s.newID()
	s.wantWritten(s.produce(batchOf(id, 0, "a")), 0, false)
	wantRefused(t, s.produce(batchOf(id, 2, "c")).GetError(), client.ReasonOutOfOrderSequence)
	s.wantWritten(s.produce(batchOf(id, 1, "b")), 1, false)
	s.wantStored("a", "b")
}

// TestRetryOlderThanFiveBatches: five are recognised, the sixth is refused, none is written twice.
func TestRetryOlderThanFiveBatches(t *testing.T) {
	t.Parallel()
	s := begin(t)
	id := s.newID()
	for i := range 6 {
		s.wantWritten(s.produce(batchOf(id, record.Sequence(i), strconv.Itoa(i))), int64(i), false)
	}
	for i := 1; i < 6; i++ {
		s.wantWritten(s.produce(batchOf(id, record.Sequence(i), strconv.Itoa(i))), int64(i), true)
	}
	if e := s.produce(batchOf(id, 0, "0")).GetError(); e.GetReason() != client.ReasonOutOfOrderSequence {
		t.Errorf("the sixth last batch: %v", e)
	}
	s.wantStored(numbers(6)...)
}

// TestPowerCutKeepsProducerMemory: all machines lose their power at once; what was acknowledged is
// there, and a retry of it is recognised.
func TestPowerCutKeepsProducerMemory(t *testing.T) {
	t.Parallel()
	s := begin(t)
	b := batchOf(s.newID(), 0, "a", "b")
	s.wantWritten(s.produce(b), 0, false)
	s.c.PowerCut()
	for _, id := range s.c.Brokers() {
		s.c.StartAgain(id)
	}
	for _, id := range s.c.Brokers() {
		s.c.WaitReady(id)
	}
	s.wantWritten(s.produce(b), 0, true)
	s.wantStored("a", "b")
	s.replicasAgree()
}

// TestWindowSurvivesSnapshots: the five batches of a producer lie below a snapshot and beyond what Raft
// replays. Each is still recognised: by brokers that started again from the snapshot, and by one that
// never had the batches and was sent it.
func TestWindowSurvivesSnapshots(t *testing.T) {
	t.Parallel()
	s := behind(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 16 << 10})
	s.send(p, filled(0, 10))
	late := s.follower()
	last := s.raftGroup(late).LastIndex
	s.c.Stop(late)
	id := s.newID()
	var batches []record.Batch
	for i := range 5 {
		batches = append(batches, batchOf(id, record.Sequence(i), strconv.Itoa(i)))
		s.wantWritten(s.produce(batches[i]), int64(10+i), false)
	}
	more := filled(10, 300)
	s.send(p, more)
	s.beyondWindow(last + 10)
	recognised := func() {
		t.Helper()
		for i, b := range batches {
			s.wantWritten(s.produce(b), int64(10+i), true)
		}
	}
	s.c.PowerCut()
	for _, id := range s.c.Brokers() {
		s.c.StartAgain(id)
	}
	recognised()
	s.c.WaitReady(late)
	s.caughtUp(late)
	s.until("the late one leads", func() bool {
		if s.leader() == late {
			return true
		}
		_ = s.cl.TransferLeadership(s.ctx, only, late) // asked again
		return false
	})
	recognised()
	s.wantStored(slices.Concat(filled(0, 10), numbers(5), more)...)
}

// TestForgottenProducersAreNoticed: brokers that lose what they know of producers when they restore a
// snapshot store a batch twice. If this did not show, TestWindowSurvivesSnapshots would prove nothing.
func TestForgottenProducersAreNoticed(t *testing.T) {
	t.Parallel()
	s := behindWith(t, broker.Sabotage{Partition: partition.Sabotage{ForgetProducers: true}})
	b := batchOf(s.newID(), 0, "once")
	s.wantWritten(s.produce(b), 0, false)
	last := s.raftGroup(s.leader()).LastIndex
	s.send(s.producer(client.ProducerConfig{BatchBytes: 16 << 10}), filled(0, 300))
	for _, id := range s.c.Brokers() {
		s.until("no broker to replay the batch", func() bool { return s.raftGroup(id).FirstIndex > last+1 })
	}
	s.c.PowerCut()
	for _, id := range s.c.Brokers() {
		s.c.StartAgain(id)
	}
	if res := s.produce(b); res.GetError() != nil || res.GetDuplicate() {
		t.Errorf("brokers that forget producers answer a batch sent again with %v: the bug does not show", res)
	}
}
