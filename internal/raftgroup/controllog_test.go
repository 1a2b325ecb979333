package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// A group whose log is in Bolt files goes on with record logs, one replica after the other, and nothing is lost: what
// stands behind the snapshot, what follows, and what followers that are away for it need.
func TestBoltLogIsConverted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var want []string
		c := newCluster(t, 3, withControlLogs, func(c *cluster) {
			c.group = func(_ *node, gc *GroupConfig) { gc.SnapshotBytes, gc.RecordLog = 8<<10, len(want) > 40 }
		})
		more := func(n int, among ...*node) {
			for range n {
				_, r := c.leader(7, among...)
				s := padded("command %d", len(want))
				want = append(want, s)
				r.propose(t, s)
			}
		}
		c.openAll(7)
		more(50)
		for _, n := range c.nodes {
			c.agree(7, want)
			if bolt, err := boltLogExists(filepath.Join(n.dir, "group-7")); err != nil || !bolt {
				t.Fatalf("broker %d has no Bolt file before: %v", n.id, err)
			}
			c.stop(n)
			more(5, c.others(n)...)
			c.restart(n, 7)
			c.agree(7, want)
			bolt, err := boltLogExists(filepath.Join(n.dir, "group-7"))
			record, err2 := vfs.Exists(n.fs, ControlLogDir(filepath.Join(n.dir, "group-7")))
			if err != nil || err2 != nil || bolt || !record {
				t.Errorf("broker %d: Bolt file %t, record log %t, %v %v", n.id, bolt, record, err, err2)
			}
		}
		more(50)
		c.agree(7, want)
		for _, n := range c.nodes {
			c.stop(n)
		}
		for _, n := range c.nodes {
			c.restart(n, 7)
		}
		c.agree(7, want)
		more(1)
	})
}

// A control log keeps no more segments than snapshots need.
func TestControlLogIsTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, withControlLogs, smallSnapshots)
		c.openAll(7)
		n, r := c.leader(7)
		r.group.logs.(*controlLog).log.SetSegmentBytes(8 << 10)
		for i := range 200 {
			r.propose(t, padded("command %d", i))
		}
		// A snapshot is taken beside the proposals, and the log is trimmed behind it.
		got := r.group.logs.(*controlLog).log.Bytes()
		for i := 0; got > 64<<10 && i < 50; i++ {
			r.propose(t, padded("another %d", i))
			synctest.Wait()
			got = r.group.logs.(*controlLog).log.Bytes()
		}
		if got > 64<<10 {
			t.Errorf("after 200 KiB the log has %d bytes", got)
		}
		c.stop(n)
		c.restart(n, 7)
		_, r = c.leader(7)
		r.propose(t, "last")
		if s := r.group.Status(); s.FirstIndex < 100 {
			t.Errorf("the log begins at %d after a restart", s.FirstIndex)
		}
	})
}

// A conversion that dies anywhere, by a kill or a power cut, is done again by the next start; the Bolt file is there
// until the record log is whole on disk.
func TestConversionCrashesAnywhere(t *testing.T) {
	for _, x := range []struct {
		name                  string
		first, last, snapshot uint64
	}{
		{"from the first entry", 1, 150, 0},
		{"from a snapshot on", 101, 250, 150},
		{"right behind the snapshot", 151, 250, 150},
		{"all is covered", 101, 150, 150},
		{"less than is covered", 101, 120, 150},
		{"nothing", 0, 0, 150},
		{"nothing at all", 0, 0, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			entries := entriesBetween(x.first, x.last)
			for step, whole := 0, false; !whole; step++ {
				whole = convertAndCrash(t, entries, x.snapshot, step)
				if step > 1000 || t.Failed() {
					t.Fatalf("step %d", step)
				}
			}
		})
	}
}

func entriesBetween(first, last uint64) []*raft.Log {
	var list []*raft.Log
	for i := first; i <= last && i > 0; i++ {
		list = append(list, &raft.Log{Index: i, Term: 1 + i/100, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, 64),
			Extensions: fmt.Appendf(nil, "e%d", i), AppendedAt: time.Unix(0, int64(i))})
	}
	return list
}

// convertAndCrash converts a log, lets it die at a step of the disk, and looks at what a next attempt makes of it; whole: it
// did not come to that step.
func convertAndCrash(t *testing.T, entries []*raft.Log, snapshot uint64, step int) (whole bool) {
	dir := t.TempDir()
	b, err := openBoltLog(dir, true)
	if err == nil && len(entries) > 0 {
		err = b.StoreLogs(entries)
	}
	if err = errors.Join(err, b.close()); err != nil {
		t.Fatal(err)
	}
	disk := vfs.NewMem(uint64(step))
	if err := makeDir(disk, dir); err != nil {
		t.Fatal(err)
	}
	if err := disk.SyncDir(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	died := errors.New("died")
	var after []*vfs.Mem
	ops := 0
	disk.OnBefore(func(op vfs.Op) error {
		if !op.Kind.Changes() && op.Kind != vfs.OpSync {
			return nil
		}
		if ops++; ops <= step {
			return nil
		}
		if ops == step+1 {
			rng := rand.New(rand.NewPCG(uint64(step), 0))
			after = append(after, disk.KillClone(), disk.CrashClone(rng), disk.CrashClone(rng))
		}
		return died
	})
	is, err := prepareControlLog(hostOn(disk), dir, record.Index(snapshot), true)
	disk.ClearFaults()
	if whole = after == nil; whole {
		if err != nil || !is {
			t.Fatalf("conversion: %t, %v", is, err)
		}
		after = []*vfs.Mem{disk.CrashClone(rand.New(rand.NewPCG(1, 0)))}
	} else if !errors.Is(err, died) {
		t.Fatalf("died at step %d: %v", step, err)
	}
	bolt, err := os.ReadFile(boltLogPath(dir))
	if !whole && err != nil {
		t.Fatalf("died at step %d and the Bolt file is gone: %v", step, err)
	}
	for k, disk := range after {
		if bolt != nil {
			if err := os.WriteFile(boltLogPath(dir), bolt, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h := hostOn(disk)
		if is, err := prepareControlLog(h, dir, record.Index(snapshot), true); err != nil || !is {
			t.Fatalf("step %d, disk %d: next attempt: %t, %v", step, k, is, err)
		}
		if exists, err := boltLogExists(dir); err != nil || exists {
			t.Errorf("step %d, disk %d: the Bolt file is still there: %v", step, k, err)
		}
		c, err := openControlLog(h, dir, record.Index(snapshot))
		if err != nil {
			t.Fatalf("step %d, disk %d: %v", step, k, err)
		}
		checkConverted(t, c, entries, snapshot)
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	}
	return whole
}

func hostOn(disk vfs.FS) *Host {
	return &Host{config: Config{FS: disk, NoSync: true}, logger: slog.New(slog.DiscardHandler), controlLogs: recordlog.NewMetrics(nil)}
}

// checkConverted compares the entries above the snapshot with those from Bolt, and appends one.
func checkConverted(t *testing.T, c *controlLog, entries []*raft.Log, snapshot uint64) {
	t.Helper()
	if n := len(entries); n > 0 && entries[n-1].Index < snapshot {
		entries = nil
	}
	next, term := snapshot+1, uint64(9)
	for _, want := range entries {
		var got raft.Log
		if err := c.GetLog(want.Index, &got); err != nil {
			t.Fatalf("entry %d: %v", want.Index, err)
		}
		if got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) || !got.AppendedAt.Equal(want.AppendedAt) {
			t.Fatalf("entry %d has changed", want.Index)
		}
		next = want.Index + 1
	}
	first, _ := c.FirstIndex()
	last, _ := c.LastIndex()
	if len(entries) > 0 && (first != entries[0].Index || last != next-1) || len(entries) == 0 && last != 0 {
		t.Fatalf("the log holds %d to %d, Bolt held %d entries up to %d", first, last, len(entries), next-1)
	}
	if err := c.StoreLogs([]*raft.Log{{Index: next, Term: term, Data: []byte("next")}}); err != nil {
		t.Fatalf("append entry %d: %v", next, err)
	}
}

// A snapshot is installed over a log that ends in what was never committed, of a later term than what follows: the tail
// goes, also if the replica dies meanwhile.
func TestInstalledSnapshotTakesTheTail(t *testing.T) {
	for _, crash := range []bool{false, true} {
		disk := vfs.NewMem(1)
		if err := makeDir(disk, "data/g"); err != nil {
			t.Fatal(err)
		}
		h := hostOn(disk)
		open := func(newest record.Index) *controlLog {
			t.Helper()
			if _, err := prepareControlLog(h, "data/g", newest, true); err != nil {
				t.Fatal(err)
			}
			c, err := openControlLog(h, "data/g", newest)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := open(0)
		tail := entriesBetween(1, 20)
		for _, l := range tail[10:] {
			l.Term = 5
		}
		if err := c.StoreLogs(tail); err != nil {
			t.Fatal(err)
		}
		if err := c.installing(15); err != nil {
			t.Fatal(err)
		}
		if crash { // after the snapshot's file is durable
			h.config.FS = disk.CrashClone(lostAll())
			c = open(15)
		} else if err := c.snapshotAt(15); err != nil {
			t.Fatal(err)
		}
		if last, _ := c.LastIndex(); last != 0 {
			t.Errorf("crash %t: the log ends at %d behind a snapshot of 15", crash, last)
		}
		if err := c.StoreLogs([]*raft.Log{{Index: 16, Term: 3, Data: []byte("next")}}); err != nil {
			t.Errorf("crash %t: %v", crash, err)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
}

// The Bolt file is gone durably once the record log is in its place, and once the replica is destroyed: its directory is
// synced after the removal.
func TestBoltFileGoesDurably(t *testing.T) {
	dir := t.TempDir()
	var synced atomic.Int32
	told := func(of string) {
		if exists, err := boltLogExists(dir); of == dir && err == nil && !exists {
			synced.Add(1)
		}
	}
	dirSynced.Store(&told)
	defer dirSynced.Store(nil)
	b, err := openBoltLog(dir, false)
	if err == nil {
		err = errors.Join(b.StoreLogs(entriesBetween(1, 3)), b.close())
	}
	if err != nil {
		t.Fatal(err)
	}
	h := hostOn(vfs.OS())
	h.config.NoSync = false
	if is, err := prepareControlLog(h, dir, 0, true); err != nil || !is {
		t.Fatalf("conversion: %t, %v", is, err)
	}
	if synced.Load() != 1 {
		t.Errorf("the directory was synced %d times without the Bolt file, want once", synced.Load())
	}
}
