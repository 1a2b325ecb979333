package history

import (
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// A job reads a partition for a group, makes one record of each, and commits how far it has come: the copy
// that tests of exactly-once processing run. What is left of it in the end is judged here: one visible
// record for each one that the group says it has processed, in their order.

// jobKey names what a group makes of one partition in one topic.
type jobKey struct {
	from groupKey
	into string
}

// job is what is known of it.
type job struct {
	key  jobKey
	part *partition // that is read
	made map[record.Offset]*placePage
}

// source says from which records the numbers of a lane from first on were made, up to the next one; nil:
// from none.
type source struct {
	first uint32
	job   *job
}

// learnSource notes from which record a value is made.
func (c *checker) learnSource(l *lane, e *Event) {
	if e.Source.Topic == "" {
		if n := len(l.sources); n > 0 && l.sources[n-1].job != nil {
			l.sources = append(l.sources, source{e.N, nil})
		}
		return
	}
	key := jobKey{groupKey{e.Group, e.Source}, e.Key.Topic}
	j := c.jobs[key]
	if j == nil {
		j = &job{key: key, part: c.part(e.Source), made: make(map[record.Offset]*placePage)}
		c.jobs[key] = j
		c.jobOrder = append(c.jobOrder, j)
	}
	if n := len(l.sources); n == 0 || l.sources[n-1].job != j {
		l.sources = append(l.sources, source{e.N, j})
	}
	p := l.from[e.N/pageSize]
	if p == nil {
		p = new([pageSize]record.Offset)
		l.from[e.N/pageSize] = p
	}
	p[e.N%pageSize] = e.SourceOffset
}

// source is what a value was made from; nil: nothing.
func (l *lane) source(n uint32) (*job, record.Offset) {
	s := runOf(l.sources, n, func(s source) uint32 { return s.first })
	if s == nil || s.job == nil || l.flags(n)&wasSent == 0 {
		return nil, record.NoOffset
	}
	return s.job, l.from[n/pageSize][n%pageSize]
}

// concludeJobs judges the jobs: what they made first, then what they did not.
func (c *checker) concludeJobs() {
	if len(c.jobs) == 0 {
		return
	}
	for _, p := range c.order {
		c.concludeMade(p)
	}
	for _, j := range c.jobOrder {
		if g := c.groups[j.key.from]; g != nil && g.known > 0 && c.readToEnd(j.key.into) {
			c.concludeUnmade(j, g.known)
		}
	}
}

// readToEnd says whether somebody has read all committed data of a topic.
func (c *checker) readToEnd(topic string) bool {
	for _, p := range c.order {
		if p.key.Topic == topic && !p.finals[0].there {
			return false
		}
	}
	return true
}

// visible says whether a value that has been read is there for readers of committed data.
func (l *lane) visible(n uint32) bool {
	flags := l.flags(n)
	return flags&seenCommitted != 0 || flags&seenUncommitted != 0 && l.txn(n) == nil
}

// concludeMade looks at what lies in a partition for records that were made twice, or out of order.
func (c *checker) concludeMade(p *partition) {
	type last struct{ from, at record.Offset }
	latest := make(map[*job]last)
	p.eachPlace(0, maxOffset, func(at record.Offset, x place) bool {
		l := c.lanes[x.lane&^disputed-1]
		j, from := l.source(x.n)
		if j == nil || !l.visible(x.n) {
			return false
		}
		v := l.value(x.n)
		made := placeIn(j.made, from)
		if *made == (place{l.id + 1, x.n}) {
			return false // the same value again: a duplicate
		}
		if made.lane != 0 {
			other := c.lanes[made.lane-1]
			offset, _ := other.at(made.n)
			c.found(finding{
				kind: MadeTwice, part: p, values: []Value{v}, reads: []sight{{v, at}},
				also: &also{other.part, sight{other.value(made.n), *offset}, true},
				what: fmt.Sprintf("of offset %d of %v, group %q made %v in %v and %v in %v", from, j.part.key, j.key.from.group, other.value(made.n), other.part.key, v, p.key),
			})
			return false
		}
		*made = place{l.id + 1, x.n}
		before, ok := latest[j]
		if ok && from < before.from {
			c.found(finding{
				kind: MadeOutOfOrder, part: p, values: []Value{v}, reads: []sight{{v, at}},
				what: fmt.Sprintf("%v was made of offset %d of %v and lies behind what was made of offset %d", v, from, j.part.key, before.from),
			})
			return false
		}
		latest[j] = last{from, at}
		return false
	})
}

// concludeUnmade looks for records that the group has processed, as its offset says, and of which nothing
// was made.
func (c *checker) concludeUnmade(j *job, known record.Offset) {
	j.part.eachPlace(0, known, func(at record.Offset, x place) bool {
		l := c.lanes[x.lane&^disputed-1]
		if placeIn(j.made, at).lane != 0 || !l.visible(x.n) {
			return false
		}
		v := l.value(x.n)
		c.found(finding{
			kind: NotMade, part: j.part, values: []Value{v}, reads: []sight{{v, at}}, group: &j.key.from, offsets: []record.Offset{known},
			what: fmt.Sprintf("group %q has committed offset %d, and nothing in %s was made of %v at offset %d", j.key.from.group, known, j.key.into, v, at),
		})
		return false
	})
}
