package kafka

import (
	"fmt"

	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// failure is what an answer says of something that failed.
type failure struct {
	code    int16
	message *string
	frontdoor.Failure
}

// busyReasons are what the gRPC API has names for and old Kafka clients do not know on every key: THROTTLING_QUOTA_EXCEEDED would
// make librdkafka fail a batch for good. NOT_ENOUGH_REPLICAS is, for all of them: it did not happen, try again.
var busyReasons = map[string]bool{frontdoor.ReasonBusy: true, "THROTTLING_QUOTA_EXCEEDED": true, frontdoor.ReasonStopping: true}

// failure explains what a domain answered. What no table knows becomes UNKNOWN_SERVER_ERROR and is logged, here and nowhere else.
func (c *conn) failure(r *request, err error) failure {
	f := frontdoor.Explain(err, c.stopping.Err() != nil)
	if f.Unknown {
		c.metrics.unknownErrors.Inc()
		c.log().Error("failure without a code that clients know", "api", r.endpoint.name, "reason", f.Named, "err", err)
	}
	c.metrics.errors.WithLabelValues(r.endpoint.name, f.Kind.Reason).Inc()
	message := f.Message
	return failure{code: f.Kind.Kafka, message: &message, Failure: f}
}

// refuse counts an error that the listener itself gives, by its reason, and gives its code.
func (c *conn) refuse(r *request, reason string) int16 {
	c.metrics.errors.WithLabelValues(r.endpoint.name, reason).Inc()
	return frontdoor.KindOf(reason).Kafka
}

// partitionFailure is failure for an error about one partition. A partition that exists nowhere is unknown rather than led by
// another, and where the domain did not know the leader, the brokers' word is passed on.
func (c *conn) partitionFailure(r *request, tp record.TopicPartition, err error) failure {
	f := c.failure(r, err)
	if f.Kind.Reason != frontdoor.ReasonNotLeader {
		return f
	}
	p, ok := c.c.Cluster.Image().Partition(tp)
	if !ok {
		f.code = frontdoor.KindOf(frontdoor.ReasonUnknownTopic).Kafka
		return f
	}
	if f.Leader == nil {
		if l, ok := c.c.Cluster.Leader(p.Group); ok {
			f.Leader = &l
		}
	}
	return f
}

// produceCode is the code of a failed batch at a version (T11).
func (f failure) produceCode(version int16) int16 {
	switch {
	case busyReasons[f.Kind.Reason]:
		return frontdoor.KindOf("NOT_ENOUGH_REPLICAS").Kafka
	case f.Kind.Reason == "TRANSACTION_ABORTABLE" && version < 11:
		return frontdoor.KindOf("INVALID_TXN_STATE").Kafka
	}
	return f.code
}

// once tells what a request names for the first time. What it names again is not answered again: a few bytes would ask for megabytes.
type once[K comparable] map[K]bool

func (o once[K]) first(k K) bool {
	if o[k] {
		return false
	}
	o[k] = true
	return true
}

// tooMany refuses what is beyond what one request may name.
func tooMany(what string, n, most int) (reason, message string) {
	return frontdoor.ReasonInvalidRequest, fmt.Sprintf("%d %s in one request; at most %d are allowed", n, what, most)
}
