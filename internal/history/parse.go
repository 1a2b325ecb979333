package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Histories are long and are read two or three times, so lines are parsed by hand: an object of whole
// numbers, strings, booleans and lists of them, which is all that the format knows. A fuzz test holds it
// against encoding/json.

// parser reads lines.
type parser struct {
	text []byte
	at   int
	has  fields   // of this line
	bad  []string // likewise
	// The last strings of these fields: most lines have the same again.
	topic, group, source string
}

// names are those of the fields; what a field holds is decided in parser.field.
var names = []struct {
	bit  fields
	name string
}{
	{hasEvent, "event"}, {hasTime, "t"}, {hasProcess, "process"}, {hasGroup, "group"}, {hasTopic, "topic"}, {hasPartition, "partition"},
	{hasSource, "source_topic"}, {hasSourcePartition, "source_partition"}, {hasSourceOffset, "source_offset"},
	{hasTxn, "txn"}, {hasN, "n"}, {hasOffset, "offset"}, {hasFrom, "from"}, {hasRecords, "records"}, {hasBad, "bad"}, {hasEnd, "end"},
	{hasHigh, "high"}, {hasIsolation, "isolation"}, {hasDuplicate, "duplicate"}, {hasReset, "reset"}, {hasBroker, "broker"},
	{hasCRC, "crc32c"}, {hasText, "text"},
}

// event reads one line into e, whose Records are used again.
func (p *parser) event(text []byte, e *Event) error {
	*e = Event{Records: e.Records[:0]}
	p.text, p.at, p.has, p.bad = text, 0, 0, nil
	err := p.list('{', '}', func() error {
		name, err := p.quoted()
		if err != nil {
			return err
		}
		if err := p.want(':'); err != nil {
			return err
		}
		bit := fields(0)
		for i := range names {
			if string(name) == names[i].name {
				bit = names[i].bit
			}
		}
		if bit == 0 {
			return fmt.Errorf("unknown field %.40q", name)
		}
		if p.has&bit != 0 {
			return fmt.Errorf("%s stands twice", name)
		}
		p.has |= bit
		if err := p.field(bit, e); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if p.space(); p.at < len(p.text) {
		return fmt.Errorf("%.20q after the event", p.text[p.at:])
	}
	if some := p.has & (hasOrigin | hasGroup); e.Kind == Send && some != 0 && some != hasOrigin|hasGroup {
		return errors.New("send with a part of group, source_topic, source_partition and source_offset: want all or none")
	}
	if e.Kind == Send && p.has&hasOrigin != 0 && (e.Source.Topic == "" || e.SourceOffset < 0) {
		return errors.New("send with an empty source_topic, or a source_offset below 0")
	}
	return errors.Join(p.fits(e.Kind), e.bounds(), p.takeBad(e))
}

// field reads what stands behind a name.
func (p *parser) field(bit fields, e *Event) (err error) {
	var n int64
	switch bit {
	case hasEvent:
		var name []byte
		name, err = p.quoted()
		if e.Kind = kindOf[string(name)]; err == nil && e.Kind == 0 {
			err = fmt.Errorf("there is no %.40q", name)
		}
	case hasTime:
		n, err = p.number(math.MinInt64, math.MaxInt64)
		e.At = time.Duration(n)
	case hasProcess:
		n, err = p.number(0, math.MaxUint32)
		e.Process = Process(n)
	case hasGroup:
		p.group, err = p.string(p.group)
		e.Group = p.group
	case hasTopic:
		p.topic, err = p.string(p.topic)
		e.Key.Topic = p.topic
	case hasPartition:
		n, err = p.number(0, math.MaxInt32)
		e.Key.Partition = int32(n)
	case hasSource:
		p.source, err = p.string(p.source)
		e.Source.Topic = p.source
	case hasSourcePartition:
		n, err = p.number(0, math.MaxInt32)
		e.Source.Partition = int32(n)
	case hasSourceOffset:
		e.SourceOffset, err = p.offset()
	case hasTxn:
		n, err = p.number(1, math.MaxInt64)
		e.Txn = uint64(n)
	case hasN:
		n, err = p.number(0, math.MaxUint32)
		e.N = uint32(n)
	case hasOffset:
		e.Offset, err = p.offset()
	case hasFrom:
		e.From, err = p.offset()
	case hasEnd:
		e.End, err = p.offset()
	case hasHigh:
		e.High, err = p.offset()
	case hasRecords:
		err = p.list('[', ']', func() error { return p.run(e) })
	case hasBad:
		err = p.list('[', ']', func() error {
			why, err := p.string("")
			p.bad = append(p.bad, why)
			return err
		})
	case hasIsolation:
		e.Uncommitted, err = p.isolation()
	case hasDuplicate:
		e.Duplicate, err = p.bool()
	case hasReset:
		e.Reset, err = p.bool()
	case hasBroker:
		n, err = p.number(0, math.MaxInt32)
		e.Broker = int32(n)
	case hasCRC:
		n, err = p.number(0, math.MaxUint32)
		e.CRC = uint32(n)
	case hasText:
		e.Text, err = p.string("")
	}
	return err
}

// run reads [offset, process, n], [offset, process, n, count] or [offset].
func (p *parser) run(e *Event) error {
	var r [4]int64
	n := 0
	err := p.list('[', ']', func() (err error) {
		if n == len(r) {
			return errors.New("a record of more than 4 numbers")
		}
		r[n], err = p.number(0, maxOffset)
		n++
		return err
	})
	run := Record{Offset: record.Offset(r[0]), Value: Value{Process(r[1]), uint32(r[2])}, Count: 1}
	if n == 4 {
		run.Count = uint32(r[3])
	}
	switch {
	case err != nil:
		return err
	case n != 1 && n != 3 && n != 4, n == 4 && (r[3] < 1 || r[3] > maxRun):
		return fmt.Errorf("record %d: want offset, process, n, and perhaps a count from 1 to %d; or an offset, with a reason in bad", r[:n], maxRun)
	case r[1] > math.MaxUint32 || r[2]+int64(run.Count)-1 > math.MaxUint32:
		return fmt.Errorf("record %d: process and n have 32 bits", r[:n])
	case n == 1:
		run.Bad = "?" // takeBad knows better
	}
	e.Records = append(e.Records, run)
	return nil
}

// takeBad gives the reasons in bad to the records without a value.
func (p *parser) takeBad(e *Event) error {
	n := 0
	for i := range e.Records {
		if r := &e.Records[i]; r.Bad != "" {
			if n == len(p.bad) || p.bad[n] == "" {
				return fmt.Errorf("the record at offset %d has neither a value nor a reason in bad", r.Offset)
			}
			r.Bad = p.bad[n]
			n++
		}
	}
	if n < len(p.bad) {
		return errors.New("more reasons in bad than records without a value")
	}
	return nil
}

// fits says whether the line holds what its kind needs, and nothing that it does not know.
func (p *parser) fits(k Kind) error {
	if p.has&hasEvent == 0 {
		return errors.New("no event")
	}
	s := shapes[k]
	s.needed |= hasEvent | hasTime
	missing, strange := s.needed&^p.has, p.has&^(s.needed|s.optional)
	for _, f := range names {
		if missing&f.bit != 0 {
			return fmt.Errorf("%s without %s", s.name, f.name)
		}
		if strange&f.bit != 0 {
			return fmt.Errorf("%s with %s", s.name, f.name)
		}
	}
	return nil
}

func (p *parser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t' || p.text[p.at] == '\r') {
		p.at++
	}
}

// next is the next character that is no space, 0 at the end.
func (p *parser) next() byte {
	if p.space(); p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) want(c byte) error {
	if p.next() != c {
		return fmt.Errorf("want %q, not %.20q", c, p.text[p.at:])
	}
	p.at++
	return nil
}

// list reads what stands between two brackets, separated by commas.
func (p *parser) list(open, end byte, item func() error) error {
	if err := p.want(open); err != nil {
		return err
	}
	if p.next() == end {
		p.at++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if p.next() == end {
			p.at++
			return nil
		}
		if err := p.want(','); err != nil {
			return err
		}
	}
}

// quoted reads a string; the bytes are those of the line where they can be.
func (p *parser) quoted() ([]byte, error) {
	if err := p.want('"'); err != nil {
		return nil, err
	}
	rest := p.text[p.at:]
	n, simple := 0, true
	for ; n < len(rest) && rest[n] != '"'; n++ {
		switch c := rest[n]; {
		case c == '\\':
			simple = false
			n++ // what is escaped does not end it
		case c < ' ' || c >= 0x80:
			simple = false
		}
	}
	if n >= len(rest) {
		return nil, errors.New("a string without an end")
	}
	p.at += n + 1
	if simple {
		return rest[:n], nil
	}
	var s string
	err := json.Unmarshal(p.text[p.at-n-2:p.at], &s)
	return []byte(s), err
}

// string reads a string; it is the one before if that is the same.
func (p *parser) string(before string) (string, error) {
	b, err := p.quoted()
	if string(b) == before {
		return before, err
	}
	return string(b), err
}

func (p *parser) bool() (bool, error) {
	for text, v := range map[string]bool{"true": true, "false": false} {
		if p.next(); bytes.HasPrefix(p.text[p.at:], []byte(text)) {
			p.at += len(text)
			return v, nil
		}
	}
	return false, fmt.Errorf("want true or false, not %.20q", p.text[p.at:])
}

func (p *parser) isolation() (uncommitted bool, err error) {
	b, err := p.quoted()
	if s := string(b); err == nil && s != readUncommitted && s != readCommitted {
		err = fmt.Errorf("%.40q, want %s or %s", s, readCommitted, readUncommitted)
	}
	return string(b) == readUncommitted, err
}

func (p *parser) offset() (record.Offset, error) {
	n, err := p.number(-1, maxOffset)
	return record.Offset(n), err
}

// number reads a whole number within bounds.
func (p *parser) number(low, high int64) (int64, error) {
	p.space()
	start := p.at
	if p.at < len(p.text) && p.text[p.at] == '-' {
		p.at++
	}
	digits := p.at
	var n uint64
	for ; p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' && p.at-digits < 19; p.at++ {
		n = n*10 + uint64(p.text[p.at]-'0')
	}
	text := p.text[start:p.at]
	if p.at == digits || p.at < len(p.text) && bytes.IndexByte([]byte("0123456789.eE"), p.text[p.at]) >= 0 || p.text[digits] == '0' && p.at > digits+1 {
		return 0, fmt.Errorf("want a whole number of at most 19 digits, not %.20q", p.text[start:])
	}
	signed := int64(n)
	if text[0] == '-' {
		signed = -signed
	}
	if n > math.MaxInt64 || signed < low || signed > high {
		return 0, fmt.Errorf("%s, want %d to %d", text, low, high)
	}
	return signed, nil
}
