package partition

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// A state snapshot, all integers big endian (docs/formats/partition.md):
//
//	 0 magic          4 bytes "OLST"
//	 4 version        uint16  1
//	 6 feature level  uint16
//	 8 applied index  uint64
//	16 epoch base     int32
//	20 log start      int64
//	28 log end        int64
//	   then four sections, each uint32 length and bytes:
//	   settings, epoch table, record log layout, producers; in version 2 a fifth, compaction
//	   CRC32C of all before  uint32
const (
	snapshotMagic   = "OLST"
	snapshotVersion = 1
	// compactedVersion is that of a snapshot of a log that was compacted.
	compactedVersion = 2
	snapshotHeader   = 36

	// maxSnapshotBytes bounds what Restore reads.
	maxSnapshotBytes = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stateSnapshot is the state at one index, to be written while apply goes on.
type stateSnapshot struct {
	state  state
	layout recordlog.Layout
}

// Snapshot captures the state (raftgroup.StateMachine). Apply does not run meanwhile.
func (r *Replica) Snapshot() (raftgroup.StateSnapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken.Load() {
		return nil, fmt.Errorf("snapshot of %s: apply has failed", r.spec)
	}
	s := &stateSnapshot{state: r.state, layout: r.log.Layout()}
	s.state.epochs = r.state.epochs.clone()
	s.state.producers = r.state.producers.Clone()
	return s, nil
}

// Release lets go of the capture.
func (s *stateSnapshot) Release() {}

// WriteTo writes the snapshot.
func (s *stateSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.encode())
	return int64(n), err
}

func (s *stateSnapshot) encode() []byte {
	st := &s.state
	b := make([]byte, 0, 4096)
	b = append(b, snapshotMagic...)
	version := uint16(snapshotVersion)
	if st.compacted.below > 0 {
		version = compactedVersion
	}
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, st.level)
	b = binary.BigEndian.AppendUint64(b, uint64(st.applied))
	b = binary.BigEndian.AppendUint32(b, uint32(st.epochBase))
	b = binary.BigEndian.AppendUint64(b, uint64(st.start))
	b = binary.BigEndian.AppendUint64(b, uint64(st.next))
	b = appendSection(b, st.settings.encode())
	b = appendSection(b, st.epochs.appendTo(nil))
	b = appendSection(b, s.layout.AppendTo(nil))
	b = appendSection(b, st.producers.AppendTo(nil))
	if version == compactedVersion {
		b = appendSection(b, st.compacted.appendTo(nil))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendSection(b, section []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(section)))
	return append(b, section...)
}

// decodeSnapshot reads what encode wrote. Foreign bytes give an error, never a panic.
func decodeSnapshot(b []byte) (*stateSnapshot, error) {
	if len(b) < snapshotHeader+4 || string(b[:4]) != snapshotMagic {
		return nil, fmt.Errorf("state snapshot of %d bytes does not begin with %q", len(b), snapshotMagic)
	}
	version := binary.BigEndian.Uint16(b[4:])
	if version != snapshotVersion && version != compactedVersion {
		return nil, fmt.Errorf("state snapshot has format %d, this broker reads %d and %d", version, snapshotVersion, compactedVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("state snapshot sums to %08x, its end says %08x", got, sum)
	}
	s := &stateSnapshot{state: state{
		level:     binary.BigEndian.Uint16(b[6:]),
		applied:   record.Index(binary.BigEndian.Uint64(b[8:])),
		epochBase: int32(binary.BigEndian.Uint32(b[16:])),
		start:     record.Offset(binary.BigEndian.Uint64(b[20:])),
		next:      record.Offset(binary.BigEndian.Uint64(b[28:])),
	}}
	sections := make([][]byte, 4)
	if version == compactedVersion {
		sections = make([][]byte, 5)
	}
	rest := body[snapshotHeader:]
	for i := range sections {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("state snapshot ends inside section %d", i)
		}
		n := int(binary.BigEndian.Uint32(rest))
		sections[i], rest = rest[4:4+n], rest[4+n:]
	}
	var err error
	if s.state.settings, err = decodeSettings(sections[0]); err != nil {
		return nil, err
	}
	if s.state.epochs, err = decodeEpochs(sections[1]); err != nil {
		return nil, err
	}
	if s.layout, err = recordlog.DecodeLayout(sections[2]); err != nil {
		return nil, err
	}
	s.state.producers, err = producer.Decode(sections[3], s.state.settings.limits())
	if err != nil {
		return nil, err
	}
	if version == compactedVersion {
		if s.state.compacted, err = decodeCompacted(sections[4]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Restore replaces the state (raftgroup.StateMachine). The record log already holds the entries
// below the snapshot: on a restart because it is the Raft log, on an installed snapshot because
// catchUp pulled them.
func (r *Replica) Restore(index record.Index, src io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(src, maxSnapshotBytes))
	if err != nil {
		return fmt.Errorf("restore %s: %w", r.spec, err)
	}
	s, err := decodeSnapshot(b)
	if err != nil {
		return fmt.Errorf("restore %s: %w", r.spec, err)
	}
	if err := r.host.config.Raft.CheckLevel(s.state.level); err != nil {
		return fmt.Errorf("restore %s: %w", r.spec, err)
	}
	if s.state.applied > index {
		return fmt.Errorf("restore %s: snapshot of index %d holds state of index %d", r.spec, index, s.state.applied)
	}
	// The disk is not waited for under the mutex. Until the state follows, what the old one allowed is read
	// from the new log, or said to be out of its range.
	if err := r.log.Restore(s.layout, index); err != nil {
		return fmt.Errorf("restore %s: %w", r.spec, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance = 0
	r.state = r.host.config.Sabotage.restored(s.state)
	r.publish()
	r.wakeFetches()
	return nil
}
