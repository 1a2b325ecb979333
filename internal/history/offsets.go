package history

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// groupKey names a committed offset.
type groupKey struct {
	group string
	key   record.TopicPartition
}

// groupOffset is what is known of a committed offset as the history goes on.
type groupOffset struct {
	name groupKey
	// known is the highest that certainly is committed.
	known record.Offset
	// proposed are who may have committed what; entries that no answer can name any more are dropped.
	proposed map[record.Offset]*proposal
	asked    map[Process]record.Offset // known when the process asked
	pending  map[attempt]pending       // commits outside of transactions that are on their way
	resets   int                       // of these
}

// proposal is all who were to commit an offset.
type proposal struct {
	plain int // outside of transactions, and not refused
	txns  []*txn
}

// attempt is a commit outside of transactions.
type attempt struct {
	process Process
	offset  record.Offset
}

// pending is an attempt without an outcome. floor is what was known when it began.
type pending struct {
	floor record.Offset
	reset bool
}

// carried is an offset in a transaction. floor is what was known when its commit was asked for.
type carried struct {
	group         *groupOffset
	offset, floor record.Offset
}

const maxProposed = 4096

func (c *checker) group(e *Event) *groupOffset {
	at := groupKey{e.Group, e.Key}
	g := c.groups[at]
	if g == nil {
		g = &groupOffset{
			name: at, known: record.NoOffset, proposed: make(map[record.Offset]*proposal),
			asked: make(map[Process]record.Offset), pending: make(map[attempt]pending),
		}
		c.groups[at] = g
	}
	return g
}

func (c *checker) judgeOffset(e *Event) error {
	g := c.group(e)
	switch e.Kind {
	case OffsetCommit:
		return c.judgeProposal(g, e)
	case OffsetCommitted, OffsetRefused:
		p, ok := g.finish(attempt{e.Process, e.Offset})
		if !ok {
			return c.wrong(e, "no commit of offset %d is on its way", e.Offset)
		}
		if e.Kind == OffsetRefused {
			if x := g.proposed[e.Offset]; x != nil { // else forgotten
				x.plain--
			}
			return nil
		}
		if e.Offset < p.floor {
			c.offsetBack(g, nil, p.floor, fmt.Sprintf("offset %d was committed when %d already was", e.Offset, p.floor))
		}
		g.learn(e.Offset)
	case OffsetAsked:
		g.asked[e.Process] = g.known
	case OffsetTold:
		floor, ok := g.asked[e.Process]
		if !ok {
			return c.wrong(e, "nobody asked for the offset of group %q", e.Group)
		}
		delete(g.asked, e.Process)
		c.judgeTold(g, e, floor)
	}
	return nil
}

func (c *checker) judgeProposal(g *groupOffset, e *Event) error {
	c.report.OffsetCommits++
	x := g.proposed[e.Offset]
	if x == nil {
		g.forget()
		x = &proposal{}
		g.proposed[e.Offset] = x
	}
	if e.Txn != 0 {
		t := c.txns[txnID{e.Process, e.Txn}]
		if t == nil {
			return c.wrong(e, "transaction %d has not begun", e.Txn)
		}
		x.txns = append(x.txns, t)
		t.offsets = append(t.offsets, carried{g, e.Offset, record.NoOffset})
		return nil
	}
	g.finish(attempt{e.Process, e.Offset}) // one that never had an outcome stays possible
	x.plain++
	g.pending[attempt{e.Process, e.Offset}] = pending{g.known, e.Reset}
	if e.Reset {
		g.resets++
		g.lower(e.Offset)
	}
	return nil
}

// finish takes an attempt off those that are on their way.
func (g *groupOffset) finish(a attempt) (pending, bool) {
	p, ok := g.pending[a]
	delete(g.pending, a)
	if p.reset {
		g.resets--
	}
	return p, ok
}

// lower lets the offset go back: from now on it may be there.
func (g *groupOffset) lower(to record.Offset) {
	g.known = min(g.known, to)
	for p, floor := range g.asked {
		g.asked[p] = min(floor, to)
	}
	for a, x := range g.pending {
		x.floor = min(x.floor, to)
		g.pending[a] = x
	}
}

// learn raises what is known. While a reset is on its way nobody knows what comes last.
func (g *groupOffset) learn(offset record.Offset) {
	if g.resets == 0 {
		g.known = max(g.known, offset)
	}
}

// forget drops proposals below everything that an answer may still name.
func (g *groupOffset) forget() {
	if len(g.proposed) < maxProposed {
		return
	}
	floor := g.known
	for _, asked := range g.asked {
		floor = min(floor, asked)
	}
	for offset := range g.proposed {
		if offset < floor {
			delete(g.proposed, offset)
		}
	}
}

func (c *checker) judgeTold(g *groupOffset, e *Event, floor record.Offset) {
	if e.Offset < floor {
		c.offsetBack(g, nil, floor, fmt.Sprintf("process %d was told offset %d when %d was committed before it asked", e.Process, e.Offset, floor))
		return
	}
	x := g.proposed[e.Offset]
	if e.Offset < 0 || x != nil && x.possible() {
		return
	}
	f := finding{
		kind: OffsetPhantom, part: c.part(e.Key), group: &g.name, offsets: []record.Offset{e.Offset}, events: []int64{c.number},
		what: fmt.Sprintf("process %d was told that group %q is at offset %d, which nobody committed", e.Process, g.name.group, e.Offset),
	}
	if x != nil && len(x.txns) > 0 {
		f.txn = x.txns[0]
		f.what = fmt.Sprintf("process %d was told that group %q is at offset %d, of a transaction that was aborted or not to be committed yet", e.Process, g.name.group, e.Offset)
	}
	c.found(f)
}

// possible says whether somebody may have committed it.
func (x *proposal) possible() bool {
	for _, t := range x.txns {
		if t.asked && t.end != Aborted {
			return true
		}
	}
	return x.plain > 0
}

// raiseFloors notes what is committed at the moment at which the transaction's commit is asked for.
func (t *txn) raiseFloors() {
	for i := range t.offsets {
		t.offsets[i].floor = t.offsets[i].group.known
	}
}

// judgeCarried judges the offsets of a transaction that is committed.
func (c *checker) judgeCarried(t *txn) {
	for _, x := range t.offsets {
		if x.offset < x.floor {
			c.offsetBack(x.group, t, x.floor, fmt.Sprintf("transaction %d of process %d committed offset %d when %d already was", t.id.n, t.id.process, x.offset, x.floor))
		}
		x.group.learn(x.offset)
	}
	t.offsets = nil
}

func (c *checker) offsetBack(g *groupOffset, t *txn, floor record.Offset, what string) {
	c.found(finding{
		kind: OffsetBack, part: c.part(g.name.key), group: &g.name, txn: t, events: []int64{c.number},
		offsets: []record.Offset{floor}, what: fmt.Sprintf("group %q: %s", g.name.group, what),
	})
}
