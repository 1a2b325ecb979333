package recordlog

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/oncelog/oncelog/record"
)

// Layout is what a state snapshot must hold so that offsets can be found again: which offsets lie
// in which entries, up to one index. Replicas that assigned the same entries have the same layout.
type Layout struct {
	// Index is the last entry that has its fate, EndOffset the log's end after it.
	Index     record.Index
	EndOffset record.Offset
	// StartOffset is the log start. StartIndex is the entry that holds it and StartBase that entry's
	// first offset; if nothing is held, Index+1 and EndOffset. Where compaction has made one of that entry and others, they are those of
	// the first one; StartBase is then too low by what was refused below an earlier start, and may be below 0 (forgetRefusals).
	StartOffset record.Offset
	StartIndex  record.Index
	StartBase   record.Offset
	// Refused are the refused batches of StartIndex and above, in order.
	Refused []Refusal
}

// An encoded layout, all integers big endian:
//
//	 0 version      uint16 1
//	 2 reserved     uint16 0
//	 4 refusals     uint32
//	 8 index        uint64
//	16 end offset   int64
//	24 start offset int64
//	32 start index  uint64
//	40 start base   int64
//	48 refusals, each: index uint64, ordinal int32, records int32
//	   CRC32C       uint32 of all before
const (
	layoutVersion    = 1
	layoutHeaderSize = 48
	refusalSize      = 16
)

// AppendTo encodes the layout behind b. Equal layouts give equal bytes.
func (y Layout) AppendTo(b []byte) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint16(b, layoutVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(y.Refused)))
	b = binary.BigEndian.AppendUint64(b, uint64(y.Index))
	b = binary.BigEndian.AppendUint64(b, uint64(y.EndOffset))
	b = binary.BigEndian.AppendUint64(b, uint64(y.StartOffset))
	b = binary.BigEndian.AppendUint64(b, uint64(y.StartIndex))
	b = binary.BigEndian.AppendUint64(b, uint64(y.StartBase))
	for _, r := range y.Refused {
		b = binary.BigEndian.AppendUint64(b, uint64(r.Index))
		b = binary.BigEndian.AppendUint32(b, uint32(r.Ordinal))
		b = binary.BigEndian.AppendUint32(b, uint32(r.Records))
	}
	return binary.BigEndian.AppendUint32(b, sum(0, b[from:]))
}

// DecodeLayout reads what AppendTo wrote. Errors: ErrBadLayout, ErrNewerFormat.
func DecodeLayout(b []byte) (Layout, error) {
	if len(b) < layoutHeaderSize+4 {
		return Layout{}, fmt.Errorf("%w: %d bytes, at least %d are needed", ErrBadLayout, len(b), layoutHeaderSize+4)
	}
	body, crc := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := sum(0, body); got != crc {
		return Layout{}, fmt.Errorf("%w: its CRC is %08x, its end says %08x", ErrBadLayout, got, crc)
	}
	if v := binary.BigEndian.Uint16(b); v != layoutVersion {
		return Layout{}, fmt.Errorf("layout: %w", &FormatError{What: "layout", Found: int(v), Known: layoutVersion})
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if n*refusalSize != int64(len(body)-layoutHeaderSize) {
		return Layout{}, fmt.Errorf("%w: %d refusals do not fill %d bytes", ErrBadLayout, n, len(body)-layoutHeaderSize)
	}
	y := Layout{
		Index:       record.Index(binary.BigEndian.Uint64(b[8:])),
		EndOffset:   record.Offset(binary.BigEndian.Uint64(b[16:])),
		StartOffset: record.Offset(binary.BigEndian.Uint64(b[24:])),
		StartIndex:  record.Index(binary.BigEndian.Uint64(b[32:])),
		StartBase:   record.Offset(binary.BigEndian.Uint64(b[40:])),
	}
	for at := layoutHeaderSize; at < len(body); at += refusalSize {
		y.Refused = append(y.Refused, Refusal{
			Index:   record.Index(binary.BigEndian.Uint64(b[at:])),
			Ordinal: int32(binary.BigEndian.Uint32(b[at+8:])),
			Records: int32(binary.BigEndian.Uint32(b[at+12:])),
		})
	}
	return y, y.check()
}

// check holds the layout's own order.
func (y *Layout) check() error {
	if y.StartOffset < 0 || y.StartOffset < y.StartBase || y.EndOffset < y.StartOffset ||
		y.StartIndex == 0 || y.StartIndex > y.Index+1 || y.Index == math.MaxUint64 ||
		(y.StartIndex == y.Index+1 && y.StartBase != y.EndOffset) || (y.StartIndex <= y.Index && y.StartOffset == y.EndOffset) {
		return fmt.Errorf("%w: start %d in entry %d from %d, end %d after entry %d", ErrBadLayout,
			y.StartOffset, y.StartIndex, y.StartBase, y.EndOffset, y.Index)
	}
	before := Refusal{Index: y.StartIndex, Ordinal: -1}
	for _, r := range y.Refused {
		if r.Index < before.Index || (r.Index == before.Index && r.Ordinal <= before.Ordinal) || r.Index > y.Index || r.Ordinal < 0 || r.Records <= 0 {
			return fmt.Errorf("%w: refusal %+v after %+v", ErrBadLayout, r, before)
		}
		before = r
	}
	return nil
}

// Layout captures the layout. The applier calls it between two Assigns.
func (l *Log) Layout() Layout {
	l.mu.RLock()
	defer l.mu.RUnlock()
	y := Layout{Index: l.assigned, EndOffset: l.end, StartOffset: l.start.offset, StartIndex: l.start.index, StartBase: l.start.base}
	if l.start.floating {
		y.StartIndex, y.StartBase = l.assigned+1, l.end
	}
	if n := l.refused.len(); n > 0 {
		y.Refused = make([]Refusal, n)
		for i, r := range l.refused.list {
			y.Refused[i] = r.Refusal
		}
	}
	return y
}

// Restore takes over the layout of the newest state snapshot: after Open, or after a snapshot was
// installed and catch-up has pulled the entries below it, which it puts in place. The applier
// calls it, before it assigns what comes after. through is the last entry that the snapshot covers; the
// layout's may lie below it, where entries of Raft itself follow the last one that was applied.
//
// Errors: ErrBehindSnapshot if the log does not reach through, *CorruptionError if its
// entries do not add up to the layout.
func (l *Log) Restore(y Layout, through record.Index) error {
	if err := y.check(); err != nil {
		return err
	}
	if through < y.Index {
		return fmt.Errorf("%w: it is of entry %d, its snapshot covers entries up to %d", ErrBadLayout, y.Index, through)
	}
	l.lock()
	defer l.unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	if l.staged != nil && l.staged.last() >= through && through > l.live.last() {
		before := l.Bytes()
		if err := l.adoptStaged(); err != nil {
			return err
		}
		l.metrics.bytes.Add(float64(l.Bytes() - before))
	}
	l.mu.RLock()
	begin, last := l.live.begin, l.live.last()
	l.mu.RUnlock()
	if through > last {
		return fmt.Errorf("%w: log holds entries %d to %d, snapshot is of %d", ErrBehindSnapshot, begin, last, through)
	}
	bases, err := l.basesBelow(&y, begin)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.takeLayout(&y, bases)
	moved, start := y.StartIndex < begin && !l.start.floating, l.start.offset
	l.mu.Unlock()
	if !moved {
		return nil
	}
	point, err := l.pointOf(start)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setStart(point)
	return nil
}

// basesBelow works out the base offsets of the segments that begin at or below the layout's index,
// backwards from its end, and checks that its start comes right.
func (l *Log) basesBelow(y *Layout, begin record.Index) ([]record.Offset, error) {
	var refused refusals
	for _, r := range y.Refused {
		refused.add(r)
	}
	segments := l.live.segments
	n := 0
	for n < len(segments) && segments[n].first <= y.Index {
		n++
	}
	bases := make([]record.Offset, n)
	end := y.EndOffset
	for k := n - 1; k >= 0; k-- {
		s := segments[k]
		records, through := s.records, s.last+1
		if s.last > y.Index {
			through = y.Index + 1
			before, h, err := l.recordsBefore(s, through)
			if err != nil {
				return nil, err
			}
			if records = before; h.kind == kindCompacted && h.first() < through {
				records += int64(h.records) // behind the layout's index it holds entries without records
			}
		}
		bases[k] = end - record.Offset(records-refused.between(s.first, through))
		end = bases[k]
		if s.first <= y.StartIndex && y.StartIndex <= s.last && y.StartIndex <= y.Index {
			records, h, err := l.recordsBefore(s, y.StartIndex)
			if err != nil {
				return nil, err
			}
			// Where compaction has been, the entry may lie inside of a frame.
			if base := bases[k] + record.Offset(records-refused.between(s.first, y.StartIndex)); base != y.StartBase && h.kind != kindCompacted {
				return nil, corrupt(s.name, 0, y.StartIndex, differ(fmt.Sprintf("offset %d of the state snapshot", y.StartBase), fmt.Sprintf("offset %d", base)))
			}
		}
	}
	return bases, nil
}

// recordsBefore is how many offsets the batches of a segment before the frame that holds entry i would take, and that
// frame's header, if there is one.
func (l *Log) recordsBefore(s *segment, i record.Index) (records int64, h frameHeader, err error) {
	l.mu.RLock()
	x := l.extentOf(s)
	l.mu.RUnlock()
	c, err := l.openCursor(x, lookChunk)
	if err != nil {
		return 0, h, err
	}
	defer c.close()
	if err := c.seekIndex(i); err != nil {
		return 0, h, err
	}
	if c.more() {
		if h, err = c.header(); err != nil {
			return 0, h, c.damage(err)
		}
	}
	return c.records, h, nil
}

// takeLayout publishes a layout that was checked. l.mu is held.
func (l *Log) takeLayout(y *Layout, bases []record.Offset) {
	for k, s := range l.live.segments {
		s.based = k < len(bases)
		if s.based {
			s.base = bases[k]
		}
	}
	l.metrics.refused.Sub(float64(l.refused.len()))
	l.refused = refusals{}
	for _, r := range y.Refused {
		l.refused.add(r)
	}
	l.start = startPoint{offset: y.StartOffset, index: y.StartIndex, base: y.StartBase}
	if y.StartIndex < l.live.begin {
		// Segments were dropped by a command that lies between snapshot and log end and is about to
		// be replayed. The log begins where it begins.
		l.start.index, l.start.base = l.live.begin, y.EndOffset
		if len(bases) > 0 {
			l.start.base = bases[0]
		}
		l.start.offset = max(l.start.offset, l.start.base)
	}
	l.start.floating = l.start.index > y.Index || l.start.offset == y.EndOffset
	l.assigned, l.end = y.Index, y.EndOffset
	l.metrics.refused.Add(float64(l.refused.len()))
	l.setStart(l.start)
	l.snapshot = max(l.snapshot, y.Index)
	l.restored = true
	change := l.cache.bytes
	l.cache.forget(l.live.last()) // its entries do not know their offsets
	l.metrics.cacheBytes.Sub(float64(change - l.cache.bytes))
}

// setStart moves the log start and forgets the refusals below it. l.mu is held.
func (l *Log) setStart(point startPoint) {
	before := l.refused.len()
	l.start = point
	if point.floating {
		l.forgetRefusals(l.assigned + 1)
	} else {
		l.forgetRefusals(point.index)
	}
	l.metrics.refused.Sub(float64(before - l.refused.len()))
}

// forgetRefusals forgets the refused batches of entries below an index; the bases of the segments that begin below
// it make up for all of those. So offsets from the index on come right whichever of them they are counted from, as they do
// after Restore: compaction makes one of neighbours. Those below come out too low. l.mu is held.
func (l *Log) forgetRefusals(below record.Index) {
	n := l.refused.from(below)
	if n == 0 {
		return
	}
	k := l.live.find(below)
	if k < 0 && l.live.last()+1 == below {
		k = len(l.live.segments) - 1
	}
	for ; k >= 0; k-- {
		s := l.live.segments[k]
		s.base -= record.Offset(l.refused.between(s.first, below))
	}
	l.refused.list = l.refused.list[n:]
}
