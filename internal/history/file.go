package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// FormatVersion is that of the files written; see docs/formats/history.md.
const FormatVersion = 1

// maxLine bounds a line of a history file.
const maxLine = 16 << 20

// ErrFormat says that a file is no history, or is damaged, or of a newer version. The error that
// wraps it names the line.
var ErrFormat = errors.New("not a history")

// header is the first line of a file.
type header struct {
	History int    `json:"history"`
	Started string `json:"started,omitempty"`
	Note    string `json:"note,omitempty"`
}

// line is one event of a file. Numbers that are absent are 0.
type line struct {
	Kind    string      `json:"f"`
	At      int64       `json:"t"`
	Process uint32      `json:"p"`
	Key     string      `json:"k"`
	First   uint64      `json:"n"`
	Count   *uint64     `json:"c"`
	Offset  *int64      `json:"o"`
	End     int64       `json:"e"`
	Records [][]int64   `json:"r"`
	Bad     []badRecord `json:"bad"`
	CRC     uint32      `json:"crc"`
	Batches int64       `json:"batches"`
	Text    string      `json:"text"`
}

// badRecord is a record without a value of ours.
type badRecord struct {
	Offset int64  `json:"o"`
	Why    string `json:"why"`
}

// appendHeader writes the first line.
func appendHeader(b []byte, started time.Time, note string) []byte {
	text, err := json.Marshal(header{History: FormatVersion, Started: started.UTC().Format(time.RFC3339Nano), Note: note})
	if err != nil {
		panic(err) // strings and a number always encode
	}
	return append(append(b, text...), '\n')
}

// appendEvent writes one line.
func appendEvent(b []byte, e *Event) []byte {
	b = append(b, `{"f":"`...)
	b = append(b, e.Kind.String()...)
	b = append(b, '"')
	b = appendNumber(b, "t", int64(e.At))
	b = appendNumber(b, "p", int64(e.Process))
	if e.Key != "" {
		b = appendText(b, "k", string(e.Key))
	}
	switch e.Kind {
	case Send, OK, Fail, Info:
		b = strconv.AppendUint(append(b, `,"n":`...), e.First, 10)
		if e.Count != 1 {
			b = strconv.AppendUint(append(b, `,"c":`...), e.Count, 10)
		}
		if e.Kind == OK {
			b = appendNumber(b, "o", e.Offset)
		}
	case Read:
		b = appendRecords(b, e.Records)
	case Assign:
		b = appendNumber(b, "o", e.Offset)
	case Final:
		b = appendNumber(appendNumber(b, "o", e.Offset), "e", e.End)
	case Checksum:
		b = appendNumber(appendNumber(b, "o", e.Offset), "e", e.End)
		b = appendNumber(appendNumber(b, "crc", int64(e.CRC)), "batches", e.Batches)
	}
	if e.Text != "" {
		b = appendText(b, "text", e.Text)
	}
	return append(b, '}', '\n')
}

func appendNumber(b []byte, name string, v int64) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return strconv.AppendInt(b, v, 10)
}

func appendText(b []byte, name, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always encodes
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return append(b, quoted...)
}

// appendRecords writes runs as [offset, process, n] or [offset, process, n, count].
func appendRecords(b []byte, records []Record) []byte {
	var bad []badRecord
	b = append(b, `,"r":[`...)
	first := true
	for _, r := range records {
		if r.Bad != "" {
			bad = append(bad, badRecord{r.Offset, r.Bad})
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = strconv.AppendInt(append(b, '['), r.Offset, 10)
		b = strconv.AppendUint(append(b, ','), uint64(r.Value.Process), 10)
		b = strconv.AppendUint(append(b, ','), r.Value.N, 10)
		if r.Count != 1 {
			b = strconv.AppendUint(append(b, ','), r.Count, 10)
		}
		b = append(b, ']')
	}
	b = append(b, ']')
	if len(bad) > 0 {
		text, err := json.Marshal(bad)
		if err != nil {
			panic(err) // strings and numbers always encode
		}
		b = append(append(b, `,"bad":`...), text...)
	}
	return b
}

// parseHeader reads the first line.
func parseHeader(text []byte) error {
	var h header
	if err := json.Unmarshal(text, &h); err != nil || h.History == 0 {
		return fmt.Errorf("%w: line 1 is no header", ErrFormat)
	}
	if h.History != FormatVersion {
		return fmt.Errorf("%w: the file has version %d, this program knows %d", ErrFormat, h.History, FormatVersion)
	}
	return nil
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
	kind := EventKind(0)
	for k, name := range eventNames {
		if name == l.Kind && k > 0 {
			kind = EventKind(k)
		}
	}
	if kind == 0 {
		return fmt.Errorf("unknown event %.40q", l.Kind)
	}
	*e = Event{Kind: kind, At: time.Duration(l.At), Process: Process(l.Process), Key: Key(l.Key), First: l.First, Count: 1,
		Offset: NoOffset, End: l.End, Records: e.Records[:0], CRC: l.CRC, Batches: l.Batches, Text: l.Text}
	if l.Count != nil {
		e.Count = *l.Count
	}
	if l.Offset != nil {
		e.Offset = *l.Offset
	}
	return e.takeRecords(&l)
}

func (e *Event) takeRecords(l *line) error {
	for _, r := range l.Records {
		if len(r) != 3 && len(r) != 4 {
			return fmt.Errorf("a record of %d numbers, want 3 or 4", len(r))
		}
		if r[1] < 0 || r[1] > 1<<32-1 || r[2] < 0 {
			return fmt.Errorf("record %v names no process and number", r)
		}
		count := int64(1)
		if len(r) == 4 {
			count = r[3]
		}
		if count < 1 {
			return fmt.Errorf("a run of %d records", count)
		}
		e.Records = append(e.Records, Record{Offset: r[0], Value: Value{Process(r[1]), uint64(r[2])}, Count: uint64(count)})
	}
	for _, b := range l.Bad {
		why := b.Why
		if why == "" {
			why = "no reason given"
		}
		e.Records = append(e.Records, Record{Offset: b.Offset, Count: 1, Bad: why})
	}
	return nil
}

// File makes a Source of a history file. A last line that was cut off, as by the recorder's death,
// is left out.
func File(path string) Source {
	return func(yield func(*Event) error) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		return Reader(f)(yield)
	}
}

// Reader makes a Source of an open history file, which can be read once only.
func Reader(r io.Reader) Source {
	return func(yield func(*Event) error) error {
		lines := bufio.NewReaderSize(r, 1<<20)
		var e Event
		var long []byte
		for n := 1; ; n++ {
			text, whole, err := readLine(lines, &long)
			if err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			if !whole {
				if n == 1 {
					return fmt.Errorf("%w: no header", ErrFormat)
				}
				return nil
			}
			if n == 1 {
				err = parseHeader(text)
			} else if err = parseEvent(text, &e); err != nil {
				err = fmt.Errorf("%w: line %d: %w", ErrFormat, n, err)
			} else {
				err = yield(&e)
			}
			if err != nil {
				return err
			}
		}
	}
}

// readLine gives the next line without its end; whole is false at the end of the file, also for a
// line that has no end.
func readLine(r *bufio.Reader, long *[]byte) (text []byte, whole bool, err error) {
	text, err = r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		*long = append((*long)[:0], text...)
		for err == bufio.ErrBufferFull {
			if len(*long) > maxLine {
				return nil, false, fmt.Errorf("%w: longer than %d bytes", ErrFormat, maxLine)
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
