package metadata

import "fmt"

// Code is the reason of a refusal: the name of the error in Kafka's protocol.
type Code string

// The reasons for which a command is refused. Each keeps its name for ever: clients see it.
const (
	TopicAlreadyExists          Code = "TOPIC_ALREADY_EXISTS"
	InvalidTopic                Code = "INVALID_TOPIC_EXCEPTION"
	InvalidPartitions           Code = "INVALID_PARTITIONS"
	InvalidReplicationFactor    Code = "INVALID_REPLICATION_FACTOR"
	InvalidReplicaAssignment    Code = "INVALID_REPLICA_ASSIGNMENT"
	NoReassignmentInProgress    Code = "NO_REASSIGNMENT_IN_PROGRESS"
	InvalidConfig               Code = "INVALID_CONFIG"
	UnknownTopicOrPartition     Code = "UNKNOWN_TOPIC_OR_PARTITION"
	UnknownTopicID              Code = "UNKNOWN_TOPIC_ID"
	PolicyViolation             Code = "POLICY_VIOLATION"
	InvalidRequest              Code = "INVALID_REQUEST"
	InvalidUpdateVersion        Code = "INVALID_UPDATE_VERSION"
	FeatureUpdateFailed         Code = "FEATURE_UPDATE_FAILED"
	UnsupportedVersion          Code = "UNSUPPORTED_VERSION"
	InconsistentClusterID       Code = "INCONSISTENT_CLUSTER_ID"
	DuplicateBrokerRegistration Code = "DUPLICATE_BROKER_REGISTRATION"
	BrokerIDNotRegistered       Code = "BROKER_ID_NOT_REGISTERED"
	StaleBrokerEpoch            Code = "STALE_BROKER_EPOCH"
	ResourceInUse               Code = "RESOURCE_IN_USE"
	UnacceptableCredential      Code = "UNACCEPTABLE_CREDENTIAL"
	UnsupportedSaslMechanism    Code = "UNSUPPORTED_SASL_MECHANISM"
)

// Error is the refusal of a command: nothing was changed, and the same command would be refused again
// as long as the metadata stays as it is.
type Error struct {
	Code Code
	// Message is for people; it names what was asked and what is allowed.
	Message string
	// Field of the request that is at fault; empty: none in particular.
	Field string
	// Limit that was broken, as a number or range; empty: none.
	Limit string
}

// Error gives the code and the message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is tells whether target is an *Error with the same code, so that errors.Is can compare with
// &Error{Code: ...}.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func refuse(code Code, field, format string, args ...any) *Error {
	return &Error{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) limit(l any) *Error {
	e.Limit = fmt.Sprint(l)
	return e
}
