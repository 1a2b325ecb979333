package producer

import "github.com/oncelog/oncelog/record"

// slot is a producer's place in the table's pages. It is local: two replicas may differ in it.
type slot int32

const noSlot slot = -1

// link ties a producer into one of the two lists.
type link struct{ prev, next slot }

// list is a doubly linked list through the table's links.
type list struct {
	head, tail slot
	n          int
}

// table holds the producers in two lists, in which every one of them is exactly once:
//   - idle: no transaction open, by touched, so that the head is the one longest idle;
//   - open: a transaction open, by openFrom, so that the head bounds the last stable offset.
//
// Both orders are those of the log, hence alike on all replicas. Every operation is O(1).
type table struct {
	// index finds a producer. It is nil in a fresh clone, until the first look-up builds it.
	index      map[record.ProducerID]slot
	entries    paged[entry]
	links      paged[link]
	idle, open list
	// free is the head of the chain, through next, of the slots that hold no producer.
	free slot
}

func newTable() table {
	empty := list{head: noSlot, tail: noSlot}
	return table{index: make(map[record.ProducerID]slot), idle: empty, open: empty, free: noSlot}
}

// len is how many producers there are.
func (t *table) len() int { return t.idle.n + t.open.n }

// find gives the producer's slot, noSlot if it is not known.
func (t *table) find(id record.ProducerID) slot {
	if t.index == nil {
		t.buildIndex()
	}
	if at, ok := t.index[id]; ok {
		return at
	}
	return noSlot
}

func (t *table) buildIndex() {
	t.index = make(map[record.ProducerID]slot, t.len())
	for _, l := range []list{t.idle, t.open} {
		for at := l.head; at != noSlot; at = t.links.at(at).next {
			t.index[t.entries.at(at).id] = at
		}
	}
}

// peek gives the producer at a slot for reading, the unknown one for noSlot.
func (t *table) peek(at slot) *entry {
	if at == noSlot {
		return &unknown
	}
	return t.entries.at(at)
}

// insert adds e, which is not known yet, at the end of the list it belongs to.
func (t *table) insert(e entry) slot {
	if t.index == nil {
		t.buildIndex()
	}
	at := t.free
	if at == noSlot {
		at = t.entries.grow()
		t.links.grow()
	} else {
		t.free = t.links.at(at).next
	}
	*t.entries.edit(at) = e
	t.index[e.id] = at
	t.push(t.listOf(&e), at)
	return at
}

// remove forgets the producer at a slot.
func (t *table) remove(at slot) {
	e := t.entries.edit(at)
	delete(t.index, e.id)
	t.unlink(t.listOf(e), at)
	*e = entry{}
	t.links.edit(at).next = t.free
	t.free = at
}

func (t *table) listOf(e *entry) *list {
	if e.isOpen() {
		return &t.open
	}
	return &t.idle
}

// settle puts a producer that was just touched where it belongs: at the end of the idle list, or in the
// open list, at whose end it came when its transaction began.
func (t *table) settle(at slot, wasOpen bool) {
	isOpen := t.entries.at(at).isOpen()
	if wasOpen && isOpen || !isOpen && t.idle.tail == at {
		return
	}
	from, to := &t.idle, &t.idle
	if wasOpen {
		from = &t.open
	}
	if isOpen {
		to = &t.open
	}
	t.unlink(from, at)
	t.push(to, at)
}

func (t *table) push(l *list, at slot) {
	*t.links.edit(at) = link{prev: l.tail, next: noSlot}
	if l.tail == noSlot {
		l.head = at
	} else {
		t.links.edit(l.tail).next = at
	}
	l.tail = at
	l.n++
}

func (t *table) unlink(l *list, at slot) {
	k := *t.links.at(at)
	if k.prev == noSlot {
		l.head = k.next
	} else {
		t.links.edit(k.prev).next = k.next
	}
	if k.next == noSlot {
		l.tail = k.prev
	} else {
		t.links.edit(k.next).prev = k.prev
	}
	l.n--
}

// clone makes a second table of the same producers without copying them.
func (t *table) clone() table {
	return table{entries: t.entries.clone(), links: t.links.clone(), idle: t.idle, open: t.open, free: t.free}
}
