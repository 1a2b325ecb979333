package partition

import (
	"testing"

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
