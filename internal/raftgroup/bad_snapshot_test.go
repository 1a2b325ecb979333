package raftgroup

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// A snapshot that was installed here is damaged, or cannot be restored, before an entry has followed it: what it covers was acknowledged. The
// replica has it from its log, or it does not start: it does not go on with the snapshot before as if that were all it had ever had.
func TestBadInstalledSnapshotIsNoLoss(t *testing.T) {
	for _, x := range []struct {
		name            string
		older, restores bool
	}{{"one is older", true, true}, {"the only one", false, true}, {"is not restored", true, false}} {
		t.Run(x.name, func(t *testing.T) {
			eachLog(t, func(t *testing.T, options ...func(*cluster)) {
				synctest.Test(t, func(t *testing.T) { spoilInstalled(t, x.older, x.restores, options...) })
			})
		})
	}
}

// pickyMachine does not restore a snapshot of an index.
type pickyMachine struct {
	*journal
	not record.Index
}

func (m *pickyMachine) Restore(index record.Index, r io.Reader) error {
	if index == m.not {
		return errDisk
	}
	return m.journal.Restore(index, r)
}

func spoilInstalled(t *testing.T, older, restores bool, options ...func(*cluster)) {
	var not record.Index
	var source atomic.Pointer[recordlog.Log]
	c := newCluster(t, 3, append(options, func(c *cluster) {
		c.group = func(n *node, gc *GroupConfig) {
			gc.SnapshotBytes = 8 << 10
			gc.Machine = &pickyMachine{gc.Machine.(*journal), not}
			if gc.Log != nil {
				gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error {
					return pullFrom(gc.Log, source.Load(), info, state)
				}
			}
		}
	})...)
	c.openAll(7)
	n, r := c.leader(7)
	source.Store(r.log)
	behind := c.others(n)[0]
	var want []string
	more := func(count int) {
		for range count {
			want = append(want, padded("command %d", len(want)))
			r.propose(t, want[len(want)-1])
		}
	}
	more(3)
	c.agree(7, want)
	g := behind.replicas[7].group
	if older {
		if err := g.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.stop(behind)
	more(60)
	synctest.Wait()
	if err := r.group.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := uint64(r.group.Status().LastIndex)
	if at := uint64(r.group.snapshots.newest()); at != last {
		t.Fatalf("the test shows nothing: the leader's log ends at %d, its snapshot is of %d", last, at)
	}
	c.restart(behind, 7)
	c.agree(7, want)
	synctest.Wait()
	g = behind.replicas[7].group
	metas, dir := g.snapshots.metas(), g.snapshots.dir
	if older != (len(metas) == 2) || metas[0].Index != last || uint64(r.group.Status().LastIndex) != last {
		t.Fatalf("the test shows nothing: snapshots %+v", metas)
	}
	c.stop(behind)
	if restores {
		flip(t, behind.fs, filepath.Join(dir, metas[0].ID))
	} else {
		not = record.Index(last)
	}
	c.start(behind)
	b, err := c.open(behind, 7, MakeServerID(behind.id, 1), members(3))
	switch {
	case err == nil:
		if got := b.group.engine.Load().raft.LastIndex(); got < last {
			t.Errorf("the replica has acknowledged entry %d, and believes to end at %d", last, got)
		}
	case restores && !errors.Is(err, ErrStateLost) && !errors.Is(err, recordlog.ErrBehindSnapshot):
		t.Errorf("the replica is not said to have lost what it acknowledged: %v", err)
	case !restores && !errors.Is(err, errDisk):
		t.Errorf("the replica does not say why it does not start: %v", err)
	}
	more(1)
	c.agree(7, want)
}

// flip turns a bit in the middle of a file.
func flip(t *testing.T, fsys vfs.FS, name string) {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], size/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], size/2); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// That a snapshot cannot be read now is no proof of damage: the replica does not start, and has lost nothing. It may be that of the
// snapshot before, where the newest is good.
func TestSnapshotThatIsNotReadIsNoLoss(t *testing.T) {
	fsys := vfs.NewMem(1)
	if err := makeDir(fsys, "data/g"); err != nil {
		t.Fatal(err)
	}
	h := hostOn(fsys)
	s, err := openSnapshots(fsys, "data/g", h.logger, nil)
	if err != nil {
		t.Fatal(err)
	}
	for index := uint64(10); index <= 20; index += 10 {
		k, err := s.create(snapshotHead{index: index, term: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.finish(nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []vfs.OpKind{vfs.OpOpen, vfs.OpRead} {
		for _, x := range []struct {
			match string
			fails bool
		}{{"20-", true}, {"10-", false}} {
			fsys.FailNth(kind, x.match, 0, errDisk)
			at, err := h.LatestSnapshot("data/g")
			if x.fails && !errors.Is(err, errDisk) || !x.fails && (err != nil || at != 20) {
				t.Errorf("%v of %s fails: the newest snapshot is of %d, %v", kind, x.match, at, err)
			}
			fsys.ClearFaults()
			if at, err := h.LatestSnapshot("data/g"); err != nil || at != 20 {
				t.Errorf("then: the newest snapshot is of %d, %v", at, err)
			}
		}
	}
}
