package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// coordinatorTimeout bounds a request to a coordinator.
const coordinatorTimeout = 30 * time.Second

// initProducerID hands out a producer id: a fresh one (I1), or that of a transactional id (I2-I15).
func (c *conn) initProducerID(r *request, req *kmsg.InitProducerIDRequest, resp *kmsg.InitProducerIDResponse) {
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if t, ok := c.mayInit(r, req.TransactionalID); !ok {
		resp.ErrorCode = c.denied(r, t)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, coordinatorTimeout)
	defer cancel()
	has := coordinator.NoProducer
	if req.Version >= 3 {
		has = coordinator.Producer{ID: record.ProducerID(req.ProducerID), Epoch: record.Epoch(req.ProducerEpoch)}
	}
	if (has.ID == record.NoProducerID) != (has.Epoch == record.NoEpoch) {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest) // I2
		return
	}
	if req.TransactionalID == nil {
		id, err := c.c.Cluster.NextProducerID(ctx)
		if err != nil {
			resp.ErrorCode = c.initCode(c.failure(r, err), req.Version)
			return
		}
		resp.ProducerID, resp.ProducerEpoch = int64(id), 0
		return
	}
	p, err := c.c.Transactions.InitProducer(ctx, coordinator.InitRequest{TransactionalID: *req.TransactionalID, Producer: has,
		Timeout: time.Duration(req.TransactionTimeoutMillis) * time.Millisecond, Client: c.client(r)})
	if err != nil {
		resp.ErrorCode = c.initCode(c.failure(r, err), req.Version)
		return
	}
	resp.ProducerID, resp.ProducerEpoch = int64(p.ID), int16(p.Epoch)
}

// mayInit says whether the client may have a producer id: that of a transactional id if it may write it, a fresh one if it may write to any
// topic, or has the right that clusters of before had for it. What it lacks is on a resource of the type.
func (c *conn) mayInit(r *request, id *string) (acl.ResourceType, bool) {
	if id != nil {
		return acl.TransactionalID, c.may(r, acl.Write, acl.TransactionalID, *id)
	}
	return acl.Cluster, c.sees(acl.IdempotentWrite, acl.Cluster, acl.ClusterName) || c.c.Guard.MaySome(c.caller, r.endpoint.name, acl.Write, acl.Topic)
}

// initCode is the code of a failure at a version (I15). A change that could not be made now is one that the client tries again: its
// outcome may be unknown, and asking again is what resolves it.
func (c *conn) initCode(f failure, version int16) int16 {
	switch {
	case f.Kind.Reason == "PRODUCER_FENCED" && version < 4:
		return frontdoor.KindOf("INVALID_PRODUCER_EPOCH").Kafka
	case f.Kind.Reason == "NOT_CONTROLLER":
		return frontdoor.KindOf("COORDINATOR_LOAD_IN_PROGRESS").Kafka // I1
	}
	return f.coordinatorCode()
}

// coordinatorCode is the code of a failure of a coordinator's own log: what clients of coordinators know (T3). All of them look for
// the coordinator again and repeat the request.
func (f failure) coordinatorCode() int16 {
	switch f.Kind.Reason {
	case frontdoor.ReasonTimedOut, frontdoor.ReasonBusy, "THROTTLING_QUOTA_EXCEEDED", frontdoor.ReasonCancelled:
		return frontdoor.KindOf("COORDINATOR_NOT_AVAILABLE").Kafka
	case frontdoor.ReasonNotLeader, frontdoor.ReasonStopping, "KAFKA_STORAGE_ERROR":
		return frontdoor.KindOf("NOT_COORDINATOR").Kafka
	}
	return f.code
}

// client is who asks, for the history of a transactional id.
func (c *conn) client(r *request) txn.Client {
	return txn.Client{ID: r.clientID, Address: c.net.RemoteAddr().String()}
}
