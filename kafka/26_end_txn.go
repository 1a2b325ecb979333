package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/record"
)

// endTxn commits or aborts a transaction. The answer says that the decision is durable; the markers follow (T23). From version 5 on
// the client speaks transactions of version 2, and the answer holds the producer of the next one (T19-T20).
func (c *conn) endTxn(r *request, req *kmsg.EndTxnRequest, resp *kmsg.EndTxnResponse) {
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if !c.may(r, acl.Write, acl.TransactionalID, req.TransactionalID) {
		resp.ErrorCode = c.denied(r, acl.TransactionalID)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, coordinatorTimeout)
	defer cancel()
	version := int8(1)
	if req.Version >= 5 {
		version = 2
	}
	next, err := c.c.Transactions.EndTransaction(ctx, coordinator.EndRequest{
		TransactionalID: req.TransactionalID, Producer: coordinator.Producer{ID: record.ProducerID(req.ProducerID), Epoch: record.Epoch(req.ProducerEpoch)},
		Commit: req.Commit, Version: version, Client: c.client(r),
	})
	if err != nil {
		resp.ErrorCode = c.failure(r, err).txnCode(req.Version < 2)
		return
	}
	resp.ProducerID, resp.ProducerEpoch = int64(next.ID), int16(next.Epoch)
}
