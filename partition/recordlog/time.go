package recordlog

import (
	"errors"
	"math"
	"sort"

	"github.com/oncelog/oncelog/record"
)

// moment is a record found by its time.
type moment struct {
	offset    record.Offset
	timestamp int64
	term      record.Term
	found     bool
}

// OffsetForTime finds the first record, in order of offset, whose timestamp is ts or later (L17).
// Not found: there is none, or its offset is limit or above. The time index is approximate; the
// look-up ends by decoding batches (L29).
func (l *Log) OffsetForTime(ts int64, limit record.Offset) (offset record.Offset, timestamp int64, term record.Term, found bool, err error) {
	var m moment
	err = l.lookUp(func(extents []extent, r *timeReader) error {
		m = moment{}
		r.limit = min(r.limit, limit)
		for _, x := range extents {
			if x.maxTimestamp < ts {
				continue
			}
			var err error
			if m, err = r.firstIn(x, ts); err != nil || m.found {
				return err
			}
		}
		return nil
	})
	if err != nil || !m.found {
		return record.NoOffset, -1, 0, false, err
	}
	return m.offset, m.timestamp, m.term, true, nil
}

// MaxTimestamp finds the record with the largest timestamp below limit, the first of several (L20).
func (l *Log) MaxTimestamp(limit record.Offset) (offset record.Offset, timestamp int64, term record.Term, found bool, err error) {
	var m moment
	err = l.lookUp(func(extents []extent, r *timeReader) error {
		m = moment{timestamp: math.MinInt64}
		r.limit = min(r.limit, limit)
		// The latest segments first, so that most need not be looked into.
		sort.SliceStable(extents, func(i, j int) bool { return extents[i].maxTimestamp > extents[j].maxTimestamp })
		for _, x := range extents {
			if m.found && x.maxTimestamp < m.timestamp {
				break
			}
			if err := r.maxIn(x, &m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !m.found {
		return record.NoOffset, -1, 0, false, err
	}
	return m.offset, m.timestamp, m.term, true, nil
}

// timeReader looks for records by time, in what was readable when the look-up began.
type timeReader struct {
	log          *Log
	start, limit record.Offset
	assigned     record.Index
	refused      refusals
	records      record.Records
}

// lookUp calls search with the segments that hold readable records, and again if one of them was
// dropped meanwhile.
func (l *Log) lookUp(search func([]extent, *timeReader) error) error {
	for {
		if l.closed.Load() {
			return ErrClosed
		}
		l.mu.RLock()
		if !l.restored {
			l.mu.RUnlock()
			return ErrNotRestored
		}
		r := &timeReader{log: l, start: l.start.offset, limit: l.end, assigned: l.assigned, refused: l.refused}
		var extents []extent
		for _, s := range l.live.segments {
			if s.based && s.first <= l.assigned && !l.start.floating && s.last >= l.start.index {
				extents = append(extents, l.extentOf(s))
			}
		}
		l.mu.RUnlock()
		err := search(extents, r)
		r.records.Close()
		if errors.Is(err, errMoved) {
			continue
		}
		return err
	}
}

// check turns errors about a segment that was dropped into errMoved.
func (r *timeReader) check(err error, x extent) error {
	if r.log.dropped(err, x.segment) {
		return errMoved
	}
	return err
}

// firstIn finds the first record with a timestamp of ts or later in a segment.
func (r *timeReader) firstIn(x extent, ts int64) (moment, error) {
	c, err := r.log.openCursor(x, lookChunk)
	if err != nil {
		return moment{}, r.check(err, x)
	}
	defer c.close()
	var m moment
	for k := range c.index.len() {
		if c.index.at(k).maxTimestamp < ts {
			continue
		}
		done := false
		err := r.eachIn(c, k, func(b record.Batch, at record.Offset, term record.Term) error {
			if at >= r.limit {
				done = true
				return nil
			}
			if done || b.MaxTimestamp() < ts {
				return nil
			}
			err := r.decode(b, at, func(offset record.Offset, timestamp int64) bool {
				if timestamp < ts {
					return true
				}
				m = moment{offset: offset, timestamp: timestamp, term: term, found: offset < r.limit}
				done = true
				return false
			})
			return err
		})
		if err != nil {
			return moment{}, r.check(err, x)
		}
		if done {
			break
		}
	}
	return m, nil
}

// maxIn improves best by the records of a segment.
func (r *timeReader) maxIn(x extent, best *moment) error {
	c, err := r.log.openCursor(x, lookChunk)
	if err != nil {
		return r.check(err, x)
	}
	defer c.close()
	order := make([]int, c.index.len())
	for k := range order {
		order[k] = k
	}
	sort.SliceStable(order, func(i, j int) bool { return c.index.at(order[i]).maxTimestamp > c.index.at(order[j]).maxTimestamp })
	for _, k := range order {
		if best.found && c.index.at(k).maxTimestamp < best.timestamp {
			break
		}
		err := r.eachIn(c, k, func(b record.Batch, at record.Offset, term record.Term) error {
			if at >= r.limit || (best.found && b.MaxTimestamp() < best.timestamp) {
				return nil
			}
			return r.decode(b, at, func(offset record.Offset, timestamp int64) bool {
				better := timestamp > best.timestamp || (timestamp == best.timestamp && offset < best.offset)
				if offset < r.limit && (!best.found || better) {
					*best = moment{offset: offset, timestamp: timestamp, term: term, found: true}
				}
				return true
			})
		})
		if err != nil {
			return r.check(err, x)
		}
	}
	return nil
}

// eachIn calls use with the accepted batches of a block. They alias the cursor's buffer.
func (r *timeReader) eachIn(c *cursor, k int, use func(record.Batch, record.Offset, record.Term) error) error {
	c.seek(k)
	for c.more() && c.frames.next <= r.assigned && (k+1 == c.index.len() || c.frames.next < c.index.at(k+1).index) {
		base := c.offset(&r.refused)
		e, _, err := c.take()
		if err != nil {
			return err
		}
		if e.Records == 0 || base+record.Offset(e.Records) <= r.start {
			continue
		}
		var failed error
		err = eachBatch(&stored{index: e.Index, term: e.Term, base: base, data: e.Data, compacted: e.First != 0}, r.refused.of(e.Index), func(b record.Batch, at, next record.Offset) bool {
			term := e.Term
			if e.First != 0 {
				term = record.Term(b.LeaderEpoch())
			}
			if next > r.start {
				failed = use(b, at, term)
			}
			return failed == nil
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decode calls use with each record of a batch at or above the log start, until use says stop.
func (r *timeReader) decode(b record.Batch, at record.Offset, use func(record.Offset, int64) bool) error {
	if err := r.records.Reset(b, 0); err != nil {
		return err
	}
	for r.records.Next() {
		rec := r.records.Record()
		offset := at + rec.Offset - b.BaseOffset()
		if offset >= r.start && !use(offset, rec.Timestamp) {
			return nil
		}
	}
	return r.records.Err()
}
