package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
type fields uint32

const (
	hasProcess fields = 1 << iota
	hasTopic
	hasPartition
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
	hasSource // three fields; all or none
	hasSourcePartition
	hasSourceOffset
	hasBroker
	hasCRC
	hasText // may be absent
	hasBad  // may be absent
	hasEvent
	hasTime

	hasOrigin  = hasSource | hasSourcePartition | hasSourceOffset
	hasKey     = hasTopic | hasPartition
	hasReplica = hasBroker | hasCRC
)

// shapes say how each kind looks in a file. optional are fields that are left out where they say
// nothing.
var shapes = [kindCount]struct {
	name             string
	needed, optional fields
}{
	Send:            {"send", hasProcess | hasKey | hasN, hasTxn | hasGroup | hasOrigin},
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
	Poll:            {"poll", hasProcess | hasKey | hasRecords, hasBad | hasEnd | hasIsolation},
	Final:           {"final", hasProcess | hasKey | hasFrom | hasEnd | hasHigh, hasIsolation},
	OffsetCommit:    {"offset_commit", hasProcess | hasGroup | hasKey | hasOffset, hasTxn | hasReset},
	OffsetCommitted: {"offset_committed", hasProcess | hasGroup | hasKey | hasOffset, 0},
	OffsetRefused:   {"offset_refused", hasProcess | hasGroup | hasKey | hasOffset, hasText},
	OffsetAsked:     {"offset_asked", hasProcess | hasGroup | hasKey, 0},
	OffsetTold:      {"offset_told", hasProcess | hasGroup | hasKey | hasOffset, 0},
	Checksum:        {"checksum", hasReplica | hasKey | hasFrom | hasEnd, 0},
	Fault:           {"fault", 0, hasText},
}

// kindOf finds the kind by the name in a file.
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

// line is what is written for one event. What a line must hold is a pointer, so that zeros are written.
type line struct {
	Event     string         `json:"event"`
	At        int64          `json:"t"`
	Process   *Process       `json:"process,omitempty"`
	Group     *string        `json:"group,omitempty"`
	Broker    *int32         `json:"broker,omitempty"`
	Topic     *string        `json:"topic,omitempty"`
	Partition *int32         `json:"partition,omitempty"`
	Source    *string        `json:"source_topic,omitempty"`
	SourcePt  *int32         `json:"source_partition,omitempty"`
	SourceAt  *record.Offset `json:"source_offset,omitempty"`
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
	if e.Source.Topic != "" {
		l.Source, l.SourcePt, l.SourceAt = &e.Source.Topic, &e.Source.Partition, &e.SourceOffset
	}
	if has(hasGroup) || e.Source.Topic != "" {
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

// bounds checks that ranges of offsets are some.
func (e *Event) bounds() error {
	if e.From < 0 || e.End < 0 || e.Kind != Poll && e.End < e.From || e.Kind == Final && e.High < e.End {
		return fmt.Errorf("from %d, end %d, high %d: want none below 0, and that they rise", e.From, e.End, e.High)
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
	var p parser
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
			err = p.event(text, &e)
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
