package coordinator

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/record"
)

// TransactionFilter says which transactional ids are wanted; its zero value: all.
type TransactionFilter struct {
	// States: only these; empty: all.
	States []txn.Status
	// ProducerIDs: only ids that have one of these now, or had it before the present one; empty: all.
	ProducerIDs []record.ProducerID
	// OpenFor: only transactions that are open, or ending, for at least as long.
	OpenFor time.Duration
	// Prefix of the id.
	Prefix string
	// Pass is asked last, of those in the list in their order until it is full, such as for what the caller may see; nil: all may pass.
	Pass func(*txn.Transaction) bool
}

func (f *TransactionFilter) wants(t *txn.Transaction, now int64) bool {
	hasOne := func(id record.ProducerID) bool {
		return id == t.ProducerID || id == t.PreviousProducerID || id == t.NextProducerID
	}
	switch {
	case len(f.States) > 0 && !slices.Contains(f.States, t.Status):
		return false
	case len(f.ProducerIDs) > 0 && !slices.ContainsFunc(f.ProducerIDs, hasOne):
		return false
	case f.OpenFor > 0 && (t.Status != txn.Ongoing && !t.Status.Ending() || now-t.StartMS < f.OpenFor.Milliseconds()):
		return false
	}
	return strings.HasPrefix(t.ID, f.Prefix)
}

// List gives up to limit transactional ids of the shards that this broker leads, sorted; truncated says that there are more. A shard
// that is still being loaded makes the whole answer COORDINATOR_LOAD_IN_PROGRESS (T32).
func (t *Transactions) List(ctx context.Context, f TransactionFilter, limit int) (list []*txn.Transaction, truncated bool, err error) {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	now := t.host.nowMS()
	for _, s := range t.led() {
		term, err := s.ready()
		if err != nil {
			if err.Code == CodeLoading {
				return nil, false, err
			}
			continue
		}
		var all []*txn.Transaction
		s.machine.read(func(m *txn.State) { all = m.All() })
		if err := s.confirm(ctx, term); err != nil {
			continue // another broker has it, and answers for it
		}
		for _, one := range all {
			if f.wants(one, now) {
				list = append(list, one)
			}
		}
	}
	slices.SortFunc(list, func(a, b *txn.Transaction) int { return strings.Compare(a.ID, b.ID) })
	list, truncated = firstOf(list, limit, f.Pass)
	return list, truncated, nil
}

// firstOf cuts a list after the first so many that pass; truncated: there are more of them. What is cut must have been let pass before: who may see
// little must see all of it.
func firstOf[T any](list []T, limit int, pass func(T) bool) (first []T, truncated bool) {
	first = list[:0]
	for _, one := range list {
		switch {
		case pass != nil && !pass(one):
		case len(first) == limit:
			return first, true
		default:
			first = append(first, one)
		}
	}
	return first, false
}

func (t *Transactions) led() []*txnShard {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var list []*txnShard
	for s, ts := range t.shards {
		select {
		case <-s.opened:
			list = append(list, ts)
		default:
		}
	}
	return list
}

// Describe gives all that is known of a transactional id.
func (t *Transactions) Describe(ctx context.Context, id string) (*txn.Transaction, error) {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	if err := checkID(id); err != nil {
		return nil, err
	}
	s, term, err := t.leading(ctx, id, false)
	if err != nil {
		return nil, err
	}
	found := s.find(id)
	if err := s.confirm(ctx, term); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, refused(CodeTransactionalIDNotFound, "transactional id %q is not known", id)
	}
	return found, nil
}
