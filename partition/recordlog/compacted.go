package recordlog

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/oncelog/oncelog/record"
)

// Mark says what a pass of compaction did: below which offset it removed records, and below which tombstones and
// markers. Each compacted frame has it. Along a log both never rise, since a pass begins with the first segment.
type Mark struct{ Below, Horizon record.Offset }

const markBytes = 16

func (m Mark) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markBytes), uint64(m.Below))
	return binary.BigEndian.AppendUint64(b, uint64(m.Horizon))
}

// Mark is that of a compacted entry.
func (e *Entry) Mark() Mark {
	if e.First == 0 || len(e.Ext) != markBytes {
		return Mark{}
	}
	return Mark{Below: record.Offset(binary.BigEndian.Uint64(e.Ext)), Horizon: record.Offset(binary.BigEndian.Uint64(e.Ext[8:]))}
}

// Reaches says whether what m did includes what o asks for.
func (m Mark) Reaches(o Mark) bool { return m.Below >= o.Below && m.Horizon >= o.Horizon }

// with is what m and o did together.
func (m Mark) with(o Mark) Mark {
	return Mark{Below: max(m.Below, o.Below), Horizon: max(m.Horizon, o.Horizon)}
}

// checkCompacted makes sure that a compacted entry is one.
func checkCompacted(e *Entry) error {
	bad := func(what string) error {
		return fmt.Errorf("%w: compacted entry %d to %d %s", ErrInvalidEntry, e.First, e.Index, what)
	}
	if e.First > e.Index || len(e.Ext) != markBytes || e.Records < 0 {
		return bad("has a malformed head")
	}
	next := record.Offset(0)
	for rest := e.Data; len(rest) > 0; {
		b, r, err := record.Parse(rest)
		if err != nil {
			return bad(err.Error())
		}
		if _, err := offsetsOf(b); err != nil || b.BaseOffset() < next {
			return bad(fmt.Sprintf("holds offset %d after %d", b.BaseOffset(), next))
		}
		next, rest = b.LastOffset()+1, r
	}
	return nil
}

// findCleaned finds the last compacted frame of the live chain. Compacted frames lie before all others.
func (l *Log) findCleaned() error {
	segments := l.live.segments
	var failed error
	begins := func(k int) bool { // with a compacted frame
		var h frameHeader
		if !segments[k].empty() && failed == nil {
			h, _, failed = l.frameAt(segments[k], segmentHeaderSize, segments[k].first)
		}
		return h.kind == kindCompacted
	}
	n := 0
	if len(segments) > 0 && begins(0) { // mostly there is none, and no more to be read
		n = sort.Search(len(segments), func(k int) bool { return !begins(k) })
	}
	if failed != nil || n == 0 {
		l.setCleaned(Mark{}, 0)
		return failed
	}
	mark, through, err := l.cleanedIn(segments[n-1])
	l.setCleaned(mark, through)
	return err
}

func (l *Log) setCleaned(m Mark, through record.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleaned, l.cleanedThrough = m, through
}

// frameAt reads the frame of a segment at a position.
func (l *Log) frameAt(s *segment, position int64, index record.Index) (frameHeader, Mark, error) {
	h, err := l.files.acquire(s)
	if err != nil {
		return frameHeader{}, Mark{}, err
	}
	defer l.files.release(h)
	f := newFrames(h, s, position, s.size, index, frameHeaderSize+markBytes)
	defer f.close()
	head, err := f.header()
	if err != nil {
		return head, Mark{}, corrupt(s.name, position, index, err)
	}
	if head.kind != kindCompacted {
		return head, Mark{}, nil
	}
	ext, err := f.bytes(position+frameHeaderSize, head.ext)
	if err != nil {
		return head, Mark{}, corrupt(s.name, position, index, err)
	}
	e := Entry{First: head.first(), Ext: ext}
	return head, e.Mark(), nil
}

// cleanedIn finds the last compacted frame of a segment that begins with one.
func (l *Log) cleanedIn(s *segment) (Mark, record.Index, error) {
	l.mu.RLock()
	x := l.extentOf(s)
	l.mu.RUnlock()
	c, err := l.openCursor(x, lookChunk)
	if err != nil {
		return Mark{}, 0, err
	}
	defer c.close()
	var failed error
	k := sort.Search(c.index.len(), func(k int) bool {
		b := c.index.at(k)
		h, _, err := l.frameAt(s, b.position, b.index)
		if err != nil && failed == nil {
			failed = err
		}
		return h.kind != kindCompacted
	})
	if failed != nil {
		return Mark{}, 0, failed
	}
	c.seek(k - 1)
	var mark Mark
	var through record.Index
	for c.more() {
		position, index := c.position, c.frames.next
		h, err := c.header()
		if err != nil {
			return mark, through, c.damage(err)
		}
		if h.kind != kindCompacted {
			break
		}
		if _, mark, err = l.frameAt(s, position, index); err != nil {
			return mark, through, err
		}
		through = h.index
		c.pass(&h)
	}
	return mark, through, nil
}

// Cleaned says how far the log is compacted: everything below Mark.Below is as a pass left it that reached that
// far, with that Horizon. raw is the first offset of what no pass has taken in; where a pass
// is under way, or ended too soon, raw lies below what it was to reach. It may lie below the log start: where an entry begins
// that holds it, and that no pass has taken in.
func (l *Log) Cleaned() (m Mark, raw record.Offset, err error) {
	l.mu.RLock()
	if !l.restored {
		l.mu.RUnlock()
		return Mark{}, 0, ErrNotRestored
	}
	m, raw = l.cleaned, l.start.offset
	if !l.start.floating {
		raw = l.start.base
	}
	through, assigned, end := l.cleanedThrough, l.assigned, l.end
	if through < l.live.begin {
		through = 0 // what was compacted has been dropped
	}
	l.mu.RUnlock()
	switch {
	case through == 0:
		return Mark{}, raw, nil
	case through >= assigned:
		raw = max(raw, end)
	default:
		base, err := l.baseOf(through + 1)
		if err != nil {
			return Mark{}, 0, err
		}
		raw = max(raw, base)
	}
	m.Below = min(m.Below, raw)
	return m, raw, nil
}

// baseOf is where the offsets of an entry begin that has its fate.
func (l *Log) baseOf(i record.Index) (record.Offset, error) {
	var base record.Offset
	err := l.at(i, peerReader, func(c *cursor) error {
		l.mu.RLock()
		refused := l.refused
		based := c.extent.segment.based
		c.extent.base = c.extent.segment.base // with the refusals, since both change together
		l.mu.RUnlock()
		if !based {
			return ErrNotRestored
		}
		base = c.offset(&refused)
		return nil
	})
	return base, err
}
