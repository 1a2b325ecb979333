package partition

import (
	"errors"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
)

// verdictError says why apply refused a batch. Every such refusal did not happen.
func verdictError(b producer.Batch, v producer.Verdict) *Error {
	code := CodeUnknown
	switch v.Code {
	case producer.OutOfOrderSequence:
		code = CodeOutOfOrderSequence
	case producer.InvalidProducerEpoch:
		code = CodeInvalidProducerEpoch
	case producer.InvalidTxnState:
		code = CodeInvalidTxnState
	case producer.TooManyProducers:
		code = CodeTooManyProducers
	case producer.Malformed:
		code = CodeInvalidRecord
	}
	e := refused(code, "%s", v.Message(b))
	if v.Code == producer.OutOfOrderSequence {
		e.Sequence = &SequenceGap{Expected: v.Expected, Received: v.Got}
	}
	return e
}

// markerError says why apply refused a marker.
func markerError(m producer.Marker, v producer.MarkerVerdict) *Error {
	switch v.Code {
	case producer.CoordinatorFenced:
		return refused(CodeCoordinatorFenced, "producer %d: coordinator epoch %d is over, %d has been seen (P21)", m.ProducerID, m.CoordinatorEpoch, v.StoredCoordinatorEpoch)
	case producer.TooManyProducers:
		return refused(CodeTooManyProducers, "producer %d: the partition remembers as many producers as it may, and cannot forget any now", m.ProducerID)
	}
	return refused(CodeInvalidProducerEpoch, "producer %d: marker epoch %d is refused, the partition knows epoch %d (P20)",
		m.ProducerID, m.Epoch, v.StoredEpoch)
}

// proposalError names a failed proposal. The outcome is raftgroup's word and stays as it is (R2).
func (r *Replica) proposalError(err error) *Error {
	e := r.notLeader()
	e.Cause = err
	e.Outcome = raftgroup.OutcomeOf(err)
	switch {
	case errors.Is(err, raftgroup.ErrBusy):
		r.host.metrics.refusedBusy.Inc()
		e.Code, e.Leader = CodeBusy, nil
		e.Message = "too much is in flight on " + r.spec.TopicPartition.String() + ": try again"
	case e.Outcome == raftgroup.MayHaveHappened:
		e.Message = "leadership of " + r.spec.TopicPartition.String() + " was lost while the batch was in flight; it may be written: send it again with the same sequence"
	}
	return e
}
