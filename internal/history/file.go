package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/oncelog/oncelog/record"
)

// FormatVersion is that of the files written; see docs/formats/history.md.
const FormatVersion = 1

// maxLine bounds a line of a history file, in bytes.
const maxLine = 16 << 20

// maxOffset keeps sums of offsets and counts in range.
const maxOffset = 1 << 62

// ErrFormat says that a file is no history, or is damaged, or contradicts itself. The error that wraps
// it names the line.
var ErrFormat = errors.New("not a sound history")

// fields is a set of what a line holds beside its kind and time.
type fields uint16

const (
	hasProcess fields = 1 << iota
	hasKey
	hasTxn // may be absent from a Send and an OffsetCommit
	hasN
	hasOffset
	hasFrom
	hasEnd // may be absent from a Poll
	hasHigh
	hasRecords
	hasIsolation // may be absent
	hasDuplicate // may be absent
	hasReset     // may be absent
	hasGroup
	hasReplica
	hasText // may be absent
)

// shapes say how each kind looks in a file. optional are fields that are left out where they say
// nothing.
var shapes = [kindCount]struct {
	name             string
	needed, optional fields
}{
	Send:            {"send", hasProcess | hasKey | hasN, hasTxn},
	Written:         {"written", hasProcess | hasKey | hasN | hasOffset, hasDuplicate},
	NotWritten:      {"not_written", hasProcess | hasKey | hasN, hasText},
	Unknown:         {"unknown", hasProcess | hasKey | hasN, hasText},
	Begin:           {"begin", hasProcess | hasTxn, 0},
	Commit:          {"commit", hasProcess | hasTxn, 0},
	Abort:           {"abort", hasProcess | hasTxn, 0},
	Committed:       {"committed", hasProcess | hasTxn, 0},
	Aborted:         {"aborted", hasProcess | hasTxn, hasText},
	Undecided:       {"undecided", hasProcess | hasTxn, hasText},
	Assign:          {"assign", hasProcess | hasKey | hasOffset, 0},
	Revoke:          {"revoke", hasProcess | hasKey, 0},
	Poll:            {"poll", hasProcess | hasKey | hasRecords, hasEnd | hasIsolation},
	Final:           {"final", hasProcess | hasKey | hasFrom | hasEnd | hasHigh, hasIsolation},
	OffsetCommit:    {"offset_commit", hasProcess | hasGroup | hasKey | hasOffset, hasTxn | hasReset},
	OffsetCommitted: {"offset_committed", hasProcess | hasGroup | hasKey | hasOffset, 0},
	OffsetRefused:   {"offset_refused", hasProcess | hasGroup | hasKey | hasOffset, hasText},
	OffsetAsked:     {"offset_asked", hasProcess | hasGroup | hasKey, 0},
	OffsetTold:      {"offset_told", hasProcess | hasGroup | hasKey | hasOffset, 0},
	Checksum:        {"checksum", hasReplica | hasKey | hasFrom | hasEnd, 0},
	Fault:           {"fault", 0, hasText},
}

var kindOf = func() map[string]Kind {
	m := make(map[string]Kind, kindCount)
	for k := Kind(1); k < kindCount; k++ {
		m[shapes[k].name] = k
	}
	return m
}()

// header is the first line of a file.
type header struct {
	History int    `json:"history"`
	Started string `json:"started,omitempty"`
	Note    string `json:"note,omitempty"`
}

// line is one event of a file. What a line must hold is a pointer here, so that its absence shows.
type line struct {
	Event     string         `json:"event"`
	At        int64          `json:"t"`
	Process   *Process       `json:"process,omitempty"`
	Group     *string        `json:"group,omitempty"`
	Broker    *int32         `json:"broker,omitempty"`
	Topic     *string        `json:"topic,omitempty"`
	Partition *int32         `json:"partition,omitempty"`
	Txn       uint64         `json:"txn,omitempty"`
	N         *uint32        `json:"n,omitempty"`
	Offset    *record.Offset `json:"offset,omitempty"`
	From      *record.Offset `json:"from,omitempty"`
	Records   *[][]int64     `json:"records,omitempty"`
	Bad       []string       `json:"bad,omitempty"`
	End       *record.Offset `json:"end,omitempty"`
	High      *record.Offset `json:"high,omitempty"`
	CRC       *uint32        `json:"crc32c,omitempty"`
	Isolation string         `json:"isolation,omitempty"`
	Duplicate bool           `json:"duplicate,omitempty"`
	Reset     bool           `json:"reset,omitempty"`
	Text      string         `json:"text,omitempty"`
}

const (
	readUncommitted = "read_uncommitted"
	readCommitted   = "read_committed"
)

// writeHeader writes the first line.
func writeHeader(w io.Writer, started time.Time, note string) error {
	return json.NewEncoder(w).Encode(header{FormatVersion, started.UTC().Format(time.RFC3339Nano), note})
}

// line gives what stands in the file for an event.
func (e *Event) line() line {
	l := line{Event: e.Kind.String(), At: int64(e.At), Text: e.Text, Txn: e.Txn, Duplicate: e.Duplicate, Reset: e.Reset}
	s := shapes[e.Kind]
	has := func(f fields) bool { return s.needed&f != 0 }
	if has(hasProcess) {
		l.Process = &e.Process
	}
	if has(hasGroup) {
		l.Group = &e.Group
	}
	if has(hasReplica) {
		l.Broker, l.CRC = &e.Broker, &e.CRC
	}
	if has(hasKey) {
		l.Topic, l.Partition = &e.Key.Topic, &e.Key.Partition
	}
	if has(hasN) {
		l.N = &e.N
	}
	if has(hasOffset) {
		l.Offset = &e.Offset
	}
	if has(hasFrom) {
		l.From = &e.From
	}
	if has(hasEnd) || e.End != 0 {
		l.End = &e.End
	}
	if has(hasHigh) {
		l.High = &e.High
	}
	if has(hasRecords) {
		l.putRecords(e.Records)
	}
	if e.Uncommitted {
		l.Isolation = readUncommitted
	}
	return l
}

// putRecords writes runs as [offset, process, n] or [offset, process, n, count], and a record without a
// value of ours as [offset], with the reason in bad.
func (l *line) putRecords(records []Record) {
	runs := make([][]int64, 0, len(records))
	for _, r := range records {
		switch {
		case r.Bad != "":
			runs, l.Bad = append(runs, []int64{int64(r.Offset)}), append(l.Bad, r.Bad)
		case r.Count == 1:
			runs = append(runs, []int64{int64(r.Offset), int64(r.Value.Process), int64(r.Value.N)})
		default:
			runs = append(runs, []int64{int64(r.Offset), int64(r.Value.Process), int64(r.Value.N), int64(r.Count)})
		}
	}
	l.Records = &runs
}

// parseEvent reads one line into e, whose Records are used again.
func parseEvent(text []byte, e *Event) error {
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value on the line")
	}
	kind, ok := kindOf[l.Event]
	if !ok {
		return fmt.Errorf("unknown event %.40q", l.Event)
	}
	if err := l.fits(kind); err != nil {
		return err
	}
	*e = Event{
		Kind: kind, At: time.Duration(l.At), Process: or(l.Process), Txn: l.Txn, N: or(l.N),
		Key:    record.TopicPartition{Topic: or(l.Topic), Partition: or(l.Partition)},
		Offset: or(l.Offset), From: or(l.From), End: or(l.End), High: or(l.High), Records: e.Records[:0],
		Uncommitted: l.Isolation == readUncommitted, Duplicate: l.Duplicate, Reset: l.Reset,
		Group: or(l.Group), Broker: or(l.Broker), CRC: or(l.CRC), Text: l.Text,
	}
	if l.Isolation != "" && l.Isolation != readUncommitted && l.Isolation != readCommitted {
		return fmt.Errorf("isolation %.40q, want %s or %s", l.Isolation, readCommitted, readUncommitted)
	}
	return errors.Join(e.bounds(), e.takeRecords(&l))
}

// bounds checks the offsets.
func (e *Event) bounds() error {
	switch {
	case e.Offset < record.NoOffset || e.Offset > maxOffset:
		return fmt.Errorf("offset %d: want -1 to 2^62", e.Offset)
	case e.From < 0 || e.End < 0 || e.End > maxOffset || e.Kind != Poll && e.End < e.From || e.Kind == Final && (e.High < e.End || e.High > maxOffset):
		return fmt.Errorf("from %d, end %d, high %d: want them between 0 and 2^62, and to rise", e.From, e.End, e.High)
	}
	return nil
}

// or is what p points to, or zero.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// fits says whether the line holds what its kind needs, and nothing that it does not know.
func (l *line) fits(k Kind) error {
	s := shapes[k]
	for _, f := range []struct {
		bit  fields
		name string
		held bool
	}{
		{hasProcess, "process", l.Process != nil},
		{hasGroup, "group", l.Group != nil},
		{hasKey, "topic", l.Topic != nil},
		{hasKey, "partition", l.Partition != nil},
		{hasTxn, "txn", l.Txn != 0},
		{hasN, "n", l.N != nil},
		{hasOffset, "offset", l.Offset != nil},
		{hasFrom, "from", l.From != nil},
		{hasEnd, "end", l.End != nil},
		{hasHigh, "high", l.High != nil},
		{hasRecords, "records", l.Records != nil},
		{hasIsolation, "isolation", l.Isolation != ""},
		{hasDuplicate, "duplicate", l.Duplicate},
		{hasReset, "reset", l.Reset},
		{hasReplica, "broker", l.Broker != nil},
		{hasReplica, "crc32c", l.CRC != nil},
		{hasText, "text", l.Text != ""},
	} {
		switch {
		case s.needed&f.bit != 0 && !f.held:
			return fmt.Errorf("%s without %s", l.Event, f.name)
		case (s.needed|s.optional)&f.bit == 0 && f.held:
			return fmt.Errorf("%s with %s", l.Event, f.name)
		}
	}
	return nil
}

func (e *Event) takeRecords(l *line) error {
	bad := l.Bad
	for _, r := range or(l.Records) {
		run := Record{Count: 1}
		switch {
		case len(r) == 1 && len(bad) > 0 && bad[0] != "":
			run.Bad, bad = bad[0], bad[1:]
		case len(r) == 4 && r[3] >= 1 && r[3] <= maxRun:
			run.Count = uint32(r[3])
		case len(r) != 3:
			return fmt.Errorf("record %d: want offset, process, n, and perhaps a count from 1 to %d; or an offset, with a reason in bad", r, maxRun)
		}
		if run.Bad == "" {
			if r[1] < 0 || r[1] > math.MaxUint32 || r[2] < 0 || r[2]+int64(run.Count)-1 > math.MaxUint32 {
				return fmt.Errorf("record %d: process and n have 32 bits", r)
			}
			run.Value = Value{Process(r[1]), uint32(r[2])}
		}
		if run.Offset = record.Offset(r[0]); run.Offset < 0 || run.Offset > maxOffset {
			return fmt.Errorf("record %d: offset below 0 or above 2^62", r)
		}
		e.Records = append(e.Records, run)
	}
	if len(bad) > 0 {
		return errors.New("more reasons in bad than records without a value")
	}
	return nil
}

// File makes a Source of a history file. A last line that was cut off, as by the recorder's death, is
// left out.
func File(path string) Source {
	return func(yield func(*Event, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = f.Close() }() // only read
		read(f, yield)
	}
}

func read(r io.Reader, yield func(*Event, error) bool) {
	lines := bufio.NewReaderSize(r, 1<<20)
	var e Event
	var long []byte
	for n := 1; ; n++ {
		text, whole, err := readLine(lines, &long)
		switch {
		case err != nil:
		case !whole && n == 1:
			err = errors.New("the file is empty")
		case !whole:
			return
		case n == 1:
			err = parseHeader(text)
		default:
			err = parseEvent(text, &e)
		}
		if err != nil {
			yield(nil, fmt.Errorf("%w: line %d: %w", ErrFormat, n, err))
			return
		}
		if n > 1 && !yield(&e, nil) {
			return
		}
	}
}

func parseHeader(text []byte) error {
	var h header
	if err := json.Unmarshal(text, &h); err != nil || h.History == 0 {
		return errors.New("no header of a history")
	}
	if h.History != FormatVersion {
		return fmt.Errorf("the file has version %d, this program knows %d", h.History, FormatVersion)
	}
	return nil
}

// readLine gives the next line without its end; whole is false at the end of the file, also for a line
// that has no end.
func readLine(r *bufio.Reader, long *[]byte) (text []byte, whole bool, err error) {
	text, err = r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		*long = append((*long)[:0], text...)
		for err == bufio.ErrBufferFull {
			if len(*long) > maxLine {
				return nil, false, fmt.Errorf("longer than %d bytes", maxLine)
			}
			text, err = r.ReadSlice('\n')
			*long = append(*long, text...)
		}
		text = *long
	}
	if err == io.EOF {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return text[:len(text)-1], true, nil
}
