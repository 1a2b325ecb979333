package test

import (
	"strings"
	"testing"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// TestDeposedLeaderWithALongTail: a leader that is cut off takes batches that nobody else gets. Meanwhile
// the others go on, forget in Raft what it would need, and delete records. It comes back with a tail that
// is longer than their log, drops it, and follows; Raft alone would ask for the same snapshot for ever.
func TestDeposedLeaderWithALongTail(t *testing.T) {
	t.Parallel()
	s := behind(t)
	p := s.producer(client.ProducerConfig{BatchBytes: 1 << 10})
	s.send(p, filled(0, 20))
	old := s.leader()
	s.until("all have the same", func() bool {
		return s.raftGroup(old%3+1).HighWatermark == 20 && s.raftGroup((old+1)%3+1).HighWatermark == 20
	})
	base := s.raftGroup(old).LastIndex

	id := s.newID()

	// The tail: small batches that wait for a majority in vain.
	stream, err := clientv1.NewLogServiceClient(s.dial(old)).Produce(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range s.c.Brokers() {
		if id != old {
			s.c.Network.Cut(s.c.Host(old), s.c.Host(id))
		}
	}
	const tail = 400
	for i := range tail {
		b := batchOf(id, record.Sequence(i), "in vain")
		if err := stream.Send(&clientv1.ProduceRequest{RequestId: uint64(i + 1), Topic: topic, Acks: clientv1.Acks_ACKS_ALL, TimeoutMs: 60_000, Batch: b}); err != nil {
			t.Fatal(err)
		}
	}
	local := clientv1.NewAdminServiceClient(s.dial(old))
	s.until("the deposed leader has its tail", func() bool {
		r, err := local.ListRaftGroups(s.ctx, &clientv1.ListRaftGroupsRequest{Topic: topic})
		return err == nil && len(r.GetGroups()) == 1 && r.GetGroups()[0].GetLastIndex() >= uint64(base)+tail/2
	})

	// The others go on with few and large entries.
	s.until("another leader", func() bool { return s.leader() != old })
	more := filled(20, 100)
	s.send(s.producer(client.ProducerConfig{BatchBytes: 8 << 10}), more)
	s.beyondWindow(base)
	if now := s.raftGroup(s.leader()).LastIndex; now > base+tail/2 {
		t.Fatalf("the test shows nothing: the log ends at %d, the tail began at %d", now, base)
	}
	const deleted = 50
	if at, err := s.cl.DeleteRecords(s.ctx, only, deleted); err != nil || at != deleted {
		t.Fatalf("delete records: %d, %v", at, err)
	}

	s.c.Network.HealAll()
	s.caughtUp(old)
	s.write(p, "last")
	s.caughtUp(old)
	s.until("leadership comes back", func() bool {
		_ = s.cl.TransferLeadership(s.ctx, only, old)
		return s.leader() == old
	})
	if at := s.logStart(); at != deleted {
		t.Errorf("log start is %d under the leader that was away, want %d", at, deleted)
	}
	s.replicasAgree()
	for _, v := range s.stored() {
		if strings.HasPrefix(v, "in vain") {
			t.Fatal("a batch of the tail was stored")
		}
	}
	if n := s.c.Metric(old, "brokerd_raft_reopens_total"); n > 1 {
		t.Errorf("Raft was opened again %v times, want once at most", n)
	}
}
