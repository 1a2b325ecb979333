package api

import (
	"fmt"
	"strconv"
	"strings"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Reasons that this package gives itself.
const (
	reasonUnknown          = frontdoor.ReasonUnknown
	reasonInvalidRequest   = frontdoor.ReasonInvalidRequest
	reasonInvalidAcks      = frontdoor.ReasonInvalidAcks
	reasonInvalidTimestamp = frontdoor.ReasonInvalidTimestamp
	reasonInvalidRecord    = frontdoor.ReasonInvalidRecord
	reasonTooLarge         = frontdoor.ReasonTooLarge
	reasonUnsupported      = frontdoor.ReasonUnsupported
	reasonTxnUnauthorised  = frontdoor.ReasonTxnUnauthorised
	reasonUnknownTopic     = frontdoor.ReasonUnknownTopic
	reasonNotLeader        = frontdoor.ReasonNotLeader
	reasonTimedOut         = frontdoor.ReasonTimedOut
	reasonBusy             = frontdoor.ReasonBusy
	reasonCancelled        = frontdoor.ReasonCancelled
	reasonStopping         = frontdoor.ReasonStopping
	reasonCorrupt          = frontdoor.ReasonCorrupt
)

// refused makes the error for a request that certainly did nothing. field and limit may be empty.
func refused(reason, field, limit, format string, args ...any) *clientv1.Error {
	e := &clientv1.Error{Reason: reason, Message: valid(fmt.Sprintf(format, args...)), Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
	e.Retriable = frontdoor.KindOf(reason).Retry != frontdoor.RetryNever
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
	f := frontdoor.Explain(err, s.stopping.Err() != nil)
	if f.Unknown {
		s.metrics.unknownErrors.Inc()
		s.logger.Error("failure without a reason that clients know", "reason", f.Named, "err", err)
	}
	e := &clientv1.Error{Reason: f.Kind.Reason, Message: valid(f.Message), Outcome: outcomeOf(f.Outcome), Retriable: f.Retriable()}
	if f.Leader != nil {
		e.Leader = s.leader(*f.Leader)
	}
	if f.Event != nil {
		e.Event = protoEvent(f.Event)
	}
	e.Metadata = metadataOf(f)
	return e
}

func metadataOf(f frontdoor.Failure) map[string]string {
	m := map[string]string{}
	if f.Field != "" {
		m["field"] = f.Field
	}
	if f.Limit != "" {
		m["limit"] = f.Limit
	}
	if f.Record >= 0 {
		m["record"] = strconv.Itoa(f.Record)
	}
	return m
}

// failed is the status of a call that failed as a whole.
func (s *service) failed(e *clientv1.Error) error {
	k := frontdoor.KindOf(e.Reason)
	return clientv1.ToStatus(e, k.GRPC, k.Retry.Pause()).Err()
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
	p, ok := s.c.Cluster.Image().Partition(tp)
	if !ok {
		if e.Outcome == clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			return s.unknownPartition(tp)
		}
		return e
	}
	e.Leader = &clientv1.Leader{BrokerId: -1, Epoch: -1}
	if l, ok := s.c.Cluster.Leader(p.Group); ok {
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
