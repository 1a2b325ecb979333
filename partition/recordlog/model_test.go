package recordlog

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/oncelog/oncelog/record"
)

// model is a log that does everything in the most stupid way: a map of entries and a list of
// accepted batches. It is the second opinion of the random tests.
type model struct {
	entries                 map[record.Index]Entry
	begin, last             record.Index // of what the model knows
	durable                 record.Index // what the log has said to be on disk
	windowFirst, windowLast record.Index
	assigned                record.Index
	start, end              record.Offset
	batches                 []accepted
	refused                 []Refusal // all of them
	snapshot                snapshotState
	// since are the calls of the applier since the snapshot, to be replayed after a restart.
	since []applied
}

// accepted is a batch that got an offset.
type accepted struct {
	index      record.Index
	term       record.Term
	base, next record.Offset
	batch      record.Batch
}

// applied is one call of the applier.
type applied struct {
	index   record.Index
	fates   []Fate
	advance record.Offset // if index is 0
}

// snapshotState is a state snapshot that is durable.
type snapshotState struct {
	index  record.Index
	layout Layout
}

func newModel() *model {
	return &model{entries: map[record.Index]Entry{}, begin: 1, windowFirst: 1}
}

func (m *model) window() (first, last record.Index) {
	if m.windowFirst > m.windowLast {
		return 0, 0
	}
	return m.windowFirst, m.windowLast
}

func (m *model) kept() record.Index { return max(m.assigned, m.snapshot.index, m.begin-1) }

// cutFrom forgets entries.
func (m *model) cutFrom(from record.Index) {
	for i := from; i <= m.last; i++ {
		delete(m.entries, i)
	}
	m.last = min(m.last, from-1)
	m.durable = min(m.durable, m.last)
	m.windowLast = min(m.windowLast, from-1)
	m.windowFirst = min(m.windowFirst, from)
}

func (m *model) append(entries []Entry) {
	m.cutFrom(entries[0].Index)
	for _, e := range entries {
		m.entries[e.Index] = e
		m.last = e.Index
	}
	if m.windowFirst > m.windowLast {
		m.windowFirst = entries[0].Index
	}
	m.windowLast = m.last
}

func (m *model) trim(through record.Index) {
	switch {
	case m.windowFirst > m.windowLast || through < m.windowFirst:
	case through >= m.windowLast:
		m.windowLast = m.last
		m.windowFirst = m.last + 1
	default:
		m.windowFirst = through + 1
	}
}

func (m *model) apply(a applied) {
	m.since = append(m.since, a)
	if a.index == 0 {
		m.start = max(m.start, a.advance)
		return
	}
	e := m.entries[a.index]
	rest := record.Batch(e.Data)
	for k, f := range a.fates {
		b := rest[:rest.Size()]
		rest = rest[b.Size():]
		n := b.LastOffsetDelta() + 1
		if f.Refused {
			m.refused = append(m.refused, Refusal{Index: a.index, Ordinal: int32(k), Records: n})
			continue
		}
		m.batches = append(m.batches, accepted{index: a.index, term: e.Term, base: m.end, next: m.end + record.Offset(n), batch: b})
		m.end += record.Offset(n)
	}
	m.assigned = a.index
}

// startEntry is the entry that holds the log start, and its first offset.
func (m *model) startEntry() (record.Index, record.Offset) {
	for i, b := range m.batches {
		if b.next > m.start {
			for i > 0 && m.batches[i-1].index == b.index {
				i--
			}
			return b.index, m.batches[i].base
		}
	}
	return m.assigned + 1, m.end
}

func (m *model) layout() Layout {
	y := Layout{Index: m.assigned, EndOffset: m.end, StartOffset: m.start}
	y.StartIndex, y.StartBase = m.startEntry()
	for _, r := range m.refused {
		if r.Index >= y.StartIndex {
			y.Refused = append(y.Refused, r)
		}
	}
	return y
}

// read gives what consumers get.
func (m *model) read(from, limit record.Offset, maxBytes int) [][]byte {
	var got [][]byte
	bytes := 0
	for _, b := range m.batches {
		if b.next <= from {
			continue
		}
		if b.next > limit || (len(got) > 0 && bytes+len(b.batch) > maxBytes) {
			break
		}
		bytes += len(b.batch)
		got = append(got, patched(b))
	}
	return got
}

func patched(b accepted) []byte {
	p := append(record.Batch(nil), b.batch...)
	p.SetBaseOffset(b.base)
	p.SetLeaderEpoch(int32(b.term))
	return p
}

// eachRecord calls use with every record at or above the log start.
func (m *model) eachRecord(limit record.Offset, use func(offset record.Offset, ts int64, term record.Term)) {
	for _, b := range m.batches {
		r, err := record.Batch(patched(b)).Records(0)
		if err != nil {
			panic(err)
		}
		for r.Next() {
			if o := r.Record().Offset; o >= m.start && o < limit {
				use(o, r.Record().Timestamp, b.term)
			}
		}
	}
}

func (m *model) offsetForTime(ts int64, limit record.Offset) moment {
	best := moment{offset: record.NoOffset, timestamp: -1}
	// The first record of all counts, and only then the limit.
	m.eachRecord(math.MaxInt64, func(o record.Offset, t int64, term record.Term) {
		if t >= ts && best.offset == record.NoOffset {
			best = moment{offset: o, timestamp: t, term: term, found: o < limit}
		}
	})
	if !best.found {
		return moment{offset: record.NoOffset, timestamp: -1}
	}
	return best
}

func (m *model) maxTimestamp(limit record.Offset) moment {
	best := moment{offset: record.NoOffset, timestamp: -1}
	m.eachRecord(limit, func(o record.Offset, t int64, term record.Term) {
		if !best.found || t > best.timestamp {
			best = moment{offset: o, timestamp: t, term: term, found: true}
		}
	})
	return best
}

func (m *model) checksum(from, to record.Offset) (uint32, int64) {
	var crc uint32
	var n int64
	for _, b := range m.batches {
		if b.next > from && b.next <= to {
			crc = crc32.Update(crc, castagnoli, patched(b))
			n++
		}
	}
	return crc, n
}

// needed is the lowest index that the log must not have dropped.
func (m *model) needed() record.Index {
	start, _ := m.startEntry()
	return max(min(start, m.snapshot.index+1, m.windowFirst), m.begin)
}

func sameEntry(a, b Entry) error {
	if a.Index != b.Index || a.Term != b.Term || a.Type != b.Type || a.AppendedAt != b.AppendedAt || a.Records != b.Records ||
		a.MaxTimestamp != b.MaxTimestamp || !bytes.Equal(a.Ext, b.Ext) || !bytes.Equal(a.Data, b.Data) {
		return fmt.Errorf("entry %d of term %d with %d records, %d bytes; want entry %d of term %d with %d records, %d bytes",
			a.Index, a.Term, a.Records, len(a.Data), b.Index, b.Term, b.Records, len(b.Data))
	}
	return nil
}

func sameLayout(a, b Layout) bool { return bytes.Equal(a.AppendTo(nil), b.AppendTo(nil)) }

// checkEntries compares the log's entries with the model's.
func (m *model) checkEntries(l *Log) error {
	for i := m.needed(); i <= m.last; i++ {
		got, err := l.entry(i, raftReader, nil)
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if err := sameEntry(got, m.entries[i]); err != nil {
			return err
		}
	}
	if got := l.LastIndex(); got != m.durable {
		return fmt.Errorf("last index on disk %d, want %d", got, m.durable)
	}
	if got := l.Durable(); got != m.durable {
		return fmt.Errorf("durable through %d, want %d", got, m.durable)
	}
	return nil
}

// checkRecords compares everything that readers can see.
func (m *model) checkRecords(l *Log, maxBytes int) error {
	if s, e := l.StartOffset(), l.EndOffset(); s != m.start || e != m.end {
		return fmt.Errorf("offsets %d to %d, want %d to %d", s, e, m.start, m.end)
	}
	if got, want := l.Layout(), m.layout(); !sameLayout(got, want) {
		return fmt.Errorf("layout %+v, want %+v", got, want)
	}
	for at := m.start; at < m.end; {
		c, err := l.Read(at, m.end, maxBytes)
		if err != nil {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		if err := sameBatches(c, at, m.read(at, m.end, maxBytes)); err != nil {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		at = c.End
	}
	return nil
}

// sameBatches compares an answer with all that fits. It may be shorter, but not empty without need.
func sameBatches(c Chunk, from record.Offset, want [][]byte) error {
	if len(c.Batches) > len(want) || (len(c.Batches) == 0 && len(want) > 0) {
		return fmt.Errorf("%d batches, want %d", len(c.Batches), len(want))
	}
	size, end := 0, from
	for i, b := range c.Batches {
		if !bytes.Equal(b, want[i]) {
			return fmt.Errorf("batch %d differs", i)
		}
		size += len(b)
		end = record.Batch(b).BaseOffset() + record.Offset(record.Batch(b).LastOffsetDelta()) + 1
	}
	if size != c.Bytes || end != c.End {
		return fmt.Errorf("says %d bytes to %d, has %d to %d", c.Bytes, c.End, size, end)
	}
	return nil
}

// replay brings a log that was just opened to the model's state, as Raft and the state machine do.
func (m *model) replay(l *Log) error {
	if m.snapshot.index > 0 {
		if err := l.Restore(m.snapshot.layout, m.snapshot.index); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	for _, a := range m.since {
		if err := a.to(l); err != nil {
			return err
		}
	}
	return nil
}

// to makes the call on a log.
func (a applied) to(l *Log) error {
	if a.index == 0 {
		if err := l.AdvanceStart(a.advance); err != nil {
			return fmt.Errorf("advance start to %d: %w", a.advance, err)
		}
		return nil
	}
	if err := l.Assign(a.index, a.fates); err != nil {
		return fmt.Errorf("assign %d: %w", a.index, err)
	}
	return nil
}
