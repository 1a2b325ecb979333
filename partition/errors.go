package partition

import (
	"errors"
	"fmt"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// Code is the stable name of a failure, Kafka's own where Kafka has one.
type Code string

// What partitions answer. The listeners translate them by their tables.
const (
	CodeUnknownTopicOrPartition Code = "UNKNOWN_TOPIC_OR_PARTITION"
	CodeUnknownTopicID          Code = "UNKNOWN_TOPIC_ID"
	CodeNotLeader               Code = "NOT_LEADER_OR_FOLLOWER"
	CodeOutOfOrderSequence      Code = "OUT_OF_ORDER_SEQUENCE_NUMBER"
	CodeInvalidProducerEpoch    Code = "INVALID_PRODUCER_EPOCH"
	CodeInvalidTxnState         Code = "INVALID_TXN_STATE"
	CodeCoordinatorFenced       Code = "TRANSACTION_COORDINATOR_FENCED"
	CodeTooManyProducers        Code = "THROTTLING_QUOTA_EXCEEDED"
	CodeBusy                    Code = "BROKER_BUSY"
	CodeRequestTimedOut         Code = "REQUEST_TIMED_OUT"
	CodeOffsetOutOfRange        Code = "OFFSET_OUT_OF_RANGE"
	CodeFencedLeaderEpoch       Code = "FENCED_LEADER_EPOCH"
	CodeUnknownLeaderEpoch      Code = "UNKNOWN_LEADER_EPOCH"
	CodeOffsetNotAvailable      Code = "OFFSET_NOT_AVAILABLE"
	CodeStorage                 Code = "KAFKA_STORAGE_ERROR"
	CodeInvalidRecord           Code = "INVALID_RECORD"
	CodePolicyViolation         Code = "POLICY_VIOLATION"
	CodeInvalidRequest          Code = "INVALID_REQUEST"
	CodeUnknown                 Code = "UNKNOWN_SERVER_ERROR"

	// What the transaction coordinator says of a transaction's first batch (T11).
	CodeProducerFenced           Code = "PRODUCER_FENCED"
	CodeInvalidProducerIDMapping Code = "INVALID_PRODUCER_ID_MAPPING"
	CodeConcurrentTransactions   Code = "CONCURRENT_TRANSACTIONS"
	CodeTransactionAbortable     Code = "TRANSACTION_ABORTABLE"
	// CodeNotEnoughReplicas: the coordinator could not be asked now. Nothing was appended; to be tried again.
	CodeNotEnoughReplicas Code = "NOT_ENOUGH_REPLICAS"
)

// Error is why a partition refused or failed, and whether the operation may have happened all
// the same. Nobody above turns MayHaveHappened into DidNotHappen (R2).
type Error struct {
	Code    Code
	Message string
	Outcome raftgroup.Outcome
	// Leader is who leads as far as this broker knows; nil where unknown or beside the point.
	Leader *Leader
	// Sequence says what would have been right, with OUT_OF_ORDER_SEQUENCE_NUMBER.
	Sequence *SequenceGap
	// Event is the last thing that happened to the transactional id, where its coordinator refused and that explains
	// it; nil: nothing is known.
	Event *statev1.TransactionEvent
	Cause error
}

// SequenceGap is a sequence that was not the next one.
type SequenceGap struct{ Expected, Received record.Sequence }

// Leader names the broker that leads a partition and the epoch it leads in.
type Leader struct {
	Broker int32
	Epoch  int32
}

// Error gives code and message.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// refused makes an error for something that certainly did not happen.
func refused(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Outcome: raftgroup.DidNotHappen}
}

// OutcomeOf says of any error of this package's functions, or of raftgroup's, whether what was asked for
// may have happened.
func OutcomeOf(err error) raftgroup.Outcome {
	var e *Error
	if errors.As(err, &e) {
		return e.Outcome
	}
	return raftgroup.OutcomeOf(err)
}

// uncertain makes an error for something that may have happened.
func uncertain(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Outcome: raftgroup.MayHaveHappened, Cause: cause}
}
