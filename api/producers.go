package api

import (
	"context"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// DescribeProducers shows what one partition remembers of its producers.
func (s *service) DescribeProducers(ctx context.Context, req *clientv1.DescribeProducersRequest) (*clientv1.DescribeProducersResponse, error) {
	tp, refusal := checkPartition(req.Topic, req.Partition)
	if refusal == nil {
		refusal = checkRange("producer_ids", int64(len(req.ProducerIds)), 0, maxProducers)
	}
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuse(acl.Read, acl.Topic, tp.Topic)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	ids := make([]record.ProducerID, len(req.ProducerIds))
	for i, id := range req.ProducerIds {
		ids[i] = record.ProducerID(id)
	}
	found, truncated, err := s.c.Log.DescribeProducers(ctx, tp, ids, maxProducers)
	if err != nil {
		return nil, s.failed(s.ofPartition(tp, err))
	}
	answer := &clientv1.DescribeProducersResponse{Truncated: truncated, Producers: make([]*clientv1.ProducerState, len(found))}
	for i, d := range found {
		answer.Producers[i] = protoProducer(tp, d)
	}
	return answer, nil
}

func protoProducer(tp record.TopicPartition, d producer.Description) *clientv1.ProducerState {
	p := &clientv1.ProducerState{
		ProducerId: int64(d.ProducerID), ProducerEpoch: int32(d.Epoch), LastSequence: int32(d.LastSequence),
		LastTimestampMs: d.LastTimestamp, CoordinatorEpoch: d.CoordinatorEpoch, TxnStartOffset: int64(d.OpenFrom),
	}
	if r := d.Refused; r != nil {
		p.FirstRefused = protoEvent(&txn.Event{Kind: txn.BatchRefused, TimeMS: r.TimeMS, ProducerID: d.ProducerID, Epoch: d.Epoch,
			Refused: &txn.RefusedBatch{TopicPartition: tp, Code: r.Code, Expected: r.Expected, Received: r.Received}})
	}
	for _, b := range d.Batches {
		p.Batches = append(p.Batches, &clientv1.ProducerBatch{
			BaseSequence: int32(b.FirstSequence), LastSequence: int32(b.LastSequence),
			BaseOffset: int64(b.FirstOffset), LastOffset: int64(b.LastOffset), TimestampMs: b.Timestamp,
		})
	}
	return p
}
