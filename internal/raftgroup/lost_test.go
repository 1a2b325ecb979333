package raftgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

// A replica that has lost its log, or its term and vote, does not start as if it were new: it could
// elect a leader without what it acknowledged, or vote twice in one term.
func TestReplicaWithLostStateIsRefused(t *testing.T) {
	cases := []struct {
		what    string
		options []func(*cluster)
		lose    func(t *testing.T, n *node)
	}{
		{"bolt log", nil, func(t *testing.T, n *node) { remove(t, filepath.Join(n.dir, "group-7", boltLogName)) }},
		{"bolt log and snapshots", nil, func(t *testing.T, n *node) { remove(t, filepath.Join(n.dir, "group-7")) }},
		{"term and vote, bolt log", nil, loseStable},
		{"term and vote, record log", []func(*cluster){withRecordLogs}, loseStable},
		{"control log", []func(*cluster){withControlLogs}, func(t *testing.T, n *node) { removeIn(t, n, controlLogDir) }},
		{"control log and snapshots", []func(*cluster){withControlLogs}, func(t *testing.T, n *node) { removeIn(t, n, "") }},
		{"control log's meta file", []func(*cluster){withControlLogs}, func(t *testing.T, n *node) { removeIn(t, n, controlLogDir, "meta") }},
		{"control log's entries", []func(*cluster){withControlLogs}, loseSegments},
		{"term and vote, control log", []func(*cluster){withControlLogs}, loseStable},
	}
	for _, x := range cases {
		t.Run(x.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, x.options...)
				c.openAll(7)
				_, r := c.leader(7)
				r.propose(t, "acknowledged")
				c.agree(7, []string{"acknowledged"})
				victim := c.nodes[0]
				c.stop(victim)
				x.lose(t, victim)
				c.start(victim)
				_, err := c.open(victim, 7, MakeServerID(victim.id, 1), members(3))
				if !errors.Is(err, ErrStateLost) {
					t.Fatalf("a replica without its %s: %v", x.what, err)
				}
				_, r = c.leader(7, c.others(victim)...)
				r.propose(t, "goes on")
			})
		})
	}
}

// removeIn removes what is below the group's directory on a node's disk.
func removeIn(t *testing.T, n *node, name ...string) {
	t.Helper()
	if err := n.fs.RemoveAll(filepath.Join(append([]string{n.dir, "group-7"}, name...)...)); err != nil {
		t.Fatal(err)
	}
}

func loseSegments(t *testing.T, n *node) {
	t.Helper()
	names, err := n.fs.List(filepath.Join(n.dir, "group-7", controlLogDir))
	if err != nil || len(names) < 2 {
		t.Fatalf("files of the log: %v, %v", names, err)
	}
	for _, name := range names {
		if filepath.Ext(name) == ".seg" {
			removeIn(t, n, controlLogDir, name)
		}
	}
}

func loseStable(t *testing.T, n *node) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "stable-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("stable stores: %v, %v", files, err)
	}
	for _, f := range files {
		remove(t, f)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
