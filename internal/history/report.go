package history

import (
	"fmt"
	"strings"

	"github.com/oncelog/oncelog/record"
)

// Anomaly is a way in which a log can break its promise.
type Anomaly string

// What Check finds. Anomalies lists them with a sentence each.
const (
	Lost           Anomaly = "lost"
	Unseen         Anomaly = "unseen"
	Duplicate      Anomaly = "duplicate"
	Reordered      Anomaly = "reordered"
	Phantom        Anomaly = "phantom"
	Refused        Anomaly = "refused_but_written"
	Misplaced      Anomaly = "misplaced"
	Inconsistent   Anomaly = "inconsistent"
	Backwards      Anomaly = "backwards"
	Skipped        Anomaly = "skipped"
	AbortedRead    Anomaly = "aborted_read"
	Early          Anomaly = "read_before_commit"
	Torn           Anomaly = "torn_transaction"
	OffsetBack     Anomaly = "offset_back"
	OffsetPhantom  Anomaly = "offset_phantom"
	MadeTwice      Anomaly = "made_twice"
	NotMade        Anomaly = "not_made"
	MadeOutOfOrder Anomaly = "made_out_of_order"
	ReplicasDiffer Anomaly = "replicas_differ"
)

// Anomalies are all that Check finds, in the order of a report, with what they mean.
var Anomalies = []struct {
	Anomaly Anomaly
	Meaning string
}{
	{Lost, "acknowledged or committed, and not there"},
	{Unseen, "acknowledged or committed, and readers never get that far"},
	{Duplicate, "stored more than once"},
	{Reordered, "a producer's records in another order than they were sent"},
	{Phantom, "stored and never sent, or damaged"},
	{Refused, "reported not written, and stored"},
	{Misplaced, "not at the offset that was acknowledged"},
	{Inconsistent, "one offset, two values"},
	{Backwards, "a reader was given what lies before its position"},
	{Skipped, "a reader was led past a record"},
	{AbortedRead, "read as committed, of a transaction that was aborted"},
	{Early, "read as committed, of a transaction that was open"},
	{Torn, "a part of a transaction is seen, a part is not"},
	{OffsetBack, "a group's committed offset went back"},
	{OffsetPhantom, "a group's committed offset that nobody committed"},
	{MadeTwice, "two visible results of one record"},
	{NotMade, "processed as the group's offset says, and no visible result"},
	{MadeOutOfOrder, "results in another order than the records they were made of"},
	{ReplicasDiffer, "replicas with the same offsets and other records"},
}

// Finding is one broken promise with the shortest part of the history that shows it.
type Finding struct {
	Anomaly   Anomaly  `json:"anomaly"`
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	What      string   `json:"what"`
	History   []string `json:"history"`
}

// String says it for a person, on several lines.
func (f *Finding) String() string {
	return fmt.Sprintf("%s in %s/%d: %s\n    %s", f.Anomaly, f.Topic, f.Partition, f.What, strings.Join(f.History, "\n    "))
}

// Report is what Check says.
type Report struct {
	Sent         int64 `json:"sent"`
	Written      int64 `json:"written"`
	NotWritten   int64 `json:"not_written"`
	Unknown      int64 `json:"unknown"`
	FoundByRetry int64 `json:"found_by_retry"` // of the written ones
	Stored       int64 `json:"stored"`         // different offsets that were read
	// Transactions.
	Committed     int64 `json:"transactions_committed"`
	Aborted       int64 `json:"transactions_aborted"`
	Undecided     int64 `json:"transactions_undecided"`
	OffsetCommits int64 `json:"offset_commits"`
	Faults        int64 `json:"faults"`
	// NotJudged are acknowledged values below where the log starts, or where nobody has read.
	NotJudged int64 `json:"not_judged"`
	// NotReadToEnd are partitions that were written to and that nobody read to the end.
	NotReadToEnd []string `json:"not_read_to_end"`
	// Counts holds how many findings of each kind there are; Findings the first of each.
	Counts   map[Anomaly]int64 `json:"anomalies"`
	Findings []Finding         `json:"findings"`

	pending []finding
}

func newReport() *Report {
	return &Report{Counts: make(map[Anomaly]int64), Findings: []Finding{}, NotReadToEnd: []string{}}
}

// OK says whether nothing was found and the history can prove it.
func (r *Report) OK() bool { return len(r.Counts) == 0 && r.Doubt() == "" }

// Total is the number of findings.
func (r *Report) Total() int64 {
	var n int64
	for _, count := range r.Counts {
		n += count
	}
	return n
}

// Doubt says why a history without findings proves little; "": it does prove something.
func (r *Report) Doubt() string {
	switch {
	case r.Written == 0:
		return "nothing was written"
	case len(r.NotReadToEnd) > 0:
		return "not read to the end: " + strings.Join(r.NotReadToEnd, ", ")
	}
	return ""
}

// String is a line or more for a person.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent: %d written, %d not written, %d unknown; %d stored", r.Sent, r.Written, r.NotWritten, r.Unknown, r.Stored)
	if r.Committed+r.Aborted+r.Undecided > 0 {
		fmt.Fprintf(&b, "; transactions: %d committed, %d aborted, %d undecided", r.Committed, r.Aborted, r.Undecided)
	}
	if r.OK() {
		b.WriteString(": every promise held")
		return b.String()
	}
	if doubt := r.Doubt(); doubt != "" {
		b.WriteString("; " + doubt)
	}
	for _, a := range Anomalies {
		if n := r.Counts[a.Anomaly]; n > 0 {
			fmt.Fprintf(&b, "; %d %s", n, a.Anomaly)
		}
	}
	for i := range r.Findings {
		b.WriteString("\n  " + strings.ReplaceAll(r.Findings[i].String(), "\n", "\n  "))
	}
	return b.String()
}

// finding is a Finding whose history has yet to be collected: it says what belongs to it.
type finding struct {
	kind Anomaly
	part *partition
	what string

	values  []Value         // their Sends and outcomes
	reads   []sight         // the first that got this value at this offset
	also    *also           // one in another partition
	missing *record.Offset  // the first reader that passed this offset, or that ended before it
	txn     *txn            // its beginning and end
	events  []int64         // these
	say     string          // what to say of them, instead of Event.String
	reader  *reader         // its event before the first of events
	group   *groupKey       // with offsets: the commits of these
	offsets []record.Offset // as above
	sums    bool            // the first checksum of the same range as the event's
}

// sight is a value at an offset.
type sight struct {
	value Value
	at    record.Offset
}

type also struct {
	part  *partition
	sight sight
	sent  bool // its Send and outcome too
}

// found counts a finding and keeps the first of each kind.
func (c *checker) found(f finding) {
	c.report.Counts[f.kind]++
	if c.report.Counts[f.kind] <= int64(c.options.MaxShown) {
		c.report.pending = append(c.report.pending, f)
	}
}
