// Package checker judges from outside whether a log held its promise: what was sent, what was
// answered and what is stored must fit.
//
// A Recorder takes down each send with its outcome, in the order in which a process made them. Check
// compares it with what was read back. Values are unique within a partition; that is what makes a
// duplicate visible. Memory is about 60 bytes for each value.
package checker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/oncelog/oncelog/record"
)

// Outcome is what the sender was told.
type Outcome string

// The outcomes. A send that was never answered stays Unknown.
const (
	Written    Outcome = "written"
	NotWritten Outcome = "not_written"
	Unknown    Outcome = "unknown"
)

// Send is one value that one process sent to one partition.
type Send struct {
	Process   int           `json:"process"`
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Value     uint64        `json:"value"`
	Outcome   Outcome       `json:"outcome"`
	Offset    record.Offset `json:"offset"` // -1 unless written
}

// Read is one stored record.
type Read struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Offset    record.Offset `json:"offset"`
	Value     uint64        `json:"value"`
}

// Recorder takes sends down. It may be used by many goroutines; sends of one process must be begun in
// the order in which they are made.
type Recorder struct {
	mu    sync.Mutex
	sends []Send
}

// Begin notes a send before it is made and gives its number for End.
func (r *Recorder) Begin(process int, tp record.TopicPartition, value uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sends = append(r.sends, Send{Process: process, Topic: tp.Topic, Partition: tp.Partition, Value: value, Outcome: Unknown, Offset: record.NoOffset})
	return len(r.sends) - 1
}

// End notes what the sender was told.
func (r *Recorder) End(n int, o Outcome, offset record.Offset) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sends[n].Outcome, r.sends[n].Offset = o, offset
}

// Sends gives all sends so far, in order.
func (r *Recorder) Sends() []Send {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sends)
}

// Kind is a way in which a log can break its promise.
type Kind string

// What Check finds.
const (
	// Lost: acknowledged and not stored.
	Lost Kind = "lost"
	// Duplicate: one value at two offsets.
	Duplicate Kind = "duplicate"
	// Phantom: stored and never sent, or sent with the answer that it was not written.
	Phantom Kind = "phantom"
	// Moved: stored at another offset than the one acknowledged.
	Moved Kind = "moved"
	// Reordered: stored before a value that the same process sent earlier to the same partition.
	Reordered Kind = "reordered"
	// Inconsistent: one offset was read with two values.
	Inconsistent Kind = "inconsistent"
)

// Anomaly is one broken promise with the shortest history that shows it.
type Anomaly struct {
	Kind      Kind   `json:"kind"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Value     uint64 `json:"value"`
	History   string `json:"history"`
}

// Report is what Check says.
type Report struct {
	Sent       int `json:"sent"`
	Written    int `json:"written"`
	NotWritten int `json:"not_written"`
	Unknown    int `json:"unknown"`
	Stored     int `json:"stored"`
	// Counts holds how many anomalies of each kind there are; Anomalies the first of them.
	Counts    map[Kind]int `json:"counts"`
	Anomalies []Anomaly    `json:"anomalies"`
}

// maxShown bounds the anomalies that a report spells out.
const maxShown = 20

// OK says whether nothing was found.
func (r *Report) OK() bool { return len(r.Counts) == 0 }

// String is a line or more for a person.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent: %d written, %d not written, %d unknown; %d stored", r.Sent, r.Written, r.NotWritten, r.Unknown, r.Stored)
	if r.OK() {
		b.WriteString(": every promise held")
		return b.String()
	}
	for _, k := range []Kind{Lost, Duplicate, Reordered, Phantom, Moved, Inconsistent} {
		if n := r.Counts[k]; n > 0 {
			fmt.Fprintf(&b, "; %d %s", n, k)
		}
	}
	for _, a := range r.Anomalies {
		fmt.Fprintf(&b, "\n  %s %s/%d value %d: %s", a.Kind, a.Topic, a.Partition, a.Value, a.History)
	}
	return b.String()
}

func (r *Report) add(k Kind, s Read, format string, args ...any) {
	if r.Counts == nil {
		r.Counts = make(map[Kind]int)
	}
	r.Counts[k]++
	if len(r.Anomalies) < maxShown {
		r.Anomalies = append(r.Anomalies, Anomaly{Kind: k, Topic: s.Topic, Partition: s.Partition, Value: s.Value, History: fmt.Sprintf(format, args...)})
	}
}

// key names a value for all time: values are unique within a partition.
type key struct {
	topic     string
	partition int32
	value     uint64
}

// Check compares what was sent with everything that is stored. reads hold each partition from its
// beginning to its end, in the order read.
func Check(sends []Send, reads []Read) *Report {
	r := &Report{Sent: len(sends), Stored: len(reads)}
	sent := make(map[key]int, len(sends))
	for i, s := range sends {
		sent[key{s.Topic, s.Partition, s.Value}] = i
		switch s.Outcome {
		case Written:
			r.Written++
		case NotWritten:
			r.NotWritten++
		default:
			r.Unknown++
		}
	}
	stored := r.checkReads(sends, sent, reads)
	for _, s := range sends {
		if at, ok := stored[key{s.Topic, s.Partition, s.Value}]; s.Outcome == Written && !ok {
			r.add(Lost, Read{s.Topic, s.Partition, s.Offset, s.Value}, "process %d was told: written at offset %d; it is not stored", s.Process, s.Offset)
		} else if s.Outcome == Written && s.Offset != record.NoOffset && at != s.Offset {
			r.add(Moved, Read{s.Topic, s.Partition, at, s.Value}, "process %d was told: written at offset %d; it is stored at %d", s.Process, s.Offset, at)
		}
	}
	return r
}

// checkReads looks at what is stored, in order of offset, and gives the first offset of each value.
func (r *Report) checkReads(sends []Send, sent map[key]int, reads []Read) map[key]record.Offset {
	reads = slices.Clone(reads)
	slices.SortStableFunc(reads, func(a, b Read) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	type lane struct {
		topic     string
		partition int32
		process   int
	}
	stored := make(map[key]record.Offset, len(reads))
	last := make(map[lane]int) // the latest send of a process that has been met in a partition
	for i, x := range reads {
		if i > 0 && reads[i-1].Topic == x.Topic && reads[i-1].Partition == x.Partition && reads[i-1].Offset == x.Offset {
			if reads[i-1].Value != x.Value {
				r.add(Inconsistent, x, "offset %d was read as %d and as %d", x.Offset, reads[i-1].Value, x.Value)
			}
			continue
		}
		k := key{x.Topic, x.Partition, x.Value}
		if first, ok := stored[k]; ok {
			r.add(Duplicate, x, "stored at offset %d and at offset %d", first, x.Offset)
			continue
		}
		stored[k] = x.Offset
		n, ok := sent[k]
		if !ok {
			r.add(Phantom, x, "stored at offset %d; nobody sent it", x.Offset)
			continue
		}
		s := sends[n]
		if s.Outcome == NotWritten {
			r.add(Phantom, x, "stored at offset %d; process %d was told: not written", x.Offset, s.Process)
		}
		l := lane{x.Topic, x.Partition, s.Process}
		if before, ok := last[l]; ok && before > n {
			r.add(Reordered, x, "stored at offset %d, behind value %d, which process %d sent later", x.Offset, sends[before].Value, s.Process)
			continue
		}
		last[l] = n
	}
	return stored
}

// line is one line of a history file: a send or a read.
type line struct {
	Send *Send `json:"send,omitempty"`
	Read *Read `json:"read,omitempty"`
}

// WriteTo writes a history as JSON lines (each line a send or a read).
func WriteTo(w io.Writer, sends []Send, reads []Read) error {
	enc := json.NewEncoder(w)
	for i := range sends {
		if err := enc.Encode(line{Send: &sends[i]}); err != nil {
			return err
		}
	}
	for i := range reads {
		if err := enc.Encode(line{Read: &reads[i]}); err != nil {
			return err
		}
	}
	return nil
}

// ReadFrom reads what WriteTo wrote. The error names the line.
func ReadFrom(r io.Reader) (sends []Send, reads []Read, err error) {
	dec := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l line
		switch err := dec.Decode(&l); {
		case err == io.EOF:
			return sends, reads, nil
		case err != nil:
			return nil, nil, fmt.Errorf("history line %d: %w", n, err)
		case l.Send != nil:
			sends = append(sends, *l.Send)
		case l.Read != nil:
			reads = append(reads, *l.Read)
		default:
			return nil, nil, fmt.Errorf("history line %d holds neither send nor read", n)
		}
	}
}
