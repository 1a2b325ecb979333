package peer

import (
	"context"
	"errors"
	"testing"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
)

// A request for a transfer of leadership arrives as it was sent, and one that names nothing does not; so does a question about the
// metadata group.
func TestLeadershipCalls(t *testing.T) {
	r := newRig(t)
	r.handler.hand = func(_ context.Context, caller Identity, req *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error) {
		if caller.Broker != 1 || req.GetTopic() != "t" || req.GetPartition() != 4 || req.GetToBroker() != 3 {
			t.Errorf("broker %d asks %v", caller.Broker, req)
		}
		return &peerv1.TransferLeadershipResponse{Failure: &peerv1.Failure{Code: "NOT_LEADER_OR_FOLLOWER"}}, nil
	}
	r.handler.quorum = func(context.Context, Identity, *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error) {
		return &peerv1.DescribeQuorumResponse{Term: 7}, nil
	}
	resp, err := r.client.TransferLeadership(t.Context(), to2, &peerv1.TransferLeadershipRequest{Topic: "t", Partition: 4, ToBroker: 3})
	if err != nil || resp.GetFailure().GetCode() != "NOT_LEADER_OR_FOLLOWER" {
		t.Error(resp, err)
	}
	if q, err := r.client.DescribeQuorum(t.Context(), to2, &peerv1.DescribeQuorumRequest{}); err != nil || q.GetTerm() != 7 {
		t.Error(q, err)
	}
	r.handler.hand = nil // not to be reached
	for _, bad := range []*peerv1.TransferLeadershipRequest{{}, {Topic: "t", Partition: -1}, {Topic: "t", ToBroker: -1}} {
		var e *Error
		if _, err := r.client.TransferLeadership(t.Context(), to2, bad); !errors.As(err, &e) || e.Reason != Malformed || e.MayHaveHappened {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
