package frontdoor

import (
	"time"

	"google.golang.org/grpc/codes"
)

// Retry says what a client that meets an error should do with the same request.
type Retry uint8

const (
	// RetryNever: it would fail again until the client or somebody else changes something.
	RetryNever Retry = iota
	// RetryLater: send it to the same broker again after a pause.
	RetryLater
	// RetryElsewhere: refresh the metadata first; another broker should get it.
	RetryElsewhere
)

// Pause is what clients are asked to wait before a retry; they back off from there.
func (r Retry) Pause() time.Duration {
	switch r {
	case RetryLater:
		return 100 * time.Millisecond
	case RetryElsewhere:
		return 20 * time.Millisecond
	}
	return 0
}

// Reasons that the listeners give themselves. Those that domains give have constants there.
const (
	ReasonUnknown          = "UNKNOWN_SERVER_ERROR"
	ReasonInvalidRequest   = "INVALID_REQUEST"
	ReasonInvalidAcks      = "INVALID_REQUIRED_ACKS"
	ReasonInvalidTimestamp = "INVALID_TIMESTAMP"
	ReasonInvalidRecord    = "INVALID_RECORD"
	ReasonTooLarge         = "MESSAGE_TOO_LARGE"
	ReasonUnsupported      = "UNSUPPORTED_VERSION"
	ReasonTxnUnauthorised  = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
	ReasonUnknownTopic     = "UNKNOWN_TOPIC_OR_PARTITION"
	ReasonNotLeader        = "NOT_LEADER_OR_FOLLOWER"
	ReasonTimedOut         = "REQUEST_TIMED_OUT"
	ReasonBusy             = "BROKER_BUSY"
	ReasonCancelled        = "REQUEST_CANCELLED"
	ReasonStopping         = "BROKER_STOPPING"
	ReasonCorrupt          = "CORRUPT_MESSAGE"
	ReasonSaslMechanism    = "UNSUPPORTED_SASL_MECHANISM"
	ReasonSaslState        = "ILLEGAL_SASL_STATE"
	ReasonSaslFailed       = "SASL_AUTHENTICATION_FAILED"
	ReasonUnauthenticated  = "UNAUTHENTICATED"
	ReasonTopicDenied      = "TOPIC_AUTHORIZATION_FAILED"
	ReasonGroupDenied      = "GROUP_AUTHORIZATION_FAILED"
	ReasonClusterDenied    = "CLUSTER_AUTHORIZATION_FAILED"
	ReasonSecurityDisabled = "SECURITY_DISABLED"
	ReasonNotFound         = "RESOURCE_NOT_FOUND"
	ReasonDuplicate        = "DUPLICATE_RESOURCE"
	ReasonBadCredential    = "UNACCEPTABLE_CREDENTIAL"
)

// Kind is one line of the error table.
type Kind struct {
	// Reason is Kafka's name of the error, or a name of ours.
	Reason string
	// Kafka is the error's code in Kafka's protocol; for names of ours the nearest one.
	Kafka int16
	Ours  bool
	GRPC  codes.Code
	Retry Retry
	// MayHaveHappened is the outcome where the error itself does not say.
	MayHaveHappened bool
}

// Kinds is the table of errors: all that the domains and both listeners can answer. The caller must not change it.
var Kinds = [...]Kind{
	{Reason: ReasonUnknown, Kafka: -1, GRPC: codes.Internal, MayHaveHappened: true},
	{Reason: "OFFSET_OUT_OF_RANGE", Kafka: 1, GRPC: codes.OutOfRange},
	{Reason: ReasonCorrupt, Kafka: 2, GRPC: codes.InvalidArgument, Retry: RetryLater}, // retriable in Kafka: damage in transit
	{Reason: ReasonUnknownTopic, Kafka: 3, GRPC: codes.NotFound, Retry: RetryElsewhere},
	{Reason: "LEADER_NOT_AVAILABLE", Kafka: 5, GRPC: codes.Unavailable, Retry: RetryElsewhere},
	{Reason: ReasonNotLeader, Kafka: 6, GRPC: codes.FailedPrecondition, Retry: RetryElsewhere},
	{Reason: ReasonTimedOut, Kafka: 7, GRPC: codes.DeadlineExceeded, Retry: RetryLater, MayHaveHappened: true},
	{Reason: "BROKER_NOT_AVAILABLE", Kafka: 8, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: ReasonTooLarge, Kafka: 10, GRPC: codes.InvalidArgument},
	{Reason: "OFFSET_METADATA_TOO_LARGE", Kafka: 12, GRPC: codes.InvalidArgument},
	{Reason: "COORDINATOR_LOAD_IN_PROGRESS", Kafka: 14, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "COORDINATOR_NOT_AVAILABLE", Kafka: 15, GRPC: codes.Unavailable, Retry: RetryElsewhere},
	{Reason: "NOT_COORDINATOR", Kafka: 16, GRPC: codes.FailedPrecondition, Retry: RetryElsewhere},
	{Reason: "INVALID_TOPIC_EXCEPTION", Kafka: 17, GRPC: codes.InvalidArgument},
	{Reason: "RECORD_LIST_TOO_LARGE", Kafka: 18, GRPC: codes.InvalidArgument},
	{Reason: "NOT_ENOUGH_REPLICAS", Kafka: 19, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", Kafka: 20, GRPC: codes.Unavailable, Retry: RetryLater, MayHaveHappened: true},
	{Reason: ReasonInvalidAcks, Kafka: 21, GRPC: codes.InvalidArgument},
	{Reason: "ILLEGAL_GENERATION", Kafka: 22, GRPC: codes.FailedPrecondition},
	{Reason: "INCONSISTENT_GROUP_PROTOCOL", Kafka: 23, GRPC: codes.FailedPrecondition},
	{Reason: "INVALID_GROUP_ID", Kafka: 24, GRPC: codes.InvalidArgument},
	{Reason: "UNKNOWN_MEMBER_ID", Kafka: 25, GRPC: codes.FailedPrecondition},
	{Reason: "INVALID_SESSION_TIMEOUT", Kafka: 26, GRPC: codes.InvalidArgument},
	{Reason: "REBALANCE_IN_PROGRESS", Kafka: 27, GRPC: codes.Aborted},
	{Reason: ReasonTopicDenied, Kafka: 29, GRPC: codes.PermissionDenied},
	{Reason: ReasonGroupDenied, Kafka: 30, GRPC: codes.PermissionDenied},
	{Reason: ReasonClusterDenied, Kafka: 31, GRPC: codes.PermissionDenied},
	{Reason: ReasonInvalidTimestamp, Kafka: 32, GRPC: codes.InvalidArgument},
	{Reason: ReasonSaslMechanism, Kafka: 33, GRPC: codes.InvalidArgument},
	{Reason: ReasonSaslState, Kafka: 34, GRPC: codes.FailedPrecondition},
	{Reason: ReasonUnsupported, Kafka: 35, GRPC: codes.Unimplemented},
	{Reason: "TOPIC_ALREADY_EXISTS", Kafka: 36, GRPC: codes.AlreadyExists},
	{Reason: "INVALID_PARTITIONS", Kafka: 37, GRPC: codes.InvalidArgument},
	{Reason: "INVALID_REPLICATION_FACTOR", Kafka: 38, GRPC: codes.InvalidArgument},
	{Reason: "INVALID_REPLICA_ASSIGNMENT", Kafka: 39, GRPC: codes.InvalidArgument},
	{Reason: "INVALID_CONFIG", Kafka: 40, GRPC: codes.InvalidArgument},
	{Reason: "NOT_CONTROLLER", Kafka: 41, GRPC: codes.Unavailable, Retry: RetryLater}, // brokers forward: this one found nobody to forward to
	{Reason: ReasonInvalidRequest, Kafka: 42, GRPC: codes.InvalidArgument},
	{Reason: "POLICY_VIOLATION", Kafka: 44, GRPC: codes.FailedPrecondition},
	{Reason: "OUT_OF_ORDER_SEQUENCE_NUMBER", Kafka: 45, GRPC: codes.FailedPrecondition}, // the producer resolves it by its own rules (P35)
	{Reason: "INVALID_PRODUCER_EPOCH", Kafka: 47, GRPC: codes.FailedPrecondition},
	{Reason: "INVALID_TXN_STATE", Kafka: 48, GRPC: codes.FailedPrecondition},
	{Reason: "INVALID_PRODUCER_ID_MAPPING", Kafka: 49, GRPC: codes.InvalidArgument},
	{Reason: "INVALID_TRANSACTION_TIMEOUT", Kafka: 50, GRPC: codes.InvalidArgument},
	{Reason: "CONCURRENT_TRANSACTIONS", Kafka: 51, GRPC: codes.Aborted, Retry: RetryLater}, // the markers of the last transaction are on their way
	{Reason: "TRANSACTION_COORDINATOR_FENCED", Kafka: 52, GRPC: codes.FailedPrecondition},
	{Reason: ReasonTxnUnauthorised, Kafka: 53, GRPC: codes.PermissionDenied},
	{Reason: ReasonSecurityDisabled, Kafka: 54, GRPC: codes.FailedPrecondition},
	{Reason: ReasonSaslFailed, Kafka: 58, GRPC: codes.Unauthenticated},
	{Reason: "KAFKA_STORAGE_ERROR", Kafka: 56, GRPC: codes.Unavailable, Retry: RetryElsewhere, MayHaveHappened: true},
	{Reason: "NON_EMPTY_GROUP", Kafka: 68, GRPC: codes.FailedPrecondition},
	{Reason: "GROUP_ID_NOT_FOUND", Kafka: 69, GRPC: codes.NotFound},
	{Reason: "FENCED_LEADER_EPOCH", Kafka: 74, GRPC: codes.FailedPrecondition, Retry: RetryElsewhere},
	{Reason: "UNKNOWN_LEADER_EPOCH", Kafka: 75, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "UNSUPPORTED_COMPRESSION_TYPE", Kafka: 76, GRPC: codes.InvalidArgument},
	{Reason: "STALE_BROKER_EPOCH", Kafka: 77, GRPC: codes.FailedPrecondition},
	{Reason: "OFFSET_NOT_AVAILABLE", Kafka: 78, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "MEMBER_ID_REQUIRED", Kafka: 79, GRPC: codes.FailedPrecondition},
	{Reason: "PREFERRED_LEADER_NOT_AVAILABLE", Kafka: 80, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "GROUP_MAX_SIZE_REACHED", Kafka: 81, GRPC: codes.ResourceExhausted},
	{Reason: "FENCED_INSTANCE_ID", Kafka: 82, GRPC: codes.FailedPrecondition},
	{Reason: "ELIGIBLE_LEADERS_NOT_AVAILABLE", Kafka: 83, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "ELECTION_NOT_NEEDED", Kafka: 84, GRPC: codes.FailedPrecondition},
	{Reason: "GROUP_SUBSCRIBED_TO_TOPIC", Kafka: 86, GRPC: codes.FailedPrecondition},
	{Reason: ReasonInvalidRecord, Kafka: 87, GRPC: codes.InvalidArgument},
	{Reason: "NO_REASSIGNMENT_IN_PROGRESS", Kafka: 85, GRPC: codes.FailedPrecondition},
	{Reason: "UNSTABLE_OFFSET_COMMIT", Kafka: 88, GRPC: codes.Unavailable, Retry: RetryLater},
	{Reason: "THROTTLING_QUOTA_EXCEEDED", Kafka: 89, GRPC: codes.ResourceExhausted, Retry: RetryLater},
	{Reason: "PRODUCER_FENCED", Kafka: 90, GRPC: codes.FailedPrecondition}, // a newer producer owns the transactional id: this one is over
	{Reason: ReasonNotFound, Kafka: 91, GRPC: codes.NotFound},
	{Reason: ReasonDuplicate, Kafka: 92, GRPC: codes.InvalidArgument},
	{Reason: ReasonBadCredential, Kafka: 93, GRPC: codes.InvalidArgument},
	{Reason: "INVALID_UPDATE_VERSION", Kafka: 95, GRPC: codes.InvalidArgument},
	{Reason: "FEATURE_UPDATE_FAILED", Kafka: 96, GRPC: codes.FailedPrecondition},
	{Reason: "UNKNOWN_TOPIC_ID", Kafka: 100, GRPC: codes.NotFound, Retry: RetryElsewhere},
	{Reason: "DUPLICATE_BROKER_REGISTRATION", Kafka: 101, GRPC: codes.AlreadyExists},
	{Reason: "BROKER_ID_NOT_REGISTERED", Kafka: 102, GRPC: codes.FailedPrecondition},
	{Reason: "INCONSISTENT_CLUSTER_ID", Kafka: 104, GRPC: codes.FailedPrecondition},
	{Reason: "TRANSACTIONAL_ID_NOT_FOUND", Kafka: 105, GRPC: codes.NotFound},
	{Reason: "FENCED_MEMBER_EPOCH", Kafka: 110, GRPC: codes.FailedPrecondition},
	{Reason: "UNRELEASED_INSTANCE_ID", Kafka: 111, GRPC: codes.FailedPrecondition},
	{Reason: "UNSUPPORTED_ASSIGNOR", Kafka: 112, GRPC: codes.InvalidArgument},
	{Reason: "STALE_MEMBER_EPOCH", Kafka: 113, GRPC: codes.FailedPrecondition},
	{Reason: "TRANSACTION_ABORTABLE", Kafka: 120, GRPC: codes.Aborted}, // abort the transaction; the next one may go well
	{Reason: "INVALID_REGULAR_EXPRESSION", Kafka: 128, GRPC: codes.InvalidArgument},

	// Said by the Kafka listener alone.
	{Reason: "OPERATION_NOT_ATTEMPTED", Kafka: 55, GRPC: codes.FailedPrecondition},
	{Reason: "FETCH_SESSION_ID_NOT_FOUND", Kafka: 70, GRPC: codes.NotFound, Retry: RetryLater},
	{Reason: "INVALID_FETCH_SESSION_EPOCH", Kafka: 71, GRPC: codes.FailedPrecondition, Retry: RetryLater},
	{Reason: "FETCH_SESSION_TOPIC_ID_ERROR", Kafka: 106, GRPC: codes.FailedPrecondition, Retry: RetryLater},

	{Reason: ReasonUnauthenticated, Ours: true, Kafka: 58, GRPC: codes.Unauthenticated},
	{Reason: ReasonBusy, Ours: true, Kafka: 89, GRPC: codes.ResourceExhausted, Retry: RetryLater},
	{Reason: ReasonStopping, Ours: true, Kafka: 8, GRPC: codes.Unavailable, Retry: RetryElsewhere},
	{Reason: ReasonCancelled, Ours: true, Kafka: 7, GRPC: codes.Canceled, MayHaveHappened: true},
	{Reason: "RESOURCE_IN_USE", Ours: true, Kafka: 44, GRPC: codes.FailedPrecondition},
}

var kindOf = func() map[string]*Kind {
	m := make(map[string]*Kind, len(Kinds))
	for i := range Kinds {
		m[Kinds[i].Reason] = &Kinds[i]
	}
	return m
}()

// KindOf finds a reason's line; nil: there is none.
func KindOf(reason string) *Kind { return kindOf[reason] }
