package kafka

import (
	"context"
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// maxTransactionsListed of one request; of those that the client may see and asked for, by name, more are left out.
const maxTransactionsListed = 10_000

// listTransactions lists what this broker coordinates (T35). States that do not exist are named in the answer.
func (c *conn) listTransactions(r *request, req *kmsg.ListTransactionsRequest, resp *kmsg.ListTransactionsResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, coordinatorTimeout)
	defer cancel()
	var pattern *regexp.Regexp
	if p := textOf(req.TransactionalIDPattern); p != "" {
		var err error
		if pattern, err = coordinator.CompilePattern(p); err != nil {
			resp.ErrorCode = c.refuse(r, "INVALID_REGULAR_EXPRESSION")
			return
		}
	}
	if len(req.StateFilters) > maxTransactionsListed || len(req.ProducerIDFilters) > maxTransactionsListed {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		return
	}
	f := coordinator.TransactionFilter{}
	for _, name := range req.StateFilters {
		if s, ok := txn.ParseStatus(name); ok {
			f.States = append(f.States, s)
		} else {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, name)
		}
	}
	if len(req.StateFilters) > 0 && len(f.States) == 0 {
		return
	}
	for _, id := range req.ProducerIDFilters {
		f.ProducerIDs = append(f.ProducerIDs, record.ProducerID(id))
	}
	now := time.Now().UnixMilli()
	f.Pass = func(t *txn.Transaction) bool {
		return beganBefore(t, now, req.DurationFilterMillis) && (pattern == nil || pattern.MatchString(t.ID)) && c.sees(acl.Describe, acl.TransactionalID, t.ID)
	}
	list, _, err := c.c.Transactions.List(ctx, f, maxTransactionsListed)
	if err != nil {
		resp.ErrorCode = c.failure(r, err).coordinatorCode()
		return
	}
	for _, t := range list {
		resp.TransactionStates = append(resp.TransactionStates, kmsg.ListTransactionsResponseTransactionState{
			TransactionalID: t.ID, ProducerID: int64(t.ProducerID), TransactionState: t.Status.String()})
	}
}

// beganBefore says whether the latest transaction of an id began longer ago than a number of ms, whatever has become of it since; an id
// without one passes, too, as if it had begun at the beginning of time (T35). Below 0: all pass.
func beganBefore(t *txn.Transaction, now, ms int64) bool {
	return ms < 0 || now-t.StartMS > ms
}
