package raftgroup

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// fillWith proposes entries of 100 KiB.
func fillWith(t *testing.T, r *replica, n int) {
	t.Helper()
	for i := range n {
		r.propose(t, strings.Repeat(fmt.Sprint(i%10), 100<<10))
	}
}

// What all groups of a host together would apply again is bounded, by snapshots of those that have most.
func TestReplayIsBounded(t *testing.T) {
	const limit = 20 << 20
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, withRecordLogs, func(c *cluster) {
			c.config = func(conf *Config) { conf.MaxReplayBytes = limit }
			c.group = func(_ *node, gc *GroupConfig) { gc.Machine.(*journal).drop = true }
		})
		n := c.nodes[0]
		for _, id := range []GroupID{7, 8, 9, 10} {
			c.openAll(id)
			c.leader(id)
		}
		fillWith(t, n.replicas[7], 30) // below what a snapshot is taken for
		fillWith(t, n.replicas[8], 100)
		snapshot := func(id GroupID) uint64 { return uint64(n.replicas[id].group.Status().SnapshotIndex) }
		if snapshot(7) != 0 || snapshot(8) != 0 {
			t.Errorf("snapshots at %d and %d below the bound", snapshot(7), snapshot(8))
		}
		fillWith(t, n.replicas[9], 120)
		synctest.Wait()
		if snapshot(7) != 0 || snapshot(8) == 0 || snapshot(9) != 0 {
			t.Errorf("snapshots at %d, %d, %d: only the second group has one to take", snapshot(7), snapshot(8), snapshot(9))
		}
		fillWith(t, n.replicas[10], 300)
		synctest.Wait()
		if got := n.host.replayed(); got > limit {
			t.Errorf("%d bytes would be applied again", got)
		}

		before := n.host.replayed()
		c.stop(n)
		c.restart(n, 7, 8, 9, 10)
		for id := range n.replicas {
			c.leader(id)
		}
		if got := n.host.replayed(); got < before*9/10 || got > before*11/10 {
			t.Errorf("%d bytes were applied again, not %d", got, before)
		}
		for _, r := range n.replicas {
			if err := r.group.Close(); err != nil {
				t.Error(err)
			}
		}
		if got := n.host.replayed(); got != 0 {
			t.Errorf("%d bytes are counted without a group", got)
		}
	})
}

func (h *Host) replayed() uint64 { return uint64(h.replay.pending.Load()) }

// Before a stop, groups with much to apply again take a snapshot.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, withRecordLogs)
		n := c.nodes[0]
		for _, id := range []GroupID{7, 8} {
			c.openAll(id)
			c.leader(id)
		}
		fillWith(t, n.replicas[7], 5)
		fillWith(t, n.replicas[8], 15)
		n.host.Rest(t.Context())
		if at := n.replicas[7].group.Status().SnapshotIndex; at != 0 {
			t.Errorf("a snapshot at %d for half a MiB", at)
		}
		if s := n.replicas[8].group.Status(); s.SnapshotIndex != s.AppliedIndex {
			t.Errorf("snapshot at %d, applied %d", s.SnapshotIndex, s.AppliedIndex)
		}
	})
}

// Snapshots that are taken early do not shorten the log that Raft keeps for followers which were away.
func TestEarlySnapshotsKeepTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, withRecordLogs, func(c *cluster) {
			c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes = 10 << 20 }
		})
		c.openAll(7)
		_, r := c.leader(7)
		for range 20 {
			fillWith(t, r, 15)
			if !r.group.takeSnapshot() {
				t.Fatal("no snapshot")
			}
			s := r.group.Status()
			behind := uint64(s.SnapshotIndex) - uint64(s.FirstIndex)
			switch kept := behind * (100 << 10); {
			case s.FirstIndex > 1 && kept < 10<<20:
				t.Fatalf("%d bytes are kept, from entry %d on", kept, s.FirstIndex)
			case kept > 14<<20:
				t.Fatalf("%d bytes are kept, from entry %d on", kept, s.FirstIndex)
			}
		}
		// An owner who wants the space gets it.
		for range 2 {
			r.propose(t, "something new")
			if err := r.group.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.group.Status(); s.FirstIndex+2 < s.LastIndex {
			t.Errorf("Raft keeps entries %d to %d", s.FirstIndex, s.LastIndex)
		}
	})
}
