package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// event is one thing that happened in a run of verify: a line of a history file. Values are unique.
type event struct {
	// Type is "send", "read", "final" or "replica".
	Type      string        `json:"type"`
	Partition int32         `json:"partition"`
	Value     string        `json:"value,omitempty"`
	Offset    record.Offset `json:"offset"`

	// send: what one producer was told. Its records of a partition were sent in the order of N.
	Producer  int    `json:"producer,omitempty"`
	N         int64  `json:"n,omitempty"`
	Outcome   string `json:"outcome,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Error     string `json:"error,omitempty"`

	// read and final: what a reader saw; final is the one that read everything after the end.
	Reader int `json:"reader,omitempty"`

	// replica: the checksum of one replica over the offsets below Offset.
	Broker int32  `json:"broker,omitempty"`
	CRC32C string `json:"crc32c,omitempty"`
}

// String is the event as an anomaly shows it.
func (e event) String() string {
	switch e.Type {
	case "send":
		s := fmt.Sprintf("producer %d sent %q to partition %d: %s", e.Producer, e.Value, e.Partition, e.Outcome)
		if e.Outcome == client.Written.String() && e.Offset >= 0 {
			s += fmt.Sprintf(" at offset %d", e.Offset)
		}
		if e.Duplicate {
			s += ", by an earlier attempt"
		}
		if e.Error != "" {
			s += " (" + e.Error + ")"
		}
		return s
	case "replica":
		return fmt.Sprintf("broker %d: partition %d below offset %d has CRC32C %s", e.Broker, e.Partition, e.Offset, e.CRC32C)
	default:
		return fmt.Sprintf("reader %d saw %q in partition %d at offset %d", e.Reader, e.Value, e.Partition, e.Offset)
	}
}

// history collects events, from several goroutines.
type history struct {
	mu     sync.Mutex // guards events
	events []event
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// write writes the history, one event a line.
func (h *history) write(w io.Writer) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for _, e := range h.events {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return out.Flush()
}

// readHistory reads what write wrote.
func readHistory(r io.Reader) (*history, error) {
	h := &history{}
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	for {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return h, nil
		} else if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(h.events)+1, err)
		}
		h.events = append(h.events, e)
	}
}

// anomaly is one broken rule, with the events that show it.
type anomaly struct {
	// Kind is "lost", "duplicate", "phantom", "refused but written", "misplaced", "reordered",
	// "inconsistent" or "replicas differ".
	Kind   string   `json:"kind"`
	What   string   `json:"what"`
	Events []string `json:"events"`
}

// place is where a record lies.
type place struct {
	partition int32
	offset    record.Offset
}

// check applies the rules for a log without transactions; anomalies come in order of their kind and
// place. The final read decides what the log holds.
func (h *history) check() []anomaly {
	c := checker{sends: map[string]event{}, final: map[string][]event{}, at: map[place]event{}}
	for _, e := range h.events {
		switch e.Type {
		case "send":
			c.sends[e.Value] = e
		case "final":
			c.final[e.Value] = append(c.final[e.Value], e)
			c.seen(e)
		case "read":
			c.seen(e)
		}
	}
	c.outcomes()
	c.order()
	c.replicas(h.events)
	return c.found
}

type checker struct {
	sends map[string]event
	final map[string][]event
	at    map[place]event // the first sight of each place
	found []anomaly
}

func (c *checker) report(kind, what string, events ...event) {
	a := anomaly{Kind: kind, What: what}
	for _, e := range events {
		a.Events = append(a.Events, e.String())
	}
	c.found = append(c.found, a)
}

// seen checks that a place always holds the same value.
func (c *checker) seen(e event) {
	p := place{e.Partition, e.Offset}
	first, ok := c.at[p]
	if !ok {
		c.at[p] = e
	} else if first.Value != e.Value {
		c.report("inconsistent", fmt.Sprintf("partition %d offset %d holds two values", e.Partition, e.Offset), first, e)
	}
}

// outcomes checks what each sender was told against what is there.
func (c *checker) outcomes() {
	for _, value := range slices.Sorted(maps.Keys(c.sends)) {
		sent, there := c.sends[value], c.final[value]
		switch {
		case len(there) > 1:
			c.report("duplicate", fmt.Sprintf("%q is in the log %d times", value, len(there)), append([]event{sent}, there...)...)
		case sent.Outcome == client.Written.String() && len(there) == 0:
			c.report("lost", fmt.Sprintf("%q was acknowledged and is not in the log", value), sent)
		case sent.Outcome == client.NotWritten.String() && len(there) > 0:
			c.report("refused but written", fmt.Sprintf("%q was reported not written and is in the log", value), sent, there[0])
		case sent.Outcome == client.Written.String() && sent.Offset >= 0 && (there[0].Offset != sent.Offset || there[0].Partition != sent.Partition):
			c.report("misplaced", fmt.Sprintf("%q is not where it was acknowledged", value), sent, there[0])
		}
	}
	for _, value := range slices.Sorted(maps.Keys(c.final)) {
		if _, ok := c.sends[value]; !ok {
			c.report("phantom", fmt.Sprintf("%q was never sent", value), c.final[value][0])
		}
	}
}

// order checks that each producer's acknowledged records of a partition lie in the order in which
// they were sent.
func (c *checker) order() {
	type lane struct {
		producer  int
		partition int32
	}
	lanes := map[lane][]event{}
	for _, e := range c.sends {
		if e.Outcome == client.Written.String() && len(c.final[e.Value]) > 0 {
			l := lane{e.Producer, e.Partition}
			lanes[l] = append(lanes[l], e)
		}
	}
	for _, l := range slices.SortedFunc(maps.Keys(lanes), func(a, b lane) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.producer, b.producer))
	}) {
		sent := lanes[l]
		slices.SortFunc(sent, func(a, b event) int { return cmp.Compare(a.N, b.N) })
		for i := 1; i < len(sent); i++ {
			before, after := c.final[sent[i-1].Value][0], c.final[sent[i].Value][0]
			if after.Offset < before.Offset {
				c.report("reordered", fmt.Sprintf("%q was sent after %q and lies before it", after.Value, before.Value), sent[i-1], sent[i], after, before)
			}
		}
	}
}

// replicas checks that replicas with the same end hold the same records.
func (c *checker) replicas(events []event) {
	first := map[place]event{}
	for _, e := range events {
		if e.Type != "replica" {
			continue
		}
		p := place{e.Partition, e.Offset}
		if other, ok := first[p]; !ok {
			first[p] = e
		} else if other.CRC32C != e.CRC32C {
			c.report("replicas differ", fmt.Sprintf("replicas of partition %d hold different records", e.Partition), other, e)
		}
	}
}
