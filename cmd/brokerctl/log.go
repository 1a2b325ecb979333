package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

func (p *program) logCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "log",
		Short: "Read the logs in a broker's directory while the broker is stopped, or in a copy of it",
	})
	cmd.AddCommand(p.logVerify(), p.logDump())
	return cmd
}

// replicaDir is the directory of one partition's replica, as it lies on the disk.
type replicaDir struct {
	// name is the directory's own.
	name, dir, log string
	identity       *raftgroup.Identity
	// unknown is why there is no identity.
	unknown error
}

// topic writes the topic's id and the partition; names are only in the metadata.
func (r *replicaDir) topic() string {
	if r.identity == nil {
		return "-"
	}
	return fmt.Sprintf("%x/%d", r.identity.Topic, r.identity.Partition)
}

// broker names the replica's broker.
func (r *replicaDir) broker() string {
	if r.identity == nil {
		return "-"
	}
	broker, _, err := raftgroup.ParseServerID(r.identity.Self)
	if err != nil {
		return string(r.identity.Self)
	}
	return fmt.Sprint(broker)
}

// Names in a broker's directory, see docs/operations.md.
const (
	partitionsDir = "partitions"
	metaFileName  = "meta"
)

// findReplicas says which replicas lie in a directory: of a broker, of a replica, or a log alone.
func findReplicas(fsys vfs.FS, dir string) ([]replicaDir, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, usagef("%w", err)
	case !info.IsDir():
		return nil, usagef("%s is a file: want a broker's data_dir, or one directory in its partitions", dir)
	}
	exists := func(parts ...string) bool {
		found, err := vfs.Exists(fsys, filepath.Join(append([]string{dir}, parts...)...))
		return err == nil && found
	}
	switch {
	case exists(partitionsDir):
		names, err := fsys.List(filepath.Join(dir, partitionsDir))
		if err != nil {
			return nil, err
		}
		var list []replicaDir
		for _, name := range names {
			if sub := filepath.Join(dir, partitionsDir, name); isDir(sub) {
				list = append(list, openReplicaDir(fsys, name, sub, partition.LogDir(sub)))
			}
		}
		return list, nil
	case exists("replica") || isDir(partition.LogDir(dir)):
		return []replicaDir{openReplicaDir(fsys, filepath.Base(dir), dir, partition.LogDir(dir))}, nil
	case exists(metaFileName), hasSegments(dir):
		parent := filepath.Dir(filepath.Clean(dir))
		return []replicaDir{openReplicaDir(fsys, filepath.Base(dir), parent, dir)}, nil
	}
	return nil, usagef("%s holds neither %s nor a log: want a broker's data_dir, or one directory in its partitions", dir, partitionsDir)
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func hasSegments(dir string) bool {
	found, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	return err == nil && len(found) > 0
}

func openReplicaDir(fsys vfs.FS, name, dir, log string) replicaDir {
	r := replicaDir{name: name, dir: dir, log: log}
	id, err := raftgroup.ReadIdentity(fsys, dir)
	if err != nil {
		r.unknown = err
		return r
	}
	r.identity = &id
	return r
}

// lockedBy refuses a directory that a running broker has.
func lockedBy(fsys vfs.FS, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for range 4 { // log, replica, partitions, data_dir
		if _, err := fsys.Lock(dir); errors.Is(err, vfs.ErrLocked) {
			return usagef("a broker that runs has %s: stop it, or look at a copy", dir)
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// begin reads what a replay of the log begins with: the state of the newest good snapshot.
func (r *replicaDir) begin(fsys vfs.FS) (*partition.Replay, []raftgroup.SnapshotOnDisk, error) {
	snapshots, err := raftgroup.SnapshotsOnDisk(fsys, r.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range snapshots {
		if s.Err != nil {
			continue
		}
		state, err := raftgroup.StateOnDisk(fsys, r.dir, s.Name)
		if err != nil {
			return nil, snapshots, err
		}
		replay, err := partition.NewReplay(state)
		if err != nil {
			return nil, snapshots, fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
		return replay, snapshots, nil
	}
	replay, err := partition.NewReplay(nil)
	return replay, snapshots, err
}

// newest is the index of the newest good snapshot, 0 for none.
func newest(snapshots []raftgroup.SnapshotOnDisk) record.Index {
	for _, s := range snapshots {
		if s.Err == nil {
			return s.Index
		}
	}
	return 0
}

// bytesIn adds up the files of a directory, for progress.
func bytesIn(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what cannot be read is found later
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
