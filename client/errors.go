package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// Outcome says what is known of an operation that was asked for: a record to be written, a topic
// to be created. Nothing in this package turns Unknown into one of the other two without proof.
type Outcome uint8

const (
	// Unknown: it may have happened, now or later, once. The zero value, because it is the one
	// that promises nothing.
	Unknown Outcome = iota
	// NotWritten: it did not happen and will not.
	NotWritten
	// Written: it happened.
	Written
)

// String gives "unknown", "not written" or "written".
func (o Outcome) String() string {
	switch o {
	case Written:
		return "written"
	case NotWritten:
		return "not written"
	default:
		return "unknown"
	}
}

// Reasons that this package itself gives or acts upon. Brokers send others too; all are the names
// of Kafka's errors in upper snake case, and stable.
const (
	ReasonOutOfOrderSequence      = "OUT_OF_ORDER_SEQUENCE_NUMBER"
	ReasonInvalidProducerEpoch    = "INVALID_PRODUCER_EPOCH"
	ReasonMessageTooLarge         = "MESSAGE_TOO_LARGE"
	ReasonRecordListTooLarge      = "RECORD_LIST_TOO_LARGE"
	ReasonNotLeader               = "NOT_LEADER_OR_FOLLOWER"
	ReasonLeaderNotAvailable      = "LEADER_NOT_AVAILABLE"
	ReasonFencedLeaderEpoch       = "FENCED_LEADER_EPOCH"
	ReasonUnknownLeaderEpoch      = "UNKNOWN_LEADER_EPOCH"
	ReasonUnknownTopicOrPartition = "UNKNOWN_TOPIC_OR_PARTITION"
	ReasonInconsistentTopicID     = "INCONSISTENT_TOPIC_ID"
	ReasonUnknownTopicID          = "UNKNOWN_TOPIC_ID"
	ReasonTopicAlreadyExists      = "TOPIC_ALREADY_EXISTS"
	ReasonOffsetOutOfRange        = "OFFSET_OUT_OF_RANGE"
	ReasonOffsetNotAvailable      = "OFFSET_NOT_AVAILABLE"
	ReasonRequestTimedOut         = "REQUEST_TIMED_OUT"
	ReasonCorruptMessage          = "CORRUPT_MESSAGE"

	// Reasons of transactions.
	ReasonProducerFenced           = "PRODUCER_FENCED"
	ReasonInvalidTxnState          = "INVALID_TXN_STATE"
	ReasonInvalidProducerIDMapping = "INVALID_PRODUCER_ID_MAPPING"
	ReasonTransactionalIDNotFound  = "TRANSACTIONAL_ID_NOT_FOUND"
	ReasonConcurrentTransactions   = "CONCURRENT_TRANSACTIONS"
	ReasonTransactionAbortable     = "TRANSACTION_ABORTABLE"
	ReasonNotCoordinator           = "NOT_COORDINATOR"
	ReasonCoordinatorNotAvailable  = "COORDINATOR_NOT_AVAILABLE"
	ReasonCoordinatorLoading       = "COORDINATOR_LOAD_IN_PROGRESS"

	// ReasonStaleMemberEpoch: the member does not have the partitions, or not any more.
	ReasonStaleMemberEpoch = "STALE_MEMBER_EPOCH"

	// ReasonNetwork: no broker answered, the connection broke, or an answer did not come in time.
	ReasonNetwork = "NETWORK_EXCEPTION"
	// ReasonDeliveryTimeout: ProducerConfig.DeliveryTimeout passed before the outcome was known.
	ReasonDeliveryTimeout = "DELIVERY_TIMEOUT"
	// ReasonBufferExhausted: ProducerConfig.BufferBytes stayed full for MaxBlock.
	ReasonBufferExhausted = "BUFFER_EXHAUSTED"
	// ReasonClosed: the client, producer or consumer was closed.
	ReasonClosed = "CLIENT_CLOSED"
	// ReasonInvalidConfig: a Config field is out of its range; the message names both.
	ReasonInvalidConfig = "INVALID_CONFIG"
	// ReasonCanceled: the caller's context ended first.
	ReasonCanceled = "CANCELED"
)

// Sentinels for errors.Is; any *Error with the same reason matches.
var (
	ErrUnknownTopicOrPartition = &Error{Reason: ReasonUnknownTopicOrPartition}
	ErrTopicAlreadyExists      = &Error{Reason: ReasonTopicAlreadyExists}
	ErrOffsetOutOfRange        = &Error{Reason: ReasonOffsetOutOfRange}
	ErrMessageTooLarge         = &Error{Reason: ReasonMessageTooLarge}
	ErrDeliveryTimeout         = &Error{Reason: ReasonDeliveryTimeout}
	ErrBufferExhausted         = &Error{Reason: ReasonBufferExhausted}
	ErrNetwork                 = &Error{Reason: ReasonNetwork}
	ErrClosed                  = &Error{Reason: ReasonClosed}
	ErrInvalidConfig           = &Error{Reason: ReasonInvalidConfig}
	ErrProducerFenced          = &Error{Reason: ReasonProducerFenced}
)

// Leader is where a partition is led from, as somebody believed when they said so.
type Leader struct {
	// Broker is -1 where no leader is known.
	Broker int32
	// Epoch rises with every new leader; -1 where it is not known.
	Epoch int32
	// Address is the leader's advertised gRPC address; may be empty.
	Address string
}

// Error is every failure that this package reports, except misuse of a context.
// errors.Is compares reasons: errors.Is(err, client.ErrUnknownTopicOrPartition).
type Error struct {
	// Reason is stable and meant for programs: one of the Reason constants, or another name of a
	// Kafka error that a broker gave.
	Reason string
	// Message is for people. It says what was found, what was wanted, and often what to do next.
	Message string
	// Outcome is NotWritten when the operation did not happen, Unknown when it may have.
	Outcome Outcome
	// Retriable says that the same call may succeed later.
	Retriable bool
	// RetryAfter is how long the broker asks to wait; 0 when it does not say.
	RetryAfter time.Duration
	// TopicPartition is set where one partition is meant; with Partition -1 the topic is.
	TopicPartition record.TopicPartition
	// Leader is who leads the partition, where the broker that was asked does not and knows better.
	Leader *Leader
	// Metadata holds what belongs to the reason, such as the limit that was passed.
	Metadata map[string]string
	// Abortable says that the open transaction cannot be committed any more. TransactionalProducer.Abort ends it, and the
	// producer goes on with the next one.
	Abortable bool
	// Fatal says that the transactional producer is over: another one has taken its transactional id, or the brokers
	// refuse it for good. It can only be closed.
	Fatal bool
	// Event is the last thing that happened to the transactional id, where that explains the error, such as who fenced the
	// producer; nil where the brokers know of none.
	Event *TransactionEvent

	cause error
}

// Error gives reason, partition and message on one line.
func (e *Error) Error() string {
	var b strings.Builder
	switch tp := e.TopicPartition; {
	case tp.Topic != "" && tp.Partition >= 0:
		b.WriteString(tp.String() + ": ")
	case tp.Topic != "":
		b.WriteString("topic " + tp.Topic + ": ")
	}
	b.WriteString(e.Reason)
	if e.Message != "" {
		b.WriteString(": ")
		b.WriteString(e.Message)
	}
	if e.Event != nil {
		b.WriteString(" (" + e.Event.String() + ")")
	}
	return b.String()
}

// Unwrap gives what lies below: a gRPC status error, a context's error, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is matches any *Error with the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// OutcomeOf says what an error of this package means for the operation: NotWritten when it did
// not happen, Written for a nil error, and Unknown for all that prove nothing.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Written
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Outcome
	}
	return Unknown
}

// at returns a copy of the error that names the partition.
func (e *Error) at(tp record.TopicPartition) *Error {
	c := *e
	c.TopicPartition = tp
	return &c
}

// refusal is an error for something that did not happen.
func refusal(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Outcome: NotWritten}
}

// fromProto makes an Error of a failure inside an answer.
func fromProto(e *clientv1.Error) *Error {
	if e == nil {
		return nil
	}
	out := &Error{
		Reason: e.GetReason(), Message: e.GetMessage(), Retriable: e.GetRetriable(), Metadata: e.GetMetadata(),
		Outcome: Unknown,
	}
	if e.GetOutcome() == clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
		out.Outcome = NotWritten
	}
	if l := e.GetLeader(); l != nil {
		out.Leader = &Leader{Broker: l.GetBrokerId(), Epoch: l.GetEpoch(), Address: l.GetAddress()}
	}
	if e.GetEvent() != nil {
		event := eventOf(e.GetEvent())
		out.Event = &event
	}
	return out
}

// fromCall makes an Error of a failed gRPC call. The outcome of a call that broke in the middle
// is Unknown; callers of mere questions do not care.
func fromCall(err error, broker string) *Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	if p, after, ok := clientv1.ErrorOf(err); ok {
		e := fromProto(p)
		e.RetryAfter = after
		e.cause = err
		return e
	}
	e := &Error{Reason: ReasonNetwork, Outcome: Unknown, Retriable: true, cause: err}
	if broker != "" {
		e.Message = "broker " + broker + ": "
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		e.Reason = ReasonCanceled
		e.Message += err.Error()
		return e
	}
	st, _ := status.FromError(err)
	text := plain(st.Message())
	e.Message += text
	switch st.Code() {
	case codes.Unavailable:
		// A call that was sent fails with the end of its connection; this one found none to be sent over.
		if strings.HasPrefix(text, noConnection) {
			e.Outcome = NotWritten
		}
	case codes.DeadlineExceeded:
		e.Message = fmt.Sprintf("broker %s did not answer in time", broker)
	case codes.Canceled:
		e.Reason = ReasonCanceled
	case codes.Unimplemented:
		e.Retriable = false
		e.Outcome = NotWritten
		e.Message = fmt.Sprintf("%s does not serve this call; is it the gRPC port (9095) of a broker? (%s)", broker, st.Message())
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
		e.Retriable = false
		e.Reason = strings.ToUpper(strings.ReplaceAll(st.Code().String(), " ", "_"))
		e.Outcome = NotWritten
	}
	return e
}

// noConnection begins the message of a call that could not be sent.
const noConnection = "cannot connect: "

// plain takes gRPC's wrapping off the description of a broken connection.
func plain(message string) string {
	if _, quoted, ok := strings.Cut(message, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(quoted); err == nil {
			message = inner
		}
	}
	message = strings.TrimPrefix(message, "transport: ")
	if cause, ok := strings.CutPrefix(message, "Error while dialing: "); ok {
		return noConnection + cause
	}
	return message
}

// staleMetadata says that an error calls for fresh metadata.
func (e *Error) staleMetadata() bool {
	switch e.Reason {
	case ReasonNotLeader, ReasonLeaderNotAvailable, ReasonFencedLeaderEpoch, ReasonUnknownLeaderEpoch,
		ReasonUnknownTopicOrPartition, ReasonUnknownTopicID, ReasonNetwork, ReasonRequestTimedOut, ReasonOffsetNotAvailable,
		"KAFKA_STORAGE_ERROR":
		return true
	}
	return false
}

// canceled is the error for a caller whose context ended while outcome still held.
func canceled(ctx context.Context, outcome Outcome, what string) *Error {
	return &Error{Reason: ReasonCanceled, Message: what + ": " + context.Cause(ctx).Error(), Outcome: outcome, cause: context.Cause(ctx)}
}
