package coordinator

import (
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// Code is the stable name of a failure, Kafka's own where Kafka has one.
type Code string

// What coordinators answer, beside what the machines do. The listeners translate them by their tables.
const (
	// CodeNotCoordinator: another broker leads the shard.
	CodeNotCoordinator Code = "NOT_COORDINATOR"
	// CodeLoading: this broker leads the shard and is not ready yet (R1).
	CodeLoading Code = "COORDINATOR_LOAD_IN_PROGRESS"
	// CodeNotAvailable: there is no shard yet, or nobody leads it.
	CodeNotAvailable Code = "COORDINATOR_NOT_AVAILABLE"
	CodeBusy         Code = "BROKER_BUSY"
	// CodeRequestTimedOut: no outcome in time; it may have happened.
	CodeRequestTimedOut    Code = "REQUEST_TIMED_OUT"
	CodeInvalidRequest     Code = "INVALID_REQUEST"
	CodeInvalidTimeout     Code = "INVALID_TRANSACTION_TIMEOUT"
	CodePolicyViolation    Code = "POLICY_VIOLATION"
	CodeUnsupportedVersion Code = "UNSUPPORTED_VERSION"
	CodeUnknown            Code = "UNKNOWN_SERVER_ERROR"

	CodeInvalidProducerIDMapping Code = "INVALID_PRODUCER_ID_MAPPING"
	CodeProducerFenced           Code = "PRODUCER_FENCED"
	CodeConcurrentTransactions   Code = "CONCURRENT_TRANSACTIONS"
	CodeInvalidTxnState          Code = "INVALID_TXN_STATE"
	CodeTransactionAbortable     Code = "TRANSACTION_ABORTABLE"
	CodeTransactionalIDNotFound  Code = "TRANSACTIONAL_ID_NOT_FOUND"

	// Of groups. What package group says keeps its name: group.Code.String.
	CodeInvalidGroupID           Code = "INVALID_GROUP_ID"
	CodeGroupIDNotFound          Code = "GROUP_ID_NOT_FOUND"
	CodeUnknownMemberID          Code = "UNKNOWN_MEMBER_ID"
	CodeIllegalGeneration        Code = "ILLEGAL_GENERATION"
	CodeFencedInstanceID         Code = "FENCED_INSTANCE_ID"
	CodeRebalanceInProgress      Code = "REBALANCE_IN_PROGRESS"
	CodeStaleMemberEpoch         Code = "STALE_MEMBER_EPOCH"
	CodeFencedMemberEpoch        Code = "FENCED_MEMBER_EPOCH"
	CodeUnreleasedInstanceID     Code = "UNRELEASED_INSTANCE_ID"
	CodeGroupMaxSizeReached      Code = "GROUP_MAX_SIZE_REACHED"
	CodeInconsistentProtocol     Code = "INCONSISTENT_GROUP_PROTOCOL"
	CodeMemberIDRequired         Code = "MEMBER_ID_REQUIRED"
	CodeInvalidSessionTimeout    Code = "INVALID_SESSION_TIMEOUT"
	CodeNonEmptyGroup            Code = "NON_EMPTY_GROUP"
	CodeSubscribedToTopic        Code = "GROUP_SUBSCRIBED_TO_TOPIC"
	CodeUnsupportedAssignor      Code = "UNSUPPORTED_ASSIGNOR"
	CodeInvalidRegularExpression Code = "INVALID_REGULAR_EXPRESSION"
	CodeUnknownTopicOrPartition  Code = "UNKNOWN_TOPIC_OR_PARTITION"
	CodeUnknownTopicID           Code = "UNKNOWN_TOPIC_ID"
	CodeOffsetMetadataTooLarge   Code = "OFFSET_METADATA_TOO_LARGE"
	CodeUnstableOffsetCommit     Code = "UNSTABLE_OFFSET_COMMIT"
	CodeInvalidProducerEpoch     Code = "INVALID_PRODUCER_EPOCH"
	CodeCoordinatorFenced        Code = "TRANSACTION_COORDINATOR_FENCED"
)

// Error is why a coordinator refused or failed, and whether the operation may have happened all the same. Nobody above turns
// MayHaveHappened into DidNotHappen (R2).
type Error struct {
	Code    Code
	Message string
	Outcome raftgroup.Outcome
	// Field of the request that is at fault, and the limit it broke; empty: none in particular.
	Field, Limit string
	// Coordinator is the broker to ask instead, as far as this one has heard; nil: not known, or beside the point.
	Coordinator *int32
	// Event is the last thing that happened to the id, where that explains the refusal; nil: nothing is known.
	Event *txn.Event
	Cause error
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

// errorOf finds the *Error in an error, or makes one that says that nothing is known.
func errorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeUnknown, Message: "unexpected failure", Outcome: raftgroup.MayHaveHappened, Cause: err}
}

// refused makes an error for something that certainly did not happen.
func refused(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Outcome: raftgroup.DidNotHappen}
}

// badField is refused for a field of the request.
func badField(code Code, field, limit, format string, args ...any) *Error {
	e := refused(code, format, args...)
	e.Field, e.Limit = field, limit
	return e
}
