package producer

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/oncelog/oncelog/record"
)

// TestScripts runs testdata: one command per step against one State, whose offsets and clock the script keeps.
//
//	new [max=N] [idle=MS]                    start over; at most N producers, evicted when idle for MS
//	clock now=T                              the leader's clock from now on; it may go back
//	append pid= seq= [epoch=] [n=] [ts=] [txn] [verified] [tv=] [marker=] [lowest=] [group]
//	check  (same)                            what Append would say
//	marker pid= epoch= [coord=] commit|abort [tv=]
//	describe [pid=] [max=]                   what is remembered
//	asked pid= [epoch=]                      what the leader notes before it asks the coordinator
//	lso [hw=]  aborted from= upto=  truncate start=
//	idle cutoff= [below=] [max=]   expire pid= epoch= cutoff= [below=]
//	reload [max=]                            go on with Decode(AppendTo)
//	speculate limit=   admit (as append)   done key=   discard
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := &script{state: New(Limits{}), now: 1000}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
		})
	}
}

// script is the state of one script file.
type script struct {
	state *State
	end   record.Offset
	now   int64

	tail *Speculation
	keys []Key // what admit gave, by the numbers the script shows
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	defer checkInvariants(t, s.state)
	switch d.Cmd {
	case "new":
		s.state, s.end = New(Limits{MaxProducers: number(t, d, "max", 0), MinIdle: number(t, d, "idle", int64(0))}), 0
		return "ok"
	case "clock":
		s.now = number(t, d, "now", s.now)
		return "ok"
	case "append":
		return s.append(t, d)
	case "check":
		b := s.batch(t, d)
		return s.verdict(b, s.state.Check(b, s.now))
	case "marker":
		return s.marker(t, d)
	case "describe":
		return s.describe(t, d)
	case "asked":
		id := record.ProducerID(number(t, d, "pid", 0))
		return fmt.Sprintf("marker=%d open=%t", s.state.LastMarker(id), s.state.HasOpen(id, number(t, d, "epoch", record.Epoch(0))))
	case "lso":
		return fmt.Sprint(s.state.LastStable(number(t, d, "hw", s.end)))
	case "aborted":
		return s.aborted(t, d)
	case "truncate":
		s.state.TruncateStart(number(t, d, "start", record.Offset(0)))
		return fmt.Sprintf("start=%d aborted=%d producers=%d", s.state.LogStart(), s.state.AbortedLen(), s.state.Len())
	case "idle":
		return fmt.Sprint(s.state.Idle(number(t, d, "cutoff", int64(0)), number(t, d, "below", s.end), number(t, d, "max", 100)))
	case "expire":
		c := Expirable{ProducerID: record.ProducerID(number(t, d, "pid", 0)), Epoch: number(t, d, "epoch", record.Epoch(0))}
		return fmt.Sprintf("%d forgotten", s.state.Expire([]Expirable{c}, number(t, d, "cutoff", int64(0)), number(t, d, "below", s.end)))
	case "reload":
		return s.reload(t, d)
	default:
		return s.speculation(t, d)
	}
}

func (s *script) batch(t *testing.T, d *datadriven.TestData) Batch {
	t.Helper()
	b := Batch{
		ProducerID: record.ProducerID(number(t, d, "pid", -1)), Epoch: number(t, d, "epoch", record.Epoch(0)),
		BaseSequence: number(t, d, "seq", record.NoSequence), LastSequence: record.NoSequence,
		Records: number(t, d, "n", int32(1)), MaxTimestamp: number(t, d, "ts", s.now),
		Transactional: d.HasArg("txn"), Coordinator: d.HasArg("group"),
		Knew: Knew{
			Verified: d.HasArg("verified"), Version: number(t, d, "tv", int8(1)),
			Marker: number(t, d, "marker", record.NoOffset), LowestSequence: number(t, d, "lowest", record.NoSequence),
		},
	}
	if b.BaseSequence >= 0 && b.Records > 0 {
		b.LastSequence = number(t, d, "last", b.BaseSequence.Add(b.Records-1))
	}
	return b
}

func (s *script) append(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	b := s.batch(t, d)
	before := s.state.AppendTo(nil)
	foreseen := s.state.Check(b, s.now)
	v := s.state.Append(b, s.end, s.now)
	if foreseen.Code != v.Code || foreseen.Expected != v.Expected || foreseen.StoredEpoch != v.StoredEpoch {
		t.Fatalf("%s: Check said %+v, Append %+v", d.Pos, foreseen, v)
	}
	if v.Code == Accepted {
		s.end += record.Offset(b.Records)
	} else if !bytes.Equal(before, s.state.AppendTo(nil)) {
		t.Fatalf("%s: %s changed the state", d.Pos, v.Code)
	}
	return s.verdict(b, v)
}

func (s *script) verdict(b Batch, v Verdict) string {
	var out strings.Builder
	switch v.Code {
	case Accepted:
		fmt.Fprintf(&out, "accepted %d-%d", v.Base, v.Last)
	case Duplicate:
		fmt.Fprintf(&out, "duplicate of %d-%d ts=%d", v.Base, v.Last, v.Timestamp)
	default:
		fmt.Fprintf(&out, "%s: %s", v.Code, v.Message(b))
	}
	if v.Evicted != nil {
		fmt.Fprintf(&out, " evicted=%d", v.Evicted)
	}
	return out.String()
}

func (s *script) marker(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	if d.HasArg("commit") == d.HasArg("abort") {
		d.Fatalf(t, "want either commit or abort")
	}
	m := Marker{
		ProducerID: record.ProducerID(number(t, d, "pid", 0)), Epoch: number(t, d, "epoch", record.Epoch(0)),
		CoordinatorEpoch: number(t, d, "coord", int32(0)), Commit: d.HasArg("commit"), Version: number(t, d, "tv", int8(1)),
	}
	before := s.state.AppendTo(nil)
	v := s.state.EndTransaction(m, s.end, s.now)
	if v.Code != Accepted {
		if !bytes.Equal(before, s.state.AppendTo(nil)) {
			t.Fatalf("%s: %s changed the state", d.Pos, v.Code)
		}
		return fmt.Sprintf("%s: stored epoch %d, coordinator epoch %d", v.Code, v.StoredEpoch, v.StoredCoordinatorEpoch)
	}
	s.end++
	out := fmt.Sprintf("accepted at %d", s.end-1)
	if v.First != record.NoOffset {
		out += fmt.Sprintf(", ends the transaction from %d", v.First)
	}
	if v.Evicted != nil {
		out += fmt.Sprintf(" evicted=%d", v.Evicted)
	}
	return out
}

func (s *script) describe(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var ids []record.ProducerID
	if d.HasArg("pid") {
		ids = append(ids, record.ProducerID(number(t, d, "pid", 0)))
	}
	found, truncated := s.state.Describe(ids, number(t, d, "max", 100))
	var out strings.Builder
	for _, p := range found {
		fmt.Fprintf(&out, "pid=%d epoch=%d coord=%d last=%d seq=%d", p.ProducerID, p.Epoch, p.CoordinatorEpoch, p.LastTimestamp, p.LastSequence)
		if p.OpenFrom != record.NoOffset {
			fmt.Fprintf(&out, " open=%d", p.OpenFrom)
		}
		if p.LastMarker != record.NoOffset {
			fmt.Fprintf(&out, " marker=%d", p.LastMarker)
		}
		for _, b := range p.Batches {
			fmt.Fprintf(&out, " [%d-%d @%d-%d]", b.FirstSequence, b.LastSequence, b.FirstOffset, b.LastOffset)
		}
		out.WriteByte('\n')
	}
	if truncated {
		out.WriteString("and more\n")
	}
	if out.Len() == 0 {
		return "none"
	}
	return out.String()
}

func (s *script) aborted(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	found := s.state.Aborted(number(t, d, "from", record.Offset(0)), number(t, d, "upto", s.end))
	if len(found) == 0 {
		return "none"
	}
	var out strings.Builder
	for _, a := range found {
		fmt.Fprintf(&out, "pid=%d %d-%d lso=%d\n", a.ProducerID, a.First, a.Last, a.LastStable)
	}
	return out.String()
}

func (s *script) reload(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	data := s.state.AppendTo(nil)
	limits := s.state.limits
	limits.MaxProducers = number(t, d, "max", limits.MaxProducers)
	state, err := Decode(data, limits)
	if err != nil {
		return err.Error()
	}
	if !bytes.Equal(data, state.AppendTo(nil)) {
		t.Fatalf("%s: encodes differently after Decode", d.Pos)
	}
	s.state = state
	return fmt.Sprintf("%d bytes, %d producers, %d open, %d aborted", len(data), state.Len(), state.OpenTransactions(), state.AbortedLen())
}

func (s *script) speculation(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	case "speculate":
		s.tail, s.keys = NewSpeculation(number(t, d, "limit", 10)), nil
		return "ok"
	case "admit":
		b := s.batch(t, d)
		a := s.tail.Admit(s.state, b)
		out := a.Action.String()
		switch a.Action {
		case Propose:
			if a.Key.Tracked() {
				s.keys = append(s.keys, a.Key)
				out += fmt.Sprintf(" key=%d", len(s.keys))
			}
		case DuplicateInFlight:
			for i, k := range s.keys {
				if k == a.Key {
					out += fmt.Sprintf(" key=%d", i+1)
				}
			}
		case CommittedDuplicate:
			out += ": " + s.verdict(b, a.Verdict)
		}
		return out
	case "done":
		s.tail.Done(s.keys[number(t, d, "key", 1)-1])
	case "discard":
		s.tail.Discard()
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return fmt.Sprintf("%d in flight", s.tail.Len())
}

// number reads the argument key, or gives what it is without.
func number[T ~int8 | ~int16 | ~int32 | ~int64 | ~int](t *testing.T, d *datadriven.TestData, key string, without T) T {
	t.Helper()
	var n int64
	if !d.MaybeScanArgs(t, key, &n) {
		return without
	}
	if int64(T(n)) != n {
		d.Fatalf(t, "%s=%d is out of range", key, n)
	}
	return T(n)
}
