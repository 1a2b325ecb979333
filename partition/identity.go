package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
)

// identityFile names the replica a directory belongs to:
//
//	 0 magic     4 bytes "OLRI"
//	 4 version   uint16  1
//	 6 topic id  16 bytes
//	22 partition int32
//	26 group     uint64
//	34 server id uint16 length and bytes
//	   CRC32C of all before uint32
const (
	logDirName = "log"

	identityFile    = "replica"
	identityMagic   = "OLRI"
	identityVersion = 1
)

// ErrReplicaMissing says that an agreed replica's directory is gone: its disk was wiped or
// replaced. The replica never starts empty under the same identity.
var ErrReplicaMissing = errors.New("the replica's directory is missing although the cluster agreed that it exists: its data was lost, and it must be replaced by a new replica")

type identity struct {
	topic     TopicID
	partition int32
	group     raftgroup.GroupID
	self      raftgroup.ServerID
}

func identityOf(s ReplicaSpec) identity {
	return identity{topic: s.TopicID, partition: s.Partition, group: s.Group, self: s.Self}
}

func (i identity) encode() []byte {
	b := append([]byte(nil), identityMagic...)
	b = binary.BigEndian.AppendUint16(b, identityVersion)
	b = append(b, i.topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(i.partition))
	b = binary.BigEndian.AppendUint64(b, uint64(i.group))
	b = binary.BigEndian.AppendUint16(b, uint16(len(i.self)))
	b = append(b, i.self...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// createReplicaDir makes the directory, an empty log and, last, the identity durable. If we die in
// between, the identity is absent or fails its CRC, nobody was told of the replica, and Create is
// called again. Where the identity is, a log that is gone has been lost.
func createReplicaDir(fsys vfs.FS, dir string, id identity) error {
	if err := checkReplicaDir(fsys, dir, id); err == nil {
		return nil
	}
	logDir := filepath.Join(dir, logDirName)
	if err := fsys.MkdirAll(logDir); err != nil {
		return fmt.Errorf("create replica directory: %w", err)
	}
	if err := recordlog.Create(fsys, logDir); err != nil {
		return err
	}
	if err := vfs.WriteFileAtomic(fsys, filepath.Join(dir, identityFile), id.encode()); err != nil {
		return fmt.Errorf("create replica directory: %w", err)
	}
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("create replica directory: %w", err)
		}
	}
	return nil
}

// checkReplicaDir makes sure that a directory is this replica's.
func checkReplicaDir(fsys vfs.FS, dir string, id identity) error {
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replica %s of group %d: %w", id.self, id.group, ErrReplicaMissing)
	}
	if err != nil {
		return fmt.Errorf("replica %s of group %d: %w", id.self, id.group, err)
	}
	if len(b) >= 6 && string(b[:4]) == identityMagic {
		if v := binary.BigEndian.Uint16(b[4:]); v > identityVersion {
			return fmt.Errorf("replica directory %s has format %d, this broker reads up to %d: it was written by a newer version", dir, v, identityVersion)
		}
	}
	if want := id.encode(); string(b) != string(want) {
		return fmt.Errorf("replica directory %s belongs to another replica or is damaged: its identity file differs from replica %s of group %d", dir, id.self, id.group)
	}
	return nil
}
