package recordlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/oncelog/oncelog/record"
)

// scanned is what the frames of a segment file add up to, up to the first that is not intact.
type scanned struct {
	summary
	index sparse
	// synced is the synced-through index of the last intact frame.
	synced record.Index
	// bad says what is wrong with the frame at summary.size; nil: the file ends there, or holds nothing but zeros from there on, which
	// were written ahead.
	bad error
	// claimed is the highest synced-through index that any intact frame header after the bad one
	// carries; 0: none.
	claimed record.Index
}

// scanLimits say how the frames must begin.
type scanLimits struct {
	previousTerm record.Term
	chained      uint32
	// linked: the segment's header names what it is chained to.
	linked bool
}

// scan checks every frame of a segment file of size bytes, heads and bodies. The error is one of
// reading or of a newer format; whatever else is wrong with the bytes is in scanned.bad.
func scan(file io.ReaderAt, s *segment, size int64, every int, from scanLimits) (scanned, error) {
	fresh := newSegment(s.generation, s.first, s.salt)
	out := scanned{summary: fresh.summary}
	out.lastTerm, out.chained = from.previousTerm, from.chained
	return scanOn(file, s, size, every, out)
}

// scanOn scans what follows the frames that out already adds up.
func scanOn(file io.ReaderAt, s *segment, size int64, every int, out scanned) (scanned, error) {
	f := newFrames(file, s, out.size, size, out.last+1, scanChunk)
	defer f.close()
	for f.more() {
		position := f.position
		h, err := f.header()
		if err == nil {
			err = follows(&h, &out.summary)
		}
		if err == nil {
			_, err = f.body(&h)
		}
		var m *mismatch
		switch {
		case err == nil:
			out.add(&out.index, &h, position, every)
			out.synced = h.synced
		case errors.As(err, &m):
			cause := err
			if ahead, err := zerosFrom(f, position, size); ahead || err != nil {
				return out, err
			}
			out.bad = cause
			out.claimed, err = claims(f, position, size)
			return out, err
		default:
			return out, err
		}
	}
	return out, nil
}

// follows checks that a frame is chained to the one before.
func follows(h *frameHeader, before *summary) error {
	if h.previous != before.chained {
		return differ(fmt.Sprintf("a frame chained to %08x", before.chained), fmt.Sprintf("one chained to %08x", h.previous))
	}
	if h.term < before.lastTerm {
		return differ(fmt.Sprintf("term %d or above", before.lastTerm), fmt.Sprintf("term %d", h.term))
	}
	return nil
}

// claims looks behind a bad frame for intact headers and returns the highest synced-through index
// that they carry. A header whose salted CRC fits was written by us into this very segment, so its
// claim is true even if its body is damaged or the frames between are lost. Frames lie at
// multiples of 8.
func claims(f *frames, from, size int64) (record.Index, error) {
	var highest record.Index
	for at := from; at+frameHeaderSize <= size; {
		// Behind the last frame of a file that was written over there may be as many bytes as a segment has: many at once.
		b, err := f.bytes(at, int(min(claimsChunk, size-at)))
		if err != nil {
			return highest, err
		}
		i := 0
		for i+frameHeaderSize <= len(b) {
			if !headerFits(b[i:], f.seed) {
				i += frameAlign
				continue
			}
			h, err := decodeFrameHeader(b[i:], f.seed)
			if err != nil {
				i += frameAlign // of a newer version
				continue
			}
			highest = max(highest, h.synced)
			i += h.length
		}
		at += int64(i)
	}
	return highest, nil
}

const claimsChunk = 32 << 10
