package broker

import (
	"errors"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// What brokers say to each other about transactions, and back.

type peerIdentity = peer.Identity

func joiningToProto(j partition.Joining) *peerv1.TransactionPartition {
	return &peerv1.TransactionPartition{
		TransactionalId: j.TransactionalID, ProducerId: int64(j.ProducerID), ProducerEpoch: int32(j.Epoch), Topic: j.Topic, Partition: j.Partition,
	}
}

func joiningFromProto(p *peerv1.TransactionPartition) partition.Joining {
	return partition.Joining{
		TopicPartition:  record.TopicPartition{Topic: p.GetTopic(), Partition: p.GetPartition()},
		TransactionalID: p.GetTransactionalId(), ProducerID: record.ProducerID(p.GetProducerId()), Epoch: record.Epoch(p.GetProducerEpoch()),
	}
}

func markerToProto(m coordinator.Marker) *peerv1.Marker {
	return &peerv1.Marker{
		Topic: m.Topic, Partition: m.Partition, ProducerId: int64(m.ProducerID), ProducerEpoch: int32(m.Epoch),
		CoordinatorEpoch: m.CoordinatorEpoch, Commit: m.Commit, Version: uint32(m.Version), Operator: m.Operator,
	}
}

func markerFromProto(p *peerv1.Marker) partition.Marker {
	return partition.Marker{
		TopicPartition: record.TopicPartition{Topic: p.GetTopic(), Partition: p.GetPartition()},
		ProducerID:     record.ProducerID(p.GetProducerId()), Epoch: record.Epoch(p.GetProducerEpoch()),
		CoordinatorEpoch: p.GetCoordinatorEpoch(), Commit: p.GetCommit(), Version: int8(p.GetVersion()), Operator: p.GetOperator(),
	}
}

// partitionError is a coordinator's refusal as a partition gets it: the same code and outcome, and what explains it.
func partitionError(err error) *partition.Error {
	if err == nil {
		return nil
	}
	var e *coordinator.Error
	if !errors.As(err, &e) {
		return &partition.Error{Code: partition.CodeUnknown, Message: err.Error(), Outcome: raftgroup.MayHaveHappened, Cause: err}
	}
	told := &partition.Error{Code: partition.Code(e.Code), Message: e.Message, Outcome: e.Outcome, Cause: e.Cause}
	if e.Event != nil {
		told.Event = txn.EventToProto(e.Event)
	}
	return told
}

func partitionToFailure(e *partition.Error) *peerv1.Failure {
	if e == nil {
		return nil
	}
	return &peerv1.Failure{Code: string(e.Code), Message: e.Message, MayHaveHappened: e.Outcome == raftgroup.MayHaveHappened, Event: e.Event}
}

func failureToPartition(f *peerv1.Failure) *partition.Error {
	if f == nil {
		return nil
	}
	e := &partition.Error{Code: partition.Code(f.GetCode()), Message: f.GetMessage(), Event: f.GetEvent()}
	if f.GetMayHaveHappened() {
		e.Outcome = raftgroup.MayHaveHappened
	}
	return e
}
