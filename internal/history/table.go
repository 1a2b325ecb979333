package history

import (
	"cmp"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// What is known of a value.
const (
	wasWritten      uint8 = 1 << iota // the sender was told so
	wasNotWritten                     // the sender was told so
	wasSent                           // there is a Send
	seenCommitted                     // a reader of committed data got it
	seenUncommitted                   // a reader of uncommitted data got it
	wasEarly                          // a reader of committed data got it before its commit was asked for
	wasUnsent                         // a reader got it before its Send
)

const seen = seenCommitted | seenUncommitted

const pageSize = 1 << 10

// lane is what one process sent to one partition: for each number flags, and the offset where it was
// first read, or until then the one that was acknowledged. 9 bytes for each value.
type lane struct {
	part    *partition
	process Process
	id      uint32 // place in checker.lanes
	last    int64  // the highest number sent so far in this walk, -1 before the first
	pages   map[uint32]*lanePage
	// txns and sources are in order of first.
	txns    []txnRun
	sources []source
	// from are the offsets of sources, by number.
	from map[uint32]*[pageSize]record.Offset
}

type lanePage struct {
	offsets [pageSize]record.Offset
	flags   [pageSize]uint8
}

// txnRun says that numbers from first on were sent in txn, up to the next run; nil: in none.
type txnRun struct {
	first uint32
	txn   *txn
}

func (l *lane) at(n uint32) (offset *record.Offset, flags *uint8) {
	p := l.pages[n/pageSize]
	if p == nil {
		p = new(lanePage)
		for i := range p.offsets {
			p.offsets[i] = record.NoOffset
		}
		l.pages[n/pageSize] = p
	}
	return &p.offsets[n%pageSize], &p.flags[n%pageSize]
}

// flags are those of a number, without making room for it.
func (l *lane) flags(n uint32) uint8 {
	if p := l.pages[n/pageSize]; p != nil {
		return p.flags[n%pageSize]
	}
	return 0
}

// txn is the transaction in which n was sent, nil if none, or if it never was.
func (l *lane) txn(n uint32) *txn {
	if l.flags(n)&wasSent == 0 {
		return nil
	}
	if r := runOf(l.txns, n, func(r txnRun) uint32 { return r.first }); r != nil {
		return r.txn
	}
	return nil
}

// runOf is the last of runs that begins at or before n; nil: there is none.
func runOf[T any](runs []T, n uint32, first func(T) uint32) *T {
	i, found := slices.BinarySearchFunc(runs, n, func(r T, n uint32) int { return cmp.Compare(first(r), n) })
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	return &runs[i]
}

func (l *lane) value(n uint32) Value { return Value{l.process, n} }

// each calls f for each number that is known, rising.
func (l *lane) each(f func(n uint32, offset record.Offset, flags uint8)) {
	pages := make([]uint32, 0, len(l.pages))
	for at := range l.pages {
		pages = append(pages, at)
	}
	slices.Sort(pages)
	for _, at := range pages {
		p := l.pages[at]
		for i, flags := range &p.flags {
			if flags != 0 {
				f(at*pageSize+uint32(i), p.offsets[i], flags)
			}
		}
	}
}

// partition is what is known of one partition.
type partition struct {
	key     record.TopicPartition
	lanes   map[Process]*lane
	inOrder []*lane                      // as they appear
	places  map[record.Offset]*placePage // by offset / pageSize
	// Where readers of committed and of uncommitted data have passed.
	committed, uncommitted spans
	finals                 [2]final // of committed and of uncommitted data
}

// final is what the last Final said.
type final struct {
	there           bool
	from, end, high record.Offset
}

// place is what has been read at an offset: 8 bytes for each offset.
type place struct {
	lane uint32 // 1 + lane.id; 0: nothing
	n    uint32
}

// disputed marks a place where two values have been read; the first stands there.
const disputed = 1 << 31

type placePage [pageSize]place

func (p *partition) place(at record.Offset) *place { return placeIn(p.places, at) }

func placeIn(places map[record.Offset]*placePage, at record.Offset) *place {
	page := places[at/pageSize]
	if page == nil {
		page = new(placePage)
		places[at/pageSize] = page
	}
	return &page[at%pageSize]
}

// holds says whether a value has been read at an offset.
func (p *partition) holds(at record.Offset, l *lane, n uint32) bool {
	page := p.places[at/pageSize]
	if at < 0 || page == nil {
		return false
	}
	x := page[at%pageSize]
	return x.n == n && x.lane&^disputed == l.id+1
}

// eachPlace calls f for what has been read in a range of offsets, rising, until f says stop.
func (p *partition) eachPlace(from, end record.Offset, f func(at record.Offset, x place) (stop bool)) {
	first, last := from/pageSize, (end-1)/pageSize
	if int64(last-first) < int64(len(p.places)) {
		for at := first; at <= last; at++ {
			if page := p.places[at]; page != nil && page.each(at, from, end, f) {
				return
			}
		}
		return
	}
	var pages []record.Offset
	for at := range p.places {
		if at >= first && at <= last {
			pages = append(pages, at)
		}
	}
	slices.Sort(pages)
	for _, at := range pages {
		if p.places[at].each(at, from, end, f) {
			return
		}
	}
}

func (page *placePage) each(at, from, end record.Offset, f func(at record.Offset, x place) bool) bool {
	base := at * pageSize
	for i := max(from, base); i < min(end, base+pageSize); i++ {
		if x := page[i-base]; x.lane&^disputed != 0 && f(i, x) {
			return true
		}
	}
	return false
}

// span is a range of offsets; end is exclusive.
type span struct{ from, end record.Offset }

// spans are ranges in order that neither touch nor overlap.
type spans []span

// add joins a range to the others.
func (s *spans) add(from, end record.Offset) {
	if from >= end {
		return
	}
	list := *s
	i, _ := slices.BinarySearchFunc(list, from, func(x span, from record.Offset) int {
		if x.end < from {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(list) && list[j].from <= end; j++ {
		from, end = min(from, list[j].from), max(end, list[j].end)
	}
	if j == i+1 {
		list[i] = span{from, end}
		return
	}
	*s = slices.Replace(list, i, j, span{from, end})
}

func (s spans) contain(at record.Offset) bool {
	_, found := slices.BinarySearchFunc(s, at, func(x span, at record.Offset) int {
		switch {
		case x.end <= at:
			return -1
		case x.from > at:
			return 1
		}
		return 0
	})
	return found
}

// txnID names a transaction.
type txnID struct {
	process Process
	n       uint64
}

// txn is what is known of one transaction.
type txn struct {
	id txnID
	// end is Committed, Aborted or Undecided, as the process was told in the end.
	end Kind
	// asked: the walk that judges has come past its Commit.
	asked bool
	// visible and missing count its values that were acknowledged; visible ones have been seen by
	// readers of committed data, missing ones should have been and were not.
	visible, missing int
	// One of each, if there is one.
	seen, gone sent
	// fate of gone: Lost or Unseen.
	fate Anomaly
	// offsets that it carries.
	offsets []carried
}

// sent is a value that was sent.
type sent struct {
	lane *lane
	n    uint32
}

// shows says whether readers of committed data had to see its values.
func (t *txn) shows() bool { return t.end == Committed || t.end != Aborted && t.visible > 0 }

// reader is a consumer's place in one partition.
type reader struct {
	process Process
	key     record.TopicPartition
}

// positions are where consumers are, as far as it is known.
type positions map[reader]record.Offset

// step is one move of a consumer: from where it was (NoOffset: nobody knows) to the run that it got, or
// to where it was moved.
type step struct {
	from record.Offset
	run  *Record // nil: it was only moved
	to   record.Offset
}

// follow moves a consumer by an event and calls f for each step.
func (p positions) follow(e *Event, f func(step)) {
	at := reader{e.Process, e.Key}
	switch e.Kind {
	case Assign:
		p.set(at, e.Offset)
	case Revoke:
		delete(p, at)
	case Poll:
		pos, ok := p[at]
		if !ok {
			pos = record.NoOffset
		}
		for i := range e.Records {
			run := &e.Records[i]
			f(step{pos, run, run.Offset})
			pos = run.end()
		}
		p.set(at, p.moved(pos, e.End, f))
	case Final:
		if pos, ok := p[at]; ok {
			p.set(at, p.moved(pos, e.End, f))
		}
	}
}

// moved is a consumer's place after it was moved forward to where its client said.
func (positions) moved(from, to record.Offset, f func(step)) record.Offset {
	if to <= from {
		return from
	}
	if from >= 0 {
		f(step{from, nil, to})
	}
	return to
}

func (p positions) set(at reader, pos record.Offset) {
	if pos < 0 {
		delete(p, at)
		return
	}
	p[at] = pos
}
