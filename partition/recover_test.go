package partition

import (
	"errors"
	"testing"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// TestRecoverKeepsWhatWasPulled: a replica whose Raft log was empty when the last leader was lost, and that was catching up, has committed
// entries that Raft did not know of yet. They are not cut off to make it the only voter.
func TestRecoverKeepsWhatWasPulled(t *testing.T) {
	r := newRig(t)
	r.start()
	r.mustProduce(batch(-1, -1, -1, 2), 0)
	if err := r.host.replica(testTP).group.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := r.host.replicaDir(r.spec)
	r.stop()
	l, err := recordlog.Open(recordlog.Options{FS: r.disk, Dir: LogDir(dir), Classify: Classify})
	if err != nil {
		t.Fatal(err)
	}
	last := l.LastIndex()
	if err := l.TrimWindow(last); err != nil {
		t.Fatal(err)
	}
	pulled := []recordlog.Entry{{Index: last + 1, Term: 9, Type: 1}, {Index: last + 2, Term: 9, Type: 1}}
	if err := l.AppendCatchUp(pulled); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, found, err := RecoverReplica(r.disk, dir, nil)
	if err != nil || found.Last != last+record.Index(len(pulled)) || found.Term != 9 {
		t.Errorf("%+v, %v; want the last entry to be %d", found, err, last+2)
	}
}

// A snapshot that cannot be read now is not passed over for the one before: the replica is left as it is.
func TestNoRecoveryWithoutNewestSnapshot(t *testing.T) {
	r := newRig(t)
	r.start()
	for i := range 2 {
		r.mustProduce(batch(-1, -1, -1, 2), record.Offset(2*i))
		if err := r.host.replica(testTP).group.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	dir := r.host.replicaDir(r.spec)
	r.stop()
	list, err := raftgroup.SnapshotsOnDisk(r.disk, dir)
	if err != nil || len(list) != 2 {
		t.Fatalf("snapshots %+v, %v", list, err)
	}
	broken := errors.New("broken")
	r.disk.FailNth(vfs.OpRead, list[0].Name, 0, broken)
	if _, _, err := RecoverReplica(r.disk, dir, nil); !errors.Is(err, broken) {
		t.Errorf("recovered: %v", err)
	}
	r.disk.ClearFaults()
	if _, found, err := RecoverReplica(r.disk, dir, nil); err != nil || found.Last < list[0].Index {
		t.Errorf("%+v, %v", found, err)
	}
}
