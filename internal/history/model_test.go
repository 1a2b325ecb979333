package history

import (
	"math/rand/v2"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// model is a log that is right by construction, with clients that record what it does to them. It shares
// nothing with the checker: a log is a list of entries, and readers walk through it one by one.
type model struct {
	*rand.Rand
	r     *Recorder
	parts []*modelPart
	sends []*modelProducer
	reads []*modelReader
	group *modelGroup
	job   modelJob
}

type modelPart struct {
	key     record.TopicPartition
	entries []modelEntry
}

type modelEntry struct {
	value  Value
	txn    *modelTxn // nil: plain
	marker bool
}

type modelTxn struct {
	parts   map[*modelPart]bool // true: its marker is there
	commit  bool                // how it ends
	decided bool
	offset  record.Offset // of the group that it carries; -1: none
}

type modelProducer struct {
	p       *Producer
	txnal   bool
	open    *modelTxn
	pending map[*modelPart][]Sent // on their way, in order
}

type modelReader struct {
	c           *Consumer
	uncommitted bool
	at          map[*modelPart]record.Offset // -1: not assigned
}

// modelGroup has one member at a time, so its offset only rises.
type modelGroup struct {
	c       *Consumer
	at      record.Offset
	pending *modelTxn // carries the next one; nobody else commits meanwhile
}

// modelJob copies what it sees in the first partition to another one, in transactions that carry its offset.
type modelJob struct {
	out     *modelPart
	at      record.Offset
	next    record.Offset // with pending
	pending *modelTxn
}

const groupName, jobName = "g", "job"

func newModel(seed uint64) *model {
	m := &model{Rand: rand.New(rand.NewPCG(seed, 0)), r: NewRecorder()}
	for i := range int32(1 + m.IntN(3)) {
		m.parts = append(m.parts, &modelPart{key: record.TopicPartition{Topic: "t", Partition: i}})
	}
	m.job.out = &modelPart{key: record.TopicPartition{Topic: "out"}}
	m.parts = append(m.parts, m.job.out)
	for i := range 1 + m.IntN(3) {
		m.sends = append(m.sends, &modelProducer{p: m.r.NewProducer(), txnal: i > 0, pending: make(map[*modelPart][]Sent)})
	}
	for range 2 + m.IntN(2) {
		m.addReader(m.IntN(2) == 0)
	}
	m.group = &modelGroup{c: m.r.NewConsumer(false), at: record.NoOffset}
	return m
}

func (m *model) addReader(uncommitted bool) *modelReader {
	x := &modelReader{c: m.r.NewConsumer(uncommitted), uncommitted: uncommitted, at: make(map[*modelPart]record.Offset)}
	for _, p := range m.parts {
		x.at[p] = record.NoOffset
	}
	m.reads = append(m.reads, x)
	return x
}

func (m *model) part() *modelPart { return m.parts[m.IntN(len(m.parts))] }

// soundHistory makes a random history that keeps every promise.
func randomHistory(seed uint64) []Event {
	m := newModel(seed)
	for range 40 + m.IntN(160) {
		m.step()
	}
	for _, p := range m.sends {
		m.settle(p)
		if p.open != nil {
			m.decide(p, m.IntN(2) == 0)
		}
	}
	m.markers(true)
	m.readAll()
	return m.r.events
}

func (m *model) step() {
	p := m.sends[m.IntN(len(m.sends))]
	switch m.IntN(10) {
	case 0, 1, 2, 3:
		m.send(p)
	case 4:
		m.settle(p)
	case 5:
		if p.open != nil {
			m.settle(p)
			m.decide(p, m.IntN(3) > 0)
		}
	case 6:
		m.markers(false)
		if p.open != nil && m.job.pending == nil {
			m.copy(p)
		}
	case 7:
		m.offset(p)
	default:
		m.read(m.reads[m.IntN(len(m.reads))])
	}
}

func (m *model) send(p *modelProducer) {
	part := m.part()
	if p.txnal && p.open == nil {
		if m.unfinished(p) {
			return
		}
		p.open = &modelTxn{parts: make(map[*modelPart]bool), offset: record.NoOffset}
		p.p.Begin()
	}
	p.pending[part] = append(p.pending[part], p.p.Send(part.key))
	if len(p.pending[part]) == 5 {
		m.settle(p)
	}
}

// unfinished says whether markers of the producer's last transaction are still to be written: until then
// it begins no other (T24).
func (m *model) unfinished(p *modelProducer) bool {
	for _, part := range m.parts {
		for _, e := range part.entries {
			if e.txn != nil && e.value.Process == p.p.ID() && !e.txn.parts[part] {
				return true
			}
		}
	}
	return false
}

// settle writes what is on its way, or loses it, and tells the producer or does not.
func (m *model) settle(p *modelProducer) {
	for _, part := range m.parts {
		for _, s := range p.pending[part] {
			written := m.IntN(8) > 0
			if written {
				part.entries = append(part.entries, modelEntry{value: s.Value, txn: p.open})
				if p.open != nil {
					p.open.parts[part] = false
				}
			}
			at := record.Offset(len(part.entries) - 1)
			switch n := m.IntN(10); {
			case n == 0:
				s.Unknown("time out")
			case n == 1: // the program died
			case !written:
				s.NotWritten("refused")
			case n == 2:
				s.Written(record.NoOffset, true)
			default:
				s.Written(at, n == 3)
			}
		}
		p.pending[part] = nil
	}
}

// decide ends the open transaction and tells the producer or does not.
func (m *model) decide(p *modelProducer, commit bool) {
	t := p.open
	p.open = nil
	t.decided = true
	if m.IntN(10) == 0 { // it died before it asked; the coordinator aborts
		p.p.Undecided("died")
		m.release(t)
		return
	}
	if t.commit = commit; commit {
		p.p.Commit()
		t.commit = m.IntN(10) > 0
	} else {
		p.p.Abort()
	}
	if m.IntN(2) == 0 {
		m.markers(false)
	}
	switch {
	case m.IntN(5) == 0:
		p.p.Undecided("time out")
	case t.commit:
		p.p.Committed()
	default:
		p.p.Aborted("")
	}
	m.release(t)
}

// copy makes results of the next records, in the open transaction.
func (m *model) copy(p *modelProducer) {
	j, in := &m.job, m.parts[0]
	reader := &modelReader{}
	j.next = min(reader.limit(in), j.at+1+record.Offset(m.IntN(5)))
	if j.next <= j.at {
		return
	}
	m.settle(p)
	for at := j.at; at < j.next; at++ {
		if !reader.shows(in.entries[at]) {
			continue
		}
		s := p.p.SendResult(j.out.key, jobName, in.key, at)
		j.out.entries = append(j.out.entries, modelEntry{value: s.Value, txn: p.open})
		p.open.parts[j.out] = false
		s.Written(record.Offset(len(j.out.entries)-1), false)
	}
	j.pending = p.open
	p.p.SendOffset(jobName, in.key, j.next)
}

// release gives the group and the job their offset, or not, and their next turn.
func (m *model) release(t *modelTxn) {
	if m.job.pending == t {
		if t.commit {
			m.job.at = m.job.next
		}
		m.job.pending = nil
	}
	if m.group.pending == t {
		if t.commit {
			m.group.at = max(m.group.at, t.offset)
		}
		m.group.pending = nil
	}
}

// markers ends decided transactions in some of their partitions, or in all.
func (m *model) markers(all bool) {
	for _, part := range m.parts {
		for _, e := range part.entries {
			if e.txn != nil && e.txn.decided && !e.txn.parts[part] && (all || m.IntN(2) == 0) {
				e.txn.parts[part] = true
				part.entries = append(part.entries, modelEntry{txn: e.txn, marker: true})
			}
		}
	}
}

// offset commits or asks for the group's offset. Its transactions and its plain commits never overlap.
func (m *model) offset(p *modelProducer) {
	g, key := m.group, m.parts[0].key
	next := max(g.at, 0) + record.Offset(m.IntN(3))
	switch {
	case m.IntN(2) == 0:
		g.c.AskOffset(groupName, key)
		g.c.OffsetTold(groupName, key, g.at)
	case g.pending != nil:
	case p.open != nil:
		g.pending = p.open
		p.open.offset = next
		p.p.SendOffset(groupName, key, next)
	default:
		g.c.CommitOffset(groupName, key, next, false)
		if m.IntN(4) == 0 {
			g.c.OffsetRefused(groupName, key, next, "not the coordinator")
			return
		}
		g.at = next
		if m.IntN(4) > 0 {
			g.c.OffsetCommitted(groupName, key, next)
		}
	}
}

// limit is how far a reader gets, entry by entry.
func (x *modelReader) limit(part *modelPart) record.Offset {
	for i, e := range part.entries {
		if !x.uncommitted && e.txn != nil && !e.txn.parts[part] {
			return record.Offset(i)
		}
	}
	return record.Offset(len(part.entries))
}

func (x *modelReader) shows(e modelEntry) bool {
	return !e.marker && (x.uncommitted || e.txn == nil || e.txn.commit)
}

// read moves a reader on in one partition, or puts it somewhere else.
func (m *model) read(x *modelReader) {
	part := m.part()
	limit := x.limit(part)
	switch n := m.IntN(12); {
	case n == 0 && x.at[part] >= 0:
		x.c.Revoke(part.key)
		x.at[part] = record.NoOffset
		return
	case n == 1 || x.at[part] < 0:
		x.at[part] = record.Offset(m.IntN(int(limit) + 1))
		x.c.Assign(part.key, x.at[part])
	}
	m.poll(x, part, min(limit, x.at[part]+record.Offset(m.IntN(12))))
}

func (m *model) poll(x *modelReader, part *modelPart, end record.Offset) {
	var got []Got
	for at := x.at[part]; at < end; at++ {
		if e := part.entries[at]; x.shows(e) {
			got = append(got, Got{at, AppendPayload(nil, part.key, e.value, 0)})
		}
	}
	next := end
	if len(got) > 0 && m.IntN(2) == 0 {
		next = got[len(got)-1].Offset + 1 // a client that does not say how far it was moved
	}
	if end > x.at[part] {
		x.c.Poll(part.key, got, next)
		x.at[part] = next
	}
}

// readAll reads everything with a reader of each kind, in pieces, and compares the replicas.
func (m *model) readAll() {
	for _, x := range []*modelReader{m.addReader(true), m.addReader(false)} {
		for _, part := range m.parts {
			end := record.Offset(len(part.entries))
			x.c.Assign(part.key, 0)
			x.at[part] = 0
			for x.at[part] < end {
				before := x.at[part]
				m.poll(x, part, min(end, before+1+record.Offset(m.IntN(20))))
			}
			x.c.Final(part.key, 0, end, end)
		}
	}
	for broker := range int32(3) {
		for _, part := range m.parts {
			m.r.Checksum(broker, part.key, 0, record.Offset(len(part.entries)), uint32(part.key.Partition))
		}
	}
}

// clone copies events so that they can be changed.
func clone(events []Event) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Records = slices.Clone(events[i].Records)
	}
	return events
}
