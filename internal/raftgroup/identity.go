package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/oncelog/oncelog/internal/vfs"
)

// The identity file names the replica that a directory belongs to:
//
//	 0 magic     4 bytes "OLRI"
//	 4 version   uint16  1
//	 6 topic id  16 bytes
//	22 partition int32
//	26 group     uint64
//	34 server id uint16 length and bytes
//	   CRC32C of all before uint32
const (
	identityFile    = "replica"
	identityMagic   = "OLRI"
	identityVersion = 1
)

// ErrReplicaMissing says that an agreed replica's directory is gone: its disk was wiped or
// replaced. The replica never starts empty under the same identity.
var ErrReplicaMissing = errors.New("the replica's directory is missing although the cluster agreed that it exists: its data was lost, and it must be replaced by a new replica")

// errOtherReplica says that a directory belongs to another replica.
var errOtherReplica = errors.New("the replica directory belongs to another replica")

// Identity says which replica a directory belongs to. A replica may only be opened on a directory that is its
// own: one that finds nothing has lost what it acknowledged and voted for.
type Identity struct {
	// Topic and Partition are what the group is for, as the metadata has it.
	Topic     [16]byte
	Partition int32
	Group     GroupID
	Self      ServerID
}

func (i Identity) encode() []byte {
	b := append([]byte(nil), identityMagic...)
	b = binary.BigEndian.AppendUint16(b, identityVersion)
	b = append(b, i.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(i.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(i.Group))
	b = binary.BigEndian.AppendUint16(b, uint16(len(i.Self)))
	b = append(b, i.Self...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// CreateDir makes a replica's directory, what fill puts there, and last the identity, all durable. If we die in
// between, the identity is absent or fails its CRC, nobody was told of the replica, and CreateDir is called again. Where
// the identity is, all else that is gone has been lost. A nil fill puts nothing there. A directory that is another
// replica's is refused: what it holds would be taken for this one's.
func (i Identity) CreateDir(fsys vfs.FS, dir string, fill func() error) error {
	switch err := i.CheckDir(fsys, dir); {
	case errors.Is(err, errOtherReplica):
		return err
	case err == nil:
		return syncUp(fsys, dir) // who made it may have been killed before
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return fmt.Errorf("create replica directory: %w", err)
	}
	if fill != nil {
		if err := fill(); err != nil {
			return fmt.Errorf("create replica directory: %w", err)
		}
	}
	if err := vfs.WriteFileAtomic(fsys, filepath.Join(dir, identityFile), i.encode()); err != nil {
		return fmt.Errorf("create replica directory: %w", err)
	}
	return syncUp(fsys, dir)
}

// syncUp makes the names durable that lead to a replica's files.
func syncUp(fsys vfs.FS, dir string) error {
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("create replica directory: %w", err)
		}
	}
	return nil
}

// CheckDir makes sure that a directory is this replica's.
func (i Identity) CheckDir(fsys vfs.FS, dir string) error {
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replica %s of group %d: %w", i.Self, i.Group, ErrReplicaMissing)
	}
	if err != nil {
		return fmt.Errorf("replica %s of group %d: %w", i.Self, i.Group, err)
	}
	if len(b) >= 6 && string(b[:4]) == identityMagic {
		if v := binary.BigEndian.Uint16(b[4:]); v > identityVersion {
			return fmt.Errorf("replica directory %s has format %d, this broker reads up to %d: it was written by a newer version", dir, v, identityVersion)
		}
	}
	if want := i.encode(); string(b) != string(want) {
		if n := len(b) - 4; n >= 0 && binary.BigEndian.Uint32(b[n:]) == crc32.Checksum(b[:n], castagnoli) {
			return fmt.Errorf("%w: %s holds another than replica %s of group %d", errOtherReplica, dir, i.Self, i.Group)
		}
		return fmt.Errorf("replica directory %s is damaged: its identity file differs from replica %s of group %d", dir, i.Self, i.Group)
	}
	return nil
}
