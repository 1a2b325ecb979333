package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
)

// Every broker tells how far the members of the metadata group are, as their leader knows it; of one that is cut off, when it was heard
// last.
func TestQuorum(t *testing.T) {
	onVirtualTime(t, func(r *rig) {
		a, b, c := r.three()
		lead := r.controller()
		nodes := []*node{a, b, c}
		last := 0
		r.within(time.Minute, "all have the same", func() bool {
			q, err := lead.cluster.Quorum(r.context(time.Second))
			last = int(q.Commit)
			return err == nil && len(q.Members) == 3 && !slices.ContainsFunc(q.Members, func(m raftgroup.Member) bool { return m.LastIndex < q.Commit || m.Level.IsZero() })
		})
		for _, n := range nodes {
			q, err := n.cluster.Quorum(r.context(time.Second))
			if err != nil || q.Leader != lead.id || int(q.Commit) < last || q.Term == 0 || len(q.Members) != 3 {
				t.Fatalf("broker %d says %+v, %v", n.id, q, err)
			}
			for _, m := range q.Members {
				if age := time.Since(m.Heard); !m.Voter || int(m.LastIndex) < last || age < 0 || age > 2*time.Second {
					t.Errorf("broker %d says of %s: %+v, heard %v ago", n.id, m.ID, m, age)
				}
			}
		}
		i := slices.IndexFunc(nodes, func(n *node) bool { return n != lead })
		nodes[i].stop()
		time.Sleep(10 * time.Second)
		q, err := lead.cluster.Quorum(r.context(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range q.Members {
			broker, _, _ := raftgroup.ParseServerID(m.ID)
			if away := time.Since(m.Heard) > 5*time.Second; away != (broker == nodes[i].id) {
				t.Errorf("%s was heard %v ago", m.ID, time.Since(m.Heard))
			}
		}
	})
}
