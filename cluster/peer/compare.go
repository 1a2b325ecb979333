package peer

import (
	"context"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"google.golang.org/grpc/codes"
)

// maxReasonBytes bounds why a replica is condemned.
const maxReasonBytes = 1 << 10

// SumEntries asks a replica for a checksum over committed entries.
func (c *Client) SumEntries(ctx context.Context, to Target, req *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.SumEntries, req)
}

// CondemnReplica tells a replica that it differs from a majority.
func (c *Client) CondemnReplica(ctx context.Context, to Target, req *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.CondemnReplica, req)
}

func (v service) SumEntries(ctx context.Context, req *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil && (req.GetFromIndex() == 0 || req.GetThroughIndex() < req.GetFromIndex()) {
		err = refusal(codes.InvalidArgument, Malformed, "entries %d to %d", req.GetFromIndex(), req.GetThroughIndex())
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.SumEntries(ctx, caller, req)
	return resp, failure(err)
}

func (v service) CondemnReplica(ctx context.Context, req *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil && len(req.GetReason()) > maxReasonBytes {
		err = refusal(codes.InvalidArgument, Malformed, "a reason of %d bytes", len(req.GetReason()))
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.CondemnReplica(ctx, caller, req)
	return resp, failure(err)
}
