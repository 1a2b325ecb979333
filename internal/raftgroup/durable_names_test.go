package raftgroup

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// killAndCut runs do on a disk and kills it at each of its steps in turn. What a start makes of what is left must survive a power cut
// that comes after it: see must find all that start said.
func killAndCut(t *testing.T, prepare func(disk *vfs.Mem) error, do func(disk *vfs.Mem) error, start func(disk *vfs.Mem) error, see func(disk *vfs.Mem) error) {
	t.Helper()
	died := errors.New("died")
	for step := 0; ; step++ {
		disk := vfs.NewMem(uint64(step))
		if err := prepare(disk); err != nil {
			t.Fatal(err)
		}
		var killed *vfs.Mem
		ops := 0
		disk.OnBefore(func(op vfs.Op) error {
			if !op.Kind.Changes() {
				return nil
			}
			if ops++; ops <= step {
				return nil
			}
			if killed == nil {
				killed = disk.KillClone()
			}
			return died
		})
		err := do(disk)
		if killed == nil {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil && !errors.Is(err, died) {
			t.Fatalf("killed at step %d: %v", step, err)
		}
		if err := start(killed); err != nil {
			t.Fatalf("killed at step %d: the next start: %v", step, err)
		}
		if err := see(killed.CrashClone(lostAll())); err != nil {
			t.Errorf("killed at step %d, and the power was cut after the next start: %v", step, err)
		}
	}
}

// A snapshot that a start finds is there after a power cut too, also if who made it was killed before its name was durable: the log
// is cut and trimmed by what the start finds.
func TestSnapshotThatAStartFindsIsDurable(t *testing.T) {
	const dir = "data/g"
	var found uint64
	killAndCut(t, func(disk *vfs.Mem) error { return makeDir(disk, dir) },
		func(disk *vfs.Mem) error {
			s, err := openSnapshots(disk, dir, hostOn(disk).logger, nil)
			for index := uint64(10); err == nil && index <= 30; index += 10 {
				var k *snapshotSink
				if k, err = s.create(snapshotHead{index: index, term: 1}); err != nil {
					break
				}
				if _, err = k.Write([]byte("state")); err == nil {
					err = k.finish(nil)
				}
			}
			return err
		},
		func(disk *vfs.Mem) error {
			at, err := hostOn(disk).LatestSnapshot(dir)
			found = uint64(at)
			return err
		},
		func(disk *vfs.Mem) error {
			at, err := hostOn(disk).LatestSnapshot(dir)
			if err == nil && uint64(at) < found {
				t.Errorf("the newest snapshot is of %d, and was of %d", at, found)
			}
			return err
		})
}

// A replica's directory that was made, as far as a start sees, is there after a power cut: it has been agreed on since.
func TestDirectoryThatAStartFindsIsDurable(t *testing.T) {
	const dir = "data/partitions/7-1"
	id := Identity{Group: 7, Self: MakeServerID(1, 1)}
	create := func(disk *vfs.Mem) error {
		return id.CreateDir(disk, dir, func() error { return disk.MkdirAll(filepath.Join(dir, "log")) })
	}
	killAndCut(t, func(disk *vfs.Mem) error { return makeDir(disk, "data") }, create, create,
		func(disk *vfs.Mem) error {
			if err := id.CheckDir(disk, dir); err != nil {
				return err
			}
			_, err := disk.List(filepath.Join(dir, "log"))
			return err
		})
}

// A control log that a start opens is there after a power cut.
func TestControlLogThatAStartFindsIsDurable(t *testing.T) {
	dir := t.TempDir()
	prepare := func(disk *vfs.Mem) error {
		_, err := prepareControlLog(hostOn(disk), dir, 0, true)
		return err
	}
	killAndCut(t, func(disk *vfs.Mem) error { return makeDir(disk, dir) }, prepare, prepare,
		func(disk *vfs.Mem) error {
			found, err := vfs.Exists(disk, ControlLogDir(dir))
			if err == nil && !found {
				err = errors.New("the log is gone")
			}
			return err
		})
}

// The name of an installed snapshot may be on disk or not, since the sync of its directory failed: the replica stops, and the next
// start finds a log that goes with either.
func TestInstalledSnapshotWhoseNameMayBeLost(t *testing.T) {
	t.Run("recordlog", func(t *testing.T) { installAndFailToSync(t, withRecordLogs) })
	t.Run("controllog", func(t *testing.T) { installAndFailToSync(t, withControlLogs) })
}

// armingStore says when an installation has begun.
type armingStore struct {
	logStore
	begun *atomic.Int32
}

func (s *armingStore) installing(index uint64) error {
	s.begun.Add(1)
	return s.logStore.installing(index)
}

func installAndFailToSync(t *testing.T, kind func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		var begun, failed atomic.Int32
		var source atomic.Pointer[recordlog.Log]
		c := newCluster(t, 3, kind, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.SnapshotBytes = 8 << 10
				gc.wrapLog = func(l logStore) logStore { return &armingStore{l, &begun} }
				if gc.Log == nil {
					return
				}
				gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error {
					if failed.Load() == 1 { // and now the source is away
						return errors.Join(errDisk, gc.Log.DiscardCatchUp())
					}
					return pullFrom(gc.Log, source.Load(), info, state)
				}
			}
		})
		openDurably(t, c)
		n, r := c.leader(7)
		r.propose(t, "first")
		c.agree(7, []string{"first"})
		source.Store(r.log)
		behind := c.others(n)[0]
		c.stop(behind)
		want := []string{"first"}
		for i := range 100 {
			want = append(want, padded("command %d", i))
			r.propose(t, want[i+1])
		}
		synctest.Wait()
		behind.mem().OnBefore(func(op vfs.Op) error {
			if op.Kind == vfs.OpSyncDir && strings.HasSuffix(op.Name, snapshotDir) && begun.Load() > 0 && failed.CompareAndSwap(0, 1) {
				return errDisk
			}
			return nil
		})
		c.restart(behind, 7)
		until(t, "the sync to fail", func() bool { return failed.Load() > 0 })
		for i := range 40 { // the leader goes on, and has another snapshot
			want = append(want, padded("behind %d", i))
			r.propose(t, want[len(want)-1])
		}
		time.Sleep(5 * time.Second)
		if s := behind.replicas[7].group.Status(); s.Problem == "" {
			t.Errorf("the replica goes on: %+v", s)
		}
		disk := behind.mem()
		for _, image := range []*vfs.Mem{disk.KillClone(), disk.CrashClone(lostAll()), disk.CrashClone(rand.New(rand.NewPCG(1, 1)))} {
			failed.Store(1)
			c.stop(behind)
			behind.fs = image
			failed.Store(2)
			c.restart(behind, 7)
			c.agree(7, want)
		}
	})
}

// openDurably opens group 7 on all brokers, in directories that are on disk.
func openDurably(t *testing.T, c *cluster) {
	t.Helper()
	for _, n := range c.nodes {
		if err := makeDir(n.fs, filepath.Join(n.dir, "group-7")); err != nil {
			t.Fatal(err)
		}
	}
	c.openAll(7)
}

// image is what a crash at an operation left of a disk, on which entries up to last were durable.
type image struct {
	disk *vfs.Mem
	op   vfs.Op
	how  string
	last uint64
}

// start starts a broker on the image, and again on what a power cut leaves of that.
func (x *image) start(t *testing.T, c *cluster, n *node, rng *rand.Rand) {
	t.Helper()
	for again := range 2 {
		if again > 0 {
			n.fs = n.mem().CrashClone(rng)
			c.stop(n)
		} else {
			n.fs = x.disk
		}
		c.start(n)
		r, err := c.open(n, 7, MakeServerID(n.id, 1), members(3))
		if err != nil {
			t.Fatalf("%s at %v of %s, start %d: %v", x.how, x.op.Kind, x.op.Name, again+1, err)
		}
		if last := r.group.engine.Load().raft.LastIndex(); last < x.last {
			t.Errorf("%s at %v of %s, start %d: entries up to %d were on disk, and now up to %d", x.how, x.op.Kind, x.op.Name, again+1, x.last, last)
		}
	}
}

// onDisk is up to where a broker has group 7 on disk, 0 while it does not run.
func onDisk(n *node) uint64 {
	if n.host == nil || n.host.Group(7) == nil {
		return 0
	}
	g := n.host.Group(7)
	return max(g.logs.durable(), uint64(g.snapshots.newest()))
}

// A replica dies at any step of the disk while a snapshot is installed and what follows it comes in, by a kill, a power cut, or a kill and
// then a power cut: it starts again, and has what it acknowledged.
func TestInstallationCrashesAnywhere(t *testing.T) {
	t.Run("recordlog", func(t *testing.T) { installAndCrash(t, withRecordLogs) })
	t.Run("controllog", func(t *testing.T) { installAndCrash(t, withControlLogs) })
}

func installAndCrash(t *testing.T, kind func(*cluster)) {
	seed, _ := stormSeed(t)
	t.Logf("ONCELOG_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	synctest.Test(t, func(t *testing.T) {
		var source atomic.Pointer[recordlog.Log]
		c := newCluster(t, 3, kind, func(c *cluster) {
			c.group = func(n *node, gc *GroupConfig) {
				gc.SnapshotBytes = 8 << 10
				if gc.Log != nil {
					gc.Log.SetSegmentBytes(8 << 10)
					gc.CatchUp = func(_ context.Context, info SnapshotInfo, state []byte) error {
						return pullFrom(gc.Log, source.Load(), info, state)
					}
				}
			}
		})
		openDurably(t, c)
		n, r := c.leader(7)
		source.Store(r.log)
		var want []string
		more := func(count int) {
			for range count {
				want = append(want, padded("command %d", len(want)))
				r.propose(t, want[len(want)-1])
			}
		}
		more(20)
		c.agree(7, want)
		behind := c.others(n)[0]
		if err := behind.replicas[7].group.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			c.stop(behind)
			more(80)
			synctest.Wait()
			disk := behind.mem()
			var images []image
			disk.OnBefore(func(op vfs.Op) error {
				if !op.Kind.Changes() {
					return nil
				}
				last := onDisk(behind)
				killed := disk.KillClone()
				images = append(images, image{disk.CrashClone(rng), op, "cut", last}, image{killed, op, "kill", last})
				return nil
			})
			c.restart(behind, 7)
			until(t, "the installation", func() bool {
				behind.replicas[7].machine.mu.Lock()
				defer behind.replicas[7].machine.mu.Unlock()
				return behind.replicas[7].machine.restores > 0
			})
			more(5)
			c.agree(7, want)
			synctest.Wait()
			disk.OnBefore(nil)
			c.stop(behind)
			for _, x := range images {
				if rng.IntN(2) == 0 {
					continue // half of them, for the time they take
				}
				x.start(t, c, behind, rng)
				if rng.IntN(4) == 0 {
					c.agree(7, want)
				}
				c.stop(behind)
			}
			if len(images) < 40 {
				t.Errorf("round %d: only %d images", round, len(images))
			}
			behind.fs = images[len(images)-1].disk
			behind.mem().OnBefore(nil)
			c.restart(behind, 7)
			c.agree(7, want)
			if err := behind.replicas[7].group.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
