package broker

import (
	"context"
	"errors"
	"fmt"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/kafka"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// HandOver has the leader of a partition, on whatever broker, hand it to another one, and waits until this broker has heard that it
// leads (kafka.Cluster).
func (v kafkaView) HandOver(ctx context.Context, tp record.TopicPartition, from, to int32) error {
	if err := v.p.handOver(ctx, tp, from, to); err != nil {
		return err
	}
	for {
		changed := v.LeadersChanged()
		t, ok := v.Image().Topic(tp.Topic)
		if !ok || int(tp.Partition) >= len(t.Partitions) {
			return &partition.Error{Code: partition.CodeNotLeader, Message: fmt.Sprintf("%s is gone", tp)}
		}
		if lead, ok := v.Leader(t.Partitions[tp.Partition].Group); ok && lead.Broker == to {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &partition.Error{Code: partition.Code(cluster.RequestTimedOut), Message: fmt.Sprintf("broker %d has been asked to lead %s, and was not heard to lead it yet", to, tp),
				Outcome: raftgroup.MayHaveHappened, Cause: ctx.Err()}
		}
	}
}

// handOver asks the leader, here or elsewhere, once.
func (p *parts) handOver(ctx context.Context, tp record.TopicPartition, from, to int32) error {
	if from == p.cfg.BrokerID {
		ctx, cancel := context.WithTimeout(ctx, transferTimeout)
		defer cancel()
		return p.handOverHere(ctx, tp, to)
	}
	target, ok := p.cluster.PeerTarget(from)
	if !ok {
		return &partition.Error{Code: partition.CodeNotLeader, Message: fmt.Sprintf("broker %d, which leads %s, has no known address", from, tp)}
	}
	resp, err := p.cluster.Peers().TransferLeadership(ctx, target, &peerv1.TransferLeadershipRequest{Topic: tp.Topic, Partition: tp.Partition, ToBroker: to})
	if err != nil {
		e := &partition.Error{Code: partition.CodeNotLeader, Message: fmt.Sprintf("asking broker %d to hand over %s: %v", from, tp, err), Cause: err}
		var refusal *peer.Error
		if !errors.As(err, &refusal) || refusal.MayHaveHappened {
			e.Code, e.Outcome = partition.Code(cluster.RequestTimedOut), raftgroup.MayHaveHappened
		}
		return e
	}
	if e := failureToPartition(resp.GetFailure()); e != nil {
		return e
	}
	return nil
}

// handOverHere hands over a partition or a coordinator's shard that this broker leads.
func (p *parts) handOverHere(ctx context.Context, tp record.TopicPartition, to int32) error {
	if kind, ok := coordinator.KindOf(tp.Topic); ok {
		return p.coordinators.HandOver(ctx, kind, tp.Partition, to)
	}
	return p.partitions.TransferLeadership(ctx, tp, to)
}

// TransferLeadership hands a partition that this broker leads to another one (peer.Handler).
func (h peerHandler) TransferLeadership(ctx context.Context, _ peerIdentity, req *peerv1.TransferLeadershipRequest) (*peerv1.TransferLeadershipResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	tp := record.TopicPartition{Topic: req.GetTopic(), Partition: req.GetPartition()}
	err := h.p.handOverHere(ctx, tp, req.GetToBroker())
	if err == nil {
		return &peerv1.TransferLeadershipResponse{}, nil
	}
	var e *partition.Error
	if !errors.As(err, &e) {
		e = &partition.Error{Code: partition.CodeNotLeader, Message: err.Error(), Outcome: raftgroup.OutcomeOf(err), Cause: err}
	}
	return &peerv1.TransferLeadershipResponse{Failure: partitionToFailure(e)}, nil
}

// Reassign begins to move partitions (kafka.Cluster).
func (v kafkaView) Reassign(ctx context.Context, topic string, list []kafka.Reassignment, replicationFactor int32) (*metadata.Topic, error) {
	moves := make([]cluster.Reassignment, len(list))
	for i, r := range list {
		moves[i] = cluster.Reassignment(r)
	}
	return v.Cluster.Reassign(ctx, topic, moves, replicationFactor, false)
}
