package txn

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// add lets partitions join the transaction, which begins with the first of them (T5).
func (s *State) add(t *Transaction, c *statev1.AddPartitions, now int64) Result {
	if code := mayAdd(t, record.ProducerID(c.GetProducerId()), record.Epoch(c.GetProducerEpoch())); code != OK {
		return refuse(t, code)
	}
	added := t.missing(partitionsOf(c.GetPartitions()))
	if len(added) == 0 && t.Status == Ongoing {
		return unchanged(t)
	}
	if len(t.Partitions)+len(added) > s.limits.MaxPartitions || s.openPartitions+len(added) > s.limits.MaxOpenPartitions {
		return refuse(t, TransactionAbortable)
	}
	next := *t
	if t.Status != Ongoing {
		next.Status, next.StartMS = Ongoing, now
		next.PreviousProducerID = record.NoProducerID // whoever adds has heard of the new one
	}
	next.Partitions = append(slices.Clip(t.Partitions), added...)
	slices.SortFunc(next.Partitions, comparePartitions)
	next.ClientVersion, next.UpdatedMS = int8(c.GetClientVersion()), now
	return changed(&next)
}

// Verify says whether a partition is in the open transaction of a producer, without adding it. Markers on their way are
// no excuse for a stranger: it is refused for good, and not asked to come again (T8).
func (s *State) Verify(id string, producer record.ProducerID, epoch record.Epoch, tp record.TopicPartition) Result {
	t := s.ids[id]
	switch {
	case t == nil:
		return refuse(t, InvalidProducerIDMapping)
	case !t.owner(producer, epoch):
		return refuse(t, mismatch(t, producer))
	case t.Status.Ending():
		return refuse(t, ConcurrentTransactions)
	case !t.has(tp):
		return refuse(t, TransactionAbortable)
	}
	return unchanged(t)
}

// mayAdd holds the checks that come before any partition, in Kafka's order. Any epoch but the present one is refused, a higher
// one too.
func mayAdd(t *Transaction, producer record.ProducerID, epoch record.Epoch) Code {
	switch {
	case t == nil:
		return InvalidProducerIDMapping
	case t.Status.Ending():
		return ConcurrentTransactions
	case !t.owner(producer, epoch):
		return mismatch(t, producer)
	}
	return OK
}

// mismatch is why a producer that does not own the id is refused (T5).
func mismatch(t *Transaction, producer record.ProducerID) Code {
	if producer != t.ProducerID {
		return InvalidProducerIDMapping
	}
	return ProducerFenced
}

// missing are those partitions that are not in the transaction yet.
func (t *Transaction) missing(list []record.TopicPartition) []record.TopicPartition {
	return slices.DeleteFunc(list, t.has)
}
