package txn

import (
	"math"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// MaxExpired is how many ids one command can forget.
const MaxExpired = 1000

// expire forgets those of the ids that are still as they were found, and not in use since the cutoff (T31, R5).
func (s *State) expire(c *statev1.ExpireTransactionalIds) Result {
	var r Result
	for _, e := range c.GetIds() {
		t := s.ids[e.GetTransactionalId()]
		if t == nil || t.Version != e.GetVersion() || t.Epoch != record.Epoch(e.GetProducerEpoch()) || !t.idleSince(c.GetCutoffMs()) {
			continue
		}
		s.remove(t)
		r.Expired++
	}
	r.Changed = r.Expired > 0
	return r
}

func (t *Transaction) idleSince(cutoff int64) bool { return t.Status.idle() && t.UpdatedMS <= cutoff }

// Idle lists up to max ids without an open transaction that were last used at or before cutoff, in ms since 1970, and by a command
// below an index. The leader proposes to forget them, with the same cutoff; Apply decides. It looks at all ids.
func (s *State) Idle(cutoff int64, below uint64, max int) []*Transaction {
	var found []*Transaction
	for _, t := range s.ids {
		if t.idleSince(cutoff) && t.Version < below {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, byID)
	return found[:min(len(found), max)]
}

// Open lists the transactions that are open or ending, by id: what a new leader has to look after (T32).
func (s *State) Open() []*Transaction {
	list := make([]*Transaction, 0, len(s.open))
	for _, t := range s.open {
		list = append(list, t)
	}
	slices.SortFunc(list, byID)
	return list
}

// NoStart stands for the time at which no transaction is due.
const NoStart int64 = math.MaxInt64

// Deadline is when an open transaction has been open for as long as it may, ms since 1970; NoStart if none is open. It runs
// from the first partition, not from the last activity (T30).
func (t *Transaction) Deadline() int64 {
	if t.Status != Ongoing {
		return NoStart
	}
	return t.StartMS + int64(t.TimeoutMS)
}

// Find gives an id, nil if it is not known.
func (s *State) Find(id string) *Transaction { return s.ids[id] }

// All lists every id, sorted.
func (s *State) All() []*Transaction {
	list := make([]*Transaction, 0, len(s.ids))
	for _, t := range s.ids {
		list = append(list, t)
	}
	slices.SortFunc(list, byID)
	return list
}

func byID(a, b *Transaction) int { return strings.Compare(a.ID, b.ID) }
