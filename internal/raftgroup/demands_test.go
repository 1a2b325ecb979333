package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// A full disk refuses records, and still takes a vote: the stable store gives up its ballast, once, and
// lays it again when it is opened with room.
func TestBallastMakesRoomForAVote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	open := func() *stableFile {
		t.Helper()
		f, err := openStableFile(path, false, nil, testLogger())
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(f.ballast()); err != nil || info.Size() != ballastBytes {
			t.Fatalf("ballast: %v, %v", info, err)
		}
		return f
	}
	f := open()
	put := func(b *bbolt.Bucket) error { return b.Put([]byte("k"), []byte("v")) }
	// full refuses until the ballast is gone; a quota's refusal is that of a full disk, too.
	full := func(b *bbolt.Bucket) error {
		if _, err := os.Stat(f.ballast()); err == nil {
			return &os.PathError{Op: "write", Path: path, Err: syscall.EDQUOT}
		}
		return put(b)
	}
	if err := f.write(full); err != nil {
		t.Fatalf("vote on a full disk: %v", err)
	}
	if err := f.write(put); err != nil {
		t.Fatalf("the next vote: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	f = open()
	always := func(*bbolt.Bucket) error { return syscall.ENOSPC }
	if err := f.write(always); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a disk that stays full: %v", err)
	}
	// What was not written must not be taken for written later.
	if err := f.write(put); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("after a vote that was not written: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}

// An election costs a candidate three transactions (its term, and term and candidate of its vote), and a
// voter as many; a term in which nothing happens, none.
func TestElectionCostsThreeTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "before")
		written := func(n *node) (sum int64) {
			for _, f := range n.host.stable.files {
				stats := f.db.Stats()
				sum += stats.TxStats.GetWrite()
			}
			return sum
		}
		// perCommit is what Bolt counts for one transaction with one change.
		f := n.host.stable.files[0]
		before := written(n)
		if err := f.write(func(b *bbolt.Bucket) error { return b.Put([]byte("one"), nil) }); err != nil {
			t.Fatal(err)
		}
		perCommit := written(n) - before
		next := c.others(n)[1]
		counts := make(map[*node]int64)
		for _, n := range c.nodes {
			counts[n] = written(n)
		}
		if err := r.group.TransferLeadership(t.Context(), MakeServerID(next.id, 1)); err != nil {
			t.Fatal(err)
		}
		_, r = c.leader(7)
		for range 10 {
			r.propose(t, "after")
		}
		synctest.Wait()
		for _, n := range c.nodes {
			if got := (written(n) - counts[n]) / perCommit; got > 3 {
				t.Errorf("broker %d made %d transactions for one election", n.id, got)
			}
		}
		if written(next) == counts[next] {
			t.Error("the test shows nothing: the winner wrote no vote")
		}
	})
}

// What Raft reads to feed a follower that is far behind stays on the disk: of large entries it holds the
// header only, and the transport reads them one after the other.
func TestLargeBodiesStayOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, withRecordLogs)
		c.openAll(7)
		n, r := c.leader(7)
		late := c.others(n)[0]
		c.stop(late)
		large, small := strings.Repeat("x", lazyAbove+1), strings.Repeat("y", lazyAbove/2)
		want := []string{large, small}
		for _, s := range want {
			r.propose(t, s)
		}
		store := r.group.engine.Load().log
		last, err := store.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		var l raft.Log
		if err := store.GetLog(last-1, &l); err != nil {
			t.Fatal(err)
		}
		if !isLazy(&l) || l.Type != raft.LogCommand || l.Index != last-1 || l.Term == 0 {
			t.Fatalf("a large entry is given to Raft as index %d, term %d, type %v with %d bytes", l.Index, l.Term, l.Type, len(l.Data))
		}
		whole, err := store.whole(&l, nil)
		if err != nil || !bytes.Contains(whole.Data, []byte(large)) {
			t.Fatalf("its body: %v", err)
		}
		replaced := l
		replaced.Term++
		if _, err := store.whole(&replaced, nil); err == nil {
			t.Error("the body of an entry that was replaced was given for another")
		}
		if err := store.GetLog(last, &l); err != nil || isLazy(&l) {
			t.Errorf("a small entry: %v, on the disk: %t", err, isLazy(&l))
		}
		c.restart(late, 7)
		c.agree(7, want)
	})
}

// Below its window a log answers with the bare error that Raft compares with, and it offers none of the
// interfaces by which Raft would replay committed entries on its start, which hangs.
func TestWindowEndsWithTheBareError(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, append(options, func(c *cluster) {
				c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes = 4 << 10 }
			})...)
			c.openAll(7)
			_, r := c.leader(7)
			var log raft.LogStore = r.group.engine.Load().log
			n := 0
			until(t, "the log to forget its beginning", func() bool {
				// It takes two snapshots, and each something new; one may have come late and have had all of it.
				for range 40 {
					r.propose(t, padded("command %d", n))
					n++
				}
				first, err := log.FirstIndex()
				return err == nil && first > 1
			})
			first, _ := log.FirstIndex()
			last, _ := log.LastIndex()
			for _, i := range []uint64{0, 1, first - 1, last + 1} {
				if err := log.GetLog(i, new(raft.Log)); err != raft.ErrLogNotFound { //nolint:errorlint // as Raft does
					t.Errorf("entry %d of %d to %d: %v", i, first, last, err)
				}
			}
			if _, ok := log.(raft.CommitTrackingLogStore); ok {
				t.Error("the log tracks commits")
			}
		})
	})
}

// A burst that fills the queue is through without waiting for a timer: none of it lies beyond what Raft
// sends for one trigger.
func TestBurstDoesNotWait(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, options...)
			c.openAll(7)
			_, r := c.leader(7)
			r.propose(t, "before")
			for _, n := range []int{200, 900, 2000} {
				began, done := time.Now(), make(chan error, n)
				for i := range n {
					r.group.ProposeAsync(Command{Data: fmt.Appendf(nil, "%d of %d", i, n)}, func(_ any, err error) { done <- err })
				}
				for range n {
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("a burst of %d took %v", n, took)
				}
			}
		})
	})
}
