package peer

import (
	"context"

	"google.golang.org/grpc/codes"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
)

// TransferLeadership asks the leader of a partition to hand it to another broker.
func (c *Client) TransferLeadership(ctx context.Context, to Target, req *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.TransferLeadership, req)
}

// DescribeQuorum asks the leader of the metadata group how far its members are.
func (c *Client) DescribeQuorum(ctx context.Context, to Target, req *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.DescribeQuorum, req)
}

func (v service) TransferLeadership(ctx context.Context, req *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil && (req.GetTopic() == "" || req.GetPartition() < 0 || req.GetToBroker() < 0) {
		err = refusal(codes.InvalidArgument, Malformed, "partition %d of topic %q to broker %d", req.GetPartition(), req.GetTopic(), req.GetToBroker())
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.TransferLeadership(ctx, caller, req)
	return resp, failure(err)
}

func (v service) DescribeQuorum(ctx context.Context, req *peerv1.DescribeQuorumRequest) (*peerv1.DescribeQuorumResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.DescribeQuorum(ctx, caller, req)
	return resp, failure(err)
}
