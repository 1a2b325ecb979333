package recordlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/oncelog/oncelog/record"
)

// A segment file, all integers big endian (docs/formats/recordlog.md). Its name holds generation,
// first index and salt, so that frames can be checked even if the header cannot be read:
//
//	00000001-00000000000000000001-9f86d081884c7d65.seg
//
// That of a segment that compaction made ends with its last index and its revision. It replaces those of
// lower revisions in its range:
//
//	00000001-00000000000000000001-9f86d081884c7d65-00000000000000000900-00000001.seg
//
// It begins with a header of 64 bytes:
//
//	 0 magic          8 bytes "oncelog\n"
//	 8 version        uint16  1
//	10 header size    uint16  64
//	12 generation     uint32
//	16 salt           uint64  random, enters every CRC of the segment
//	24 first index    uint64
//	32 synced through uint64  first index - 1: all before is on disk when a segment is made
//	40 created at     int64   unix ns
//	48 previous       uint32  header CRC of the last frame of the segment before; 0: none
//	52 recycled       uint8   1: the file was written over, and bytes of before may follow the last frame
//	53 reserved       7 bytes 0
//	60 CRC32C         uint32  of salt, then bytes 0 to 59
//
// Then frames, one after the other:
//
//	 0 length         uint32  of the frame, a multiple of 8
//	 4 previous       uint32  header CRC of the frame before, of the segment's header for the first
//	 8 type           uint8   Raft's log type
//	 9 kind           uint8   1: Raft entry. 2: what compaction left of several
//	10 padding        uint8   zero bytes at the end, 0 to 7
//	11 reserved       uint8   0
//	12 records        int32   in the batches, if all are accepted
//	16 index          uint64
//	24 term           uint64
//	32 synced through uint64  the last index known to be on disk when the frame was written; kind 2: first index - 1
//	40 appended at    int64   unix ns by the leader's clock, 0: unknown
//	48 max timestamp  int64   ms, of the records
//	56 ext length     uint32
//	60 body CRC32C    uint32  of salt, then everything from 68 on
//	64 header CRC32C  uint32  of salt, then bytes 0 to 63
//	68 ext, data, padding
//
// What previous is for: the frames of a segment form a chain, so that bytes of a frame that was
// cut off can never become a continuation of what was written in its place.
const (
	segmentMagic      = "oncelog\n"
	segmentVersion    = 1
	segmentHeaderSize = 64

	frameHeaderSize = 68
	frameAlign      = 8
	minFrameSize    = 72
	kindEntry       = 1
	// kindCompacted stands for the entries from synced + 1 to index. ext is the Mark of the pass. data
	// holds what is left of their accepted batches, with their base offsets, and their term as leader epoch. records
	// is the sum of theirs, refused or not, so that the offsets of what follows are what they were.
	kindCompacted = 2

	// maxFrameSize bounds every length that is read. Appends are bounded by Options.MaxEntryBytes.
	maxFrameSize = 1 << 30
	// maxExtBytes bounds the envelope.
	maxExtBytes = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seedOf is where every CRC of a segment starts.
func seedOf(salt uint64) uint32 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], salt)
	return crc32.Checksum(b[:], castagnoli)
}

func sum(seed uint32, b []byte) uint32 { return crc32.Update(seed, castagnoli, b) }

// segmentHeader is the begin of a segment file.
type segmentHeader struct {
	generation uint32
	salt       uint64
	first      record.Index
	createdAt  int64
	previous   uint32
	recycled   bool
	crc        uint32
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderSize)
	copy(b, segmentMagic)
	binary.BigEndian.PutUint16(b[8:], segmentVersion)
	binary.BigEndian.PutUint16(b[10:], segmentHeaderSize)
	binary.BigEndian.PutUint32(b[12:], h.generation)
	binary.BigEndian.PutUint64(b[16:], h.salt)
	binary.BigEndian.PutUint64(b[24:], uint64(h.first))
	binary.BigEndian.PutUint64(b[32:], uint64(h.first-1))
	binary.BigEndian.PutUint64(b[40:], uint64(h.createdAt))
	binary.BigEndian.PutUint32(b[48:], h.previous)
	if h.recycled {
		b[52] = 1
	}
	h.crc = sum(seedOf(h.salt), b[:60])
	binary.BigEndian.PutUint32(b[60:], h.crc)
	return b
}

// mismatch is what a decoder wanted and what it saw.
type mismatch struct{ expected, found string }

func (m *mismatch) Error() string { return fmt.Sprintf("expected %s, found %s", m.expected, m.found) }

func differ(expected, found any) error {
	return &mismatch{expected: fmt.Sprint(expected), found: fmt.Sprint(found)}
}

// decodeSegmentHeader reads a header; salt is that of the file's name. The first 64 bytes of every
// version are checked by the same CRC at the same place, so that a newer version is told apart
// from damage.
func decodeSegmentHeader(b []byte, salt uint64) (segmentHeader, error) {
	if len(b) < segmentHeaderSize {
		return segmentHeader{}, differ(fmt.Sprintf("a header of %d bytes", segmentHeaderSize), fmt.Sprintf("%d bytes", len(b)))
	}
	crc := binary.BigEndian.Uint32(b[60:])
	if got := sum(seedOf(salt), b[:60]); got != crc {
		return segmentHeader{}, differ(fmt.Sprintf("segment header CRC %08x", got), fmt.Sprintf("%08x", crc))
	}
	if string(b[:8]) != segmentMagic {
		return segmentHeader{}, differ(fmt.Sprintf("magic %q", segmentMagic), fmt.Sprintf("%q", b[:8]))
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != segmentVersion {
		return segmentHeader{}, &FormatError{What: "segment", Found: int(v), Known: segmentVersion}
	}
	return segmentHeader{
		generation: binary.BigEndian.Uint32(b[12:]),
		salt:       binary.BigEndian.Uint64(b[16:]),
		first:      record.Index(binary.BigEndian.Uint64(b[24:])),
		createdAt:  int64(binary.BigEndian.Uint64(b[40:])),
		previous:   binary.BigEndian.Uint32(b[48:]),
		recycled:   b[52] == 1,
		crc:        crc,
	}, nil
}

// frameHeader is the fixed part of a frame.
type frameHeader struct {
	length       int
	previous     uint32
	typ          uint8
	kind         uint8
	padding      int
	records      int32
	index        record.Index
	term         record.Term
	synced       record.Index
	appendedAt   int64
	maxTimestamp int64
	ext          int
	body         uint32
	crc          uint32
}

// frameSize is how many bytes an entry takes on disk.
func frameSize(ext, data int) int {
	return (frameHeaderSize + ext + data + frameAlign - 1) &^ (frameAlign - 1)
}

// first is the first index that the frame stands for.
func (h *frameHeader) first() record.Index {
	if h.kind == kindCompacted {
		return h.synced + 1
	}
	return h.index
}

// dataLen is how many bytes of the body are data.
func (h *frameHeader) dataLen() int { return h.length - frameHeaderSize - h.ext - h.padding }

// put encodes the header into b and sets its CRC. length, padding and body are set already.
func (h *frameHeader) put(b []byte, seed uint32) {
	binary.BigEndian.PutUint32(b[0:], uint32(h.length))
	binary.BigEndian.PutUint32(b[4:], h.previous)
	b[8], b[9], b[10], b[11] = h.typ, h.kind, uint8(h.padding), 0
	binary.BigEndian.PutUint32(b[12:], uint32(h.records))
	binary.BigEndian.PutUint64(b[16:], uint64(h.index))
	binary.BigEndian.PutUint64(b[24:], uint64(h.term))
	binary.BigEndian.PutUint64(b[32:], uint64(h.synced))
	binary.BigEndian.PutUint64(b[40:], uint64(h.appendedAt))
	binary.BigEndian.PutUint64(b[48:], uint64(h.maxTimestamp))
	binary.BigEndian.PutUint32(b[56:], uint32(h.ext))
	binary.BigEndian.PutUint32(b[60:], h.body)
	h.crc = sum(seed, b[:64])
	binary.BigEndian.PutUint32(b[64:], h.crc)
}

// headerFits says whether bytes begin with a frame header's that was written into a segment of a seed: decodeFrameHeader's first tests, for
// who looks at many bytes that are none.
func headerFits(b []byte, seed uint32) bool {
	length := int(binary.BigEndian.Uint32(b))
	return length >= minFrameSize && length <= maxFrameSize && length%frameAlign == 0 && sum(seed, b[:64]) == binary.BigEndian.Uint32(b[64:])
}

// decodeFrameHeader reads a header of frameHeaderSize bytes. Once the CRC fits, the bytes are what
// some version of ours wrote into this segment.
func decodeFrameHeader(b []byte, seed uint32) (frameHeader, error) {
	if len(b) < frameHeaderSize {
		return frameHeader{}, differ(fmt.Sprintf("a frame header of %d bytes", frameHeaderSize), fmt.Sprintf("%d bytes", len(b)))
	}
	h := frameHeader{
		length:       int(binary.BigEndian.Uint32(b[0:])),
		previous:     binary.BigEndian.Uint32(b[4:]),
		typ:          b[8],
		kind:         b[9],
		padding:      int(b[10]),
		records:      int32(binary.BigEndian.Uint32(b[12:])),
		index:        record.Index(binary.BigEndian.Uint64(b[16:])),
		term:         record.Term(binary.BigEndian.Uint64(b[24:])),
		synced:       record.Index(binary.BigEndian.Uint64(b[32:])),
		appendedAt:   int64(binary.BigEndian.Uint64(b[40:])),
		maxTimestamp: int64(binary.BigEndian.Uint64(b[48:])),
		ext:          int(binary.BigEndian.Uint32(b[56:])),
		body:         binary.BigEndian.Uint32(b[60:]),
		crc:          binary.BigEndian.Uint32(b[64:]),
	}
	if h.length < minFrameSize || h.length > maxFrameSize || h.length%frameAlign != 0 {
		return frameHeader{}, differ("a frame length", h.length)
	}
	if got := sum(seed, b[:64]); got != h.crc {
		return frameHeader{}, differ(fmt.Sprintf("frame header CRC %08x", got), fmt.Sprintf("%08x", h.crc))
	}
	if h.kind != kindEntry && h.kind != kindCompacted {
		return frameHeader{}, &FormatError{What: "frame", Found: int(h.kind), Known: kindCompacted}
	}
	if h.padding >= frameAlign || h.ext < 0 || h.ext > maxExtBytes || h.dataLen() < 0 || h.records < 0 || h.synced >= h.index || h.kind == kindCompacted && h.ext != markBytes {
		return frameHeader{}, differ("lengths that fit the frame", fmt.Sprintf("frame of %d with padding %d, ext %d, records %d, synced %d, index %d",
			h.length, h.padding, h.ext, h.records, h.synced, h.index))
	}
	return h, nil
}

// checkBody compares the body's CRC; body is all that follows the header.
func (h *frameHeader) checkBody(body []byte, seed uint32) error {
	if got := sum(seed, body); got != h.body {
		return differ(fmt.Sprintf("frame body CRC %08x", got), fmt.Sprintf("%08x", h.body))
	}
	return nil
}

// bare makes the entry of a frame, without Ext and Data.
func (h *frameHeader) bare() Entry {
	e := Entry{
		Index: h.index, Term: h.term, Type: h.typ, AppendedAt: h.appendedAt,
		Records: h.records, MaxTimestamp: h.maxTimestamp,
	}
	if h.kind == kindCompacted {
		e.First = h.first()
	}
	return e
}

// entry makes the entry of a frame; it aliases body.
func (h *frameHeader) entry(body []byte) Entry {
	e := h.bare()
	end := h.ext + h.dataLen()
	if h.ext > 0 {
		e.Ext = body[:h.ext:h.ext]
	}
	e.Data = body[h.ext:end:end]
	return e
}
