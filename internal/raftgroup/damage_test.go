package raftgroup

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// Raft is opened again on a log that has been damaged since: the owner is told as if Raft had met it while it ran.
func TestDamageMetWhenOpenedAgainIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var found []error
		c := newCluster(t, 3, withControlLogs, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.OnDamage = func(damage error, only bool) {
					mu.Lock()
					defer mu.Unlock()
					if found = append(found, damage); only {
						t.Error("it is said to be the only voter")
					}
				}
			}
		})
		c.openAll(7)
		n, r := c.leader(7)
		r.propose(t, "acknowledged")
		c.agree(7, []string{"acknowledged"})
		victim := c.others(n)[0]
		c.stop(victim)
		c.restart(victim, 7) // nothing is in memory afterwards
		c.agree(7, []string{"acknowledged"})
		flipText(t, victim.fs.(*vfs.Mem), filepath.Join(victim.dir, "group-7", controlLogDir), "acknowledged")
		g := victim.replicas[7].group
		g.engine.Load().reopenSoon()
		until(t, "the replica to be stopped", func() bool { return g.Problem() != "" })
		mu.Lock()
		defer mu.Unlock()
		if len(found) != 1 || !errors.As(found[0], new(*recordlog.CorruptionError)) {
			t.Errorf("the owner was told %v; the replica says: %s", found, g.Problem())
		}
	})
}

// flipText turns a bit of a text in a record log.
func flipText(t *testing.T, fsys *vfs.Mem, dir, text string) {
	t.Helper()
	names, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = filepath.Join(dir, name)
		if !strings.HasSuffix(name, ".seg") {
			continue
		}
		b, err := vfs.ReadFile(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, []byte(text)); at >= 0 {
			if err := fsys.FlipBit(name, int64(at), 1); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%q is not in the log", text)
}
