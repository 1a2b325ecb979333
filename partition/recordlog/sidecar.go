package recordlog

import (
	"encoding/binary"
	"fmt"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// A sidecar holds a closed segment's summary and sparse index or, of the segment that is written to,
// those of its frames at or below a state snapshot. All integers are big endian:
//
//	 0 magic          8 bytes "oncelix\n"
//	 8 version        uint16  1
//	10 reserved       uint16  0
//	12 blocks         uint32
//	16 salt           uint64  of the segment
//	24 first index    uint64
//	32 last index     uint64
//	40 last term      uint64
//	48 bytes          int64   of the segment, up to the end of the last frame
//	56 records        int64
//	64 max timestamp  int64   MinInt64: no records
//	72 segment header uint32  its CRC
//	76 last frame     uint32  its header CRC
//	80 blocks CRC32C  uint32  of salt, then all blocks
//	84 CRC32C         uint32  of salt, then bytes 0 to 83
//	88 blocks, each: index uint64, position int64, records int64, max timestamp int64
//
// Nothing depends on it: what does not fit the segment is thrown away and built anew.
const (
	sidecarMagic      = "oncelix\n"
	sidecarVersion    = 1
	sidecarHeaderSize = 88
	blockSize         = 32
	maxBlocks         = maxSegmentBytes / 64
)

// sidecarHeader is a sidecar without its blocks.
type sidecarHeader struct {
	summary
	salt   uint64
	first  record.Index
	header uint32
	blocks int
	sum    uint32
}

func encodeSidecar(s *segment, of *summary, blocks []block) []byte {
	b := make([]byte, sidecarHeaderSize, sidecarHeaderSize+len(blocks)*blockSize)
	for _, k := range blocks {
		b = binary.BigEndian.AppendUint64(b, uint64(k.index))
		b = binary.BigEndian.AppendUint64(b, uint64(k.position))
		b = binary.BigEndian.AppendUint64(b, uint64(k.records))
		b = binary.BigEndian.AppendUint64(b, uint64(k.maxTimestamp))
	}
	copy(b, sidecarMagic)
	binary.BigEndian.PutUint16(b[8:], sidecarVersion)
	binary.BigEndian.PutUint32(b[12:], uint32(len(blocks)))
	binary.BigEndian.PutUint64(b[16:], s.salt)
	binary.BigEndian.PutUint64(b[24:], uint64(s.first))
	binary.BigEndian.PutUint64(b[32:], uint64(of.last))
	binary.BigEndian.PutUint64(b[40:], uint64(of.lastTerm))
	binary.BigEndian.PutUint64(b[48:], uint64(of.size))
	binary.BigEndian.PutUint64(b[56:], uint64(of.records))
	binary.BigEndian.PutUint64(b[64:], uint64(of.maxTimestamp))
	binary.BigEndian.PutUint32(b[72:], s.header)
	binary.BigEndian.PutUint32(b[76:], of.chained)
	binary.BigEndian.PutUint32(b[80:], sum(s.seed, b[sidecarHeaderSize:]))
	binary.BigEndian.PutUint32(b[84:], sum(s.seed, b[:84]))
	return b
}

// decodeSidecarHeader reads the fixed part and checks it against the salt only.
func decodeSidecarHeader(b []byte, salt uint64) (sidecarHeader, error) {
	if len(b) < sidecarHeaderSize {
		return sidecarHeader{}, differ(fmt.Sprintf("a sidecar of %d bytes or more", sidecarHeaderSize), len(b))
	}
	crc := binary.BigEndian.Uint32(b[84:])
	if got := sum(seedOf(salt), b[:84]); got != crc {
		return sidecarHeader{}, differ(fmt.Sprintf("sidecar CRC %08x", got), fmt.Sprintf("%08x", crc))
	}
	if v := binary.BigEndian.Uint16(b[8:]); string(b[:8]) != sidecarMagic || v != sidecarVersion {
		return sidecarHeader{}, differ(fmt.Sprintf("%q version %d", sidecarMagic, sidecarVersion), fmt.Sprintf("%q version %d", b[:8], v))
	}
	h := sidecarHeader{
		blocks: int(binary.BigEndian.Uint32(b[12:])),
		salt:   binary.BigEndian.Uint64(b[16:]),
		first:  record.Index(binary.BigEndian.Uint64(b[24:])),
		summary: summary{
			last:         record.Index(binary.BigEndian.Uint64(b[32:])),
			lastTerm:     record.Term(binary.BigEndian.Uint64(b[40:])),
			size:         int64(binary.BigEndian.Uint64(b[48:])),
			records:      int64(binary.BigEndian.Uint64(b[56:])),
			maxTimestamp: int64(binary.BigEndian.Uint64(b[64:])),
			chained:      binary.BigEndian.Uint32(b[76:]),
		},
		header: binary.BigEndian.Uint32(b[72:]),
		sum:    binary.BigEndian.Uint32(b[80:]),
	}
	if h.blocks <= 0 || h.blocks > maxBlocks || h.salt != salt || h.last < h.first || h.size < segmentHeaderSize || h.records < 0 {
		return sidecarHeader{}, differ("a sidecar of this segment with blocks", fmt.Sprintf("salt %x, %d blocks, indexes %d to %d, size %d, records %d",
			h.salt, h.blocks, h.first, h.last, h.size, h.records))
	}
	return h, nil
}

// decodeBlocks reads what follows the header, and checks that it is an index: everything rises
// and stays inside the segment.
func decodeBlocks(b []byte, h *sidecarHeader) ([]block, error) {
	if len(b) != h.blocks*blockSize {
		return nil, differ(fmt.Sprintf("%d blocks", h.blocks), fmt.Sprintf("%d bytes", len(b)))
	}
	if got := sum(seedOf(h.salt), b); got != h.sum {
		return nil, differ(fmt.Sprintf("blocks CRC %08x", got), fmt.Sprintf("%08x", h.sum))
	}
	blocks := make([]block, h.blocks)
	before := block{index: h.first - 1, position: segmentHeaderSize - 1}
	for i := range blocks {
		k := block{
			index:        record.Index(binary.BigEndian.Uint64(b[0:])),
			position:     int64(binary.BigEndian.Uint64(b[8:])),
			records:      int64(binary.BigEndian.Uint64(b[16:])),
			maxTimestamp: int64(binary.BigEndian.Uint64(b[24:])),
		}
		if k.index <= before.index || k.index > h.last || k.position <= before.position || k.position >= h.size ||
			k.records < before.records || k.records > h.records {
			return nil, differ("rising blocks", fmt.Sprintf("%+v after %+v", k, before))
		}
		blocks[i], before, b = k, k, b[blockSize:]
	}
	if blocks[0].index != h.first || blocks[0].position != segmentHeaderSize || blocks[0].records != 0 {
		return nil, differ("a block at the begin", fmt.Sprintf("%+v", blocks[0]))
	}
	return blocks, nil
}

// readSidecar reads a segment's sidecar, with its blocks if they are wanted.
func (l *Log) readSidecar(s *segment, withBlocks bool) (sidecarHeader, []block, error) {
	f, err := l.o.FS.Open(l.path(s.sidecar()))
	if err != nil {
		return sidecarHeader{}, nil, err
	}
	defer f.Close()
	b := make([]byte, sidecarHeaderSize)
	if err := readFull(f, b, 0); err != nil {
		return sidecarHeader{}, nil, err
	}
	h, err := decodeSidecarHeader(b, s.salt)
	if err != nil || !withBlocks {
		return h, nil, err
	}
	b = make([]byte, h.blocks*blockSize)
	if err := readFull(f, b, sidecarHeaderSize); err != nil {
		return h, nil, err
	}
	blocks, err := decodeBlocks(b, &h)
	return h, blocks, err
}

// writeSidecar writes a segment's sidecar. It is not synced: if we die now, it is whole, or fails its
// CRC, or is the one before, or is not there, and what it lacks Open scans. Therefore a failure is only
// told.
func (l *Log) writeSidecar(s *segment, of *summary, blocks []block) {
	if err := writeNew(l.o.FS, l.path(s.sidecar()), encodeSidecar(s, of, blocks)); err != nil {
		l.logger.Warn("sidecar not written; it will be built again", "segment", s.name, "err", err)
	}
}

// writeNew replaces a file that nothing depends on.
func writeNew(fsys vfs.FS, name string, data []byte) error {
	if err := removeIfThere(fsys, name); err != nil {
		return err
	}
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
