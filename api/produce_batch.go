package api

import (
	"math"
	"strconv"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// admitted turns a request into one that the log takes, or says what is wrong with it. Nothing has
// happened then.
func (s *service) admitted(by *rights, req *clientv1.ProduceRequest) (partition.ProduceRequest, *clientv1.Error) {
	none := partition.ProduceRequest{}
	tp, refusal := checkPartition(req.Topic, req.Partition)
	if refusal != nil {
		return none, refusal
	}
	if refusal := checkProduce(req); refusal != nil {
		return none, refusal
	}
	topic, refusal := topicIDOf(req.TopicId)
	if refusal != nil {
		return none, refusal
	}
	if refusal := by.refuse(acl.Write, acl.Topic, tp.Topic); refusal != nil {
		return none, refusal
	}
	if req.TransactionalId != "" {
		if refusal := by.refuse(acl.Write, acl.TransactionalID, req.TransactionalId); refusal != nil {
			return none, refusal
		}
	}
	limits, err := s.c.Log.Limits(tp)
	if err != nil {
		return none, s.ofPartition(tp, err)
	}
	batch := req.Batch
	if req.Records != nil {
		if batch, refusal = s.encodeRecords(req.Records, limits, req.TransactionalId != ""); refusal != nil {
			return none, refusal
		}
	}
	valid, err := record.Validate(batch, limits)
	if err != nil {
		return none, s.ofDomain(err)
	}
	if refusal := checkTransactional(req.TransactionalId, valid); refusal != nil {
		return none, refusal
	}
	p := partition.ProduceRequest{TopicPartition: tp, TopicID: topic, Batch: valid, Timeout: time.Duration(req.TimeoutMs) * time.Millisecond}
	if req.TransactionalId != "" {
		p.TransactionalID, p.Version = req.TransactionalId, transactionVersion
	}
	return p, nil
}

// topicIDOf reads the id of the topic that is meant; empty: whichever has the name.
func topicIDOf(id string) (partition.TopicID, *clientv1.Error) {
	if id == "" {
		return partition.TopicID{}, nil
	}
	parsed, err := metadata.ParseTopicID(id)
	if err != nil {
		return partition.TopicID{}, refused(reasonInvalidRequest, "topic_id", "", "topic_id is %q, which is none", clip(id))
	}
	return partition.TopicID(parsed), nil
}

// checkTransactional demands that request and batch agree on whether there is a transaction.
func checkTransactional(id string, b record.Batch) *clientv1.Error {
	if reason, field, message := frontdoor.CheckTransactional(id, b); reason != "" {
		return refused(reason, field, "", "%s", message)
	}
	return nil
}

// checkProduce checks the fields that need no knowledge of the topic.
func checkProduce(req *clientv1.ProduceRequest) *clientv1.Error {
	if req.Acks < clientv1.Acks_ACKS_UNSPECIFIED || req.Acks > clientv1.Acks_ACKS_NONE {
		return refused(reasonInvalidAcks, "acks", "0 to 3", "acks is %d; want ACKS_ALL (1), ACKS_LEADER (2) or ACKS_NONE (3)", req.Acks)
	}
	if refusal := checkRange("timeout_ms", int64(req.TimeoutMs), 0, maxTimeoutMS); refusal != nil {
		return refusal
	}
	if req.TransactionalId != "" {
		if refusal := checkTransactionalID(req.TransactionalId); refusal != nil {
			return refusal
		}
	}
	switch {
	case len(req.Batch) == 0 && req.Records == nil:
		return refused(reasonInvalidRequest, "batch, records", "", "neither batch nor records is set; want exactly one")
	case len(req.Batch) != 0 && req.Records != nil:
		return refused(reasonInvalidRequest, "batch, records", "", "both batch and records are set; want exactly one")
	}
	return nil
}

// encodeRecords makes one uncompressed batch of records in proto form.
func (s *service) encodeRecords(r *clientv1.Records, limits record.Limits, transactional bool) (record.Batch, *clientv1.Error) {
	if len(r.Records) == 0 {
		return nil, refused(reasonInvalidRecord, "records", "1", "records is empty; want at least one record")
	}
	pid, epoch, sequence, refusal := producerOf(r)
	if refusal == nil && transactional && pid == record.NoProducerID {
		refusal = refused(reasonInvalidRequest, "producer_id, producer_epoch, base_sequence", "", "the records belong to a transaction and have no producer id")
	}
	if refusal != nil {
		return nil, refusal
	}
	builder := record.NewBuilder(record.CodecNone)
	var headers []record.Header
	for i, in := range r.Records {
		if in == nil {
			in = &clientv1.Record{}
		}
		at := in.TimestampMs
		if at == 0 {
			at = limits.Now
		}
		if at < 0 {
			return nil, inRecord(i, refused(reasonInvalidTimestamp, "timestamp_ms", "0", "timestamp_ms is %d, want ms since 1970, or 0 for the broker's clock", at))
		}
		headers = headers[:0]
		for _, h := range in.Headers {
			headers = append(headers, record.Header{Key: h.GetKey(), Value: h.GetValue()})
		}
		// A field that is absent is nil, which is null; an empty one is not.
		if size := builder.SizeWith(at, in.Key, in.Value, headers); limits.MaxBatchBytes > 0 && size > limits.MaxBatchBytes {
			return nil, inRecord(i, refused(reasonTooLarge, "records", strconv.Itoa(limits.MaxBatchBytes),
				"the records take %d bytes or more as a batch, which exceeds max.message.bytes %d", size, limits.MaxBatchBytes))
		}
		if err := builder.Append(at, in.Key, in.Value, headers); err != nil {
			return nil, s.ofDomain(err)
		}
	}
	return builder.Finish(pid, epoch, sequence, transactional), nil
}

// producerOf reads the idempotence fields: all three, or none.
func producerOf(r *clientv1.Records) (record.ProducerID, record.Epoch, record.Sequence, *clientv1.Error) {
	set := 0
	for _, is := range []bool{r.ProducerId != nil, r.ProducerEpoch != nil, r.BaseSequence != nil} {
		if is {
			set++
		}
	}
	if set == 0 {
		return record.NoProducerID, record.NoEpoch, record.NoSequence, nil
	}
	var refusal *clientv1.Error
	switch {
	case set != 3:
		refusal = refused(reasonInvalidRequest, "producer_id, producer_epoch, base_sequence", "",
			"%d of producer_id, producer_epoch and base_sequence are set; want all three or none", set)
	case *r.ProducerId < 0:
		refusal = checkRange("producer_id", *r.ProducerId, 0, math.MaxInt64)
	case *r.ProducerEpoch < 0 || *r.ProducerEpoch > math.MaxInt16:
		refusal = checkRange("producer_epoch", int64(*r.ProducerEpoch), 0, math.MaxInt16)
	case *r.BaseSequence < 0:
		refusal = checkRange("base_sequence", int64(*r.BaseSequence), 0, math.MaxInt32)
	}
	if refusal != nil {
		return 0, 0, 0, refusal
	}
	return record.ProducerID(*r.ProducerId), record.Epoch(*r.ProducerEpoch), record.Sequence(*r.BaseSequence), nil
}

// inRecord says which record an error is about.
func inRecord(i int, e *clientv1.Error) *clientv1.Error {
	if e.Metadata == nil {
		e.Metadata = make(map[string]string, 1)
	}
	e.Metadata["record"] = strconv.Itoa(i)
	e.Message = "record " + strconv.Itoa(i) + ": " + e.Message
	return e
}
