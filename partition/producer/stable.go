package producer

import (
	"slices"

	"github.com/oncelog/oncelog/record"
)

// Aborted is one aborted transaction that had data in this partition (L8).
type Aborted struct {
	ProducerID record.ProducerID
	// First is the transaction's first offset, Last its marker's.
	First, Last record.Offset
	// LastStable is the last stable offset as it was once this transaction had ended, not lifted to the log
	// start: every later entry's First is at or above it.
	LastStable record.Offset
}

// LastStable is the last stable offset, given the high watermark: readers of committed data see what lies
// below it (L5). It is the first offset of the first open transaction, or the high watermark when none is open
// below that; lifted to the log start if that has overtaken it (L6), but never above the high watermark (F7).
// A transaction is open until its marker was given to EndTransaction, that is, until the marker is committed.
func (s *State) LastStable(highWatermark record.Offset) record.Offset {
	return min(max(s.firstUnstable(highWatermark), s.logStart), highWatermark)
}

// firstUnstable is the first offset of the first open transaction, or end if none is open below that.
func (s *State) firstUnstable(end record.Offset) record.Offset {
	if head := s.table.open.head; head != noSlot {
		return min(end, s.table.entries.at(head).openFrom)
	}
	return end
}

// Aborted lists the aborted transactions that a reader of [from, upTo) must know (L9): those whose marker is at or
// above from and whose first offset is below upTo, in marker order. It is nil if there are none.
func (s *State) Aborted(from, upTo record.Offset) []Aborted { return s.aborted.between(from, upTo) }

// AbortedLen is how many aborted transactions are remembered. Clients make it grow with the log;
// only moving the log start makes it shrink.
func (s *State) AbortedLen() int { return s.aborted.n }

// LogStart is the log start as last told, for errors that carry it (P33).
func (s *State) LogStart() record.Offset { return s.logStart }

// TruncateStart tells that the log now starts at logStart. Aborted transactions wholly below it are
// forgotten; producers and open transactions stay (P27, L6). A logStart below the present one changes nothing.
func (s *State) TruncateStart(logStart record.Offset) {
	if logStart <= s.logStart {
		return
	}
	s.logStart = logStart
	s.end = max(s.end, logStart)
	s.aborted.dropBelow(logStart)
}

// abortedChunk is how many aborted transactions lie together.
const abortedChunk = 128

// abortedIndex is the list of aborted transactions in marker order: by Last, and by LastStable too. Entries are
// never changed, so clones share the chunks.
type abortedIndex struct {
	// chunks are not empty. Only the last one has room left, and only for the index that made it.
	chunks [][]Aborted
	n      int
}

func (x *abortedIndex) add(a Aborted) {
	last := len(x.chunks) - 1
	if last < 0 || len(x.chunks[last]) == cap(x.chunks[last]) {
		x.chunks = append(x.chunks, make([]Aborted, 0, abortedChunk))
		last++
	}
	x.chunks[last] = append(x.chunks[last], a)
	x.n++
}

// seek gives the place of the first entry whose marker is at or above from.
func (x *abortedIndex) seek(from record.Offset) (chunk, at int) {
	chunk, _ = slices.BinarySearchFunc(x.chunks, from, func(c []Aborted, from record.Offset) int {
		return compare(c[len(c)-1].Last, from)
	})
	if chunk < len(x.chunks) {
		at, _ = slices.BinarySearchFunc(x.chunks[chunk], from, func(a Aborted, from record.Offset) int {
			return compare(a.Last, from)
		})
	}
	return chunk, at
}

func compare(a, b record.Offset) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (x *abortedIndex) between(from, upTo record.Offset) []Aborted {
	var found []Aborted
	chunk, at := x.seek(from)
	for ; chunk < len(x.chunks); chunk, at = chunk+1, 0 {
		for _, a := range x.chunks[chunk][at:] {
			if a.First < upTo {
				found = append(found, a)
			}
			if a.LastStable >= upTo { // what ended later begins at or above it (L9)
				return found
			}
		}
	}
	return found
}

// dropBelow forgets the entries whose marker is below start.
func (x *abortedIndex) dropBelow(start record.Offset) {
	chunk, at := x.seek(start)
	for _, gone := range x.chunks[:chunk] {
		x.n -= len(gone)
	}
	x.n -= at
	x.chunks = slices.Delete(x.chunks, 0, chunk)
	if len(x.chunks) > 0 {
		x.chunks[0] = x.chunks[0][at:]
	}
}

func (x *abortedIndex) clone() abortedIndex {
	c := abortedIndex{chunks: slices.Clone(x.chunks), n: x.n}
	for i, chunk := range c.chunks {
		c.chunks[i] = slices.Clip(chunk) // the room left belongs to the original
	}
	return c
}
