package raftgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// halts waits until a replica is stopped by a fault and looks at what it says then.
func halts(t *testing.T, n *node, id GroupID, why string) {
	t.Helper()
	g := n.replicas[id].group
	until(t, "the replica to halt", func() bool { return g.halted.Load() && g.engine.Load() == nil })
	s := g.Status()
	if s.Role != RoleStopped || !strings.Contains(s.Problem, why) {
		t.Errorf("a halted replica is %q because of %q, want %q", s.Role, s.Problem, why)
	}
	if value(n.host.metrics.halts) != 1 {
		t.Errorf("%v halts are counted", value(n.host.metrics.halts))
	}
	_, err := g.Propose(t.Context(), Command{Data: []byte("x")})
	if !errors.Is(err, ErrStopped) || OutcomeOf(err) != DidNotHappen {
		t.Errorf("Propose of a halted replica: %v", err)
	}
	if err := g.Confirm(t.Context()); err == nil {
		t.Error("a halted replica was confirmed")
	}
}

// A panic in apply stops this replica of this group. Elsewhere it goes on.
func TestPanicInApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var victim atomic.Int32
		c := newCluster(t, 3, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.Machine.(*journal).before = func(e *Entry) {
					if string(e.Data) == "bad" && n.id == victim.Load() {
						panic("a bug")
					}
				}
			}
		})
		c.openAll(7)
		c.openAll(8)
		n, r := c.leader(7)
		victim.Store(n.id)
		_, err := r.group.Propose(t.Context(), Command{Data: []byte("bad")})
		if OutcomeOf(err) != MayHaveHappened {
			t.Errorf("the proposer was told %v", err)
		}
		halts(t, n, 7, "a bug")
		_, r = c.leader(7, c.others(n)...)
		r.propose(t, "good")
		_, r8 := c.leader(8)
		r8.propose(t, "also good")
		c.agree(8, []string{"also good"})
		if e := <-n.replicas[7].events; !e.Ready {
			t.Errorf("first event %+v", e)
		}
		if e := <-n.replicas[7].events; e.Ready {
			t.Errorf("second event %+v", e)
		}
	})
}

// faultyStore fails on demand.
type faultyStore struct {
	logStore
	read, store *atomic.Pointer[error]
	from        *atomic.Uint64 // reads of entries from here on fail
}

func newFaultyStore() *faultyStore {
	return &faultyStore{read: new(atomic.Pointer[error]), store: new(atomic.Pointer[error]), from: new(atomic.Uint64)}
}

func (s *faultyStore) GetLog(i uint64, l *raft.Log) error {
	if e := s.read.Load(); e != nil && i >= s.from.Load() {
		return *e
	}
	return s.logStore.GetLog(i, l)
}

func (s *faultyStore) StoreLogs(logs []*raft.Log) error {
	if e := s.store.Load(); e != nil {
		return *e
	}
	return s.logStore.StoreLogs(logs)
}

func (s *faultyStore) queueLogs(logs []*raft.Log) error {
	if e := s.store.Load(); e != nil {
		return *e
	}
	return s.logStore.queueLogs(logs)
}

// faulty gives each broker's group 7 a store that can fail.
func faulty(stores map[int32]*faultyStore) func(*cluster) {
	return func(c *cluster) {
		c.group = func(n *node, gc *GroupConfig) {
			if gc.ID != 7 {
				return
			}
			gc.wrapLog = func(l logStore) logStore {
				s := stores[n.id]
				if s == nil {
					s = newFaultyStore()
					stores[n.id] = s
				}
				s.logStore = l
				return s
			}
		}
	}
}

var errDisk = errors.New("input/output error")

func TestLogWriteFails(t *testing.T) {
	for _, where := range []string{"leader", "follower"} {
		t.Run(where, func(t *testing.T) {
			eachLog(t, func(t *testing.T, options ...func(*cluster)) {
				synctest.Test(t, func(t *testing.T) {
					stores := map[int32]*faultyStore{}
					c := newCluster(t, 3, append(options, faulty(stores))...)
					c.openAll(7)
					n, r := c.leader(7)
					r.propose(t, "before")
					victim := n
					if where == "follower" {
						victim = c.others(n)[0]
					}
					stores[victim.id].store.Store(&errDisk)
					_, err := r.group.Propose(t.Context(), Command{Data: []byte("during")})
					if where == "leader" && OutcomeOf(err) != MayHaveHappened {
						t.Errorf("the proposer was told %v", err)
					}
					if where == "follower" && err != nil {
						t.Errorf("a follower's disk failed the proposal: %v", err)
					}
					halts(t, victim, 7, "input/output error")
					_, r = c.leader(7, c.others(victim)...)
					r.propose(t, "after")
				})
			})
		})
	}
}

// Raft panics when an entry that it is about to apply cannot be read, on its own goroutine.
func TestLogReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 3, faulty(stores))
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		victim := c.others(n)[0]
		// Followers read what they apply.
		stores[victim.id].from.Store(uint64(r.group.Status().LastIndex) + 1)
		stores[victim.id].read.Store(&errDisk)
		r.propose(t, "during")
		halts(t, victim, 7, "input/output error")
		r.propose(t, "after")
		if got := victim.replicas[7].machine.seen(); len(got) != 1 {
			t.Errorf("the halted replica went on to apply %q", got)
		}
		// It can be opened again once the disk is well.
		stores[victim.id].read.Store(nil)
		c.stop(victim)
		c.restart(victim, 7)
		c.agree(7, []string{"before", "during", "after"})
	})
}

// An entry that is gone, inside what Raft needs, is the same.
func TestLogEntryIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 3, faulty(stores))
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		victim := c.others(n)[0]
		missing := error(raft.ErrLogNotFound)
		stores[victim.id].from.Store(uint64(r.group.Status().LastIndex) + 1)
		stores[victim.id].read.Store(&missing)
		r.propose(t, "during")
		halts(t, victim, 7, "missing")
	})
}

// NewRaft panics on an entry it cannot read: the group does not open, and says why.
func TestOpenWithUnreadableLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 3, faulty(stores))
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		c.stop(n)
		stores[n.id].read.Store(&errDisk)
		c.start(n)
		if _, err := c.open(n, 7, MakeServerID(n.id, 1), nil); err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("opened: %v", err)
		}
		stores[n.id].read.Store(nil)
		c.mustOpen(n, 7, MakeServerID(n.id, 1), nil)
		c.agree(7, []string{"before"})
	})
}

// Raft panics when it cannot store its term.
func TestStableWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		c.openAll(9) // in another file
		n, r := c.leader(7)
		r.propose(t, "before")
		victim := c.others(n)[0]
		if err := victim.host.stable.files[7%stableFileCount].db.Close(); err != nil {
			t.Fatal(err)
		}
		c.stop(n) // There has to be an election.
		halts(t, victim, 7, "stable store")
		_, r = c.leader(9, c.others(n)...)
		r.propose(t, "well")
		c.restart(n, 7, 9)
		_, r = c.leader(7, c.others(victim)...)
		r.propose(t, "after")
		if v := victim.replicas[7].group.Status(); v.Role != RoleStopped {
			t.Errorf("the replica is %s", v.Role)
		}
	})
}

// Once a file of votes has failed it stays failed: what a failed sync left is not known.
func TestStableFileStaysFailed(t *testing.T) {
	f, err := openStableFile(filepath.Join(t.TempDir(), "s.db"), false, nil, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.close() }()
	good := func(b *bbolt.Bucket) error { return b.Put([]byte("k"), []byte("v")) }
	if err := f.write(good); err != nil {
		t.Fatal(err)
	}
	if err := f.write(func(*bbolt.Bucket) error { return errDisk }); !errors.Is(err, errDisk) {
		t.Errorf("failed write: %v", err)
	}
	if err := f.write(good); !errors.Is(err, errDisk) {
		t.Errorf("write after a failed one: %v", err)
	}
}

// A full disk is refused: nothing was written, the replica goes on when there is room again.
func TestDiskIsFull(t *testing.T) {
	for _, where := range []string{"leader", "follower"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stores := map[int32]*faultyStore{}
				c := newCluster(t, 3, faulty(stores), withRecordLogs)
				c.openAll(7)
				n, r := c.leader(7)
				r.propose(t, "before")
				full := fmt.Errorf("append: %w", recordlog.ErrNoSpace)
				victim := n
				if where == "follower" {
					victim = c.others(n)[0]
				}
				stores[victim.id].store.Store(&full)
				_, err := r.group.Propose(t.Context(), Command{Data: []byte("during")})
				if where == "leader" && (err == nil || OutcomeOf(err) != DidNotHappen) {
					t.Errorf("the proposer was told %v, which says %v", err, OutcomeOf(err))
				}
				_, r = c.leader(7, c.others(victim)...)
				r.propose(t, "after")
				stores[victim.id].store.Store(nil)
				if victim.replicas[7].group.halted.Load() {
					t.Errorf("a full disk halted the replica: %s", victim.replicas[7].group.Status().Problem)
				}
				c.agree(7, []string{"before", "after"})
			})
		})
	}
}

// A change of members that a full disk refused did not happen. Raft goes on as if it had, since it takes the new members before it looks at what
// became of the entry: it would lead a group of its own, and acknowledge what nobody else has.
func TestDiskIsFullForMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 2, faulty(stores), withRecordLogs)
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		full := fmt.Errorf("append: %w", recordlog.ErrNoSpace)
		stores[n.id].store.Store(&full)
		if err := r.group.Remove(t.Context(), MakeServerID(c.others(n)[0].id, 1)); err == nil {
			t.Fatal("a member was removed on a full disk")
		}
		stores[n.id].store.Store(nil)
		c.net.isolate(true, n.name, names(c.nodes)...)
		time.Sleep(20 * time.Second)
		if term, ready := r.group.IsReady(); ready {
			t.Errorf("it leads in term %d, without the only other voter", term)
		}
		c.net.isolate(false, n.name, names(c.nodes)...)
		_, r = c.leader(7)
		r.propose(t, "after")
		c.agree(7, []string{"before", "after"})
		for _, m := range c.nodes {
			if s := m.replicas[7].group.Status(); len(s.Voters) != 2 || s.Problem != "" {
				t.Errorf("broker %d knows voters %v; problem %q", m.id, s.Voters, s.Problem)
			}
		}
	})
}

// A full disk just after a conflicting tail was removed: Raft still counts that tail, and is
// opened again.
func TestDiskIsFullOverConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 3, faulty(stores), withRecordLogs)
		c.openAll(7)
		old, r := c.leader(7)
		r.propose(t, "before")
		c.agree(7, []string{"before"})
		c.net.isolate(true, old.name, names(c.nodes)...)
		for i := range 20 {
			r.group.ProposeAsync(Command{Data: fmt.Appendf(nil, "tail %d", i)}, func(any, error) {})
		}
		_, now := c.leader(7, c.others(old)...)
		now.propose(t, "after")
		full := fmt.Errorf("append: %w", recordlog.ErrNoSpace)
		stores[old.id].store.Store(&full)
		c.net.isolate(false, old.name, names(c.nodes)...)
		until(t, "raft to be opened again", func() bool { return value(old.host.metrics.reopens) > 0 })
		stores[old.id].store.Store(nil)
		c.agree(7, []string{"before", "after"})
		if r.group.Status().Problem != "" {
			t.Errorf("problem: %s", r.group.Status().Problem)
		}
	})
}

// A replica under a new incarnation finds nothing of the old one.
func TestStableStoresAreApart(t *testing.T) {
	dir := t.TempDir()
	s, err := openStableFiles(dir, false, nil, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	one, err := s.open(7, "1/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.GetUint64(keyCurrentTerm); err == nil || err.Error() != "not found" {
		t.Errorf("an empty store says %v, Raft looks for the text not found", err)
	}
	for v := range uint64(5) {
		if err := one.SetUint64(keyCurrentTerm, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Set([]byte("LastVoteCand"), []byte("2/1")); err != nil {
		t.Fatal(err)
	}
	written := func() int64 {
		stats := one.file.db.Stats()
		return stats.TxStats.GetWrite()
	}
	writes := written()
	if err := one.SetUint64(keyCurrentTerm, 4); err != nil {
		t.Fatal(err)
	}
	if written() != writes {
		t.Error("an unchanged value was written")
	}
	for _, other := range []struct {
		g GroupID
		s ServerID
	}{{7, "1/2"}, {11, "1/1"}, {8, "1/1"}} {
		st, err := s.open(other.g, other.s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Get(keyCurrentTerm); !errors.Is(err, errNotFound) {
			t.Errorf("group %d of %s sees another's term: %v", other.g, other.s, err)
		}
		if err := st.SetUint64(keyCurrentTerm, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openStableFiles(dir, false, nil, testLogger()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	if one, err = s.open(7, "1/1"); err != nil {
		t.Fatal(err)
	}
	if v, err := one.GetUint64(keyCurrentTerm); v != 4 || err != nil {
		t.Errorf("term %d, %v after opening again", v, err)
	}
	if err := s.forget(7, "1/1"); err != nil {
		t.Fatal(err)
	}
	one, _ = s.open(7, "1/1")
	if _, err := one.Get(keyCurrentTerm); !errors.Is(err, errNotFound) {
		t.Errorf("a forgotten term is there: %v", err)
	}
	two, _ := s.open(7, "1/2")
	if v, _ := two.GetUint64(keyCurrentTerm); v != 100 {
		t.Errorf("forgetting one replica changed another: %d", v)
	}
}

// A crash inside bootstrap leaves a term and no log; the next start goes on from there.
func TestBootstrapGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes[0]
		st, err := n.host.stable.open(7, "1/1")
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SetUint64(keyCurrentTerm, 1); err != nil {
			t.Fatal(err)
		}
		r := c.mustOpen(n, 7, "1/1", members(1))
		c.leader(7)
		r.propose(t, "begun")
		// With state it is not bootstrapped again, whatever the list says.
		if err := r.group.Close(); err != nil {
			t.Fatal(err)
		}
		r = c.mustOpen(n, 7, "1/1", []Server{{ID: "1/1"}, {ID: "2/1"}})
		c.leader(7)
		if v := r.group.Status().Voters; len(v) != 1 {
			t.Errorf("voters %v", v)
		}
	})
}

func TestOpenIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes[0]
		for _, x := range []struct {
			what string
			id   GroupID
			self ServerID
			boot []Server
		}{
			{"group 0", 0, "1/1", nil},
			{"another broker", 7, "2/1", nil},
			{"no server id", 7, "x", nil},
			{"bootstrap without this replica", 7, "1/1", []Server{{ID: "2/1"}}},
			{"bootstrap with one twice", 7, "1/1", []Server{{ID: "1/1"}, {ID: "1/1"}}},
			{"bootstrap without a voter", 7, "1/1", []Server{{ID: "1/1", Learner: true}}},
			{"bootstrap with nonsense", 7, "1/1", []Server{{ID: "1/1"}, {ID: "01/1"}}},
		} {
			if _, err := c.open(n, x.id, x.self, x.boot); err == nil {
				t.Errorf("%s: opened", x.what)
			}
		}
		r := c.mustOpen(n, 7, "1/1", members(1))
		if _, err := n.host.Open(GroupConfig{ID: 7, Self: "1/1", Dir: n.dir, Machine: &journal{}}); err == nil {
			t.Error("a group was opened twice")
		}
		if n.host.Group(7) != r.group || n.host.Group(8) != nil {
			t.Error("Group does not find what is open")
		}
		if err := n.host.Forget(7, "1/1"); err == nil {
			t.Error("an open group was forgotten")
		}
		if err := r.group.Destroy(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(r.group.config.Dir); len(left) != 0 {
			t.Errorf("a destroyed group left %v", left)
		}
		if n.host.Group(7) != nil {
			t.Error("a destroyed group is open")
		}
		if err := r.group.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	})
}

// Entries of another term than they were admitted in take no offsets, and the record log is told
// in its turn.
func TestStaleBatchesAreRefusedInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, withRecordLogs)
		for _, n := range c.nodes {
			openBatches(t, c, n)
		}
		_, r := c.leader(7)
		propose := func(term record.Term) error {
			_, err := r.group.Propose(t.Context(), Command{Data: testBatch(), Term: term})
			return err
		}
		if err := propose(0); err != nil {
			t.Fatal(err)
		}
		term, _ := r.group.IsReady()
		l := r.group.lead.Load()
		stale := &leadership{term: term - 1, engine: l.engine, ctx: l.ctx, cancel: func() {}}
		stale.ready.Store(true)
		results := make(chan error, 3)
		for i := range 3 {
			if i == 1 {
				r.group.lead.Store(stale)
			} else {
				r.group.lead.Store(l)
			}
			r.group.ProposeAsync(Command{Data: testBatch()}, func(_ any, err error) { results <- err })
			synctest.Wait()
		}
		for i := range 3 {
			if err := <-results; (err != nil) != (i == 1) {
				t.Errorf("batch %d: %v", i, err)
			}
		}
		r.group.lead.Store(l)
		for _, n := range c.nodes {
			until(t, "three batches", func() bool { return n.replicas[7].log.EndOffset() == 6 })
			y := n.replicas[7].log.Layout()
			if len(y.Refused) != 1 {
				t.Errorf("broker %d: refused %+v", n.id, y.Refused)
			}
			if s := n.replicas[7].group.Status(); s.Problem != "" {
				t.Errorf("broker %d: %s", n.id, s.Problem)
			}
		}
		time.Sleep(time.Second)
	})
}

// A crash between a snapshot's installation and the emptying of the log leaves a log that ends
// below the snapshot.
func TestLogBelowSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) {
			c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes = 8 << 10 }
		})
		c.openAll(7)
		n, r := c.leader(7)
		var want []string
		for i := range 50 {
			want = append(want, padded("command %d", i))
			r.propose(t, want[i])
		}
		c.agree(7, want)
		synctest.Wait()
		victim := c.others(n)[0]
		newest := uint64(victim.replicas[7].group.snapshots.newest())
		dir := victim.replicas[7].group.config.Dir
		c.stop(victim)
		l, err := openBoltLog(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.truncateTail(newest - 1); err != nil {
			t.Fatal(err)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		c.restart(victim, 7)
		if first, _ := victim.replicas[7].group.logs.FirstIndex(); first != 0 && first <= newest {
			t.Errorf("log begins at %d, the snapshot ends at %d", first, newest)
		}
		r.propose(t, "last")
		c.agree(7, append(want, "last"))
	})
}

// An entry that the log does not take costs its proposer a refusal, and not the replica.
func TestUnwritableEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[int32]*faultyStore{}
		c := newCluster(t, 3, faulty(stores), withRecordLogs)
		c.openAll(7)
		n, r := c.leader(7)
		bad := fmt.Errorf("append: %w", recordlog.ErrInvalidEntry)
		stores[n.id].store.Store(&bad)
		_, err := r.group.Propose(t.Context(), Command{Data: []byte("bad")})
		if err == nil || OutcomeOf(err) != DidNotHappen {
			t.Errorf("the proposer was told %v", err)
		}
		stores[n.id].store.Store(nil)
		// The leader that failed to write gives up its leadership, maybe only while it is asked again.
		until(t, "a leader that takes the good entry", func() bool {
			_, r = c.leader(7)
			_, err := r.group.Propose(t.Context(), Command{Data: []byte("good")})
			if err != nil && OutcomeOf(err) != DidNotHappen {
				t.Fatalf("propose: %v", err)
			}
			return err == nil
		})
		c.agree(7, []string{"good"})
	})
}
