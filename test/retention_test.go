package test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (s *scenario) logStart() record.Offset {
	s.t.Helper()
	var start record.Offset
	s.until("find the log start", func() bool {
		at, err := s.cl.ListOffsets(s.ctx, client.ReadUncommitted, map[record.TopicPartition]client.Position{only: client.Beginning()})
		start = at[only].Offset
		return err == nil && at[only].Err == nil
	})
	return start
}

// Records that were deleted stay deleted, whoever leads: after each leader in turn has been cut off
// the power, and after all brokers have (L25, L26, R13).
func TestDeletedRecordsStayDeleted(t *testing.T) {
	t.Parallel()
	s := begin(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 1 << 10})
	s.writeMany(p, 50, func(int) {})
	deleted := record.Offset(0)
	raise := func(to record.Offset) {
		t.Helper()
		got, err := s.cl.DeleteRecords(s.ctx, only, to)
		if err != nil || got != to {
			t.Fatalf("delete before %d: log start %d, %v", to, got, err)
		}
		deleted = to
	}
	holds := func() {
		t.Helper()
		if got := s.logStart(); got != deleted {
			t.Fatalf("log start is %d, was %d", got, deleted)
		}
	}
	for round := range 3 {
		raise(deleted + 7)
		leader := s.leader()
		s.c.Crash(leader)
		s.until("another leader", func() bool { return s.leader() != leader })
		holds()
		s.write(p, fmt.Sprintf("after round %d", round))
		s.c.Restart(leader)
	}
	if _, err := s.cl.DeleteRecords(s.ctx, only, 3); err != nil {
		t.Errorf("delete what is deleted: %v", err)
	}
	s.c.PowerCut()
	for _, id := range s.c.Brokers() {
		s.c.StartAgain(id)
	}
	for _, id := range s.c.Brokers() {
		s.c.WaitReady(id)
	}
	holds()
	_, err := s.cl.DeleteRecords(s.ctx, only, 1000)
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != "OFFSET_OUT_OF_RANGE" || e.Outcome != client.NotWritten {
		t.Errorf("delete beyond the end: %v", err)
	}
	holds()
}

// A topic with a bound on its size stays near it while producers write on, and what is left can be
// read.
func TestRetentionBoundsATopic(t *testing.T) {
	t.Parallel()
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.RetentionCheck = 100 * time.Millisecond
		c.Raft.SnapshotBytes = 64 * broker.KiB
	}}, map[string]string{"retention.bytes": "200000", "segment.bytes": "65536"})
	p := s.producer(client.ProducerConfig{})
	value := string(make([]byte, 8<<10))
	bytes := func() (most int64) {
		groups, _, err := s.cl.RaftGroups(s.ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			most = max(most, g.LogBytes)
		}
		return most
	}
	for range 400 { // 3.2 MB
		s.write(p, value)
	}
	// Kept are the bound and a segment, what lies above the older of two snapshots, and the segment
	// that is written to.
	s.until("the disk is freed on all replicas", func() bool { return bytes() < 700_000 })
	start := s.logStart()
	if start < 300 {
		t.Errorf("log start is %d of 400", start)
	}
	s.replicasAgree()
}
