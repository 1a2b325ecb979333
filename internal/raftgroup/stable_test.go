package raftgroup

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
)

// A vote is one commit: its term becomes durable with its candidate, of whom nothing is known to anybody before.
func TestVoteIsOneCommit(t *testing.T) {
	dir, commits := t.TempDir(), 0
	open := func() (*stableFiles, *stableStore) {
		files, err := openStableFiles(dir, false, func() { commits++ }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		st, err := files.open(7, MakeServerID(1, 1))
		if err != nil {
			t.Fatal(err)
		}
		return files, st
	}
	files, st := open()
	vote := func(term uint64, candidate string) {
		t.Helper()
		if err := errors.Join(st.SetUint64(keyLastVoteTerm, term), st.Set(keyLastVoteCand, []byte(candidate))); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(term uint64, candidate string) {
		t.Helper()
		got, err := st.GetUint64(keyLastVoteTerm)
		c, err2 := st.Get(keyLastVoteCand)
		if err = errors.Join(err, err2); err != nil || got != term || !bytes.Equal(c, []byte(candidate)) {
			t.Errorf("the vote is %q in term %d, %v; want %q in %d", c, got, err, candidate, term)
		}
	}
	vote(3, "2/1")
	wants(3, "2/1")
	vote(4, "2/1") // the same candidate, in another term
	wants(4, "2/1")
	vote(4, "2/1")
	if commits != 2 {
		t.Errorf("two votes were %d commits", commits)
	}
	if err := st.SetUint64(keyLastVoteTerm, 5); err != nil {
		t.Fatal(err)
	}
	wants(4, "2/1")
	if err := files.close(); err != nil {
		t.Fatal(err)
	}
	files, st = open()
	wants(4, "2/1")
	if err := files.close(); err != nil {
		t.Fatal(err)
	}
}

// Raft stores a vote as TestVoteIsOneCommit has it, the candidate's own and the others'.
func TestVotesOfRaftAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.openAll(7)
		n, r := c.leader(7)
		if err := r.group.TransferLeadership(t.Context(), MakeServerID(c.others(n)[0].id, 1)); err != nil {
			t.Fatal(err)
		}
		to, _ := c.leader(7, c.others(n)[0])
		synctest.Wait()
		for _, n := range c.nodes {
			g := n.replicas[7].group
			term, err := g.stable.GetUint64(keyLastVoteTerm)
			candidate, err2 := g.stable.Get(keyLastVoteCand)
			now, err3 := g.stable.GetUint64(keyCurrentTerm)
			if err := errors.Join(err, err2, err3); err != nil || term != now || string(candidate) != string(MakeServerID(to.id, 1)) {
				t.Errorf("broker %d has a vote for %s in term %d of %d, %v", n.id, candidate, term, now, err)
			}
		}
	})
}
