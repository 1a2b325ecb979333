package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition"
)

// RecoveredGroup is one group of which this broker's replica is made, or would be, the only voter.
type RecoveredGroup struct {
	// Name is the directory below the broker's: of the metadata, of a partition's replica or of a coordinator's shard.
	Name string
	// Topic is the topic's id, empty for what is no partition; Partition its number.
	Topic     string
	Partition int32
	raftgroup.Recovery
	// Err is why it cannot be: it is left as it is.
	Err error
}

// Recover makes this broker the only voter of every group that it holds a replica of, after the majority of them is lost for
// ever. The broker must not run. What the lost brokers had acknowledged and this one did not have yet is lost; what was
// never committed may come to be. No lost broker may come back. With dry it says what it would do, and changes no more than a start does: what
// a crash left half written at the end of a log is cut off.
func Recover(c Config, o Options, dry bool) ([]RecoveredGroup, error) {
	o.setDefaults()
	local := o.local()
	lock, err := local.Lock(c.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data_dir %s does not exist, so there is nothing to recover; is the disk mounted, and is it the right directory?", c.DataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("the broker must not run: %w", err)
	}
	defer lock.Close()
	// What does not let it begin at all is found before anything is changed.
	list, err := recoverAll(c, o, local, nil)
	if dry || err != nil {
		return list, err
	}
	terms, err := raftgroup.OpenTerms(filepath.Join(c.DataDir, "raft"), o.NoSync)
	if err != nil {
		return list, err
	}
	list, err = recoverAll(c, o, local, terms)
	return list, errors.Join(err, terms.Close())
}

// recoverAll looks at each group, and makes it over where there are terms. If it is cut short, the next attempt finds the rest to be done.
func recoverAll(c Config, o Options, local vfs.FS, terms *raftgroup.Terms) ([]RecoveredGroup, error) {
	partitions, err := subdirectories(o.FS, filepath.Join(c.DataDir, "partitions"))
	if err != nil {
		return nil, err
	}
	shards, err := subdirectories(o.FS, filepath.Join(c.DataDir, "coordinators"))
	if err != nil {
		return nil, err
	}
	meta, err := cluster.RecoverMetadata(local, o.FS, filepath.Join(c.DataDir, "cluster"), c.BrokerID, o.NoSync, terms)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("data_dir %s holds no broker of a cluster, so there is nothing to recover; is it the right directory? %w", c.DataDir, err)
	}
	if err != nil {
		return nil, err
	}
	list := []RecoveredGroup{{Name: "cluster/metadata", Recovery: meta}}
	for _, dir := range partitions {
		id, r, err := partition.RecoverReplica(o.FS, dir, terms)
		list = append(list, RecoveredGroup{Name: "partitions/" + filepath.Base(dir), Topic: fmt.Sprintf("%x", id.Topic), Partition: id.Partition, Recovery: r, Err: err})
	}
	for _, dir := range shards {
		g := RecoveredGroup{Name: "coordinators/" + filepath.Base(dir)}
		id, err := raftgroup.ReadIdentity(o.FS, dir)
		if err == nil {
			r := raftgroup.Replica{FS: o.FS, Dir: dir, ID: id.Group, Self: id.Self, NoSync: o.NoSync}
			g.Recovery, err = r.Recover(terms)
		}
		g.Err = err
		list = append(list, g)
	}
	return list, nil
}

func subdirectories(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(names))
	for i, n := range names {
		paths[i] = filepath.Join(dir, n)
	}
	return paths, nil
}
