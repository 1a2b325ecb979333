package raftgroup

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/oncelog/oncelog/internal/vfs"
)

// A start reads what lies above the snapshot twice, to check it and to apply it, and does not hold it in
// memory: Raft's own look at every entry, and the log's at those that get their fate, are at headers only.
func TestRestartReadsEachEntryTwice(t *testing.T) {
	const entries, size = 64, 100 << 10
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, withRecordLogs)
		c.openAll(7)
		n, r := c.leader(7)
		var want []string
		for i := range entries {
			want = append(want, strings.Repeat(fmt.Sprint(i%10), size+i), fmt.Sprint("small ", i))
			r.propose(t, want[2*i])
			r.propose(t, want[2*i+1])
		}
		c.stop(n)

		var read, most atomic.Int64
		n.fs.(*vfs.Mem).OnBefore(func(op vfs.Op) error {
			if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".seg") {
				read.Add(op.Bytes)
			}
			return nil
		})
		c.group = func(_ *node, gc *GroupConfig) { gc.Machine = &watched{StateMachine: gc.Machine, most: &most} }
		c.restart(n, 7)
		c.agree(7, want)
		if got := float64(read.Load()) / (entries * size); got < 2 || got > 2.5 {
			t.Errorf("the log was read %.2f times", got)
		}
		if got := most.Load(); got > applyBytes+2*size {
			t.Errorf("the machine was given %d bytes at once", got)
		}
	})
}

// watched notes how much a machine is given at once.
type watched struct {
	StateMachine
	most *atomic.Int64
}

func (w *watched) Apply(entries []Entry) []any {
	bytes := int64(0)
	for i := range entries {
		bytes += int64(len(entries[i].Data))
	}
	w.most.Store(max(w.most.Load(), bytes))
	return w.StateMachine.Apply(entries)
}
