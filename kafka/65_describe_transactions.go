package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxTransactionsDescribed of one request: each takes a quorum round.
const maxTransactionsDescribed = 1000

// describeTransactions shows transactional ids (T35).
func (c *conn) describeTransactions(r *request, req *kmsg.DescribeTransactionsRequest, resp *kmsg.DescribeTransactionsResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, coordinatorTimeout)
	defer cancel()
	seen := c.topicsSeen(r, acl.Describe)
	answered := make(once[string])
	for i, id := range req.TransactionalIDs {
		if !answered.first(id) {
			continue
		}
		at := kmsg.NewDescribeTransactionsResponseTransactionState()
		at.TransactionalID, at.ProducerID, at.ProducerEpoch, at.StartTimestamp = id, -1, -1, -1
		if i >= maxTransactionsDescribed {
			at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
			resp.TransactionStates = append(resp.TransactionStates, at)
			continue
		}
		if !c.may(r, acl.Describe, acl.TransactionalID, id) {
			at.ErrorCode = c.denied(r, acl.TransactionalID)
			resp.TransactionStates = append(resp.TransactionStates, at)
			continue
		}
		t, err := c.c.Transactions.Describe(ctx, id)
		if err != nil {
			at.ErrorCode = c.failure(r, err).coordinatorCode()
		} else {
			describeTransaction(&at, t, &seen)
		}
		resp.TransactionStates = append(resp.TransactionStates, at)
	}
}

func describeTransaction(at *kmsg.DescribeTransactionsResponseTransactionState, t *txn.Transaction, seen *frontdoor.Permits) {
	at.State, at.TimeoutMillis, at.ProducerID, at.ProducerEpoch = t.Status.String(), t.TimeoutMS, int64(t.ProducerID), int16(t.Epoch)
	if t.StartMS > 0 {
		at.StartTimestamp = t.StartMS
	}
	for _, tp := range t.Partitions { // sorted
		if !seen.Allow(tp.Topic) {
			continue
		}
		if n := len(at.Topics); n == 0 || at.Topics[n-1].Topic != tp.Topic {
			at.Topics = append(at.Topics, kmsg.DescribeTransactionsResponseTransactionStateTopic{Topic: tp.Topic})
		}
		last := &at.Topics[len(at.Topics)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
}
