package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// fullEvents are one of each kind with every field set that it may have.
func fullEvents() []Event {
	key := record.TopicPartition{Topic: "or<ders", Partition: 3}
	events := []Event{
		{Kind: Send, N: 7, Txn: 2},
		{Kind: Send, N: 8, Group: "g", Source: record.TopicPartition{Topic: "in", Partition: 1}, SourceOffset: 5},
		{Kind: Written, N: 7, Offset: 9, Duplicate: true},
		{Kind: NotWritten, N: 8, Text: "refused"},
		{Kind: Unknown, N: 9, Text: "time\nout"},
		{Kind: Begin, Txn: 2}, {Kind: Commit, Txn: 2}, {Kind: Abort, Txn: 2},
		{Kind: Committed, Txn: 2}, {Kind: Aborted, Txn: 2, Text: "fenced"}, {Kind: Undecided, Txn: 2, Text: "time out"},
		{Kind: Assign, Offset: record.NoOffset}, {Kind: Revoke},
		{Kind: Poll, Records: []Record{
			{Offset: 1, Value: Value{1, 1}, Count: 1}, {Offset: 2, Count: 1, Bad: "damaged"}, {Offset: 3, Value: Value{1, 2}, Count: 5},
			{Offset: 0, Count: 1, Bad: "empty"},
		}, End: 12, Uncommitted: true},
		{Kind: Final, From: 1, End: 12, High: 13, Uncommitted: true},
		{Kind: OffsetCommit, Group: "g", Offset: 5, Txn: 2, Reset: true}, {Kind: OffsetCommitted, Group: "g", Offset: 5},
		{Kind: OffsetRefused, Group: "g", Offset: 5, Text: "moved"}, {Kind: OffsetAsked, Group: "g"}, {Kind: OffsetTold, Group: "g", Offset: -1},
		{Kind: Checksum, Broker: 2, From: 1, End: 12, CRC: 1 << 31},
		{Kind: Fault, Text: "broker 1 killed"},
	}
	for i := range events {
		e := &events[i]
		e.At = time.Duration(i + 1)
		if shapes[e.Kind].needed&hasProcess != 0 {
			e.Process = 4
		}
		if shapes[e.Kind].needed&hasKey != 0 {
			e.Key = key
		}
	}
	return events
}

func TestFileKeepsEverything(t *testing.T) {
	want := fullEvents()
	kinds := make(map[Kind]bool)
	path := filepath.Join(t.TempDir(), "run.jsonl")
	r, err := CreateFile(path, "a note")
	if err != nil {
		t.Fatal(err)
	}
	start := r.start
	for i, e := range want {
		kinds[e.Kind] = true
		r.now = func() time.Time { return start.Add(want[i].At) }
		r.add(e)
	}
	if len(kinds) != int(kindCount)-1 {
		t.Fatalf("%d kinds of %d", len(kinds), kindCount-1)
	}
	for range 2 { // a source can be read again
		n := 0
		for e, err := range r.Source() {
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Records) == 0 {
				e.Records = nil
			}
			if !reflect.DeepEqual(*e, want[n]) {
				t.Fatalf("read %+v, want %+v", *e, want[n])
			}
			if s := e.String(); strings.Contains(s, "\n") || s == e.Kind.String() {
				t.Errorf("%v in words: %q", e.Kind, s)
			}
			n++
		}
		if n != len(want) {
			t.Fatalf("%d events, want %d", n, len(want))
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Fault("too late")
	for _, err := range r.Source() {
		if err == nil {
			t.Error("a closed recorder goes on")
		}
	}
}

// A file that was cut off ends at its last whole line; anything else that is wrong is said, with the line.
func TestBadFiles(t *testing.T) {
	const head = `{"history":1}` + "\n"
	const send = `{"event":"send","t":1,"process":1,"topic":"t","partition":0,"n":0}` + "\n"
	for _, c := range []struct{ text, want string }{
		{head, ""},
		{head + send, ""},
		{head + send + `{"event":"written","t":1,"proc`, ""},
		{head + send + `{"event":"fault","t":1,"text":"` + strings.Repeat("x", 3<<20) + `"}` + "\n", ""},
		{"", "line 1: the file is empty"},
		{`{"history":1}`, "line 1: the file is empty"},
		{"{}\n", "line 1: no header"},
		{"hello\n", "line 1: no header"},
		{`{"history":2}` + "\n", "line 1: the file has version 2, this program knows 1"},
		{head + "{}\n", "line 2: no event"},
		{head + "\n", `line 2: want '{'`},
		{head + send[:len(send)-1] + " {}\n", "line 2: \"{}\" after the event"},
		{head + `{"event":"sent","t":1}` + "\n", `event: there is no "sent"`},
		{head + strings.Replace(send, `"n":0`, `"n":0,"m":1`, 1), `unknown field "m"`},
		{head + strings.Replace(send, `,"n":0`, "", 1), "send without n"},
		{head + strings.Replace(send, `"topic":"t",`, "", 1), "send without topic"},
		{head + strings.Replace(send, `"n":0`, `"n":0,"offset":1`, 1), "send with offset"},
		{head + strings.Replace(send, `"n":0`, `"n":-1`, 1), "n: -1, want 0 to"},
		{head + strings.Replace(send, `"n":0`, `"n":0,"group":"g"`, 1), "want all or none"},
		{head + strings.Replace(send, `"n":0`, `"n":0,"group":"g","source_topic":"","source_partition":0,"source_offset":0`, 1), "empty source_topic"},
		{head + `{"event":"begin","t":1,"process":1}` + "\n", "begin without txn"},
		{head + pollLine(`[[0,1,0,0]]`), "count from 1 to"},
		{head + pollLine(`[[0,1,0,2000000]]`), "count from 1 to"},
		{head + pollLine(`[[0,1]]`), "want offset, process, n"},
		{head + pollLine(`[[0]]`), "neither a value nor a reason"},
		{head + pollLine(`[],"bad":["x"]`), "more reasons"},
		{head + pollLine(`[[0,4294967296,0]]`), "32 bits"},
		{head + pollLine(`[[0,1,4294967295,2]]`), "32 bits"},
		{head + pollLine(`[[-1,1,0]]`), "-1, want 0 to"},
		{head + pollLine(`[[4611686018427387905,1,0]]`), "want 0 to 4611686018427387904"},
		{head + pollLine(`[],"end":-1`), "want none below 0"},
		{head + pollLine(`[],"isolation":"none"`), "isolation"},
		{head + pollLine(`[],"isolation":"read_committed","isolation":"read_committed"`), "isolation stands twice"},
		{head + pollLine(`[[0,1,0,1,1]]`), "more than 4 numbers"},
		{head + pollLine(`[[0,1,0],[`), "want a whole number"},
		{head + pollLine(`[[0,1,1.0]]`), "want a whole number"},
		{head + pollLine(`[[0,1,01]]`), "want a whole number"},
		{head + pollLine(`[[0,1,9223372036854775808]]`), "9223372036854775808, want"},
		{head + pollLine(`[],"end":"1"`), "end: want a whole number"},
		{head + strings.Replace(send, `"t"`, `"\q"`, 1), "invalid character 'q'"},
		{head + strings.Replace(send, `"t"`, `"t`, 1), "want ':'"},
		{head + `{"event":"fault","t":1,"text":"a` + "\t" + `b"}` + "\n", "invalid character"},
		{head + `{"event":"written","t":1,"duplicate":1}` + "\n", "want true or false"},
		{head + finalLine(5, 4, 6), "want none below 0"},
		{head + finalLine(0, 4, 3), "want none below 0"},
		{head + `{"event":"assign","t":1,"process":1,"topic":"t","partition":0,"offset":-2}` + "\n", "offset: -2, want -1 to"},
	} {
		path := filepath.Join(t.TempDir(), "run.jsonl")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Check(File(path), Options{})
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := Check(File(filepath.Join(t.TempDir(), "none")), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := CreateFile(t.TempDir(), ""); err == nil {
		t.Error("recording to a folder")
	}
}

func pollLine(records string) string {
	return `{"event":"poll","t":1,"process":1,"topic":"t","partition":0,"records":` + records + "}\n"
}

func finalLine(from, end, high int) string {
	return fmt.Sprintf(`{"event":"final","t":1,"process":1,"topic":"t","partition":0,"from":%d,"end":%d,"high":%d}`+"\n", from, end, high)
}

// A line above the limit is refused before it is held in memory.
func TestEndlessLine(t *testing.T) {
	r := strings.NewReader(`{"history":1}` + "\n" + strings.Repeat("x", 2*maxLine))
	var last error
	read(r, func(_ *Event, err error) bool { last = err; return true })
	if !errors.Is(last, ErrFormat) || r.Len() < maxLine/2 {
		t.Errorf("%v, %d bytes left", last, r.Len())
	}
}

func TestPayload(t *testing.T) {
	key := record.TopicPartition{Topic: "orders", Partition: 12}
	for _, size := range []int{0, 1, 14, 15, 16, 63, 64, 1000} {
		b := AppendPayload([]byte("before"), key, Value{3, 17}, size)[len("before"):]
		if want := max(size, len("3:17@orders/12 ")); len(b) != want {
			t.Errorf("size %d: %d bytes, want %d", size, len(b), want)
		}
		if v, err := ParsePayload(key, b); err != nil || v != (Value{3, 17}) {
			t.Errorf("size %d: %v, %v", size, v, err)
		}
		for i := range b {
			b[i] ^= 1
			if v, err := ParsePayload(key, b); err == nil && (v == Value{3, 17} || len(b) > 30) {
				t.Errorf("size %d, byte %d damaged: %v", size, i, v)
			}
			b[i] ^= 1
		}
	}
	for text, want := range map[string]string{
		"": "not a value", "3:17": "not a value", "3:17 ": "not a value", "x:17@orders/12 ": "not a value", "3:4294967296@orders/12 ": "not a value",
		"3:17@orders/1 ": "was sent to", "3:17@orders/12 3:18@": "damaged",
	} {
		if v, err := ParsePayload(key, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, v, err, want)
		}
	}
}

// Many processes record at once; each one's numbers rise in the order of the events.
func TestRecorderFromManyGoroutines(t *testing.T) {
	r := NewRecorder()
	key := record.TopicPartition{Topic: "t"}
	var wg sync.WaitGroup
	p := r.NewProducer()
	for range 8 {
		wg.Go(func() {
			c := r.NewConsumer(false)
			for range 100 {
				p.Send(key).Unknown("")
				c.Poll(key, nil, 1)
			}
		})
	}
	wg.Wait()
	report, err := Check(r.Source(), Options{})
	if err != nil || report.Total() > 0 || report.Sent != 800 || report.Unknown != 800 {
		t.Fatalf("%v, %v", err, report)
	}
}

// Findings beyond those that are shown are counted.
func TestManyFindings(t *testing.T) {
	r := NewRecorder()
	key := record.TopicPartition{Topic: "t"}
	p, c := r.NewProducer(), r.NewConsumer(false)
	for i := range record.Offset(1000) {
		p.Send(key).Written(i, false)
	}
	c.Final(key, 0, 1000, 1000)
	report, err := Check(r.Source(), Options{MaxShown: 3})
	if err != nil || report.Counts[Lost] != 1000 || len(report.Findings) != 3 {
		t.Fatalf("%v, %v", err, report)
	}
}

// FuzzLine: what is taken from a line is what encoding/json takes from it, and is kept when written.
func FuzzLine(f *testing.F) {
	for _, e := range fullEvents() {
		text, err := json.Marshal(e.line())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var e, again Event
		if err := new(parser).event(text, &e); err != nil {
			return
		}
		var l line
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		written, err := json.Marshal(e.line())
		if err != nil {
			t.Fatal(err)
		}
		if err := new(parser).event(written, &again); err != nil || !reflect.DeepEqual(e, again) {
			t.Fatalf("read %+v, wrote %s, read %+v, %v", e, written, again, err)
		}
		// What may be said in two ways.
		if l.Isolation == readCommitted {
			l.Isolation = ""
		}
		if l.End != nil && *l.End == 0 && e.Kind == Poll {
			l.End = nil
		}
		if l.Records != nil {
			for i, r := range *l.Records {
				if len(r) == 4 && r[3] == 1 {
					(*l.Records)[i] = r[:3]
				}
			}
		}
		other, err := json.Marshal(l)
		if err != nil || string(other) != string(written) {
			t.Fatalf("encoding/json takes %s, we %s, %v", other, written, err)
		}
	})
}
