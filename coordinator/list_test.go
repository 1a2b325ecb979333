package coordinator

import (
	"strings"
	"testing"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
)

// A list is cut after those that may not pass are out of it, not before: who may see little sees all of it, and learns of no more.
func TestListsAreCutLast(t *testing.T) {
	runGroups(t, 1, nil, func(t *testing.T, r *rig) {
		b, ctx := r.leader(), t.Context()
		r.leaderOf(KindGroups) // the same one, as soon as it is ready
		for _, id := range []string{"a", "b", "c", "d"} {
			r.mustInit(b, id, NoProducer)
			r.mustCommit(b, id, group.Committer{Epoch: group.NoEpochShown}, 1)
		}
		for pass, want := range map[string]struct {
			ids       string
			truncated bool
		}{"abcd": {"ab", true}, "bcd": {"bc", true}, "cd": {"cd", false}, "d": {"d", false}, "": {"", false}} {
			txns, cut, err := b.txns.List(ctx, TransactionFilter{Pass: func(t *txn.Transaction) bool { return strings.Contains(pass, t.ID) }}, 2)
			got := ""
			for _, one := range txns {
				got += one.ID
			}
			if err != nil || got != want.ids || cut != want.truncated {
				t.Errorf("transactional ids of %q: %q, truncated %v, %v", pass, got, cut, err)
			}
			groups, cut, err := b.groups.List(ctx, GroupFilter{Pass: func(d group.Description) bool { return strings.Contains(pass, d.ID) }}, 2)
			got = ""
			for _, one := range groups {
				got += one.ID
			}
			if err != nil || got != want.ids || cut != want.truncated {
				t.Errorf("groups of %q: %q, truncated %v, %v", pass, got, cut, err)
			}
		}
	})
}
