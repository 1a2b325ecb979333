package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// findTimeout bounds the making of the shards that a first search needs.
const findTimeout = 10 * time.Second

// While nobody coordinates, an answer waits for somebody, up to electionWait, and looks again after electionPause: an election is over sooner than
// clients come again.
const (
	electionWait  = 2 * time.Second
	electionPause = 50 * time.Millisecond
)

// maxCoordinatorKeys of one request.
const maxCoordinatorKeys = 1000

// findCoordinator says which broker coordinates groups or transactional ids (T36).
func (c *conn) findCoordinator(r *request, req *kmsg.FindCoordinatorRequest, resp *kmsg.FindCoordinatorResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, findTimeout)
	defer cancel()
	if req.Version < 4 {
		found := c.findOne(ctx, r, req.CoordinatorType, req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage = found.ErrorCode, found.ErrorMessage
		resp.NodeID, resp.Host, resp.Port = found.NodeID, found.Host, found.Port
		return
	}
	for i, key := range req.CoordinatorKeys {
		if i == maxCoordinatorKeys {
			return
		}
		resp.Coordinators = append(resp.Coordinators, c.findOne(ctx, r, req.CoordinatorType, key))
	}
}

func (c *conn) findOne(ctx context.Context, r *request, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	found := kmsg.NewFindCoordinatorResponseCoordinator()
	found.Key, found.NodeID, found.Port = key, -1, -1
	var k coordinator.Kind
	var t acl.ResourceType
	switch kind {
	case 0:
		k, t = coordinator.KindGroups, acl.Group
	case 1:
		k, t = coordinator.KindTransactions, acl.TransactionalID
	default:
		found.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		return found
	}
	if !c.may(r, acl.Describe, t, key) {
		found.ErrorCode, found.ErrorMessage = c.denial(r, acl.Describe, t, key)
		return found
	}
	broker, err := c.find(ctx, k, key, r.received.Add(electionWait))
	if err != nil {
		f := c.failure(r, err)
		found.ErrorCode, found.ErrorMessage = f.code, f.message
		if f.Kind.Reason == frontdoor.ReasonTimedOut || f.Kind.Reason == "NOT_CONTROLLER" {
			found.ErrorCode = frontdoor.KindOf("COORDINATOR_NOT_AVAILABLE").Kafka
		}
		return found
	}
	n, ok := c.node(broker)
	if !ok {
		found.ErrorCode = c.refuse(r, "COORDINATOR_NOT_AVAILABLE")
		return found
	}
	found.NodeID, found.Host, found.Port = n.id, n.host, n.port
	return found
}

// find looks for a coordinator until there is one, or until a time.
func (c *conn) find(ctx context.Context, k coordinator.Kind, key string, until time.Time) (broker int32, err error) {
	for {
		broker, err = c.c.Coordinators.Find(ctx, k, key)
		var refusal *coordinator.Error
		if !errors.As(err, &refusal) || refusal.Code != coordinator.CodeNotAvailable || time.Now().After(until) {
			return broker, err
		}
		select {
		case <-time.After(electionPause):
		case <-ctx.Done():
			return broker, err
		}
	}
}
