package raftgroup

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// A leader that has lost the answers of a follower counts it further behind than it is, and sends it a
// snapshot that ends inside its log. The follower keeps what lies behind: it is applied, or acknowledged.
func TestSnapshotThatIsCovered(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, append(options, pulling(8<<10))...)
			c.openAll(7)
			n, r := c.leader(7)
			var want []string
			for i := range 30 {
				want = append(want, padded("command %d", i))
				r.propose(t, want[i])
			}
			c.agree(7, want)
			synctest.Wait()
			for metas := r.group.snapshots.metas(); len(metas) > 0 && metas[0].Index >= uint64(r.group.Status().AppliedIndex); {
				want = append(want, "behind the newest snapshot")
				r.propose(t, want[len(want)-1])
			}
			c.agree(7, want)
			synctest.Wait()
			follower := c.others(n)[0].replicas[7]
			unneeded := follower.group.metrics().snapshots.WithLabelValues("unneeded")
			// A follower that was slow may have needed a snapshot already.
			before, restores, counted := follower.group.Status(), follower.machine.restores, value(unneeded)
			resp := r.sendSnapshot(t, follower.group)
			after := follower.group.Status()
			if !resp.Success || after.Problem != "" || after.AppliedIndex != before.AppliedIndex || after.LastIndex != before.LastIndex ||
				after.FirstIndex != before.FirstIndex || follower.machine.restores != restores {
				t.Fatalf("success %t, %d snapshots restored, %q; before and after:\n%+v\n%+v", resp.Success, follower.machine.restores-restores, after.Problem, before, after)
			}
			if got := value(unneeded) - counted; got != 1 {
				t.Errorf("%v snapshots counted as unneeded", got)
			}
			r.propose(t, "last")
			c.agree(7, append(want, "last"))
		})
	})
}

// sendSnapshot sends the newest snapshot to a member, as Raft does.
func (r *replica) sendSnapshot(t *testing.T, to *Group) *raft.InstallSnapshotResponse {
	t.Helper()
	metas := r.group.snapshots.metas()
	if len(metas) == 0 || metas[0].Index >= uint64(r.group.Status().AppliedIndex) {
		t.Fatalf("the test shows nothing: snapshots %+v", metas)
	}
	meta, data, err := r.group.snapshots.open(metas[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = data.Close() }()
	e := r.group.engine.Load()
	req := &raft.InstallSnapshotRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, SnapshotVersion: meta.Version, Term: e.raft.CurrentTerm(),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
	resp := new(raft.InstallSnapshotResponse)
	if err := e.transport.InstallSnapshot(raft.ServerID(to.Self()), "", req, resp, data); err != nil {
		t.Fatal(err)
	}
	return resp
}

// refusingStore makes room for a snapshot, and then the installation fails.
type refusingStore struct {
	logStore
	refuse *atomic.Bool
}

func (s *refusingStore) installing(index uint64) error {
	err := s.logStore.installing(index)
	if err == nil && s.refuse.Load() {
		err = errDisk
	}
	return err
}

// An installation that fails after the tail which conflicts was cut off: Raft is opened again, and does not go on believing
// in what is gone.
func TestInstallationFailsBehindTheCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := new(atomic.Bool)
		c := newCluster(t, 3, withControlLogs, func(c *cluster) {
			c.group = func(_ *node, gc *GroupConfig) {
				gc.SnapshotBytes = 8 << 10
				gc.wrapLog = func(l logStore) logStore { return &refusingStore{l, refuse} }
			}
		})
		c.openAll(7)
		old, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		c.net.isolate(true, old.name, names(c.nodes)...)
		for i := range 90 {
			r.group.ProposeAsync(Command{Data: fmt.Appendf(nil, "tail %d", i)}, func(any, error) {})
		}
		// Raft gets all of them with one that does not wait for more.
		r.group.ProposeAsync(Command{Data: make([]byte, gatherBytes)}, func(any, error) {})
		believed := func() uint64 {
			e := r.group.engine.Load()
			if e == nil {
				return 0
			}
			n, _ := strconv.ParseUint(e.raft.Stats()["last_log_index"], 10, 64)
			return n
		}
		until(t, "the tail to be there", func() bool { n, _ := r.group.logs.LastIndex(); return n > 90 && believed() == n })
		want := []string{"before"}
		n, now := c.leader(7, c.others(old)...)
		for i := range 60 {
			want = append(want, padded("command %d", i))
			now.propose(t, want[i+1])
		}
		until(t, "the log to be trimmed", func() bool { n, _ := now.group.logs.FirstIndex(); return n > 5 })
		// Whoever leads next has only a snapshot for it.
		c.stop(n)
		c.restart(n, 7)
		c.leader(7, c.others(old)...)
		refuse.Store(true)
		c.net.isolate(false, old.name, names(c.nodes)...)
		until(t, "an installation to fail", func() bool { return value(old.host.metrics.snapshots.WithLabelValues("failed")) > 0 })
		until(t, "raft to be opened again", func() bool {
			last, err := r.group.logs.LastIndex()
			return err == nil && r.group.engine.Load() != nil && believed() == last
		})
		if value(old.host.metrics.reopens) == 0 {
			t.Error("raft was not opened again")
		}
		if s := r.group.Status(); s.Problem != "" {
			t.Errorf("the replica has stopped: %s", s.Problem)
		}
		refuse.Store(false)
		c.agree(7, want)
	})
}

// While a snapshot of a leader is being restored, one that this replica took itself may let go of what it covers. It is not taken
// for the emptying of the log, which follows.
func TestOwnSnapshotMeetsAnInstalledOne(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, append(options, smallSnapshots)...)
			c.openAll(7)
			n, r := c.leader(7)
			for i := range 40 {
				r.propose(t, padded("command %d", i))
			}
			synctest.Wait()
			g := c.others(n)[0].replicas[7].group
			e := g.engine.Load()
			first, _ := g.logs.FirstIndex()
			last, _ := g.logs.LastIndex()
			newest := uint64(g.snapshots.newest())
			if newest <= first || newest >= last {
				t.Fatalf("the test shows nothing: the log holds %d to %d, the newest snapshot is of %d", first, last, newest)
			}
			e.installed.Store(newest)
			if err := e.log.DeleteRange(first, newest-1); err != nil {
				t.Fatal(err)
			}
			if now, _ := g.logs.LastIndex(); now != last {
				t.Errorf("the log ends at %d, not at %d, behind a snapshot of this replica's own", now, last)
			}
			if e.installed.Load() != newest {
				t.Error("the snapshot of this replica's own was taken for the installed one")
			}
		})
	})
}

// An append that begins at a snapshot, behind which the log holds entries, is taken: nothing is left there to compare.
func TestAppendBeginsAtTheSnapshot(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, append(options, pulling(8<<10))...)
			c.openAll(7)
			n, r := c.leader(7)
			away := c.others(n)[0]
			c.net.isolate(true, away.name, names(c.nodes)...)
			for i := range 60 {
				r.propose(t, padded("command %d", i))
			}
			synctest.Wait()
			c.net.isolate(false, away.name, names(c.nodes)...)
			machine := away.replicas[7].machine
			until(t, "a snapshot to be installed", func() bool {
				machine.mu.Lock()
				defer machine.mu.Unlock()
				return machine.restores > 0 && away.replicas[7].group.engine.Load() != nil
			})
			_, r = c.leader(7)
			r.propose(t, "behind it")
			g := away.replicas[7].group
			until(t, "the follower to have it", func() bool { return g.Status().AppliedIndex == r.group.Status().AppliedIndex })
			metas := g.snapshots.metas() // of which it may have taken the newest itself
			installed := metas[len(metas)-1]
			first, _ := g.logs.FirstIndex()
			last, _ := g.logs.LastIndex()
			if first <= installed.Index || last <= installed.Index {
				t.Fatalf("the test shows nothing: the snapshot is of %d, the log holds %d to %d", installed.Index, first, last)
			}
			e := r.group.engine.Load()
			q := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: e.raft.CurrentTerm(),
				PrevLogEntry: installed.Index, PrevLogTerm: installed.Term, LeaderCommitIndex: 1}
			resp := new(raft.AppendEntriesResponse)
			if err := e.transport.AppendEntries(raft.ServerID(g.Self()), "", q, resp); err != nil || !resp.Success {
				t.Errorf("refused behind the snapshot of %d: %+v, %v", installed.Index, resp, err)
			}
			if now, _ := g.logs.LastIndex(); now != last {
				t.Errorf("the log ends at %d, not at %d", now, last)
			}
			r.propose(t, "last")
		})
	})
}
