package txn

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// end decides on a transaction's outcome by the table of the client's transaction version (T17, T19).
func end(t *Transaction, c *statev1.EndTransaction, now int64) Result {
	if t == nil {
		return refuse(t, InvalidProducerIDMapping)
	}
	if c.GetClientVersion() >= 2 {
		return endV2(t, c, now)
	}
	return endV1(t, c, now)
}

// endV1 is T17. The epoch stays, and so nothing tells this end from one that was sent before (T18).
func endV1(t *Transaction, c *statev1.EndTransaction, now int64) Result {
	id, epoch, commit := record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch()), c.GetCommit()
	switch {
	case !t.owner(id, epoch):
		return refuse(t, mismatch(t, id))
	case t.Status.Ending():
		return refuse(t, ConcurrentTransactions)
	case t.Status == Ongoing:
		next := *t
		next.ClientVersion = 1
		return changed(next.decided(commit, now)).handOut(id, epoch)
	case t.Status == completed(commit):
		return unchanged(t).handOut(id, epoch)
	}
	return refuse(t, InvalidTxnState)
}

// endV2 is T19. Markers on their way come before everything else: the client may have the next producer id already.
func endV2(t *Transaction, c *statev1.EndTransaction, now int64) Result {
	id, epoch, commit := record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch()), c.GetCommit()
	current, again := t.owner(id, epoch), t.endedAt(id, epoch)
	switch {
	case t.Status.Ending():
		return refuse(t, ConcurrentTransactions)
	case !current && !again:
		return refuse(t, mismatch(t, id))
	case again:
		return endAgain(t, commit)
	case t.Status != Ongoing && commit:
		return refuse(t, InvalidTxnState) // T22
	}
	// An abort with nothing open is granted: the client cannot know whether an add went through (T21).
	next, ok := t.raised(record.ProducerID(c.GetFreshProducerId()))
	if !ok {
		return refuse(t, NeedsProducerID)
	}
	if t.Status != Ongoing {
		next.StartMS = now
	}
	next.ClientVersion = 2
	next = next.decided(commit, now)
	if next.NextProducerID != record.NoProducerID {
		return changed(next).handOut(next.NextProducerID, 0)
	}
	return changed(next).handOut(next.ProducerID, next.Epoch)
}

// endedAt says whether the present epoch came about by an end, or by the server's abort, at the epoch given: whoever shows
// that asks again for an answer that was lost. Kafka compares the epochs alone.
func (t *Transaction) endedAt(id record.ProducerID, epoch record.Epoch) bool {
	if epoch != t.LastEpoch || epoch == record.NoEpoch {
		return false
	}
	return id == t.ProducerID && epoch == t.Epoch-1 ||
		id == t.PreviousProducerID && epoch == lastEpoch && t.Epoch == 0
}

// endAgain is the column "retry" of T19 where no markers are on their way.
func endAgain(t *Transaction, commit bool) Result {
	switch t.Status {
	case completed(commit):
		return unchanged(t).handOut(t.ProducerID, t.Epoch)
	case completed(!commit):
		return refuse(t, InvalidTxnState)
	default:
		return refuse(t, ProducerFenced)
	}
}

func completed(commit bool) Status {
	if commit {
		return CompleteCommit
	}
	return CompleteAbort
}

// raised is t with the next epoch, which is the markers'. If that is the last one there is, the fresh producer id takes
// over afterwards (T20); false: there is none.
func (t *Transaction) raised(fresh record.ProducerID) (next *Transaction, ok bool) {
	n := *t
	n.LastEpoch, n.Epoch = t.Epoch, t.Epoch+1
	n.PreviousProducerID = record.NoProducerID
	if n.Epoch == fencingEpoch {
		n.NextProducerID = fresh
	}
	return &n, n.Epoch != fencingEpoch || fresh != record.NoProducerID
}

// decided moves t to its decision. From here on it is irrevocable (T23). Without partitions no marker is to be
// written, and it is complete at once.
func (t *Transaction) decided(commit bool, now int64) *Transaction {
	t.Status = PrepareAbort
	if commit {
		t.Status = PrepareCommit
	}
	t.UpdatedMS = now
	if len(t.Partitions) == 0 {
		t.completed(now)
	}
	return t
}

// completed ends the transaction: all markers are written.
func (t *Transaction) completed(now int64) {
	t.Status = completed(t.Status == PrepareCommit)
	t.Partitions, t.UpdatedMS = nil, now
	if t.NextProducerID != record.NoProducerID {
		// LastEpoch stays: it is what the client last saw of the old producer id.
		t.PreviousProducerID, t.ProducerID, t.Epoch = t.ProducerID, t.NextProducerID, 0
		t.NextProducerID = record.NoProducerID
	}
}

// complete takes note that all markers are written. The version has shown that it is this decision they belong to.
func complete(t *Transaction, now int64) Result {
	if t == nil || !t.Status.Ending() {
		return refuse(t, InvalidTxnState)
	}
	next := *t
	next.completed(now)
	return changed(&next)
}
