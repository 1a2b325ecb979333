package recordlog

import (
	"bytes"

	"github.com/oncelog/oncelog/internal/vfs"
)

// Zeros are written ahead of a log that is written in small pieces, so that its next flushes are of bytes alone. A flush that makes
// a file longer, or writes into space that was only reserved, commits the file system's journal too, and waits its turn there
// behind every other log of the broker. What lies behind the last frame is zeros to the end of the file then, and opening
// takes the file to end where they begin (zerosFrom).

const (
	// maxAheadFlush is the largest flush that is followed by zeros. Zeros are bytes that are written twice: for a flush of few
	// pages that is little beside what the journal takes, for a large one it is as much as the flush itself.
	maxAheadFlush = 8 << 10
	// minAhead and maxAhead bound how much is written ahead. In between it is half of what was appended since the log was opened:
	// little for a log that is rarely written.
	minAhead = 8 << 10
	maxAhead = 256 << 10
	// aheadAfter is how much must have been appended since the log was opened: who opens a thousand idle logs does not
	// write a thousand times for it.
	aheadAfter = 1 << 10
	// aheadPage is what a file system writes as a whole.
	aheadPage = 4 << 10
)

var zeros [64 << 10]byte

// writeAhead writes zeros behind the last frame after a flush of so many bytes, if less than half of what should be there is left. It
// takes no disk space: they go where space is reserved. They are not synced: the next sync of the segment does it, or settle.
// The gate is held. An error has made the log fail.
func (l *Log) writeAhead(h *handle, s *segment, flushed int64) error {
	if flushed > maxAheadFlush || l.appended < aheadAfter || l.closed.Load() {
		return nil
	}
	ahead := min(max(l.appended/2, minAhead), maxAhead)
	from := max(s.written, s.size)
	to := min((s.size+ahead+aheadPage-1)&^(aheadPage-1), s.reserved, l.segmentBytes.Load())
	if from-s.size >= ahead/2 || from >= to {
		return nil
	}
	var pieces [maxAhead/len(zeros) + 2][]byte
	list := pieces[:0]
	for left := to - from; left > 0; left -= int64(len(zeros)) {
		list = append(list, zeros[:min(left, int64(len(zeros)))])
	}
	// If we die from here to the next sync, any part of the zeros may be there, and the size may be any up to theirs.
	n, err := h.WritevAt(list, from)
	s.written = from + n
	l.unsettled = true
	l.metrics.ahead.Add(float64(n))
	if err != nil && !vfs.IsFull(err) {
		return l.fail(err)
	}
	return nil
}

// settle syncs what was written ahead, if nothing is queued that will be synced right away. Otherwise the next append would
// pay for it. The gate is held. An error has made the log fail: the zeros share a page with the last frame.
func (l *Log) settle() error {
	l.mu.RLock()
	s, idle := l.live.active(), l.queued.bytes == 0
	l.mu.RUnlock()
	if !l.unsettled || !idle || s == nil {
		return nil
	}
	h, err := l.files.acquire(s)
	if err != nil {
		return l.fail(err)
	}
	defer l.files.release(h)
	if err := h.Sync(); err != nil {
		return l.fail(err)
	}
	l.unsettled = false
	return nil
}

// zerosFrom says whether a segment file of size bytes holds nothing but zeros from a position on.
func zerosFrom(f *frames, from, size int64) (bool, error) {
	for at := from; at < size; {
		b, err := f.bytes(at, int(min(claimsChunk, size-at)))
		if err != nil {
			return false, err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			return false, nil
		}
		at += int64(len(b))
	}
	return true, nil
}
