package broker

import (
	"context"
	"fmt"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// comparer asks replicas on other brokers (partition.Comparer).
type comparer struct{ p *parts }

func (c comparer) target(of raftgroup.ServerID) (peer.Target, uint64, error) {
	broker, incarnation, err := raftgroup.ParseServerID(of)
	if err != nil {
		return peer.Target{}, 0, err
	}
	target, ok := c.p.cluster.PeerTarget(broker)
	if !ok {
		return peer.Target{}, 0, fmt.Errorf("broker %d has no known address", broker)
	}
	return target, incarnation, nil
}

// SumEntries asks a replica for a checksum.
func (c comparer) SumEntries(ctx context.Context, of raftgroup.ServerID, group raftgroup.GroupID, from, through record.Index) (partition.EntrySum, error) {
	target, incarnation, err := c.target(of)
	if err != nil {
		return partition.EntrySum{}, err
	}
	resp, err := c.p.cluster.Peers().SumEntries(ctx, target, &peerv1.SumEntriesRequest{
		GroupId: uint64(group), Incarnation: incarnation, FromIndex: uint64(from), ThroughIndex: uint64(through)})
	if err != nil {
		return partition.EntrySum{}, err
	}
	sum := partition.EntrySum{Sound: resp.GetSound()}
	if copy(sum.SHA256[:], resp.GetSha256()) != len(sum.SHA256) {
		return sum, fmt.Errorf("%s answers with a sum of %d bytes", of, len(resp.GetSha256()))
	}
	return sum, nil
}

// Condemn tells a replica that it differs from a majority.
func (c comparer) Condemn(ctx context.Context, of raftgroup.ServerID, group raftgroup.GroupID, at record.Index, reason string) error {
	target, incarnation, err := c.target(of)
	if err != nil {
		return err
	}
	_, err = c.p.cluster.Peers().CondemnReplica(ctx, target, &peerv1.CondemnReplicaRequest{
		GroupId: uint64(group), Incarnation: incarnation, Index: uint64(at), Reason: reason})
	return err
}

// SumEntries answers a leader that compares (peer.Handler).
func (h peerHandler) SumEntries(_ context.Context, _ peer.Identity, req *peerv1.SumEntriesRequest) (*peerv1.SumEntriesResponse, error) {
	sum, err := h.p.partitions.SumEntries(raftgroup.GroupID(req.GetGroupId()), req.GetIncarnation(), record.Index(req.GetFromIndex()), record.Index(req.GetThroughIndex()))
	if err != nil {
		return nil, err
	}
	return &peerv1.SumEntriesResponse{Sha256: sum.SHA256[:], Sound: sum.Sound}, nil
}

// CondemnReplica ends a replica that differs from a majority (peer.Handler).
func (h peerHandler) CondemnReplica(_ context.Context, _ peer.Identity, req *peerv1.CondemnReplicaRequest) (*peerv1.CondemnReplicaResponse, error) {
	h.p.partitions.Condemn(raftgroup.GroupID(req.GetGroupId()), req.GetIncarnation(), record.Index(req.GetIndex()), req.GetReason())
	return &peerv1.CondemnReplicaResponse{}, nil
}
