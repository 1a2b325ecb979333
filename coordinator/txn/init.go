package txn

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// init makes a producer the owner of the id (I5 to I13). The order is Kafka's: markers on their way, then the
// producer id, then by state.
func (s *State) init(t *Transaction, id string, c *statev1.InitTransactions, client Client, now int64) Result {
	fresh := record.ProducerID(c.GetFreshProducerId())
	if t == nil {
		return s.create(id, fresh, c.GetTimeoutMs(), client, now)
	}
	supplied := suppliedBy(c)
	switch {
	case t.Status.Ending():
		return refuse(t, ConcurrentTransactions) // I5, I7
	case !t.mayContinue(supplied):
		return refuse(t, ProducerFenced) // I6
	case t.Status == Ongoing:
		return fenceOpen(t, supplied, c, client, now)
	}
	return takeOver(t, supplied, fresh, c.GetTimeoutMs(), client, now)
}

// supplied is the producer that a client says it is; id NoProducerID: it says nothing.
type supplied struct {
	id    record.ProducerID
	epoch record.Epoch
}

func suppliedBy(c *statev1.InitTransactions) supplied {
	return supplied{record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch())}
}

func (s supplied) none() bool { return s.id == record.NoProducerID }

// mayContinue accepts who says nothing, who has the present producer id, and who has the one before with its epochs
// used up: that one has not heard of its new id (I6).
func (t *Transaction) mayContinue(s supplied) bool {
	return s.none() || s.id == t.ProducerID && s.epoch != fencingEpoch || s.id == t.PreviousProducerID && s.epoch >= lastEpoch
}

// create makes a new id known. A producer that had it before it was forgotten starts anew (I6).
func (s *State) create(id string, fresh record.ProducerID, timeout int32, client Client, now int64) Result {
	switch {
	case len(s.ids) >= s.limits.MaxIDs:
		return refuse(nil, TooManyIDs)
	case fresh == record.NoProducerID:
		return refuse(nil, NeedsProducerID)
	}
	t := &Transaction{
		ID: id, ProducerID: fresh, PreviousProducerID: record.NoProducerID, NextProducerID: record.NoProducerID,
		LastEpoch: record.NoEpoch,
	}
	return t.initialised(timeout, client, now)
}

// takeOver gives an idle id to a producer: the next epoch (I8, I9), the same answer again (I10), or a new producer id when
// the epochs are used up (I11).
func takeOver(t *Transaction, by supplied, fresh record.ProducerID, timeout int32, client Client, now int64) Result {
	next := *t
	switch current := by.id == t.ProducerID && by.epoch == t.Epoch; {
	case t.exhausted() && (by.none() || current):
		if fresh == record.NoProducerID {
			return refuse(t, NeedsProducerID)
		}
		next.PreviousProducerID, next.ProducerID, next.Epoch = t.ProducerID, fresh, 0
		next.LastEpoch = record.NoEpoch
		if current {
			next.LastEpoch = t.Epoch
		}
		return next.initialised(timeout, client, now)
	case by.none():
		next.LastEpoch = record.NoEpoch
	case current:
		next.LastEpoch = t.Epoch
	case by.epoch == t.LastEpoch:
		if timeout == t.TimeoutMS {
			return unchanged(t).handOut(t.ProducerID, t.Epoch)
		}
		next.TimeoutMS, next.UpdatedMS = timeout, now
		return changed(&next).handOut(t.ProducerID, t.Epoch)
	default:
		return refuse(t, ProducerFenced)
	}
	next.Epoch = t.Epoch + 1
	next.PreviousProducerID = record.NoProducerID
	return next.initialised(timeout, client, now)
}

// initialised leaves the id empty in the hands of its new owner.
func (t *Transaction) initialised(timeout int32, client Client, now int64) Result {
	t.Status, t.TimeoutMS, t.StartMS, t.UpdatedMS = Empty, timeout, -1, now
	t.Partitions = nil
	t.History = remember(t.History, Event{Kind: Initialised, TimeMS: now, ProducerID: t.ProducerID, Epoch: t.Epoch, Client: client})
	return changed(t).handOut(t.ProducerID, t.Epoch)
}

// fenceOpen aborts the transaction that is in the way (I12). The client asks again, until the markers are written. A zombie
// is refused and aborts nothing; Kafka would let it.
func fenceOpen(t *Transaction, by supplied, c *statev1.InitTransactions, client Client, now int64) Result {
	if !by.none() && by.epoch != t.Epoch && by.epoch != t.LastEpoch {
		return refuse(t, ProducerFenced)
	}
	r := fence(t, int8(c.GetServerVersion()), record.ProducerID(c.GetFreshProducerId()), Event{Kind: Fenced, Client: client}, now)
	if r.Code == OK {
		r.Code = ConcurrentTransactions
	}
	return r
}
