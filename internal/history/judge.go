package history

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// judge holds an event against what became of everything.
func (c *checker) judge(e *Event) error {
	switch e.Kind {
	case Send:
		c.lane(e.Key, e.Process).last = int64(e.N)
	case Written:
		c.judgePlace(e)
	case Commit:
		t := c.txns[txnID{e.Process, e.Txn}]
		t.asked = true
		t.raiseFloors()
	case Committed:
		c.judgeCarried(c.txns[txnID{e.Process, e.Txn}])
	case Assign, Revoke, Poll, Final:
		c.judgeRead(e)
	case OffsetCommit, OffsetCommitted, OffsetRefused, OffsetAsked, OffsetTold:
		return c.judgeOffset(e)
	}
	return nil
}

// judgePlace compares where a value was acknowledged with where it was read.
func (c *checker) judgePlace(e *Event) {
	l := c.lane(e.Key, e.Process)
	offset, flags := l.at(e.N)
	if *flags&seen == 0 || e.Offset < 0 || *offset == e.Offset || l.part.holds(e.Offset, l, e.N) {
		return
	}
	c.found(finding{
		kind: Misplaced, part: l.part, values: []Value{e.Value()}, reads: []sight{{e.Value(), *offset}},
		what: fmt.Sprintf("%v was acknowledged at offset %d and is at offset %d", e.Value(), e.Offset, *offset),
	})
}

func (c *checker) judgeRead(e *Event) {
	p := c.part(e.Key)
	c.at.follow(e, func(s step) {
		if s.from >= 0 && s.to > s.from {
			c.judgeGap(p, e, s.from, s.to)
		}
		if s.run == nil {
			return
		}
		if s.from >= 0 && s.to < s.from {
			c.found(finding{
				kind: Backwards, part: p, events: []int64{c.number}, reader: &reader{e.Process, e.Key},
				what: fmt.Sprintf("process %d was at offset %d and then read offset %d", e.Process, s.from, s.to),
				say:  fmt.Sprintf("process %d goes from offset %d back to %d", e.Process, s.from, s.to),
			})
		}
		if s.run.Bad == "" {
			c.judgeRun(p, e, s.run)
		}
	})
}

// judgeGap looks for what a reader should have been given between two offsets.
func (c *checker) judgeGap(p *partition, e *Event, from, to record.Offset) {
	var first Value
	at, n := record.NoOffset, 0
	p.eachPlace(from, to, func(offset record.Offset, x place) bool {
		l := c.lanes[x.lane&^disputed-1]
		t := l.txn(x.n)
		if e.Uncommitted || t == nil && l.flags(x.n)&wasNotWritten == 0 || t != nil && t.asked && t.shows() {
			if n++; n == 1 {
				first, at = l.value(x.n), offset
			}
		}
		return false
	})
	if n == 0 {
		return
	}
	what := fmt.Sprintf("process %d went from offset %d to %d and was not given %v at offset %d", e.Process, from, to, first, at)
	if n > 1 {
		what += fmt.Sprintf(", nor %d more", n-1)
	}
	c.found(finding{
		kind: Skipped, part: p, values: []Value{first}, reads: []sight{{first, at}}, events: []int64{c.number},
		reader: &reader{e.Process, e.Key}, what: what,
		say: fmt.Sprintf("process %d goes from offset %d to %d", e.Process, from, to),
	})
}

// judgeRun looks for values that nobody had sent yet, or of transactions that nobody had asked to commit.
func (c *checker) judgeRun(p *partition, e *Event, run *Record) {
	l := c.lane(p.key, run.Value.Process)
	unsent := int64(run.Value.N)+int64(run.Count)-1 > l.last
	if !unsent && (e.Uncommitted || len(l.txns) == 0) {
		return
	}
	for i := range run.Count {
		n := run.Value.N + i
		_, flags := l.at(n)
		f := finding{
			part: p, values: []Value{l.value(n)}, events: []int64{c.number},
			say: fmt.Sprintf("process %d reads %v at offset %d of %v", e.Process, l.value(n), run.Offset+record.Offset(i), p.key),
		}
		t := l.txn(n)
		switch {
		case int64(n) > l.last && *flags&wasSent != 0 && *flags&wasUnsent == 0: // conclude finds what is never sent
			*flags |= wasUnsent
			f.kind, f.what = Phantom, fmt.Sprintf("%v was read before it was sent", l.value(n))
			c.found(f)
		case !e.Uncommitted && t != nil && !t.asked && t.end != Aborted && *flags&wasEarly == 0:
			*flags |= wasEarly
			f.kind, f.txn, f.what = Early, t, fmt.Sprintf("%v was read as committed before its transaction was to be committed", l.value(n))
			c.found(f)
		}
	}
}

// conclude judges what only the whole history can tell.
func (c *checker) conclude() {
	for _, p := range c.order {
		written, inTxn := false, false
		for _, l := range p.inOrder {
			w := c.concludeLane(l)
			written, inTxn = written || w, inTxn || w && len(l.txns) > 0
		}
		if written && !p.finals[0].there && (inTxn || !p.finals[1].there) {
			c.report.NotReadToEnd = append(c.report.NotReadToEnd, p.key.String())
		}
	}
	for _, t := range c.begun {
		c.concludeTxn(t)
	}
	c.concludeJobs()
	c.report.Unknown = c.report.Sent - c.report.Written - c.report.NotWritten
}

// concludeLane judges each value of a lane and their order, and says whether any was acknowledged.
func (c *checker) concludeLane(l *lane) (written bool) {
	last, lastAt := Value{}, record.NoOffset
	l.each(func(n uint32, offset record.Offset, flags uint8) {
		v := l.value(n)
		if flags&wasSent == 0 {
			c.found(finding{kind: Phantom, part: l.part, reads: []sight{{v, offset}}, what: fmt.Sprintf("%v is stored at offset %d and was never sent", v, offset)})
			return
		}
		written = written || flags&wasWritten != 0
		c.concludeValue(l, n, offset, flags)
		if offset < 0 {
			return
		}
		if offset < lastAt {
			c.found(finding{
				kind: Reordered, part: l.part, values: []Value{last, v}, reads: []sight{{v, offset}, {last, lastAt}},
				what: fmt.Sprintf("%v was sent after %v and lies before it, at offsets %d and %d", v, last, offset, lastAt),
			})
			return
		}
		last, lastAt = v, offset
	})
	return written
}

// concludeValue judges what became of one value that was sent.
func (c *checker) concludeValue(l *lane, n uint32, offset record.Offset, flags uint8) {
	v, t := l.value(n), l.txn(n)
	if flags&wasNotWritten != 0 && flags&seen != 0 {
		c.found(finding{
			kind: Refused, part: l.part, values: []Value{v}, reads: []sight{{v, offset}},
			what: fmt.Sprintf("%v was reported not written and is stored at offset %d", v, offset),
		})
	}
	switch {
	case t != nil && t.end == Aborted && flags&seenCommitted != 0:
		c.found(finding{
			kind: AbortedRead, part: l.part, values: []Value{v}, reads: []sight{{v, offset}}, txn: t,
			what: fmt.Sprintf("%v was read as committed, and its transaction was aborted", v),
		})
	case flags&wasWritten == 0:
	case t == nil && flags&seen == 0:
		if fate, why := l.part.fate(offset, false); fate != "" {
			c.found(finding{kind: fate, part: l.part, values: []Value{v}, missing: &offset, what: fmt.Sprintf("%v was acknowledged%s, and %s", v, at(offset), why)})
		} else {
			c.report.NotJudged++
		}
	case t != nil && flags&seenCommitted == 0 && t.asked && t.shows():
		if fate, _ := l.part.fate(offset, true); fate != "" {
			t.missing++
			t.gone, t.fate = sent{l, n}, fate
		} else {
			c.report.NotJudged++
		}
	}
}

func at(offset record.Offset) string {
	if offset < 0 {
		return ""
	}
	return fmt.Sprintf(" at offset %d", offset)
}

// fate says what it means that a value which should be at an offset was never read; "": nothing, since
// nobody has looked there. With committed, only readers of committed data count.
func (p *partition) fate(offset record.Offset, committed bool) (Anomaly, string) {
	f := p.finals[0]
	if !committed && (!f.there || p.finals[1].end > f.end) {
		f = p.finals[1]
	}
	switch {
	case offset < 0 && (!f.there || f.from > 0):
		return "", "" // nobody can tell
	case offset < 0 && f.high == f.end:
		return Lost, "is not there"
	case p.committed.contain(offset) || !committed && p.uncommitted.contain(offset):
		return Lost, "is not there"
	case f.there && offset >= f.high:
		return Lost, fmt.Sprintf("the log ends at offset %d", f.high)
	case f.there && (offset < 0 || offset >= f.end):
		return Unseen, fmt.Sprintf("readers get no further than offset %d", f.end)
	}
	return "", ""
}

// concludeTxn judges a transaction of which something is missing.
func (c *checker) concludeTxn(t *txn) {
	switch {
	case t.end == Committed:
		c.report.Committed++
	case t.end == Aborted:
		c.report.Aborted++
	default:
		c.report.Undecided++
	}
	if t.missing == 0 {
		return
	}
	gone := t.gone.lane.value(t.gone.n)
	offset, _ := t.gone.lane.at(t.gone.n)
	f := finding{kind: t.fate, part: t.gone.lane.part, txn: t, values: []Value{gone}, missing: offset}
	_, why := t.gone.lane.part.fate(*offset, true)
	if t.visible == 0 {
		f.what = fmt.Sprintf("transaction %d of process %d was committed, and nothing of it is seen: %s, such as %v in %v: %s", t.id.n, t.id.process, records(t.missing), gone, f.part.key, why)
		c.found(f)
		return
	}
	seen := t.seen.lane.value(t.seen.n)
	place, _ := t.seen.lane.at(t.seen.n)
	f.kind = Torn
	f.also = &also{t.seen.lane.part, sight{seen, *place}, true}
	f.what = fmt.Sprintf("of transaction %d of process %d, %s can be seen, such as %v in %v, and %s cannot, such as %v in %v", t.id.n, t.id.process, records(t.visible), seen, t.seen.lane.part.key, records(t.missing), gone, f.part.key)
	c.found(f)
}

func records(n int) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}
