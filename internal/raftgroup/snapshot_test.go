package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// smallSnapshots makes groups take a snapshot every few KiB.
func smallSnapshots(c *cluster) {
	c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes = 8 << 10 }
}

func padded(format string, args ...any) string {
	s := fmt.Sprintf(format, args...)
	return s + strings.Repeat(".", 1000)
}

func TestSnapshotsByBytes(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, append(options, smallSnapshots)...)
			c.openAll(7)
			_, r := c.leader(7)
			var want []string
			for i := range 100 {
				want = append(want, padded("command %d", i))
				r.propose(t, want[i])
				if i%5 == 4 {
					// Nobody may fall behind two snapshots: these logs cannot be pulled.
					c.agree(7, want)
					synctest.Wait()
				}
			}
			s := r.group.Status()
			if s.SnapshotIndex < 80 || s.SnapshotIndex > s.AppliedIndex {
				t.Errorf("snapshot at %d, applied %d", s.SnapshotIndex, s.AppliedIndex)
			}
			// The entries since the snapshot before the newest are kept.
			if previous := r.group.snapshots.previous(); s.FirstIndex != previous+1 || previous+8 > s.SnapshotIndex {
				t.Errorf("log begins at %d, the snapshot before the newest, %d, is at %d", s.FirstIndex, s.SnapshotIndex, previous)
			}
			names, _ := r.group.host.config.FS.List(filepath.Join(r.group.config.Dir, snapshotDir))
			if len(names) != snapshotsKept {
				t.Errorf("%d snapshot files, want %d", len(names), snapshotsKept)
			}
			for _, n := range c.nodes {
				c.stop(n)
			}
			for _, n := range c.nodes {
				c.restart(n, 7)
				if m := n.replicas[7].machine; m.restores != 1 {
					t.Errorf("broker %d restored %d snapshots, want one", n.id, m.restores)
				}
			}
			_, r = c.leader(7)
			r.propose(t, "again")
			c.agree(7, append(want, "again"))
		})
	})
}

// pulling has replicas take snapshots often, which pull completes.
func pulling(bytes int64) func(*cluster) {
	return func(c *cluster) {
		c.group = func(n *node, gc *GroupConfig) {
			gc.SnapshotBytes = bytes
			gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error { return pull(c, n, info, state) }
		}
	}
}

// pull is the simplest catch-up: straight from the log of whoever sent the snapshot.
func pull(c *cluster, n *node, info SnapshotInfo, state []byte) error {
	log := n.replicas[7].log
	if log == nil {
		return nil
	}
	broker, _, err := ParseServerID(info.Source)
	if err != nil {
		return err
	}
	return pullFrom(log, c.nodes[broker-1].replicas[7].log, info, state)
}

func pullFrom(log, source *recordlog.Log, info SnapshotInfo, state []byte) error {
	in := newReader(state)
	in.u64()
	layout, err := recordlog.DecodeLayout(in.take(int(in.u32())))
	if err != nil {
		return err
	}
	next := max(layout.StartIndex, record.Index(1))
	if next > log.LastIndex() {
		if err := log.Reset(next, layout.StartOffset); err != nil {
			return err
		}
	} else {
		next = log.AssignedIndex() + 1
	}
	for next <= info.Index {
		entries, err := source.EntriesForPeer(next, info.Index, 1<<20)
		if err != nil {
			return err
		}
		if err := log.AppendCatchUp(entries); err != nil {
			return err
		}
		next = entries[len(entries)-1].Index + 1
	}
	return nil
}

// A follower that is far behind gets a snapshot. As long as it cannot complete it, the leader
// tries again, less and less often, and nothing of the snapshot is seen.
func TestInstallSnapshotCatchesUp(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			var broken atomic.Bool
			var attempts atomic.Int64
			c := newCluster(t, 3, append(options, func(c *cluster) {
				c.group = func(n *node, gc *GroupConfig) {
					gc.SnapshotBytes = 8 << 10
					gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error {
						attempts.Add(1)
						if broken.Load() {
							return errors.New("the source is away")
						}
						return pull(c, n, info, state)
					}
				}
			})...)
			c.openAll(7)
			n, r := c.leader(7)
			r.propose(t, "first")
			c.agree(7, []string{"first"})
			behind := c.others(n)[0]
			c.stop(behind)
			want := []string{"first"}
			for i := range 100 {
				want = append(want, padded("command %d", i))
				r.propose(t, want[i+1])
			}
			broken.Store(true)
			c.restart(behind, 7)
			time.Sleep(30 * time.Second)
			if got := attempts.Load(); got < 2 || got > 40 {
				t.Errorf("%d attempts in 30 s", got)
			}
			f := behind.replicas[7]
			if s := f.group.Status(); s.SnapshotIndex != 0 || f.machine.restores != 0 {
				t.Errorf("a snapshot that was not completed is seen: %+v", s)
			}
			if s := f.group.Status(); s.Role != RoleFollower || s.Problem != "" {
				t.Errorf("the follower is %s, %q", s.Role, s.Problem)
			}
			broken.Store(false)
			c.agree(7, want)
			if f.machine.restores != 1 {
				t.Errorf("%d snapshots restored, want one", f.machine.restores)
			}
			r.propose(t, "last")
			c.agree(7, append(want, "last"))
			// What was installed is there after a restart, too.
			c.stop(behind)
			c.restart(behind, 7)
			c.agree(7, append(want, "last"))
		})
	})
}

// A deposed leader with a long tail that nobody has gets a snapshot that ends inside its tail.
// Raft would refuse all that follows and be sent the snapshot again without pause.
func TestSnapshotInsideTail(t *testing.T) {
	eachLog(t, func(t *testing.T, options ...func(*cluster)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, append(options, pulling(4<<10))...)
			c.openAll(7)
			old, r := c.leader(7)
			r.propose(t, "first")
			c.agree(7, []string{"first"})
			c.net.isolate(true, old.name, names(c.nodes)...)
			for i := range 200 {
				r.group.ProposeAsync(Command{Data: fmt.Appendf(nil, "tail %d", i)}, func(any, error) {})
			}
			// Raft gets all of them with one that does not wait for more.
			r.group.ProposeAsync(Command{Data: make([]byte, gatherBytes)}, func(any, error) {})
			_, now := c.leader(7, c.others(old)...)
			want := []string{"first"}
			for i := range 40 {
				want = append(want, padded("command %d", i))
				now.propose(t, want[i+1])
			}
			synctest.Wait()
			if s := now.group.Status(); s.FirstIndex < 5 || s.SnapshotIndex > 150 {
				t.Fatalf("the test shows nothing: log of the new leader begins at %d, its snapshot is at %d", s.FirstIndex, s.SnapshotIndex)
			}
			if last := r.group.Status().LastIndex; last < 200 {
				t.Fatalf("the test shows nothing: tail of the old leader ends at %d", last)
			}
			// Requests that were made before the log was trimmed must not come through.
			listener := c.net.listeners[old.name]
			c.net.change(func() { delete(c.net.listeners, old.name) })
			c.net.reset(old.name)
			c.net.isolate(false, old.name, names(c.nodes)...)
			time.Sleep(5 * time.Second)
			c.net.change(func() { c.net.listeners[old.name] = listener })
			c.agree(7, want)
			now.propose(t, "last")
			c.agree(7, append(want, "last"))
			if n := value(old.host.metrics.reopens); n != 1 {
				t.Errorf("raft was opened again %v times, want once", n)
			}
			if n := value(old.host.metrics.snapshots.WithLabelValues("installed")); n > 2 {
				t.Errorf("%v snapshots were installed", n)
			}
			if old.replicas[7].group != r.group || r.group.Status().Role != RoleFollower {
				t.Errorf("the group is %+v", r.group.Status())
			}
			for _, s := range r.machine.seen() {
				if strings.HasPrefix(s, "tail") {
					t.Errorf("%q was applied", s)
				}
			}
			c.stop(old)
			c.restart(old, 7)
			c.agree(7, append(want, "last"))
		})
	})
}

// The newest snapshot is damaged: the one before it and the log make up for it.
func TestBadSnapshotIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, smallSnapshots)
		c.openAll(7)
		_, r := c.leader(7)
		var want []string
		for i := range 50 {
			want = append(want, padded("command %d", i))
			r.propose(t, want[i])
		}
		synctest.Wait()
		n := c.nodes[0]
		dir := r.group.config.Dir
		newest, previous := r.group.snapshots.newest(), r.group.snapshots.previous()
		name := r.group.snapshots.list[0].name
		c.stop(n)
		path := filepath.Join(dir, snapshotDir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c.start(n)
		if at, err := n.host.LatestSnapshot(dir); err != nil || at != previous {
			t.Errorf("latest snapshot %d, %v; want %d, the one before %d", at, err, previous, newest)
		}
		c.mustOpen(n, 7, MakeServerID(1, 1), members(1))
		if got := value(n.host.metrics.badSnapshots); got != 1 {
			t.Errorf("%v bad snapshots are counted", got)
		}
		_, r = c.leader(7)
		r.propose(t, "last")
		c.agree(7, append(want, "last"))
	})
}

// All snapshots are gone and the log begins later: the group does not open, and says why.
func TestMissingSnapshotIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, smallSnapshots)
		c.openAll(7)
		_, r := c.leader(7)
		for i := 0; r.group.Status().FirstIndex < 5; i++ { // how many snapshots there are depends on how slow the disk is
			r.propose(t, padded("command %d", i))
		}
		synctest.Wait()
		dir := r.group.config.Dir
		c.stop(c.nodes[0])
		if err := os.RemoveAll(filepath.Join(dir, snapshotDir)); err != nil {
			t.Fatal(err)
		}
		c.start(c.nodes[0])
		_, err := c.open(c.nodes[0], 7, MakeServerID(1, 1), members(1))
		if !errors.Is(err, ErrStateLost) || !strings.Contains(err.Error(), "entries are missing") {
			t.Errorf("opened with %v", err)
		}
	})
}

// A state of several MiB takes many parts, and no more of it is under way than the window.
func TestLargeSnapshotTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(c *cluster) {
			c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes = 1 << 20 }
		})
		c.openAll(7)
		n, r := c.leader(7)
		behind := c.others(n)[0]
		c.stop(behind)
		var want []string
		for i := range 5 {
			want = append(want, fmt.Sprintf("%d", i)+strings.Repeat("x", 1<<20))
			r.propose(t, want[i])
		}
		synctest.Wait()
		if s := r.group.Status(); s.FirstIndex < 3 {
			t.Fatalf("the test shows nothing: the log begins at %d", s.FirstIndex)
		}
		c.restart(behind, 7)
		c.agree(7, want)
		if behind.replicas[7].machine.restores != 1 {
			t.Errorf("%d snapshots restored", behind.replicas[7].machine.restores)
		}
	})
}

func TestSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	s, err := openSnapshots(vfs.OS(), dir, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: "1/1", Address: "1/1"},
		{Suffrage: raft.Nonvoter, ID: "2/18446744073709551615", Address: "2/18446744073709551615"},
	}}
	make1 := func(index uint64, state string) *snapshotSink {
		k, err := s.create(snapshotHead{index: index, term: 3, configuration: conf, configurationIndex: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(k, state); err != nil {
			t.Fatal(err)
		}
		return k
	}
	for i := range 4 {
		if err := make1(uint64(10+i), fmt.Sprintf("state %d", i)).finish(nil); err != nil {
			t.Fatal(err)
		}
	}
	// Unfinished ones leave nothing that counts.
	if err := make1(20, "cancelled").cancel(); err != nil {
		t.Fatal(err)
	}
	_ = make1(21, "crashed")
	if err := make1(22, "refused").finish(func(state func() ([]byte, error)) error {
		if b, err := state(); err != nil || string(b) != "refused" {
			t.Errorf("state is %q, %v", b, err)
		}
		return errors.New("no")
	}); err == nil {
		t.Error("a snapshot that was refused is there")
	}
	again, err := openSnapshots(vfs.OS(), dir, slog.New(slog.DiscardHandler), func() { t.Error("a good snapshot is called bad") })
	if err != nil {
		t.Fatal(err)
	}
	if again.newest() != 13 || again.previous() != 12 || len(again.metas()) != 2 {
		t.Errorf("newest %d, previous %d of %d", again.newest(), again.previous(), len(again.metas()))
	}
	m := again.metas()[0]
	if m.Term != 3 || m.ConfigurationIndex != 1 || fmt.Sprint(m.Configuration) != fmt.Sprint(conf) {
		t.Errorf("meta %+v", m)
	}
	_, r, err := again.open(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "state 3" || r.index != 13 {
		t.Errorf("read %q of %d, %v", b, r.index, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(again.dir)
	if len(left) != 2 {
		t.Errorf("%d files are left", len(left))
	}
	// Each flipped bit is found.
	path := filepath.Join(again.dir, m.ID)
	b, _ := os.ReadFile(path)
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verifySnapshot(vfs.OS(), path); err == nil && i != 6 && i != 7 {
			t.Errorf("a flipped bit in byte %d is not found", i)
		}
	}
	for n := range b {
		_ = os.WriteFile(path, b[:n], 0o600)
		if _, err := verifySnapshot(vfs.OS(), path); err == nil {
			t.Errorf("a file cut to %d bytes is taken", n)
		}
	}
}
