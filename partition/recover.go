package partition

import (
	"errors"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// RecoverReplica makes the replica in a directory the only voter of its group (raftgroup.Replica.Recover says what that means).
// Nobody may have it open. Without terms, too, the log is opened as by a start, which cuts off what a crash left half written at its end. One whose log was found to be damaged is refused: it has lost what it acknowledged.
// What was being pulled from a peer when that was lost is kept, as far as it came: it is committed.
func RecoverReplica(fsys vfs.FS, dir string, terms *raftgroup.Terms) (raftgroup.Identity, raftgroup.Recovery, error) {
	id, err := raftgroup.ReadIdentity(fsys, dir)
	if err != nil {
		return id, raftgroup.Recovery{}, err
	}
	if err := checkUndamaged(fsys, dir, id.Self); err != nil {
		return id, raftgroup.Recovery{}, err
	}
	newest, _, err := raftgroup.NewestOnDisk(fsys, dir)
	if err != nil {
		return id, raftgroup.Recovery{}, err
	}
	o := recordlog.Options{FS: fsys, Dir: LogDir(dir), MustExist: true, Classify: Classify, WholeWindow: true, SnapshotIndex: newest.Index}
	l, err := recordlog.Open(o)
	if err != nil {
		return id, raftgroup.Recovery{}, err
	}
	r := raftgroup.Replica{FS: fsys, Dir: dir, ID: id.Group, Self: id.Self, Log: l}
	out, err := r.Recover(terms)
	return id, out, errors.Join(err, l.Close())
}
