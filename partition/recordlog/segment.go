package recordlog

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/oncelog/oncelog/record"
)

// segment is one segment file. The first group of fields never changes. The second is guarded by
// Log.mu; it changes only while the segment is the last of its chain.
type segment struct {
	name       string
	generation uint32
	first      record.Index
	salt       uint64
	seed       uint32 // CRC start, of the salt
	header     uint32 // CRC of the header, start of the chain of frames
	recycled   bool   // bytes of the file's former lives may follow the last frame
	// revision is not 0 if compaction made the segment; then it holds what is left up to through, and is not chained
	// to its neighbours.
	revision uint32
	through  record.Index

	summary
	// index is the sparse index while the segment is the last one. Empty for closed segments, whose
	// index the files cache loads.
	index sparse
	// base is the offset of the segment's first record, if based. If batches below the log start
	// were refused, it is a virtual one: chosen so that offsets at and above the start come right.
	base  record.Offset
	based bool
	// reserved is up to where disk space is reserved.
	reserved int64
	// written is up to where the file's blocks have been written, with zeros or in a former life; at or below size: no further than the
	// frames. Used with the gate held.
	written int64

	// dropped: its file is not opened any more. Guarded by files.mu.
	dropped bool
}

// summary is what a segment's frames add up to.
type summary struct {
	last         record.Index // first-1 if empty
	lastTerm     record.Term  // of the last frame, or of the one before the segment
	size         int64        // end of the last synced frame
	records      int64        // offsets of all batches, if all were accepted
	maxTimestamp int64        // of all entries with records, MinInt64 without
	chained      uint32       // header CRC of the last frame, or of the segment header
}

// block is an entry of the sparse index: the frames from position on, up to the next block.
type block struct {
	index        record.Index
	position     int64
	records      int64 // before the block, within the segment
	maxTimestamp int64 // of the block's own entries with records, MinInt64 without
}

const (
	segmentSuffix = ".seg"
	sidecarSuffix = ".idx"
)

func segmentName(generation uint32, first record.Index, salt uint64) string {
	return fmt.Sprintf("%08x-%020d-%016x%s", generation, uint64(first), salt, segmentSuffix)
}

// parseSegmentName reads a file name; not ok: it is not a segment's.
func parseSegmentName(name string) (generation uint32, first record.Index, salt uint64, ok bool) {
	parts := strings.Split(strings.TrimSuffix(name, segmentSuffix), "-")
	if !strings.HasSuffix(name, segmentSuffix) || len(parts) != 3 {
		return 0, 0, 0, false
	}
	g, err1 := strconv.ParseUint(parts[0], 16, 32)
	i, err2 := strconv.ParseUint(parts[1], 10, 64)
	s, err3 := strconv.ParseUint(parts[2], 16, 64)
	if err1 != nil || err2 != nil || err3 != nil || i == 0 || segmentName(uint32(g), record.Index(i), s) != name {
		return 0, 0, 0, false
	}
	return uint32(g), record.Index(i), s, true
}

// compactedName is the name of a segment that compaction made.
func compactedName(generation uint32, first record.Index, salt uint64, through record.Index, revision uint32) string {
	return fmt.Sprintf("%s-%020d-%08x%s", strings.TrimSuffix(segmentName(generation, first, salt), segmentSuffix), uint64(through), revision, segmentSuffix)
}

// parseCompactedName reads what compactedName made.
func parseCompactedName(name string) (*segment, bool) {
	stem, isSegment := strings.CutSuffix(name, segmentSuffix)
	parts := strings.Split(stem, "-")
	if !isSegment || len(parts) != 5 {
		return nil, false
	}
	generation, first, salt, ok := parseSegmentName(strings.Join(parts[:3], "-") + segmentSuffix)
	through, err1 := strconv.ParseUint(parts[3], 10, 64)
	revision, err2 := strconv.ParseUint(parts[4], 16, 32)
	if !ok || err1 != nil || err2 != nil || revision == 0 || record.Index(through) < first {
		return nil, false
	}
	s := newSegment(generation, first, salt)
	s.revision, s.through = uint32(revision), record.Index(through)
	s.name = compactedName(generation, first, salt, s.through, s.revision)
	return s, s.name == name
}

// before orders segments of a generation; what replaces others comes before them.
func before(a, b *segment) bool {
	return a.first < b.first || a.first == b.first && a.revision > b.revision
}

// linked says whether a segment's header names what the one before ends with.
func linked(before, s *segment) bool { return before.revision == 0 && s.revision == 0 }

// segmentNamed gives the segment of a file name, nil if it is not one's.
func segmentNamed(name string) *segment {
	if generation, first, salt, ok := parseSegmentName(name); ok {
		return newSegment(generation, first, salt)
	}
	if s, ok := parseCompactedName(name); ok {
		return s
	}
	return nil
}

func newSegment(generation uint32, first record.Index, salt uint64) *segment {
	return &segment{
		name: segmentName(generation, first, salt), generation: generation, first: first, salt: salt, seed: seedOf(salt),
		summary: summary{last: first - 1, size: segmentHeaderSize, maxTimestamp: math.MinInt64},
	}
}

func (s *segment) sidecar() string { return strings.TrimSuffix(s.name, segmentSuffix) + sidecarSuffix }

func (s *segment) empty() bool { return s.last < s.first }

// sparse is a sparse index. A copy of it stays good while the original grows.
type sparse struct {
	blocks []block // elements are never changed
	open   block   // the last block, which still grows; index 0: there is none
}

func (x *sparse) len() int {
	if x.open.index != 0 {
		return len(x.blocks) + 1
	}
	return len(x.blocks)
}

func (x *sparse) at(k int) block {
	if k < len(x.blocks) {
		return x.blocks[k]
	}
	return x.open
}

// all gives every block, for a segment that is closed.
func (x *sparse) all() []block {
	if x.open.index == 0 {
		return x.blocks
	}
	return append(x.blocks[:len(x.blocks):len(x.blocks)], x.open)
}

// holding finds the last block that begins at or below index i. There is one for every index of the
// segment.
func (x *sparse) holding(i record.Index) int {
	return max(sort.Search(x.len(), func(k int) bool { return x.at(k).index > i })-1, 0)
}

// add takes a frame at position into summary and index. every is the distance of index entries.
func (s *summary) add(x *sparse, h *frameHeader, position int64, every int) {
	if x.open.index == 0 || position-x.open.position >= int64(every) {
		if x.open.index != 0 {
			x.blocks = append(x.blocks, x.open) // beyond what copies see
		}
		x.open = block{index: h.first(), position: position, records: s.records, maxTimestamp: math.MinInt64}
	}
	if h.records > 0 {
		s.records += int64(h.records)
		s.maxTimestamp = max(s.maxTimestamp, h.maxTimestamp)
		x.open.maxTimestamp = max(x.open.maxTimestamp, h.maxTimestamp)
	}
	s.last, s.lastTerm, s.chained = h.index, h.term, h.crc
	s.size = position + int64(h.length)
}
