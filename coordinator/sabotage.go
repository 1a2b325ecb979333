package coordinator

import (
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/record"
)

// Sabotage plants bugs. Only tests set it: what finds no planted bug would find no other either.
type Sabotage struct {
	// SkipMarker takes the first marker of a transaction for written, and does not write it.
	SkipMarker bool
	// StaleEnd lets a producer that has been replaced end the transaction of the one that replaced it.
	StaleEnd bool
	// LosePending drops the offsets of a transaction that is committed.
	LosePending bool
}

// toWrite are the markers that are written.
func (s Sabotage) toWrite(all []Marker) []Marker {
	if s.SkipMarker && len(all) > 0 {
		return all[1:]
	}
	return all
}

// ending is the epoch with which a transaction is to be ended.
func (s Sabotage) ending(t *Transactions, id string, epoch record.Epoch) record.Epoch {
	if !s.StaleEnd {
		return epoch
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, shard := range t.shards {
		shard.machine.read(func(m *txn.State) {
			if now := m.Find(id); now != nil && now.Status == txn.Ongoing {
				epoch = max(epoch, now.Epoch)
			}
		})
	}
	return epoch
}

// commits says whether the pending offsets of a transaction become committed ones.
func (s Sabotage) commits(m Marker) bool { return m.Commit && !s.LosePending }
