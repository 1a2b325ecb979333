package txn

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// abort ends an open transaction against its producer: its time is up (T30), or an operator wants it. What the
// decision was about must still be there (R5).
func abort(t *Transaction, c *statev1.AbortTransaction, client Client, now int64) Result {
	switch {
	case t == nil:
		return refuse(t, NotFound)
	case t.Status.Ending():
		return refuse(t, ConcurrentTransactions)
	case t.Status != Ongoing:
		return refuse(t, InvalidTxnState)
	case !t.owner(record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch())), t.StartMS > c.GetStartedUntilMs():
		return refuse(t, Stale)
	}
	event := Event{Kind: AbortedByOperator, Client: client}
	if c.GetReason() == statev1.AbortReason_ABORT_REASON_TIMEOUT {
		event = Event{Kind: TimedOut}
	}
	return fence(t, int8(c.GetServerVersion()), record.ProducerID(c.GetFreshProducerId()), event, now)
}

// fence aborts the open transaction at the next epoch, which its producer does not have. Under TV2 the producer can ask for that
// epoch with the one it has, if nobody takes the id over first; under TV1 nobody ever gets it (I12). It is one step, so
// that a fencing that fails has not raised the epoch (I13).
func fence(t *Transaction, serverVersion int8, fresh record.ProducerID, event Event, now int64) Result {
	if serverVersion < 2 {
		next := *t
		next.Epoch, next.LastEpoch = t.Epoch+1, record.NoEpoch
		return next.fencedBy(t, 1, event, now)
	}
	next, ok := t.raised(fresh)
	if !ok {
		return refuse(t, NeedsProducerID)
	}
	return next.fencedBy(t, 2, event, now)
}

func (t *Transaction) fencedBy(old *Transaction, version int8, event Event, now int64) Result {
	event.TimeMS, event.ProducerID, event.Epoch = now, old.ProducerID, old.Epoch
	t.History = remember(old.History, event)
	t.ClientVersion = version
	return changed(t.decided(false, now))
}
