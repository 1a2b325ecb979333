package recordlog

import (
	"sort"

	"github.com/oncelog/oncelog/record"
)

// What a start knows of a segment without reading it: the frames that its sidecar describes and that lie
// at or below the state snapshot. They were applied once; what has become of them since is for the
// scrubber to find, or for whoever reads them, as it is for closed segments.

// scanRest scans a segment's frames above those that are known by its sidecar. Not ok: there are none, or
// something did not fit, and the whole segment has to be scanned to find out what is wrong.
func (r *recovery) scanRest(h *handle, s *segment, size int64, closed bool) (found scanned, ok bool, err error) {
	l := r.log
	side, blocks, err := l.readSidecar(s, true)
	if err != nil || side.first != s.first || side.header != s.header || l.o.SnapshotIndex < s.first || side.size > size || closed && side.size != size {
		return found, false, nil
	}
	var known scanned
	if closed {
		known, ok = knownBelow(h, s, &side, blocks, l.o.SnapshotIndex)
	} else {
		known, ok = scanned{summary: side.summary, index: reopened(blocks)}, side.last <= l.o.SnapshotIndex && describes(h, s, &side, blocks)
	}
	if !ok {
		return found, false, nil
	}
	found, err = scanOn(h, s, size, l.o.IndexBytes, known)
	ok = found.bad == nil && (!closed || found.summary == side.summary)
	return found, ok, err
}

// describes says whether a sidecar is of the frames that are in the file, and not of some that were cut off
// later: each header's CRC enters the next one, so the last header's stands for all of them.
func describes(h *handle, s *segment, side *sidecarHeader, blocks []block) bool {
	b := blocks[len(blocks)-1]
	f := newFrames(h, s, b.position, side.size, b.index, nextChunk)
	defer f.close()
	var last frameHeader
	for f.more() {
		var err error
		if last, err = f.header(); err != nil {
			return false
		}
		f.skip(&last)
	}
	return last.index == side.last && last.crc == side.chained && last.term == side.lastTerm
}

// knownBelow adds up the blocks of a closed segment before the one that holds the snapshot's entry.
func knownBelow(h *handle, s *segment, side *sidecarHeader, blocks []block, snapshot record.Index) (scanned, bool) {
	k := sort.Search(len(blocks), func(k int) bool { return blocks[k].index > snapshot }) - 1
	f := newFrames(h, s, blocks[k].position, side.size, blocks[k].index, nextChunk)
	defer f.close()
	first, err := f.header()
	if err != nil {
		return scanned{}, false
	}
	fresh := newSegment(s.generation, s.first, s.salt)
	known := scanned{summary: fresh.summary, index: sparse{blocks: blocks[:k:k], open: blocks[k]}}
	for _, b := range blocks[:k] {
		known.maxTimestamp = max(known.maxTimestamp, b.maxTimestamp)
	}
	known.last, known.size, known.records, known.chained = first.first()-1, blocks[k].position, blocks[k].records, first.previous
	return known, true
}
