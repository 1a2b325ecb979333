package history

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// Options say how to check.
type Options struct {
	// MaxShown is how many findings of each kind are kept with their histories; all are counted.
	// Default 10.
	MaxShown int
	// Progress, if not nil, is called every 100,000 events with how many have been read. The history is
	// read twice, and a third time if something is found.
	Progress func(events int64)
}

// Check judges a history. The error is the source's, or wraps ErrFormat if the history contradicts
// itself; what a log did wrong is in the report.
//
// Memory is about 17 bytes for each value and 150 for each transaction; the events themselves are not
// kept.
func Check(events Source, o Options) (*Report, error) {
	c := newChecker(o)
	if err := c.run(events); err != nil {
		return nil, err
	}
	return c.report, nil
}

func newChecker(o Options) *checker {
	if o.MaxShown == 0 {
		o.MaxShown = 10
	}
	return &checker{
		options: o, report: newReport(), parts: make(map[record.TopicPartition]*partition), txns: make(map[txnID]*txn),
		sums: make(map[replicaRange]Event), at: make(positions), groups: make(map[groupKey]*groupOffset), jobs: make(map[jobKey]*job),
	}
}

func (c *checker) run(events Source) error {
	if err := c.walk(events, c.learn); err != nil {
		return err
	}
	c.countVisible()
	c.rewind()
	if err := c.walk(events, c.judge); err != nil {
		return err
	}
	c.conclude()
	return c.explain(events)
}

// checker holds what is known of a history. It walks through it once to learn what became of
// everything, and again to judge each event by that.
type checker struct {
	options Options
	report  *Report
	read    int64 // events, of all walks
	number  int64 // of the event in this walk, from 0

	parts map[record.TopicPartition]*partition
	order []*partition // as they appear: reports do not depend on maps
	lanes []*lane
	txns  map[txnID]*txn
	begun []*txn // in that order
	at    positions
	sums  map[replicaRange]Event

	groups map[groupKey]*groupOffset

	jobs     map[jobKey]*job
	jobOrder []*job // as they appear
}

type replicaRange struct {
	key       record.TopicPartition
	from, end record.Offset
}

func (c *checker) walk(events Source, f func(*Event) error) error {
	c.number = 0
	for e, err := range events {
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
		c.number++
		if c.read++; c.read%100_000 == 0 && c.options.Progress != nil {
			c.options.Progress(c.read)
		}
	}
	return nil
}

// wrong says that the history contradicts itself.
func (c *checker) wrong(e *Event, format string, args ...any) error {
	return fmt.Errorf("%w: event %d, %s of process %d: %s", ErrFormat, c.number+1, e.Kind, e.Process, fmt.Sprintf(format, args...))
}

// learn takes what the event says into the tables.
func (c *checker) learn(e *Event) error {
	switch e.Kind {
	case Send:
		return c.learnSend(e)
	case Written, NotWritten, Unknown:
		return c.learnOutcome(e)
	case Begin, Commit, Abort, Committed, Aborted, Undecided:
		return c.learnTxn(e)
	case Assign, Revoke:
		c.at.follow(e, nil)
	case Poll, Final:
		c.learnRead(e)
	case Checksum:
		c.learnChecksum(e)
	case Fault:
		c.report.Faults++
	}
	return nil
}

// rewind forgets how far the walk has come.
func (c *checker) rewind() {
	clear(c.at)
	for _, l := range c.lanes {
		l.last = -1
	}
}

func (c *checker) part(key record.TopicPartition) *partition {
	p := c.parts[key]
	if p == nil {
		p = &partition{key: key, lanes: make(map[Process]*lane), places: make(map[record.Offset]*placePage)}
		c.parts[key] = p
		c.order = append(c.order, p)
	}
	return p
}

func (c *checker) lane(key record.TopicPartition, process Process) *lane {
	p := c.part(key)
	l := p.lanes[process]
	if l == nil {
		l = &lane{part: p, process: process, id: uint32(len(c.lanes)), last: -1, pages: make(map[uint32]*lanePage), from: make(map[uint32]*[pageSize]record.Offset)}
		p.lanes[process] = l
		p.inOrder = append(p.inOrder, l)
		c.lanes = append(c.lanes, l)
	}
	return l
}

func (c *checker) learnSend(e *Event) error {
	l := c.lane(e.Key, e.Process)
	if int64(e.N) <= l.last {
		return c.wrong(e, "number %d of %v after number %d: they rise", e.N, e.Key, l.last)
	}
	l.last = int64(e.N)
	var t *txn
	if e.Txn != 0 {
		if t = c.txns[txnID{e.Process, e.Txn}]; t == nil {
			return c.wrong(e, "transaction %d has not begun", e.Txn)
		}
	}
	if n := len(l.txns); n == 0 && t != nil || n > 0 && l.txns[n-1].txn != t {
		l.txns = append(l.txns, txnRun{e.N, t})
	}
	c.learnSource(l, e)
	_, flags := l.at(e.N)
	*flags |= wasSent
	c.report.Sent++
	return nil
}

func (c *checker) learnOutcome(e *Event) error {
	l := c.lane(e.Key, e.Process)
	known := l.flags(e.N)
	if known&wasSent == 0 {
		return c.wrong(e, "value %v of %v has not been sent", e.Value(), e.Key)
	}
	if known&(wasWritten|wasNotWritten) != 0 {
		return c.wrong(e, "value %v of %v has an outcome already", e.Value(), e.Key)
	}
	offset, flags := l.at(e.N)
	switch e.Kind {
	case Written:
		c.report.Written++
		if e.Duplicate {
			c.report.FoundByRetry++
		}
		*flags |= wasWritten
		if known&seen == 0 {
			*offset = e.Offset
		}
	case NotWritten:
		c.report.NotWritten++
		*flags |= wasNotWritten
	case Unknown: // as if nothing had been said
	}
	return nil
}

func (c *checker) learnTxn(e *Event) error {
	id := txnID{e.Process, e.Txn}
	t := c.txns[id]
	switch {
	case e.Kind == Begin && t == nil:
		t = &txn{id: id, end: Begin}
		c.txns[id] = t
		c.begun = append(c.begun, t)
		return nil
	case t == nil:
		return c.wrong(e, "transaction %d has not begun", e.Txn)
	case e.Kind == Begin || t.end == Committed || t.end == Aborted || t.end == Undecided:
		return c.wrong(e, "transaction %d has begun, or ended, already", e.Txn)
	case e.Kind == Committed && t.end != Commit:
		return c.wrong(e, "transaction %d is committed without a commit", e.Txn)
	}
	t.end = e.Kind
	return nil
}

// learnRead places what was read, and notes where readers have passed.
func (c *checker) learnRead(e *Event) {
	p := c.part(e.Key)
	covered, by, which := &p.committed, seenCommitted, 0
	if e.Uncommitted {
		covered, by, which = &p.uncommitted, seenUncommitted, 1
	}
	if e.Kind == Final {
		p.finals[which] = final{true, e.From, e.End, e.High}
		covered.add(e.From, e.End)
	}
	c.at.follow(e, func(s step) {
		from, to := s.from, s.to
		if s.run != nil {
			c.learnRun(p, s.run, by)
			to = s.run.end()
		}
		if from < 0 {
			from = s.to
		}
		covered.add(from, to)
	})
}

func (c *checker) learnRun(p *partition, run *Record, by uint8) {
	if run.Bad != "" {
		if x := p.place(run.Offset); x.lane&disputed == 0 { // once for each place
			x.lane |= disputed
			c.found(finding{
				kind: Phantom, part: p, events: []int64{c.number},
				what: fmt.Sprintf("offset %d holds what nobody sent: %s", run.Offset, run.Bad),
				say:  fmt.Sprintf("a reader gets offset %d: %s", run.Offset, run.Bad),
			})
		}
		return
	}
	l := c.lane(p.key, run.Value.Process)
	for i := range run.Count {
		c.learnPlace(l, run.Value.N+i, run.Offset+record.Offset(i), by)
	}
}

func (c *checker) learnPlace(l *lane, n uint32, at record.Offset, by uint8) {
	p := l.part
	x := p.place(at)
	first := x.lane == 0
	if first {
		*x = place{l.id + 1, n}
		c.report.Stored++
	} else if (x.lane&^disputed != l.id+1 || x.n != n) && x.lane&disputed == 0 {
		x.lane |= disputed
		other := c.lanes[x.lane&^disputed-1]
		c.found(finding{
			kind: Inconsistent, part: p, reads: []sight{{other.value(x.n), at}, {l.value(n), at}},
			what: fmt.Sprintf("offset %d was read as %v and as %v", at, other.value(x.n), l.value(n)),
		})
	}
	offset, flags := l.at(n)
	known := *flags
	*flags |= by
	switch {
	case known&seen == 0:
		*offset = at
	case *offset != at && first:
		c.found(finding{
			kind: Duplicate, part: p, values: []Value{l.value(n)}, reads: []sight{{l.value(n), *offset}, {l.value(n), at}},
			what: fmt.Sprintf("%v is stored at offset %d and at offset %d", l.value(n), *offset, at),
		})
	}
}

func (c *checker) learnChecksum(e *Event) {
	at := replicaRange{e.Key, e.From, e.End}
	first, ok := c.sums[at]
	if !ok {
		c.sums[at] = *e
		return
	}
	if first.CRC != e.CRC {
		c.found(finding{
			kind: ReplicasDiffer, part: c.part(e.Key), events: []int64{c.number}, sums: true, offsets: []record.Offset{e.From, e.End},
			what: fmt.Sprintf("brokers %d and %d hold different records below offset %d", first.Broker, e.Broker, e.End),
		})
	}
}

// countVisible counts for each transaction what readers of committed data have seen of it.
func (c *checker) countVisible() {
	for _, l := range c.lanes {
		if len(l.txns) == 0 {
			continue
		}
		l.each(func(n uint32, _ record.Offset, flags uint8) {
			if t := l.txn(n); t != nil && flags&seenCommitted != 0 {
				t.visible++
				t.seen = sent{l, n}
			}
		})
	}
}
