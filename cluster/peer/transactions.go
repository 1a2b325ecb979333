package peer

import (
	"context"
	"fmt"
	"math"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"google.golang.org/grpc/codes"
)

// MaxMarkers bounds one WriteMarkers.
const MaxMarkers = 10_000

// JoinTransaction asks the coordinator of a transaction about a partition.
func (c *Client) JoinTransaction(ctx context.Context, to Target, req *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.JoinTransaction, req)
}

// NoteRefusal tells the coordinator of a transaction of a batch that was refused.
func (c *Client) NoteRefusal(ctx context.Context, to Target, req *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error) {
	return call(ctx, c, to, peerv1.PeerServiceClient.NoteRefusal, req)
}

// WriteMarkers asks the leader of partitions for markers. The answer has one result for each.
func (c *Client) WriteMarkers(ctx context.Context, to Target, req *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error) {
	resp, err := call(ctx, c, to, peerv1.PeerServiceClient.WriteMarkers, req)
	if err == nil && len(resp.GetResults()) != len(req.GetMarkers()) {
		return nil, &Error{Reason: Malformed, Message: fmt.Sprintf("%v: %d results for %d markers", to, len(resp.GetResults()), len(req.GetMarkers())), MayHaveHappened: true}
	}
	return resp, err
}

func (v service) JoinTransaction(ctx context.Context, req *peerv1.JoinTransactionRequest) (*peerv1.JoinTransactionResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil {
		err = checkTransaction(req.GetPartition())
	}
	if err == nil && req.GetVersion() != 1 && req.GetVersion() != 2 {
		err = refusal(codes.InvalidArgument, Malformed, "transaction version %d", req.GetVersion())
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.JoinTransaction(ctx, caller, req)
	return resp, failure(err)
}

func (v service) NoteRefusal(ctx context.Context, req *peerv1.NoteRefusalRequest) (*peerv1.NoteRefusalResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil {
		err = checkTransaction(req.GetPartition())
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.NoteRefusal(ctx, caller, req)
	return resp, failure(err)
}

func (v service) WriteMarkers(ctx context.Context, req *peerv1.WriteMarkersRequest) (*peerv1.WriteMarkersResponse, error) {
	caller, err := v.s.admit(ctx, fromMembers)
	if err == nil {
		err = checkMarkers(req.GetMarkers())
	}
	if err != nil {
		return nil, err
	}
	resp, err := v.s.c.Handler.WriteMarkers(ctx, caller, req)
	return resp, failure(err)
}

// checkTransaction refuses numbers that do not fit their types.
func checkTransaction(p *peerv1.TransactionPartition) error {
	if p == nil || p.GetProducerEpoch() < 0 || p.GetProducerEpoch() > math.MaxInt16 || p.GetProducerId() < 0 || p.GetPartition() < 0 {
		return refusal(codes.InvalidArgument, Malformed, "producer %d epoch %d on partition %d", p.GetProducerId(), p.GetProducerEpoch(), p.GetPartition())
	}
	return nil
}

func checkMarkers(list []*peerv1.Marker) error {
	if len(list) > MaxMarkers {
		return refusal(codes.InvalidArgument, Malformed, "%d markers at once, at most %d are allowed", len(list), MaxMarkers)
	}
	for _, m := range list {
		if m.GetProducerEpoch() < 0 || m.GetProducerEpoch() > math.MaxInt16 || m.GetProducerId() < 0 || m.GetPartition() < 0 || m.GetVersion() > 2 {
			return refusal(codes.InvalidArgument, Malformed, "marker for producer %d epoch %d on partition %d, version %d",
				m.GetProducerId(), m.GetProducerEpoch(), m.GetPartition(), m.GetVersion())
		}
	}
	return nil
}
