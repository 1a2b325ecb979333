package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/oncelog/oncelog/record"
)

// TestScripts runs the histories of testdata: for each anomaly those that show it, and near misses that
// are sound. Each line is an event, as parseScript reads it; what follows is the report. A senseless
// history contradicts itself.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			events := parseScript(t, d)
			r, err := Check(Events(events), Options{})
			if d.Cmd == "senseless" {
				if !errors.Is(err, ErrFormat) {
					t.Errorf("%s: %v", d.Pos, err)
				}
				return err.Error()
			}
			if err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			again, err := Check(throughFile(t, events), Options{})
			if err != nil || again.String() != r.String() {
				t.Errorf("%s: from a file: %v, %v", d.Pos, again, err)
			}
			if d.Cmd == "sound" != r.OK() {
				t.Errorf("%s: %s, found %v", d.Pos, d.Cmd, r.Counts)
			}
			return r.String()
		})
	})
}

// throughFile writes events as a file does, and reads them again.
func throughFile(t *testing.T, events []Event) Source {
	t.Helper()
	var b bytes.Buffer
	if err := writeHeader(&b, time.Now(), "a note"); err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if err := json.NewEncoder(&b).Encode(events[i].line()); err != nil {
			t.Fatal(err)
		}
	}
	return func(yield func(*Event, error) bool) { read(bytes.NewReader(b.Bytes()), yield) }
}

// parseScript reads
//
//	P send K N [txn=T] [of=G/K@O]
//	P written K N @O [duplicate]    P not_written K N    P unknown K N
//	P begin T                     P commit T, abort T, committed T, aborted T, undecided T
//	P assign K @O                 P revoke K                      P final K FROM..END [high=H] [uncommitted]
//	P poll K O=P:N O=P:NxCOUNT O=bad ... [->END] [uncommitted]
//	P offset_commit G K @O [txn=T] [reset]                        P offset_committed G K @O, offset_refused G K @O
//	P offset_asked G K            P offset_told G K @O
//	B checksum K FROM..END CRC    0 fault TEXT
//
// P is a process, B a broker, K a topic of one partition.
func parseScript(t *testing.T, d *datadriven.TestData) []Event {
	t.Helper()
	var events []Event
	for i, text := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		w := strings.Fields(text)
		e := Event{Kind: kindOf[w[1]], At: time.Duration(i) * 10 * time.Millisecond}
		if e.Kind == 0 {
			t.Fatalf("%s: unknown event %q", d.Pos, w[1])
		}
		who, args := number(t, d, w[0]), w[2:]
		e.Process = Process(who)
		needed := shapes[e.Kind].needed
		switch {
		case e.Kind == Fault:
			e.Text, args = strings.Join(args, " "), nil
		case needed&hasReplica != 0:
			e.Process, e.Broker = 0, int32(who)
		}
		if needed&hasGroup != 0 {
			e.Group, args = args[0], args[1:]
		}
		if needed&hasKey != 0 {
			e.Key.Topic, args = args[0], args[1:]
		}
		if needed&hasN != 0 {
			e.N, args = uint32(number(t, d, args[0])), args[1:]
		}
		if needed&hasTxn != 0 {
			e.Txn, args = uint64(number(t, d, args[0])), args[1:]
		}
		for _, arg := range args {
			e.take(t, d, arg)
		}
		events = append(events, e)
	}
	return events
}

func number(t *testing.T, d *datadriven.TestData, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	return n
}

// take reads an argument whose look says what it is.
func (e *Event) take(t *testing.T, d *datadriven.TestData, arg string) {
	t.Helper()
	name, value, pair := strings.Cut(arg, "=")
	from, end, isRange := strings.Cut(arg, "..")
	switch {
	case strings.HasPrefix(arg, "@"):
		e.Offset = record.Offset(number(t, d, arg[1:]))
	case strings.HasPrefix(arg, "->"):
		e.End = record.Offset(number(t, d, arg[2:]))
	case arg == "duplicate":
		e.Duplicate = true
	case arg == "uncommitted":
		e.Uncommitted = true
	case arg == "reset":
		e.Reset = true
	case name == "txn":
		e.Txn = uint64(number(t, d, value))
	case name == "of":
		group, rest, _ := strings.Cut(value, "/")
		topic, offset, _ := strings.Cut(rest, "@")
		e.Group, e.Source.Topic, e.SourceOffset = group, topic, record.Offset(number(t, d, offset))
	case name == "high":
		e.High = record.Offset(number(t, d, value))
	case pair:
		r := Record{Offset: record.Offset(number(t, d, name)), Count: 1}
		if value == "bad" {
			r.Bad = "no value"
		} else if n, _ := fmt.Sscanf(value, "%d:%dx%d", &r.Value.Process, &r.Value.N, &r.Count); n < 2 {
			t.Fatalf("%s: record %q", d.Pos, arg)
		}
		e.Records = append(e.Records, r)
	case isRange:
		e.From, e.End = record.Offset(number(t, d, from)), record.Offset(number(t, d, end))
		e.High = e.End
		if e.Kind == Checksum {
			e.High = 0
		}
	case e.Kind == Checksum:
		e.CRC = uint32(number(t, d, arg))
	default:
		t.Fatalf("%s: argument %q", d.Pos, arg)
	}
}
