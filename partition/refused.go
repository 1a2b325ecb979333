package partition

import (
	"context"

	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// The first batch of each producer's epoch that apply refuses is kept for people. That of a transactional producer goes into the replicated
// history of its id. That of a plain one is only remembered by the leader: see docs/decisions/0009.

// firstRefusal notes a batch that apply refused, the first time for each producer's epoch, and gives what to tell the coordinator of
// a transactional one; nil: nothing. Held: mu.
func (a *admission) firstRefusal(p *pending, result any) *Refusal {
	ap, ok := result.(appended)
	if !ok || ap.err == nil || p.by.id == record.NoProducerID {
		return nil
	}
	switch ap.err.Code {
	case CodeOutOfOrderSequence, CodeInvalidProducerEpoch, CodeInvalidTxnState:
	default:
		return nil
	}
	if _, told := a.noted[p.by]; told {
		return nil
	}
	if len(a.noted) >= maxNoted {
		clear(a.noted)
	}
	what := producer.Refused{TimeMS: a.r.host.config.Wall().UnixMilli(), Code: string(ap.err.Code), Expected: record.NoSequence, Received: record.NoSequence}
	if gap := ap.err.Sequence; gap != nil {
		what.Expected, what.Received = gap.Expected, gap.Received
	}
	a.noted[p.by] = what
	if p.txn == "" {
		return nil
	}
	return &Refusal{
		Joining: Joining{TopicPartition: a.r.spec.TopicPartition, TransactionalID: p.txn, ProducerID: p.by.id, Epoch: p.by.epoch},
		Code:    ap.err.Code, Expected: what.Expected, Received: what.Received,
	}
}

// addRefused adds what this leader has refused to what is remembered of producers.
func (a *admission) addRefused(list []producer.Description) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range list {
		if what, ok := a.noted[joinKey{list[i].ProducerID, list[i].Epoch}]; ok {
			list[i].Refused = &what
		}
	}
}

// tellRefusal tells the coordinator, if there is time: it is for people, and nothing waits for it.
func (h *Host) tellRefusal(r Refusal) {
	if h.config.Transactions == nil {
		return
	}
	select {
	case h.telling <- struct{}{}:
	default:
		return
	}
	h.background(func() {
		defer func() { <-h.telling }()
		ctx, cancel := context.WithTimeout(h.ctx, refusalTimeout)
		defer cancel()
		h.config.Transactions.Refused(ctx, r)
	})
}
