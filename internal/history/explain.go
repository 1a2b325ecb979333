package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oncelog/oncelog/record"
)

// maxLines bounds the history of a finding, maxFaults the faults that it names between two lines.
const (
	maxLines  = 16
	maxFaults = 2
)

// explain walks through the history once more and collects what belongs to the findings.
func (c *checker) explain(events Source) error {
	x := newExplainer(c.report.pending)
	if len(x.open) > 0 {
		if err := c.walk(events, func(e *Event) error { x.take(e, c.number); return nil }); err != nil {
			return err
		}
	}
	for _, a := range Anomalies {
		for _, o := range x.open {
			if o.kind == a.Anomaly {
				c.report.Findings = append(c.report.Findings, Finding{
					Anomaly: o.kind, Topic: o.part.key.Topic, Partition: o.part.key.Partition, What: o.what, History: o.lines,
				})
			}
		}
	}
	c.report.pending = nil
	return nil
}

// explainer knows which event belongs to which findings.
type explainer struct {
	open    []*openFinding
	values  map[valueKey][]*openFinding
	txns    map[txnID][]*openFinding
	events  map[int64][]*openFinding
	groups  map[groupKey][]*openFinding
	readers map[reader]string // the last event of the readers that somebody wants
	parts   map[record.TopicPartition]*wanted
	at      positions
}

type valueKey struct {
	key   record.TopicPartition
	value Value
}

// wanted is what findings look for in the reads of one partition.
type wanted struct {
	reads   []*wantedRead
	missing []*openFinding
}

type wantedRead struct {
	sight
	finding *openFinding
	done    bool
}

// openFinding is a finding whose history is being collected.
type openFinding struct {
	finding
	lines  []string
	last   int64    // the number of the event of the last line
	faults []string // since then, the first ones
	more   int      // faults beside these
	passed bool     // missing has been shown
}

func newExplainer(pending []finding) *explainer {
	x := &explainer{
		values: make(map[valueKey][]*openFinding), txns: make(map[txnID][]*openFinding), events: make(map[int64][]*openFinding),
		groups: make(map[groupKey][]*openFinding), readers: make(map[reader]string), parts: make(map[record.TopicPartition]*wanted),
		at: make(positions),
	}
	for _, f := range pending {
		o := &openFinding{finding: f, last: -1}
		x.open = append(x.open, o)
		x.register(o)
	}
	return x
}

func (x *explainer) register(o *openFinding) {
	key := o.part.key
	for _, v := range o.finding.values {
		x.values[valueKey{key, v}] = append(x.values[valueKey{key, v}], o)
	}
	for _, r := range o.reads {
		x.want(key).reads = append(x.want(key).reads, &wantedRead{sight: r, finding: o})
	}
	if o.also != nil {
		k := o.also.part.key
		x.want(k).reads = append(x.want(k).reads, &wantedRead{sight: o.also.sight, finding: o})
		if at := (valueKey{k, o.also.sight.value}); o.also.sent {
			x.values[at] = append(x.values[at], o)
		}
	}
	if o.missing != nil {
		x.want(key).missing = append(x.want(key).missing, o)
	}
	if o.txn != nil {
		x.txns[o.txn.id] = append(x.txns[o.txn.id], o)
	}
	for _, n := range o.events {
		x.events[n] = append(x.events[n], o)
	}
	if o.reader != nil {
		x.readers[*o.reader] = ""
	}
	if o.group != nil {
		x.groups[*o.group] = append(x.groups[*o.group], o)
	}
}

func (x *explainer) want(key record.TopicPartition) *wanted {
	w := x.parts[key]
	if w == nil {
		w = &wanted{}
		x.parts[key] = w
	}
	return w
}

// take adds the event to the findings that it belongs to.
func (x *explainer) take(e *Event, number int64) {
	switch e.Kind {
	case Send, Written, NotWritten, Unknown:
		x.add(x.values[valueKey{e.Key, e.Value()}], number, e)
	case Begin, Commit, Abort, Committed, Aborted, Undecided:
		x.add(x.txns[txnID{e.Process, e.Txn}], number, e)
	case OffsetCommit, OffsetCommitted, OffsetRefused:
		x.takeOffset(e, number)
	case Poll, Final:
		x.takeRead(e, number)
	case Assign, Revoke:
		x.at.follow(e, nil)
	case Checksum:
		x.takeChecksum(e, number)
	case Fault:
		for _, o := range x.open {
			o.fault(e)
		}
	}
	for _, o := range x.events[number] {
		if o.reader != nil && x.readers[*o.reader] != "" {
			o.line(o.last, x.readers[*o.reader])
		}
		if o.say != "" {
			o.line(number, stamp(e)+o.say)
		}
	}
	x.add(x.events[number], number, e)
	if r := (reader{e.Process, e.Key}); e.Kind == Assign || e.Kind == Poll || e.Kind == Final {
		if _, ok := x.readers[r]; ok {
			x.readers[r] = stamp(e) + e.String()
		}
	}
}

func (x *explainer) add(to []*openFinding, number int64, e *Event) {
	for _, o := range to {
		if o.last != number {
			o.line(number, stamp(e)+e.String())
		}
	}
}

// takeOffset adds a commit of an offset that findings are about, and the end of its transaction.
func (x *explainer) takeOffset(e *Event, number int64) {
	for _, o := range x.groups[groupKey{e.Group, e.Key}] {
		if !slices.Contains(o.offsets, e.Offset) {
			continue
		}
		x.add([]*openFinding{o}, number, e)
		if id := (txnID{e.Process, e.Txn}); e.Txn != 0 && !slices.Contains(x.txns[id], o) {
			x.txns[id] = append(x.txns[id], o)
		}
	}
}

func (x *explainer) takeRead(e *Event, number int64) {
	w := x.parts[e.Key]
	x.at.follow(e, func(s step) {
		if w == nil {
			return
		}
		for _, o := range w.missing {
			if m := *o.missing; !o.passed && m >= s.from && m < s.to && s.from >= 0 && (o.txn == nil || !e.Uncommitted) {
				o.passed = true
				o.line(number, fmt.Sprintf("%sprocess %d goes from offset %d to %d of %v", stamp(e), e.Process, s.from, s.to, e.Key))
			}
		}
		if s.run != nil {
			w.takeRun(e, number, s.run)
		}
	})
	if w == nil || e.Kind != Final {
		return
	}
	for _, o := range w.missing {
		beyond := *o.missing >= e.From || *o.missing < 0 && (o.kind == Unseen || e.End == e.High)
		if !o.passed && (o.txn == nil || !e.Uncommitted) && beyond {
			o.passed = true
			x.add([]*openFinding{o}, number, e)
		}
	}
}

func (w *wanted) takeRun(e *Event, number int64, run *Record) {
	for _, r := range w.reads {
		if r.done || r.at < run.Offset || r.at >= run.end() || run.Bad != "" || r.finding.txn != nil && e.Uncommitted {
			continue
		}
		v := Value{run.Value.Process, run.Value.N + uint32(r.at-run.Offset)}
		if v == r.value {
			r.done = true
			r.finding.line(number, fmt.Sprintf("%sprocess %d reads %v at offset %d of %v", stamp(e), e.Process, v, r.at, e.Key))
		}
	}
}

// takeChecksum adds the first checksum of a range to the findings about later ones.
func (x *explainer) takeChecksum(e *Event, number int64) {
	for _, o := range x.open {
		if o.sums && o.part.key == e.Key && len(o.lines) == 0 && o.offsets[0] == e.From && o.offsets[1] == e.End {
			x.add([]*openFinding{o}, number, e)
		}
	}
}

// line adds a line, after the faults that happened since the last one.
func (o *openFinding) line(number int64, text string) {
	if len(o.lines) > 0 {
		o.lines = append(o.lines, o.faults...)
		if o.more > 0 {
			o.lines = append(o.lines, fmt.Sprintf("           and more faults: %d", o.more))
		}
	}
	o.faults, o.more = nil, 0
	if o.last = number; len(o.lines) < maxLines {
		o.lines = append(o.lines, text)
	}
}

func (o *openFinding) fault(e *Event) {
	switch {
	case len(o.lines) == 0:
	case len(o.faults) < maxFaults:
		o.faults = append(o.faults, stamp(e)+e.String())
	default:
		o.more++
	}
}

// stamp is when an event happened, in seconds.
func stamp(e *Event) string { return fmt.Sprintf("%9.3f  ", e.At.Round(time.Millisecond).Seconds()) }

// String says what happened, for a person.
func (e *Event) String() string {
	who := fmt.Sprintf("process %d", e.Process)
	switch e.Kind {
	case Send:
		return fmt.Sprintf("%s sends %v to %v%s%s", who, e.Value(), e.Key, e.madeOf(), e.inTxn())
	case Written:
		s := fmt.Sprintf("%s is told: %v is written%s", who, e.Value(), at(e.Offset))
		if e.Duplicate {
			s += ", by an earlier attempt"
		}
		return s
	case NotWritten:
		return fmt.Sprintf("%s is told: %v is not written%s", who, e.Value(), e.why())
	case Unknown:
		return fmt.Sprintf("%s is told: the outcome of %v is unknown%s", who, e.Value(), e.why())
	case Begin:
		return fmt.Sprintf("%s begins transaction %d", who, e.Txn)
	case Commit, Abort:
		return fmt.Sprintf("%s asks to %v transaction %d", who, e.Kind, e.Txn)
	case Committed, Aborted, Undecided:
		return fmt.Sprintf("%s is told: transaction %d is %v%s", who, e.Txn, e.Kind, e.why())
	case Assign:
		return fmt.Sprintf("%s will read %v from offset %d on", who, e.Key, e.Offset)
	case Revoke:
		return fmt.Sprintf("%s reads %v no longer", who, e.Key)
	case Poll:
		return fmt.Sprintf("%s reads %s", who, e.polled())
	case Final:
		s := fmt.Sprintf("%s has read %v from offset %d to the end at %d", who, e.Key, e.From, e.End)
		if e.High > e.End {
			s += fmt.Sprintf("; the log itself ends at %d", e.High)
		}
		return s
	case OffsetCommit:
		return fmt.Sprintf("%s commits offset %d of %v for group %q%s", who, e.Offset, e.Key, e.Group, e.inTxn())
	case OffsetCommitted:
		return fmt.Sprintf("%s is told: offset %d of %v is committed for group %q", who, e.Offset, e.Key, e.Group)
	case OffsetRefused:
		return fmt.Sprintf("%s is told: offset %d of %v is not committed for group %q%s", who, e.Offset, e.Key, e.Group, e.why())
	case OffsetAsked:
		return fmt.Sprintf("%s asks where group %q is in %v", who, e.Group, e.Key)
	case OffsetTold:
		return fmt.Sprintf("%s is told: group %q is at offset %d of %v", who, e.Group, e.Offset, e.Key)
	case Checksum:
		return fmt.Sprintf("broker %d: %v from offset %d to %d has CRC32C %08x", e.Broker, e.Key, e.From, e.End, e.CRC)
	case Fault:
		return "fault: " + e.Text
	}
	return e.Kind.String()
}

func (e *Event) inTxn() string {
	if e.Txn == 0 {
		return ""
	}
	return fmt.Sprintf(" in transaction %d", e.Txn)
}

func (e *Event) madeOf() string {
	if e.Source.Topic == "" {
		return ""
	}
	return fmt.Sprintf(" (made of offset %d of %v for group %q)", e.SourceOffset, e.Source, e.Group)
}

func (e *Event) why() string {
	if e.Text == "" {
		return ""
	}
	return " (" + strings.ReplaceAll(e.Text, "\n", "; ") + ")"
}

// polled says which offsets a Poll gave.
func (e *Event) polled() string {
	if len(e.Records) == 0 {
		return fmt.Sprintf("nothing of %v and is at offset %d", e.Key, e.End)
	}
	first, last := &e.Records[0], &e.Records[len(e.Records)-1]
	if last.end()-1 == first.Offset {
		return fmt.Sprintf("offset %d of %v", first.Offset, e.Key)
	}
	return fmt.Sprintf("offsets %d to %d of %v", first.Offset, last.end()-1, e.Key)
}
