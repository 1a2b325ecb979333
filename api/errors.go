package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// retry says what a client that meets an error should do with the same request.
type retry uint8

const (
	// retryNever: it would fail again until the client or somebody else changes something.
	retryNever retry = iota
	// retryLater: send it to the same broker again after a pause.
	retryLater
	// retryElsewhere: refresh the metadata first; another broker should get it.
	retryElsewhere
)

// pause is what RetryInfo asks clients to wait before a retry; they back off from there.
func (r retry) pause() time.Duration {
	switch r {
	case retryLater:
		return 100 * time.Millisecond
	case retryElsewhere:
		return 20 * time.Millisecond
	}
	return 0
}

// Reasons that this package gives itself. Those that other packages give have constants there.
const (
	reasonUnknown          = "UNKNOWN_SERVER_ERROR"
	reasonInvalidRequest   = "INVALID_REQUEST"
	reasonInvalidAcks      = "INVALID_REQUIRED_ACKS"
	reasonInvalidTimestamp = "INVALID_TIMESTAMP"
	reasonInvalidRecord    = "INVALID_RECORD"
	reasonTooLarge         = "MESSAGE_TOO_LARGE"
	reasonUnsupported      = "UNSUPPORTED_VERSION"
	reasonTxnUnauthorised  = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
	reasonUnknownTopic     = "UNKNOWN_TOPIC_OR_PARTITION"
	reasonNotLeader        = "NOT_LEADER_OR_FOLLOWER"
	reasonTimedOut         = "REQUEST_TIMED_OUT"
	reasonBusy             = "BROKER_BUSY"
	reasonCancelled        = "REQUEST_CANCELLED"
	reasonStopping         = "BROKER_STOPPING"
	reasonCorrupt          = "CORRUPT_MESSAGE"
)

// kind is one line of the error table.
type kind struct {
	// reason is Kafka's name of the error, or a name of ours.
	reason string
	// kafka is the error's code in Kafka's protocol; for names of ours the nearest one.
	kafka int16
	ours  bool
	grpc  codes.Code
	retry retry
	// mayHaveHappened is the outcome where the error itself does not say.
	mayHaveHappened bool
}

// kinds is the table of errors: all that a client can be answered with.
var kinds = [...]kind{
	{reason: reasonUnknown, kafka: -1, grpc: codes.Internal, mayHaveHappened: true},
	{reason: "OFFSET_OUT_OF_RANGE", kafka: 1, grpc: codes.OutOfRange},
	{reason: reasonCorrupt, kafka: 2, grpc: codes.InvalidArgument, retry: retryLater}, // retriable in Kafka: damage in transit
	{reason: reasonUnknownTopic, kafka: 3, grpc: codes.NotFound, retry: retryElsewhere},
	{reason: "LEADER_NOT_AVAILABLE", kafka: 5, grpc: codes.Unavailable, retry: retryElsewhere},
	{reason: reasonNotLeader, kafka: 6, grpc: codes.FailedPrecondition, retry: retryElsewhere},
	{reason: reasonTimedOut, kafka: 7, grpc: codes.DeadlineExceeded, retry: retryLater, mayHaveHappened: true},
	{reason: "BROKER_NOT_AVAILABLE", kafka: 8, grpc: codes.Unavailable, retry: retryLater},
	{reason: reasonTooLarge, kafka: 10, grpc: codes.InvalidArgument},
	{reason: "COORDINATOR_LOAD_IN_PROGRESS", kafka: 14, grpc: codes.Unavailable, retry: retryLater},
	{reason: "COORDINATOR_NOT_AVAILABLE", kafka: 15, grpc: codes.Unavailable, retry: retryElsewhere},
	{reason: "NOT_COORDINATOR", kafka: 16, grpc: codes.FailedPrecondition, retry: retryElsewhere},
	{reason: "INVALID_TOPIC_EXCEPTION", kafka: 17, grpc: codes.InvalidArgument},
	{reason: "RECORD_LIST_TOO_LARGE", kafka: 18, grpc: codes.InvalidArgument},
	{reason: "NOT_ENOUGH_REPLICAS", kafka: 19, grpc: codes.Unavailable, retry: retryLater},
	{reason: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", kafka: 20, grpc: codes.Unavailable, retry: retryLater, mayHaveHappened: true},
	{reason: reasonInvalidAcks, kafka: 21, grpc: codes.InvalidArgument},
	{reason: reasonInvalidTimestamp, kafka: 32, grpc: codes.InvalidArgument},
	{reason: reasonUnsupported, kafka: 35, grpc: codes.Unimplemented},
	{reason: "TOPIC_ALREADY_EXISTS", kafka: 36, grpc: codes.AlreadyExists},
	{reason: "INVALID_PARTITIONS", kafka: 37, grpc: codes.InvalidArgument},
	{reason: "INVALID_REPLICATION_FACTOR", kafka: 38, grpc: codes.InvalidArgument},
	{reason: "INVALID_REPLICA_ASSIGNMENT", kafka: 39, grpc: codes.InvalidArgument},
	{reason: "INVALID_CONFIG", kafka: 40, grpc: codes.InvalidArgument},
	{reason: "NOT_CONTROLLER", kafka: 41, grpc: codes.Unavailable, retry: retryLater}, // brokers forward: this one found nobody to forward to
	{reason: reasonInvalidRequest, kafka: 42, grpc: codes.InvalidArgument},
	{reason: "POLICY_VIOLATION", kafka: 44, grpc: codes.FailedPrecondition},
	{reason: "OUT_OF_ORDER_SEQUENCE_NUMBER", kafka: 45, grpc: codes.FailedPrecondition}, // the producer resolves it by its own rules (P35)
	{reason: "INVALID_PRODUCER_EPOCH", kafka: 47, grpc: codes.FailedPrecondition},
	{reason: "INVALID_TXN_STATE", kafka: 48, grpc: codes.FailedPrecondition},
	{reason: "INVALID_PRODUCER_ID_MAPPING", kafka: 49, grpc: codes.InvalidArgument},
	{reason: "INVALID_TRANSACTION_TIMEOUT", kafka: 50, grpc: codes.InvalidArgument},
	{reason: "CONCURRENT_TRANSACTIONS", kafka: 51, grpc: codes.Aborted, retry: retryLater}, // the markers of the last transaction are on their way
	{reason: "TRANSACTION_COORDINATOR_FENCED", kafka: 52, grpc: codes.FailedPrecondition},
	{reason: reasonTxnUnauthorised, kafka: 53, grpc: codes.PermissionDenied},
	{reason: "KAFKA_STORAGE_ERROR", kafka: 56, grpc: codes.Unavailable, retry: retryElsewhere, mayHaveHappened: true},
	{reason: "FENCED_LEADER_EPOCH", kafka: 74, grpc: codes.FailedPrecondition, retry: retryElsewhere},
	{reason: "UNKNOWN_LEADER_EPOCH", kafka: 75, grpc: codes.Unavailable, retry: retryLater},
	{reason: "UNSUPPORTED_COMPRESSION_TYPE", kafka: 76, grpc: codes.InvalidArgument},
	{reason: "STALE_BROKER_EPOCH", kafka: 77, grpc: codes.FailedPrecondition},
	{reason: "OFFSET_NOT_AVAILABLE", kafka: 78, grpc: codes.Unavailable, retry: retryLater},
	{reason: reasonInvalidRecord, kafka: 87, grpc: codes.InvalidArgument},
	{reason: "NO_REASSIGNMENT_IN_PROGRESS", kafka: 85, grpc: codes.FailedPrecondition},
	{reason: "THROTTLING_QUOTA_EXCEEDED", kafka: 89, grpc: codes.ResourceExhausted, retry: retryLater},
	{reason: "PRODUCER_FENCED", kafka: 90, grpc: codes.FailedPrecondition}, // a newer producer owns the transactional id: this one is over
	{reason: "INVALID_UPDATE_VERSION", kafka: 95, grpc: codes.InvalidArgument},
	{reason: "FEATURE_UPDATE_FAILED", kafka: 96, grpc: codes.FailedPrecondition},
	{reason: "UNKNOWN_TOPIC_ID", kafka: 100, grpc: codes.NotFound, retry: retryElsewhere},
	{reason: "DUPLICATE_BROKER_REGISTRATION", kafka: 101, grpc: codes.AlreadyExists},
	{reason: "BROKER_ID_NOT_REGISTERED", kafka: 102, grpc: codes.FailedPrecondition},
	{reason: "INCONSISTENT_CLUSTER_ID", kafka: 104, grpc: codes.FailedPrecondition},
	{reason: "TRANSACTIONAL_ID_NOT_FOUND", kafka: 105, grpc: codes.NotFound},
	{reason: "TRANSACTION_ABORTABLE", kafka: 120, grpc: codes.Aborted}, // abort the transaction; the next one may go well

	{reason: reasonBusy, ours: true, kafka: 89, grpc: codes.ResourceExhausted, retry: retryLater},
	{reason: reasonStopping, ours: true, kafka: 8, grpc: codes.Unavailable, retry: retryElsewhere},
	{reason: reasonCancelled, ours: true, kafka: 7, grpc: codes.Canceled, mayHaveHappened: true},
	{reason: "RESOURCE_IN_USE", ours: true, kafka: 44, grpc: codes.FailedPrecondition},
}

// kindOf finds a reason's line.
var kindOf = func() map[string]*kind {
	m := make(map[string]*kind, len(kinds))
	for i := range kinds {
		m[kinds[i].reason] = &kinds[i]
	}
	return m
}()

// refused makes the error for a request that certainly did nothing. field and limit may be empty.
func refused(reason, field, limit, format string, args ...any) *clientv1.Error {
	e := &clientv1.Error{Reason: reason, Message: valid(fmt.Sprintf(format, args...)), Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
	e.Retriable = kindOf[reason].retry != retryNever
	if field != "" {
		e.Metadata = map[string]string{"field": field}
		if limit != "" {
			e.Metadata["limit"] = limit
		}
	}
	return e
}

// ofDomain turns what a domain answered into what a client is told. What no table knows becomes
// UNKNOWN_SERVER_ERROR and is logged, here and nowhere else.
func (s *service) ofDomain(err error) *clientv1.Error {
	var (
		partitionErr *partition.Error
		recordErr    *record.Error
		metadataErr  *metadata.Error
		clusterErr   *cluster.Error
		coordErr     *coordinator.Error
	)
	e := &clientv1.Error{Message: err.Error(), Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
	switch {
	case errors.As(err, &partitionErr):
		e.Reason, e.Message, e.Outcome = string(partitionErr.Code), partitionErr.Message, outcomeOf(partitionErr.Outcome)
		if l := partitionErr.Leader; l != nil {
			e.Leader = s.leader(*l)
		}
	case errors.As(err, &coordErr):
		s.ofCoordinator(coordErr, e)
	case errors.As(err, &recordErr):
		e.Reason, e.Message = recordErr.Code.String(), recordErr.Message
		if recordErr.Record >= 0 {
			e.Metadata = map[string]string{"record": strconv.Itoa(recordErr.Record)}
			e.Message = fmt.Sprintf("record %d: %s", recordErr.Record, recordErr.Message)
		}
	case errors.As(err, &metadataErr):
		e.Reason, e.Message, e.Metadata = string(metadataErr.Code), metadataErr.Message, fieldAndLimit(metadataErr.Field, metadataErr.Limit)
	case errors.As(err, &clusterErr):
		e.Reason, e.Message, e.Outcome = string(clusterErr.Code), clusterErr.Message, outcomeOf(clusterErr.Outcome)
	default:
		s.ofOthers(err, e)
	}
	k := kindOf[e.Reason]
	if k == nil {
		s.metrics.unknownErrors.Inc()
		s.logger.Error("failure without a reason that clients know", "reason", e.Reason, "err", err)
		k = kindOf[reasonUnknown]
		e.Reason, e.Message = reasonUnknown, "the broker failed in a way that it has no name for; see its log"
	}
	e.Retriable = k.retry != retryNever && (recordErr == nil || !recordErr.Permanent)
	e.Message = valid(e.Message)
	return e
}

func fieldAndLimit(field, limit string) map[string]string {
	m := map[string]string{}
	if field != "" {
		m["field"] = field
	}
	if limit != "" {
		m["limit"] = limit
	}
	return m
}

// ofCoordinator says what a coordinator answered, whom to ask instead, and what happened to the id.
func (s *service) ofCoordinator(err *coordinator.Error, e *clientv1.Error) {
	e.Reason, e.Message, e.Outcome, e.Metadata = string(err.Code), err.Message, outcomeOf(err.Outcome), fieldAndLimit(err.Field, err.Limit)
	if err.Coordinator != nil {
		e.Leader = s.leader(partition.Leader{Broker: *err.Coordinator, Epoch: -1})
	}
	if err.Event != nil {
		e.Event = protoEvent(err.Event)
	}
}

// ofOthers names errors that belong to no domain: contexts, and raftgroup's own where a domain
// passes them on.
func (s *service) ofOthers(err error, e *clientv1.Error) {
	var notLeader *raftgroup.NotLeaderError
	e.Outcome = outcomeOf(raftgroup.OutcomeOf(err))
	switch {
	case errors.As(err, &notLeader), errors.Is(err, raftgroup.ErrTransferring):
		e.Reason = reasonNotLeader
	case errors.Is(err, raftgroup.ErrBusy):
		e.Reason = reasonBusy
	case errors.Is(err, raftgroup.ErrStopped), errors.Is(err, raftgroup.ErrUnknownGroup):
		e.Reason = reasonNotLeader
	case errors.Is(err, context.DeadlineExceeded):
		e.Reason, e.Message = reasonTimedOut, "the call's deadline passed before the outcome was known"
	case errors.Is(err, context.Canceled) && s.stopping.Err() != nil:
		e.Reason, e.Message = reasonStopping, "the broker is stopping; the outcome is not known"
	case errors.Is(err, context.Canceled):
		e.Reason, e.Message = reasonCancelled, "the call was cancelled before the outcome was known"
	}
}

// failed is the status of a call that failed as a whole.
func (s *service) failed(e *clientv1.Error) error {
	k := kindOf[e.Reason]
	return clientv1.ToStatus(e, k.grpc, k.retry.pause()).Err()
}

func outcomeOf(o raftgroup.Outcome) clientv1.Outcome {
	if o == raftgroup.DidNotHappen {
		return clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN
	}
	return clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED
}

// leader adds the address under which the listener's clients reach a leader.
func (s *service) leader(l partition.Leader) *clientv1.Leader {
	return &clientv1.Leader{BrokerId: l.Broker, Epoch: l.Epoch, Address: s.address(l.Broker)}
}

// address is what a broker advertises on this listener; empty where it has no such listener.
func (s *service) address(broker int32) string {
	if b, ok := s.c.Cluster.Image().Broker(broker); ok {
		a, _ := b.Address(s.listener)
		return a
	}
	return ""
}

// ofPartition is ofDomain for an error about one partition. What only the metadata knows is added:
// a partition that exists nowhere is unknown rather than led by another, and where the domain did
// not know the leader, the brokers' word is passed on.
func (s *service) ofPartition(tp record.TopicPartition, err error) *clientv1.Error {
	e := s.ofDomain(err)
	if e.Reason != reasonNotLeader || e.Leader != nil {
		return e
	}
	t, ok := s.c.Cluster.Image().Topic(tp.Topic)
	if !ok || int(tp.Partition) >= len(t.Partitions) || tp.Partition < 0 {
		if e.Outcome == clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			return s.unknownPartition(tp)
		}
		return e
	}
	e.Leader = &clientv1.Leader{BrokerId: -1, Epoch: -1}
	if l, ok := s.c.Cluster.Leader(t.Partitions[tp.Partition].Group); ok {
		e.Leader = s.leader(l)
	}
	return e
}

// unknownPartition says that a topic or partition is not in the metadata of this broker.
func (s *service) unknownPartition(tp record.TopicPartition) *clientv1.Error {
	t, ok := s.c.Cluster.Image().Topic(tp.Topic)
	if !ok {
		return refused(reasonUnknownTopic, "topic", "", "this broker knows no topic %q", clip(tp.Topic))
	}
	return refused(reasonUnknownTopic, "partition", strconv.Itoa(len(t.Partitions)-1),
		"topic %s has no partition %d, only 0 to %d", tp.Topic, tp.Partition, len(t.Partitions)-1)
}

// clip shortens what a client sent before it is repeated to it or logged.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return valid(s[:most]) + "..."
}

// echo is a topic name as an answer repeats it: names that can exist are whole.
func echo(topic string) string {
	if len(topic) <= metadata.MaxTopicNameLength {
		return topic
	}
	return clip(topic)
}

// valid makes a string one that a protobuf message can hold.
func valid(s string) string { return strings.ToValidUTF8(s, "?") }
