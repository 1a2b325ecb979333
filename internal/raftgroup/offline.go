package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// For those who look at a replica's directory while no group has it open. Nothing is changed.

// EntryHead is what an entry of a log says of itself beside its payload.
type EntryHead struct {
	Kind Kind
	// Level is the feature level that the proposing leader knew.
	Level uint16
	// Admission is the term in which it was admitted; if the entry has another one, apply refuses it.
	Admission record.Term
	// AppendTime is the leader's clock, ms since 1970.
	AppendTime int64
	Meta       []byte
}

// Head takes apart the envelope of an entry.
func Head(extensions []byte) (EntryHead, error) {
	e, err := decodeEnvelope(extensions)
	return EntryHead{Kind: e.kind, Level: e.level, Admission: e.admission, AppendTime: e.appendTime, Meta: e.meta}, err
}

// LogTypeName names Raft's type of an entry.
func LogTypeName(t uint8) string {
	names := []string{"command", "noop", "", "", "barrier", "configuration"}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return fmt.Sprintf("type %d", t)
}

// ReadIdentity reads whose directory it is. errors.Is(err, fs.ErrNotExist): nobody's.
func ReadIdentity(fsys vfs.FS, dir string) (Identity, error) {
	var i Identity
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, identityFile))
	if err != nil {
		return i, err
	}
	const fixed = 36
	if len(b) < fixed+4 || string(b[:4]) != identityMagic {
		return i, fmt.Errorf("identity file of %d bytes does not begin with %q", len(b), identityMagic)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != identityVersion {
		return i, fmt.Errorf("identity file has format %d, this program reads %d", v, identityVersion)
	}
	body, want := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc := crc32.Checksum(body, castagnoli); crc != want {
		return i, fmt.Errorf("identity file sums to %08x, its end says %08x", crc, want)
	}
	copy(i.Topic[:], b[6:])
	i.Partition = int32(binary.BigEndian.Uint32(b[22:]))
	i.Group = GroupID(binary.BigEndian.Uint64(b[26:]))
	i.Self = ServerID(body[fixed:])
	if n := int(binary.BigEndian.Uint16(b[34:])); n != len(i.Self) {
		return i, fmt.Errorf("identity file of %d bytes names a server of %d", len(b), n)
	}
	return i, nil
}

// SnapshotOnDisk is a snapshot file of a replica.
type SnapshotOnDisk struct {
	Name  string
	Index record.Index
	Term  record.Term
	// Bytes is the size of the state in it.
	Bytes   int64
	Voters  []ServerID
	Learner []ServerID
	// Err is why it cannot be used; the fields above may be empty then.
	Err error
}

// SnapshotsOnDisk reads and checks the snapshot files of a replica's directory, the newest first.
func SnapshotsOnDisk(fsys vfs.FS, dir string) ([]SnapshotOnDisk, error) {
	names, err := fsys.List(filepath.Join(dir, snapshotDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var list []SnapshotOnDisk
	for _, name := range slices.Backward(names) {
		if !strings.HasSuffix(name, snapshotSuffix) {
			continue
		}
		head, err := verifySnapshot(fsys, filepath.Join(dir, snapshotDir, name))
		s := SnapshotOnDisk{Name: name, Index: record.Index(head.index), Term: record.Term(head.term), Bytes: head.size, Err: err}
		for _, m := range head.configuration.Servers {
			if m.Suffrage == 0 {
				s.Voters = append(s.Voters, ServerID(m.ID))
			} else {
				s.Learner = append(s.Learner, ServerID(m.ID))
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// NewestOnDisk gives the newest snapshot of a replica's directory that is good; of index 0, if there is none. lost is the index of the newest one that is
// damaged, by its name. That a newer one cannot be read now is no proof of damage, and an error, as on a start.
func NewestOnDisk(fsys vfs.FS, dir string) (newest SnapshotOnDisk, lost record.Index, err error) {
	list, err := SnapshotsOnDisk(fsys, dir)
	for _, s := range list {
		if s.Err == nil {
			return s, lost, nil
		}
		if errors.As(s.Err, new(*fs.PathError)) {
			return SnapshotOnDisk{}, 0, fmt.Errorf("the snapshot %s cannot be read, which does not say that it is damaged: see that it can, and try again: %w", s.Name, s.Err)
		}
		lost = max(lost, snapshotNamed(s.Name))
	}
	return SnapshotOnDisk{}, lost, err
}

// StateOnDisk reads the state in a snapshot file that SnapshotsOnDisk found good.
func StateOnDisk(fsys vfs.FS, dir, name string) ([]byte, error) {
	f, err := fsys.Open(filepath.Join(dir, snapshotDir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	head, err := readSnapshotHead(f, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, head.size)
	if _, err := f.ReadAt(b, int64(head.encodedSize())); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}
