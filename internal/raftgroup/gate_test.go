package raftgroup

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// disks are the record logs of a cluster's brokers, each with a sync that takes as long as it is told.
type disks struct{ syncs []atomic.Int64 }

// newDisks makes a cluster of brokers with record logs for group 7, not opened yet.
func newDisks(t *testing.T, size int, options ...func(*cluster)) (*cluster, *disks) {
	t.Helper()
	d := &disks{syncs: make([]atomic.Int64, size)}
	c := newCluster(t, size, append(options, withRecordLogs)...)
	for i, n := range c.nodes {
		n.mem().SetDelay(func(op vfs.Op) time.Duration {
			if op.Kind != vfs.OpSync || !strings.HasSuffix(op.Name, ".seg") {
				return 0
			}
			return time.Duration(d.syncs[i].Load())
		})
	}
	return c, d
}

func (d *disks) set(n *node, sync time.Duration) { d.syncs[n.id-1].Store(int64(sync)) }

func (d *disks) all(sync time.Duration) {
	for i := range d.syncs {
		d.syncs[i].Store(int64(sync))
	}
}

// warm lets a group write enough that the next entries find their space reserved, and are queued.
func warm(t *testing.T, c *cluster) (*node, *replica) {
	t.Helper()
	n, r := c.leader(7)
	for range 3 {
		r.propose(t, "warm")
	}
	c.agree(7, []string{"warm", "warm", "warm"})
	return n, r
}

// What is acknowledged is on disk at that moment on a majority, the leader among it, for groups of
// one to five voters on disks that differ.
func TestGateAcknowledgedIsOnAMajority(t *testing.T) {
	for size := 1; size <= 5; size++ {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, d := newDisks(t, size)
				c.openAll(7)
				n, r := warm(t, c)
				logs := map[int32]logStore{}
				for _, m := range c.nodes {
					logs[m.id] = m.replicas[7].group.logs
				}
				for round := range 20 {
					for i := range d.syncs {
						d.syncs[i].Store(int64((round*7+i*13)%17) * int64(time.Millisecond))
					}
					before := r.machine.Applied()
					got := make(chan error, 10)
					for k := range record.Index(10) {
						r.group.ProposeAsync(Command{Data: []byte("x")}, func(_ any, err error) {
							index := uint64(before + k + 1)
							durable := 0
							for _, l := range logs {
								if l.durable() >= index {
									durable++
								}
							}
							switch {
							case err != nil:
							case durable <= size/2:
								err = fmt.Errorf("entry %d is acknowledged and on %d disks of %d", index, durable, size)
							case logs[n.id].durable() < index:
								err = fmt.Errorf("entry %d is acknowledged and not on the leader's disk", index)
							}
							got <- err
						})
					}
					for range 10 {
						if err := <-got; err != nil {
							t.Fatal(err)
						}
					}
				}
			})
		})
	}
}

// The disks of leader and followers work at the same time: an acknowledgement takes as long as the
// slower one of the leader and the fastest follower, not both.
func TestGateOverlapsTheDisks(t *testing.T) {
	for _, x := range []struct {
		leader, follower, other, want time.Duration
	}{
		{time.Second, time.Second, time.Second, time.Second},
		{time.Second, 0, 0, time.Second},
		{0, time.Second, time.Second, time.Second},
		{0, 0, 3 * time.Second, 0},
		{300 * time.Millisecond, 700 * time.Millisecond, time.Second, 700 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newDisks(t, 3)
			c.openAll(7)
			n, r := warm(t, c)
			d.set(n, x.leader)
			d.set(c.others(n)[0], x.follower)
			d.set(c.others(n)[1], x.other)
			began := time.Now()
			r.propose(t, "timed")
			if took := time.Since(began); took != x.want {
				t.Errorf("leader %v, followers %v and %v: acknowledged after %v", x.leader, x.follower, x.other, took)
			}
			d.all(0)
		})
	}
}

// Apply, on leaders and followers, never sees what is not on this replica's disk; a state snapshot
// therefore never covers it.
func TestGateAppliesWhatIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		c, d := newDisks(t, 3, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.SnapshotBytes = 4 << 10
				gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error { return pull(c, n, info, state) }
				gc.Machine.(*journal).before = func(e *Entry) {
					if gc.Log.Durable() < e.Index {
						ahead.Add(1)
					}
				}
			}
		})
		c.openAll(7)
		n, r := warm(t, c)
		slow := c.others(n)[0]
		d.set(slow, 300*time.Millisecond)
		want := []string{"warm", "warm", "warm"}
		for i := range 200 {
			want = append(want, fmt.Sprintf("%d.%0100d", i, 0))
			r.propose(t, want[len(want)-1])
			time.Sleep(time.Millisecond)
			for _, m := range c.nodes {
				if f := m.replicas[7]; f.group.snapshots.newest() > f.log.Durable() {
					t.Fatalf("snapshot of entry %d, durable through %d", f.group.snapshots.newest(), f.log.Durable())
				}
			}
		}
		if f := slow.replicas[7]; f.log.Durable() >= r.log.Durable() {
			t.Fatalf("the slow disk is not behind: %d, %d; the test shows nothing", f.log.Durable(), r.log.Durable())
		}
		c.agree(7, want)
		if ahead.Load() > 0 {
			t.Errorf("%d entries were applied before they were on disk", ahead.Load())
		}
		if slow.replicas[7].group.snapshots.newest() == 0 {
			t.Error("no snapshot was taken; the test shows nothing")
		}
	})
}

// A group of one voter commits on its own. It waits for its disk, with learners and without, and
// before it becomes one.
func TestGateIsShutForASingleVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDisks(t, 2)
		c.openAll(7)
		n, r := warm(t, c)
		other := c.others(n)[0]
		timed := func(what string, want time.Duration, do func() error) {
			t.Helper()
			began := time.Now()
			if err := do(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if took := time.Since(began); took < want {
				t.Errorf("%s took %v, the disk takes %v", what, took, want)
			}
			if durable, commit := r.log.Durable(), r.group.Status().CommitIndex; durable < commit {
				t.Errorf("%s: committed through %d, on disk through %d", what, commit, durable)
			}
		}
		propose := func() error {
			_, err := r.group.Propose(t.Context(), Command{Data: []byte("x")})
			return err
		}
		// Entries are queued on the leader's slow disk when the other voter leaves.
		d.set(n, time.Second)
		results := make(chan error, 3)
		for range 3 {
			r.group.ProposeAsync(Command{Data: []byte("queued")}, func(_ any, err error) { results <- err })
		}
		timed("shrinking to one voter", time.Second, func() error { return r.group.Remove(t.Context(), MakeServerID(other.id, 1)) })
		for range 3 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		timed("a command of a single voter", time.Second, propose)
		timed("adding a learner", time.Second, func() error { return r.group.AddLearner(t.Context(), MakeServerID(other.id, 1)) })
		timed("a command beside a learner", time.Second, propose)
		timed("making it a voter", time.Second, func() error { return r.group.AddVoter(t.Context(), MakeServerID(other.id, 1)) })
		timed("a command of two voters", time.Second, propose)
		d.all(0)
	})
}

// peerRPC hands a replica a request as if another broker had sent it, and gives the code that is
// answered: codeOK only with Raft's own success.
func peerRPC(r *replica, cmd any) <-chan uint16 {
	got := make(chan uint16, 1)
	r.group.engine.Load().inbox.put(cmd, nil, 0, func(resp any, code uint16, err error) {
		switch a := resp.(type) {
		case *raft.AppendEntriesResponse:
			if code == codeOK && !a.Success {
				code = codeFailed
			}
		case *raft.RequestVoteResponse:
			if code == codeOK && !a.Granted {
				code = codeFailed
			}
		}
		if err != nil {
			code = codeFailed
		}
		got <- code
	})
	return got
}

// forged makes requests of the other voters of a group, who do not run.
type forged struct {
	r                  *replica
	prevIndex, prevLog uint64
	term               uint64
}

func (f *forged) header(broker int32) raft.RPCHeader {
	return f.r.group.engine.Load().headerOf(broker, 1)
}

// append sends entries of a term behind what the replica began with.
func (f *forged) append(broker int32, term uint64, n int) <-chan uint16 {
	q := &raft.AppendEntriesRequest{RPCHeader: f.header(broker), Term: term, PrevLogEntry: f.prevIndex, PrevLogTerm: f.prevLog}
	env := envelope{kind: KindCommand, admission: raftTerm(term)}
	for i := range n {
		q.Entries = append(q.Entries, &raft.Log{Index: f.prevIndex + 1 + uint64(i), Term: term, Type: raft.LogCommand,
			Extensions: env.encode(), Data: fmt.Appendf(nil, "term %d entry %d", term, i)})
	}
	return peerRPC(f.r, q)
}

func (f *forged) vote(broker int32, term, lastIndex, lastTerm uint64) <-chan uint16 {
	return peerRPC(f.r, &raft.RequestVoteRequest{RPCHeader: f.header(broker), Term: term, LastLogIndex: lastIndex, LastLogTerm: lastTerm, LeadershipTransfer: true})
}

// follower gives one replica of a group of three whose other members have gone, with a slow disk.
func follower(t *testing.T) (*cluster, *forged, *node) {
	t.Helper()
	c, d := newDisks(t, 3, func(c *cluster) {
		c.config = func(conf *Config) {
			// It must not stand for election itself.
			conf.HeartbeatTimeout, conf.ElectionTimeout = 10*time.Minute, 10*time.Minute
		}
	})
	c.openAll(7)
	n, _ := warm(t, c)
	victim := c.others(n)[0]
	for _, m := range c.others(victim) {
		c.net.isolate(true, m.name, victim.name)
	}
	r := victim.replicas[7]
	var last raft.Log
	index, err := r.group.logs.LastIndex()
	if err == nil {
		err = r.group.logs.GetLog(index, &last)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.set(victim, time.Second)
	return c, &forged{r: r, prevIndex: last.Index, prevLog: last.Term, term: r.group.engine.Load().raft.CurrentTerm()}, victim
}

func wantCode(t *testing.T, what string, got <-chan uint16, want uint16, after time.Duration) {
	t.Helper()
	began := time.Now()
	code := <-got
	if took := time.Since(began); code != want || took != after {
		t.Errorf("%s: answered %d after %v, want %d after %v", what, code, took, want, after)
	}
}

// A follower answers an append when its log is on disk through the append's last entry, also where
// it had the entries already.
func TestGateHoldsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, _ := follower(t)
		first := f.append(1, f.term, 3)
		synctest.Wait()
		again := f.append(1, f.term, 3)
		synctest.Wait()
		if len(first) > 0 || len(again) > 0 {
			t.Fatal("an answer left before the entries were on disk")
		}
		wantCode(t, "first", first, codeOK, time.Second)
		wantCode(t, "again", again, codeOK, 0)
		wantCode(t, "what is on disk", f.append(1, f.term, 3), codeOK, 0)
	})
}

// The answer to entries that are cut off before they were on disk never leaves, although other
// entries are on disk at their place soon.
func TestGateDropsAnswersOfCutEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, _ := follower(t)
		old := f.append(1, f.term, 5)
		synctest.Wait()
		now := f.append(3, f.term+1, 6)
		wantCode(t, "of the deposed leader", old, codeUnavailable, time.Second) // a sync was under way
		if code := <-now; code != codeOK {
			t.Errorf("the new leader was answered %d", code)
		}
	})
}

// An answer that waits for the disk does not outlive its term: the replica may have voted meanwhile.
func TestGateDropsAnswersOfEarlierTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, _ := follower(t)
		old := f.append(1, f.term, 2)
		synctest.Wait()
		wantCode(t, "vote", f.vote(3, f.term+1, f.prevIndex+2, f.term), codeOK, 0)
		wantCode(t, "of the term before", old, codeUnavailable, time.Second)
	})
}

// A voter compares a candidate with all it has, on disk or not: what it has not refused to
// acknowledge yet counts.
func TestGateVotesWithUndurableTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, victim := follower(t)
		held := f.append(1, f.term, 2)
		synctest.Wait()
		if f.r.log.Durable() >= record.Index(f.prevIndex+1) {
			t.Fatal("the tail is on disk; the test shows nothing")
		}
		wantCode(t, "candidate without the tail", f.vote(3, f.term+1, f.prevIndex, f.prevLog), codeFailed, 0)
		wantCode(t, "candidate with a part of it", f.vote(3, f.term+2, f.prevIndex+1, f.term), codeFailed, 0)
		wantCode(t, "candidate with all of it", f.vote(3, f.term+3, f.prevIndex+2, f.term), codeOK, 0)
		<-held
		_ = victim
	})
}

// A voter that crashes with an undurable tail has acknowledged none of it. Its vote stands, and a
// candidate without the tail may win then.
func TestGateVoterCrashesWithUndurableTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDisks(t, 3)
		c.openAll(7)
		n, r := warm(t, c)
		voter, candidate := c.others(n)[0], c.others(n)[1]
		// The tail reaches the voter alone and is on nobody's disk.
		c.net.isolate(true, candidate.name, n.name)
		d.set(n, time.Hour)
		d.set(voter, time.Hour)
		result := make(chan error, 1)
		r.group.ProposeAsync(Command{Data: []byte("tail")}, func(_ any, err error) { result <- err })
		time.Sleep(10 * time.Millisecond)
		if last := voter.replicas[7].group.Status().LastIndex; last <= voter.replicas[7].log.Durable() {
			t.Fatalf("the voter has no undurable tail: %d", last)
		}
		d.all(0) // for what closing writes, which is lost
		for _, m := range []*node{n, voter} {
			c.crash(m, lostAll(), false)
		}
		if err := <-result; OutcomeOf(err) != MayHaveHappened {
			t.Errorf("the proposer was told %v", err)
		}
		c.restart(voter, 7)
		_, now := c.leader(7, voter, candidate)
		now.propose(t, "after")
		c.restart(n, 7)
		c.agree(7, []string{"warm", "warm", "warm", "after"})
	})
}

// A candidate with an undurable tail may be elected: it has all that was committed. It commits
// nothing before the tail is on its disk, and if it crashes before, nothing acknowledged is lost.
func TestGateElectsCandidateWithUndurableTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDisks(t, 3)
		c.openAll(7)
		n, r := warm(t, c)
		candidate, other := c.others(n)[0], c.others(n)[1]
		c.net.isolate(true, other.name, n.name)
		const slow = 1900 * time.Millisecond // less than what counts as stalled
		d.set(candidate, slow)
		result := make(chan error, 1)
		r.group.ProposeAsync(Command{Data: []byte("tail")}, func(_ any, err error) { result <- err })
		time.Sleep(10 * time.Millisecond)
		c.crash(n, lostAll(), false)
		<-result
		elected := time.Now()
		until(t, "the candidate to be elected", func() bool {
			return candidate.replicas[7].group.engine.Load().raft.State() == raft.Leader
		})
		f := candidate.replicas[7]
		if time.Since(elected) < slow-100*time.Millisecond && f.log.Durable() >= record.Index(f.group.engine.Load().raft.LastIndex()) {
			t.Fatal("the tail is on disk; the test shows nothing")
		}
		for f.log.Durable() < record.Index(f.group.engine.Load().raft.LastIndex()) {
			if commit := f.group.Status().CommitIndex; commit > f.log.Durable() {
				t.Fatalf("committed through %d, on disk through %d", commit, f.log.Durable())
			}
			time.Sleep(10 * time.Millisecond)
		}
		d.all(0)
		c.restart(n, 7)
		c.agree(7, []string{"warm", "warm", "warm", "tail"})
	})
}

// A queued entry that cannot be written halts the replica. It was never acknowledged from there.
func TestGateFailingWriteHalts(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpWrite, vfs.OpSync} {
		for _, where := range []string{"leader", "follower"} {
			t.Run(kind.String()+" of the "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, _ := newDisks(t, 3)
					c.openAll(7)
					n, r := warm(t, c)
					victim := n
					if where == "follower" {
						victim = c.others(n)[0]
					}
					f := victim.replicas[7]
					durable := f.log.Durable()
					victim.mem().FailNth(kind, ".seg", 1, syscall.EIO)
					_, err := r.group.Propose(t.Context(), Command{Data: []byte("during")})
					if where == "leader" && OutcomeOf(err) != MayHaveHappened {
						t.Errorf("the proposer was told %v", err)
					}
					if where == "follower" && err != nil {
						t.Errorf("a follower's disk failed the proposal: %v", err)
					}
					halts(t, victim, 7, "input/output error")
					if got := f.log.Durable(); got != durable {
						t.Errorf("durable through %d, was %d", got, durable)
					}
					_, r = c.leader(7, c.others(victim)...)
					r.propose(t, "after")
				})
			})
		}
	}
}

// A full disk refuses what comes, before Raft counts on it, and the replica goes on.
func TestGateFullDiskRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newDisks(t, 3)
		c.openAll(7)
		n, r := warm(t, c)
		n.mem().SetCapacity(n.mem().Used())
		large := strings.Repeat("x", 1<<20)
		_, err := r.group.Propose(t.Context(), Command{Data: []byte(large)})
		if err == nil || OutcomeOf(err) != DidNotHappen {
			t.Errorf("the proposer was told %v, which says %v", err, OutcomeOf(err))
		}
		n.mem().SetCapacity(0)
		until(t, "a leader that takes the next one", func() bool {
			_, r = c.leader(7)
			_, err := r.group.Propose(t.Context(), Command{Data: []byte("after")})
			return err == nil
		})
		c.agree(7, []string{"after"})
		if n.replicas[7].group.halted.Load() {
			t.Error("a full disk halted the replica")
		}
	})
}

// A leader whose disk hangs goes on sending heartbeats, and would stay one for ever. It gives up
// leading, does not stand for election, and comes back when the disk does.
func TestStalledDiskGivesUpLeadership(t *testing.T) {
	for _, kind := range []string{"recordlog", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, stall := stalling(t, kind == "recordlog")
				c.openAll(7)
				n, r := c.leader(7)
				r.propose(t, "before")
				c.agree(7, []string{"before"})
				stall(n, time.Minute)
				began := time.Now()
				result := make(chan error, 1)
				r.group.ProposeAsync(Command{Data: []byte("during")}, func(_ any, err error) { result <- err })
				_, now := c.leader(7, c.others(n)...)
				if took := time.Since(began); took > 5*time.Second || took < maxStall {
					t.Errorf("another leads after %v", took)
				}
				now.propose(t, "after")
				term, _ := now.group.IsReady()
				time.Sleep(20 * time.Second)
				if later, ok := now.group.IsReady(); !ok || later != term {
					t.Errorf("the new leadership did not last: %+v", now.group.Status())
				}
				if v := value(n.host.metrics.stalls); v != 1 {
					t.Errorf("%v stalls are counted", v)
				}
				stall(n, 0)
				if err := <-result; err != nil && OutcomeOf(err) != MayHaveHappened {
					t.Errorf("the proposer was told %v", err)
				}
				c.agree(7, []string{"before", "after"})
				until(t, "the replica to speak again", func() bool { return !n.replicas[7].group.engine.Load().muted.Load() })
			})
		})
	}
}

// stalling makes a cluster whose disks can be made to hang.
func stalling(t *testing.T, records bool) (*cluster, func(*node, time.Duration)) {
	if records {
		c, d := newDisks(t, 3)
		return c, d.set
	}
	delays := make([]atomic.Int64, 3)
	c := newCluster(t, 3, func(c *cluster) {
		c.group = func(n *node, gc *GroupConfig) {
			gc.wrapLog = func(l logStore) logStore { return slowStore{l, &delays[n.id-1]} }
		}
	})
	return c, func(n *node, d time.Duration) { delays[n.id-1].Store(int64(d)) }
}

// A single voter has nobody to give its leadership to.
func TestStalledSingleVoterGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newDisks(t, 1)
		c.openAll(7)
		n, r := warm(t, c)
		d.set(n, 10*time.Second)
		r.propose(t, "slow")
		if v := value(n.host.metrics.stalls); v != 0 {
			t.Errorf("%v stalls are counted", v)
		}
		d.all(0)
	})
}

// Held answers and waiting proposals end when the replica is closed, although the disk hangs.
func TestGateEndsWithTheReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, victim := follower(t)
		held := f.append(1, f.term, 2)
		synctest.Wait()
		if err := victim.replicas[7].group.Close(); err != nil {
			t.Fatal(err)
		}
		_ = f.r.log.Close()
		if code := <-held; code == codeOK {
			t.Error("the answer of a closed replica left")
		}
	})
}

// The data directory of a broker that ran with a queue opens as any other.
func TestGateNeedsNoFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var synchronous atomic.Bool
		c, _ := newDisks(t, 3, func(c *cluster) {
			c.config = func(conf *Config) { conf.QueueLogs = !synchronous.Load() }
		})
		for _, n := range c.nodes {
			if err := makeDir(n.fs, filepath.Join(n.dir, "group-7")); err != nil {
				t.Fatal(err)
			}
		}
		c.openAll(7)
		want := []string{}
		for round := range 4 {
			_, r := c.leader(7)
			want = append(want, fmt.Sprint("round ", round))
			r.propose(t, want[round])
			c.agree(7, want)
			synchronous.Store(round%2 == 0)
			for _, n := range c.nodes {
				c.stop(n)
			}
			for _, n := range c.nodes {
				c.restart(n, 7)
			}
		}
		c.agree(7, want)
	})
}
