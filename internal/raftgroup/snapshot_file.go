package raftgroup

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"
)

// A snapshot file, all integers big endian (docs/formats/raft-snapshot.md):
//
//	 0 magic               4 bytes "OLSN"
//	 4 version             uint16  1
//	 6 reserved            uint16  0
//	 8 index               uint64  of the last entry it covers
//	16 term                uint64  of that entry
//	24 configuration index uint64
//	32 state size          uint64  bytes
//	40 state crc           uint32  CRC32C
//	44 configuration size  uint32
//	48 configuration
//	   header crc          uint32  CRC32C of all before
//	   state
//
// The configuration is one uint8 of suffrage (0 voter, 1 learner), one uint8 of length and the
// server id, for each server.
const (
	snapshotMagic   = "OLSN"
	snapshotVersion = 1
	snapshotFixed   = 48
)

type snapshotHead struct {
	index, term        uint64
	configuration      raft.Configuration
	configurationIndex uint64
	size               int64
	stateCRC           uint32
}

func (h *snapshotHead) encodedSize() int {
	n := snapshotFixed + 4
	for _, s := range h.configuration.Servers {
		n += 2 + len(s.ID)
	}
	return n
}

func (h *snapshotHead) encode() []byte {
	b := make([]byte, 0, h.encodedSize())
	b = append(b, snapshotMagic...)
	b = binary.BigEndian.AppendUint16(b, snapshotVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, h.index)
	b = binary.BigEndian.AppendUint64(b, h.term)
	b = binary.BigEndian.AppendUint64(b, h.configurationIndex)
	b = binary.BigEndian.AppendUint64(b, uint64(h.size))
	b = binary.BigEndian.AppendUint32(b, h.stateCRC)
	b = binary.BigEndian.AppendUint32(b, uint32(h.encodedSize()-snapshotFixed-4))
	for _, s := range h.configuration.Servers {
		var learner byte
		if s.Suffrage != raft.Voter {
			learner = 1
		}
		b = append(append(b, learner, byte(len(s.ID))), s.ID...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readSnapshotHead reads and checks the head of a file of a size.
func readSnapshotHead(f io.ReaderAt, size int64) (snapshotHead, error) {
	var h snapshotHead
	fixed := make([]byte, snapshotFixed)
	if size < snapshotFixed+4 {
		return h, fmt.Errorf("snapshot file of %d bytes ends inside its header", size)
	}
	if _, err := f.ReadAt(fixed, 0); err != nil {
		return h, fmt.Errorf("read header: %w", err)
	}
	if string(fixed[:4]) != snapshotMagic {
		return h, fmt.Errorf("file begins with %q, not %q", fixed[:4], snapshotMagic)
	}
	if v := binary.BigEndian.Uint16(fixed[4:]); v != snapshotVersion {
		return h, fmt.Errorf("snapshot file has format %d, this broker reads %d", v, snapshotVersion)
	}
	length := binary.BigEndian.Uint32(fixed[44:])
	if length > maxConfigurationBytes || int64(length) > size-snapshotFixed-4 {
		return h, fmt.Errorf("configuration of %d bytes in a file of %d", length, size)
	}
	b := make([]byte, snapshotFixed+int(length)+4)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return h, fmt.Errorf("read header: %w", err)
	}
	end := len(b) - 4
	if crc, want := crc32.Checksum(b[:end], castagnoli), binary.BigEndian.Uint32(b[end:]); crc != want {
		return h, fmt.Errorf("header sums to %08x, its end says %08x", crc, want)
	}
	h.index = binary.BigEndian.Uint64(b[8:])
	h.term = binary.BigEndian.Uint64(b[16:])
	h.configurationIndex = binary.BigEndian.Uint64(b[24:])
	h.size = int64(binary.BigEndian.Uint64(b[32:]))
	h.stateCRC = binary.BigEndian.Uint32(b[40:])
	var err error
	if h.configuration, err = decodeServers(b[snapshotFixed:end]); err != nil {
		return h, err
	}
	if h.size < 0 || h.size != size-int64(len(b)) {
		return h, fmt.Errorf("state of %d bytes in a file of %d", h.size, size)
	}
	return h, nil
}

func decodeServers(b []byte) (raft.Configuration, error) {
	var c raft.Configuration
	for r := newReader(b); len(r.b) > 0; {
		learner := r.u8()
		id := ServerID(r.take(int(r.u8())))
		if !r.ok || learner > 1 {
			return c, fmt.Errorf("configuration in snapshot cannot be read")
		}
		if _, _, err := ParseServerID(id); err != nil {
			return c, err
		}
		s := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)}
		if learner == 1 {
			s.Suffrage = raft.Nonvoter
		}
		c.Servers = append(c.Servers, s)
	}
	return c, nil
}
