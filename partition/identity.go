package partition

import (
	"path/filepath"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
)

const logDirName = "log"

// ErrReplicaMissing says that an agreed replica's directory is gone. The replica never starts empty
// under the same identity.
var ErrReplicaMissing = raftgroup.ErrReplicaMissing

func identityOf(s ReplicaSpec) raftgroup.Identity {
	return raftgroup.Identity{Topic: s.TopicID, Partition: s.Partition, Group: s.Group, Self: s.Self}
}

// createReplicaDir makes the directory, an empty log and, last, the identity durable.
func (h *Host) createReplicaDir(spec ReplicaSpec) error {
	dir := h.replicaDir(spec)
	return identityOf(spec).CreateDir(h.config.FS, dir, func() error {
		logDir := filepath.Join(dir, logDirName)
		if err := h.config.FS.MkdirAll(logDir); err != nil {
			return err
		}
		return recordlog.Create(h.config.FS, logDir)
	})
}
