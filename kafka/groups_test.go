package kafka

import (
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// G17: a member is told its assignment when it joins, when it says all of what it wants, and when it has changed.
func TestHeartbeatsTellAssignmentsThatChanged(t *testing.T) {
	c := &conn{}
	answer := func(partitions ...int32) coordinator.HeartbeatAnswer {
		return coordinator.HeartbeatAnswer{MemberID: "m", Assigned: coordinator.Assigned{Topics: []coordinator.AssignedTopic{{Topic: "t", ID: group.TopicID{1}, Partitions: partitions}}}}
	}
	ask := func(epoch int32, topics ...string) *kmsg.ConsumerGroupHeartbeatRequest {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberEpoch, req.SubscribedTopicNames, req.RebalanceTimeoutMillis = "g", epoch, topics, -1
		return req
	}
	for i, step := range []struct {
		req    *kmsg.ConsumerGroupHeartbeatRequest
		answer coordinator.HeartbeatAnswer
		told   bool
	}{
		{ask(0, "t"), answer(), true},
		{ask(1), answer(), false},
		{ask(1), answer(0, 1), true},
		{ask(2), answer(0, 1), false},
		{ask(2), answer(1), true},
		{ask(2, "t"), answer(1), true},
		{ask(0, "t"), answer(1), true},
	} {
		if got := c.tell(step.req, step.answer); got != step.told {
			t.Errorf("step %d: told %v, want %v", i, got, step.told)
		}
	}
	if !(&conn{}).tell(ask(5), answer(1)) {
		t.Error("a member that comes by another connection is not told")
	}
}

// What a client does not know at its version would end its application (G19, G20, G22, G32; T11).
func TestGroupCodesByVersion(t *testing.T) {
	of := func(reason string) failure {
		k := frontdoor.KindOf(reason)
		return failure{code: k.Kafka, Failure: frontdoor.Failure{Kind: k}}
	}
	for _, c := range []struct {
		reason  string
		version int16
		commit  int16
		txn     int16
	}{
		{"GROUP_ID_NOT_FOUND", 5, 22, 22}, {"GROUP_ID_NOT_FOUND", 9, 69, 69},
		{"STALE_MEMBER_EPOCH", 5, 35, 22}, {"STALE_MEMBER_EPOCH", 9, 113, 113},
		{"TRANSACTION_ABORTABLE", 3, 120, 48}, {"TRANSACTION_ABORTABLE", 4, 120, 120},
		{"POLICY_VIOLATION", 3, 44, 22}, {"POLICY_VIOLATION", 5, 44, 120},
		{"COORDINATOR_LOAD_IN_PROGRESS", 1, 14, 15}, {"COORDINATOR_LOAD_IN_PROGRESS", 2, 14, 14},
		{"BROKER_BUSY", 5, 15, 15}, {"REQUEST_TIMED_OUT", 5, 15, 15}, {"KAFKA_STORAGE_ERROR", 5, 16, 16}, {"ILLEGAL_GENERATION", 5, 22, 22},
	} {
		if got := of(c.reason).commitCode(c.version); got != c.commit {
			t.Errorf("OffsetCommit %d: %s is %d, want %d", c.version, c.reason, got, c.commit)
		}
		if got := of(c.reason).txnCommitCode(c.version); got != c.txn {
			t.Errorf("TxnOffsetCommit %d: %s is %d, want %d", c.version, c.reason, got, c.txn)
		}
	}
	if got := of("PRODUCER_FENCED").txnCode(true); got != 47 {
		t.Errorf("an old client is told %d of its fencing, want 47", got)
	}
	if got := of("PRODUCER_FENCED").txnCode(false); got != 90 {
		t.Errorf("a client is told %d of its fencing, want 90", got)
	}
}

// T28: every marker is in the answer, with an error for each partition.
func TestWriteTxnMarkersAnswersEveryMarker(t *testing.T) {
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Version = 1
	for pid := range int64(2) {
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.Topics = pid, []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "t", Partitions: []int32{0, 7}}, {Topic: "u", Partitions: []int32{1}}}
		req.Markers = append(req.Markers, m)
	}
	resp := newRig(t, nil).dial().ask(req).(*kmsg.WriteTxnMarkersResponse)
	if len(resp.Markers) != 2 {
		t.Fatalf("answer %+v", resp)
	}
	for i, m := range resp.Markers {
		if m.ProducerID != int64(i) || len(m.Topics) != 2 || m.Topics[0].Partitions[0].ErrorCode != 0 || m.Topics[0].Partitions[1].ErrorCode != 52 || m.Topics[1].Partitions[0].ErrorCode != 0 {
			t.Errorf("marker %d: %+v", i, m)
		}
	}
}

func TestDescribeQuorum(t *testing.T) {
	for version := int16(0); version <= 2; version++ {
		req := kmsg.NewPtrDescribeQuorumRequest()
		req.Version = version
		one := []kmsg.DescribeQuorumRequestTopicPartition{{Partition: 0}}
		req.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: metadataTopic, Partitions: one}, {Topic: "t", Partitions: one}}
		resp := newRig(t, nil).dial().ask(req).(*kmsg.DescribeQuorumResponse)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != 0 || p.LeaderID != 1 || p.LeaderEpoch != 5 || p.HighWatermark != 9 || len(p.CurrentVoters) != 2 || len(p.Observers) != 1 {
			t.Fatalf("version %d: %+v", version, p)
		}
		heard, never := int64(1_700_000_000_000), int64(-1)
		if version == 0 {
			heard = never // not told
		}
		for i, want := range [][3]int64{{10, heard, heard}, {8, heard, never}, {never, never, never}} {
			s := append(p.CurrentVoters, p.Observers...)[i]
			if got := [3]int64{s.LogEndOffset, s.LastFetchTimestamp, s.LastCaughtUpTimestamp}; got != want {
				t.Errorf("version %d, replica %d: %v, want %v", version, s.ReplicaID, got, want)
			}
		}
		if got := resp.Topics[1].Partitions[0].ErrorCode; got != 3 {
			t.Errorf("version %d: another topic gave code %d", version, got)
		}
	}
}

// While nobody coordinates the answer waits, for a moment.
func TestFindCoordinatorWaitsForAnElection(t *testing.T) {
	r := newRig(t, nil)
	var asked atomic.Int32
	r.txns.find = func(_ coordinator.Kind, name string) (int32, error) {
		if asked.Add(1) < 4 || name == "never" {
			return -1, groupError(coordinator.CodeNotAvailable)
		}
		return -1, groupError(coordinator.CodeLoading) // which is another matter
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorType, req.CoordinatorKey = 3, 1, "id"
	w := r.dial()
	if resp := w.ask(req).(*kmsg.FindCoordinatorResponse); resp.ErrorCode != 14 || asked.Load() != 4 {
		t.Errorf("code %d after %d looks", resp.ErrorCode, asked.Load())
	}
	req.CoordinatorKey = "never"
	if resp := w.ask(req).(*kmsg.FindCoordinatorResponse); resp.ErrorCode != 15 || resp.NodeID != -1 || resp.Port != -1 {
		t.Errorf("answer %+v", resp)
	}
}
