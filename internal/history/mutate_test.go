package history

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/oncelog/oncelog/record"
)

var histories = flag.Int("histories", 200, "how many random histories are judged and broken")

// TestRandomHistories: what a right log does is never called wrong; after one thing has been changed in
// it, that is found.
func TestRandomHistories(t *testing.T) {
	applied := make(map[string]int)
	for seed := range uint64(*histories) {
		sound := randomHistory(seed)
		r, err := Check(Events(sound), Options{})
		if err != nil || r.Total() > 0 || len(r.NotReadToEnd) > 0 || r.NotJudged > 0 {
			t.Fatalf("seed %d: %v, %v", seed, err, r)
		}
		for _, m := range mutations {
			b := &breaker{Rand: rand.New(rand.NewPCG(seed, 1)), events: unroll(clone(sound))}
			b.learn()
			if !m.apply(b) {
				continue
			}
			applied[m.name]++
			r, err := Check(Events(b.events), Options{})
			if err == nil && seed%naiveEvery == 0 {
				compareNaive(t, seed, m.name, r, naiveCheck(b.events))
			}
			switch {
			case err != nil:
				t.Fatalf("seed %d, %s: %v", seed, m.name, err)
			case len(m.finds) == 0 && r.Total() > 0:
				t.Errorf("seed %d, %s is sound: %v", seed, m.name, r)
			case len(m.finds) > 0 && !slices.ContainsFunc(m.finds, func(a Anomaly) bool { return r.Counts[a] > 0 }):
				t.Errorf("seed %d, %s: want one of %v, found %v", seed, m.name, m.finds, r.Counts)
			}
			if t.Failed() {
				return
			}
		}
	}
	for _, m := range mutations {
		if applied[m.name] < *histories/20 {
			t.Errorf("%s was possible in %d of %d histories only", m.name, applied[m.name], *histories)
		}
	}
	t.Logf("applied: %v", applied)
}

// naiveEvery is how many seeds pass between two that the second checker judges too: it takes its time.
const naiveEvery = 5

// compareNaive holds the findings against those of the second checker. A part of a transaction that is missing is called torn by one, lost or unseen by
// the other.
func compareNaive(t *testing.T, seed uint64, name string, r *Report, second map[Anomaly]bool) {
	t.Helper()
	if (len(second) > 0) != (r.Total() > 0) {
		t.Errorf("seed %d, %s: found %v, and the second checker %v", seed, name, r.Counts, second)
	}
	if second[Inconsistent] {
		return // what follows from one of two values is another thing than what follows from the other
	}
	for a := range r.Counts {
		if !second[a] && !(a == Torn && (second[Lost] || second[Unseen])) {
			t.Errorf("seed %d, %s: found %v, and the second checker %v", seed, name, r.Counts, second)
		}
	}
}

// mutation breaks a sound history in one way; it says whether it could. Without finds the history stays
// sound.
type mutation struct {
	name  string
	finds []Anomaly
	apply func(b *breaker) bool
}

var mutations = []mutation{
	{"a record is lost", []Anomaly{Lost, Torn}, func(b *breaker) bool { return b.withVisible(func(x seenValue) { b.removeReads(x.valueKey, false) }) }},
	{"the tail is lost", []Anomaly{Lost, Torn}, func(b *breaker) bool { return b.truncate(false) }},
	{"the tail cannot be read", []Anomaly{Unseen, Torn}, func(b *breaker) bool { return b.truncate(true) }},
	{"a record is stored again", []Anomaly{Duplicate}, func(b *breaker) bool {
		return b.withVisible(func(x seenValue) { b.readAtEnd(x.key, x.value) })
	}},
	{"two records are swapped", []Anomaly{Reordered}, (*breaker).swap},
	{"a stranger is stored", []Anomaly{Phantom}, func(b *breaker) bool {
		return b.withVisible(func(x seenValue) { b.readAtEnd(x.key, Value{x.value.Process, 1 << 20}) })
	}},
	{"a record is damaged", []Anomaly{Phantom}, func(b *breaker) bool {
		return b.withVisible(func(x seenValue) { b.eachRead(x.valueKey, func(_ *Event, r *Record) { r.Bad = "damaged" }) })
	}},
	{"what was written is called not written", []Anomaly{Refused}, func(b *breaker) bool {
		return b.withAcked(func(e *Event) { e.Kind, e.Offset, e.Duplicate = NotWritten, 0, false })
	}},
	{"a wrong offset is acknowledged", []Anomaly{Misplaced}, func(b *breaker) bool {
		return b.withAcked(func(e *Event) { e.Offset += 1 + record.Offset(b.IntN(3)) })
	}},
	{"one reader sees another value", []Anomaly{Inconsistent}, (*breaker).replace},
	{"a poll comes twice", []Anomaly{Backwards}, (*breaker).repeatPoll},
	{"a reader is led past a record", []Anomaly{Skipped}, (*breaker).skip},
	{"an aborted record is read", []Anomaly{AbortedRead}, (*breaker).readAborted},
	{"a record is read before the commit", []Anomaly{Early}, (*breaker).commitLate},
	{"a part of a transaction vanishes", []Anomaly{Torn}, (*breaker).tear},
	{"a group is told an old offset", []Anomaly{OffsetBack}, func(b *breaker) bool { return b.tellOffset(-1) }},
	{"a group is told a new offset", []Anomaly{OffsetPhantom}, func(b *breaker) bool { return b.tellOffset(1000) }},
	{"a result is made twice", []Anomaly{MadeTwice}, (*breaker).makeTwice},
	{"a record is passed over by a job", []Anomaly{NotMade}, (*breaker).passOver},
	{"results are swapped", []Anomaly{MadeOutOfOrder}, (*breaker).swapSources},
	{"a replica differs", []Anomaly{ReplicasDiffer}, func(b *breaker) bool { b.events[len(b.events)-1].CRC++; return true }},

	{"an outcome is not told", nil, func(b *breaker) bool { return b.drop(Written, NotWritten, Unknown) }},
	{"the end of a transaction is not told", nil, func(b *breaker) bool { return b.drop(Committed, Aborted, Undecided) }},
	{"a committed offset is not told", nil, func(b *breaker) bool { return b.drop(OffsetCommitted, OffsetRefused, Checksum) }},
	{"a reader is never seen", nil, (*breaker).dropReader},
}

// breaker changes a history. It knows what is in it by looking, not by the checker's tables.
type breaker struct {
	*rand.Rand
	events []Event
	txnOf  map[valueKey]txnID // of values that were sent in one
	ends   map[txnID]Kind     // the last event of each
	reads  map[valueKey]int   // by readers of committed data
	all    map[valueKey]int   // by any reader
	acks   map[valueKey]record.Offset
}

type seenValue struct {
	valueKey
	at record.Offset
}

// unroll makes each record a run of its own.
func unroll(events []Event) []Event {
	for i := range events {
		var flat []Record
		for _, r := range events[i].Records {
			for n := range r.Count {
				flat = append(flat, Record{Offset: r.Offset + record.Offset(n), Value: Value{r.Value.Process, r.Value.N + n}, Count: 1})
			}
		}
		events[i].Records = flat
	}
	return events
}

func (b *breaker) learn() {
	b.txnOf, b.ends = make(map[valueKey]txnID), make(map[txnID]Kind)
	b.reads, b.all, b.acks = make(map[valueKey]int), make(map[valueKey]int), make(map[valueKey]record.Offset)
	for i := range b.events {
		e := &b.events[i]
		v := valueKey{e.Key, e.Value()}
		switch e.Kind {
		case Send:
			if e.Txn != 0 {
				b.txnOf[v] = txnID{e.Process, e.Txn}
			}
		case Begin, Commit, Abort, Committed, Aborted, Undecided:
			b.ends[txnID{e.Process, e.Txn}] = e.Kind
		case Written:
			b.acks[v] = e.Offset
		}
		for _, r := range e.Records {
			if b.all[valueKey{e.Key, r.Value}]++; !e.Uncommitted {
				b.reads[valueKey{e.Key, r.Value}]++
			}
		}
	}
}

// pick gives one event for which f is true, or nil.
func (b *breaker) pick(f func(e *Event) bool) *Event {
	var found []*Event
	for i := range b.events {
		if f(&b.events[i]) {
			found = append(found, &b.events[i])
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[b.IntN(len(found))]
}

// visible picks a value that was acknowledged and that readers of committed data see.
func (b *breaker) visible(ok func(v valueKey) bool) (seenValue, bool) {
	e := b.pick(func(e *Event) bool {
		v := valueKey{e.Key, e.Value()}
		return e.Kind == Written && e.Offset >= 0 && b.reads[v] > 0 && (ok == nil || ok(v))
	})
	if e == nil {
		return seenValue{}, false
	}
	return seenValue{valueKey{e.Key, e.Value()}, e.Offset}, true
}

// certain says whether a value has to be seen: it is not of a transaction whose end nobody knows.
func (b *breaker) certain(v valueKey) bool {
	id, ok := b.txnOf[v]
	return !ok || b.ends[id] == Committed
}

func (b *breaker) withVisible(f func(seenValue)) bool {
	x, ok := b.visible(b.certain)
	if ok {
		f(x)
	}
	return ok
}

// withAcked changes the acknowledgement of a visible value.
func (b *breaker) withAcked(f func(e *Event)) bool {
	x, ok := b.visible(nil)
	if ok {
		f(b.pick(func(e *Event) bool { return e.Kind == Written && e.Key == x.key && e.Value() == x.value }))
	}
	return ok
}

// eachRead calls f for each time that a value was read.
func (b *breaker) eachRead(v valueKey, f func(e *Event, r *Record)) {
	for i := range b.events {
		e := &b.events[i]
		if e.Key != v.key {
			continue
		}
		for j := 0; j < len(e.Records); j++ { // f may take records out
			if e.Records[j].Value == v.value {
				f(e, &e.Records[j])
			}
		}
	}
}

func (b *breaker) removeReads(v valueKey, committedOnly bool) {
	for i := range b.events {
		if e := &b.events[i]; e.Key == v.key && (!committedOnly || !e.Uncommitted) {
			e.Records = slices.DeleteFunc(e.Records, func(r Record) bool { return r.Value == v.value })
		}
	}
}

// truncate ends every reader and final before a value; the log itself too, or not.
func (b *breaker) truncate(stuck bool) bool {
	x, ok := b.visible(b.certain)
	if !ok {
		return false
	}
	for i := range b.events {
		e := &b.events[i]
		if e.Key != x.key {
			continue
		}
		switch e.Kind {
		case Final:
			if e.End = min(e.End, x.at); !stuck {
				e.High = e.End
			}
		case Poll, Assign:
			e.End, e.Offset = min(e.End, x.at), min(e.Offset, x.at)
		}
		e.Records = slices.DeleteFunc(e.Records, func(r Record) bool { return r.Offset >= x.at })
	}
	return true
}

// readAtEnd lets the last reader of committed data find a value behind the end.
func (b *breaker) readAtEnd(key record.TopicPartition, v Value) {
	for i := len(b.events) - 1; i >= 0; i-- {
		e := &b.events[i]
		if e.Kind == Final && e.Key == key && !e.Uncommitted {
			more := Event{Kind: Poll, Process: e.Process, Key: key, Records: []Record{{Offset: e.End, Value: v, Count: 1}}, End: e.End + 1}
			e.End, e.High = e.End+1, e.High+1
			b.events = slices.Insert(b.events, i, more)
			return
		}
	}
}

// swap exchanges two visible values of one process, wherever they were read or acknowledged.
func (b *breaker) swap() bool {
	x, ok := b.visible(nil)
	if !ok {
		return false
	}
	y, ok := b.visible(func(v valueKey) bool {
		return v.key == x.key && v.value.Process == x.value.Process && v.value != x.value
	})
	if !ok {
		return false
	}
	for i := range b.events {
		e := &b.events[i]
		if e.Key != x.key {
			continue
		}
		if e.Kind == Written && e.Value() == x.value {
			e.Offset = y.at
		} else if e.Kind == Written && e.Value() == y.value {
			e.Offset = x.at
		}
		for j := range e.Records {
			switch r := &e.Records[j]; r.Value {
			case x.value:
				r.Value = y.value
			case y.value:
				r.Value = x.value
			}
		}
	}
	return true
}

// replace gives one reader another value of the same partition at a place that two have read.
func (b *breaker) replace() bool {
	x, ok := b.visible(func(v valueKey) bool { return b.all[v] > 1 })
	if !ok {
		return false
	}
	y, ok := b.visible(func(v valueKey) bool { return v.key == x.key && v.value != x.value })
	if !ok {
		return false
	}
	done := false
	b.eachRead(x.valueKey, func(_ *Event, r *Record) {
		if !done {
			r.Value, done = y.value, true
		}
	})
	return true
}

func (b *breaker) repeatPoll() bool {
	e := b.pick(func(e *Event) bool { return e.Kind == Poll && len(e.Records) > 0 })
	if e == nil {
		return false
	}
	i := slices.IndexFunc(b.events, func(x Event) bool { return x.At == e.At && x.Process == e.Process && x.Kind == Poll })
	b.events = slices.Insert(b.events, i+1, clone(b.events[i:i+1])...)
	return true
}

// skip takes a record from one reader that others have got.
func (b *breaker) skip() bool {
	x, ok := b.visible(func(v valueKey) bool { return b.reads[v] > 1 })
	if !ok {
		return false
	}
	done := false
	b.eachRead(x.valueKey, func(e *Event, r *Record) {
		if !done && !e.Uncommitted {
			done = true
			e.Records = slices.DeleteFunc(e.Records, func(r Record) bool { return r.Value == x.value })
			if len(e.Records) == 0 || e.Records[len(e.Records)-1].Offset < x.at {
				e.End = max(e.End, x.at+1) // moved over it
			}
		}
	})
	return done
}

// readAborted lets the last reader of committed data find an aborted value where it lies.
func (b *breaker) readAborted() bool {
	e := b.pick(func(e *Event) bool {
		v := valueKey{e.Key, e.Value()}
		id, ok := b.txnOf[v]
		return e.Kind == Written && e.Offset >= 0 && ok && b.ends[id] == Aborted
	})
	if e == nil {
		return false
	}
	key, run := e.Key, Record{Offset: e.Offset, Value: e.Value(), Count: 1}
	for i := len(b.events) - 1; i >= 0; i-- {
		if e := &b.events[i]; e.Kind == Final && e.Key == key && !e.Uncommitted {
			b.events = slices.Insert(b.events, i,
				Event{Kind: Assign, Process: e.Process, Key: key, Offset: run.Offset},
				Event{Kind: Poll, Process: e.Process, Key: key, Records: []Record{run}})
			return true
		}
	}
	return false
}

// commitLate moves the request and the answer of a commit behind everything.
func (b *breaker) commitLate() bool {
	x, ok := b.visible(func(v valueKey) bool { _, ok := b.txnOf[v]; return ok })
	if !ok {
		return false
	}
	id := b.txnOf[x.valueKey]
	var late []Event
	b.events = slices.DeleteFunc(b.events, func(e Event) bool {
		is := e.Process == id.process && e.Txn == id.n && (e.Kind == Commit || e.Kind == Committed || e.Kind == Undecided)
		if is {
			late = append(late, e)
		}
		return is
	})
	b.events = append(b.events, late...)
	return true
}

// tear hides one of several visible values of a transaction from all readers of committed data.
func (b *breaker) tear() bool {
	x, ok := b.visible(func(v valueKey) bool {
		id, ok := b.txnOf[v]
		if !ok {
			return false
		}
		n := 0
		for other, t := range b.txnOf {
			if t == id && b.reads[other] > 0 {
				n++
			}
		}
		return n > 1
	})
	if ok {
		b.removeReads(x.valueKey, true)
	}
	return ok
}

// tellOffset changes an answer by more than anybody has committed; -1: to less than what was.
func (b *breaker) tellOffset(by record.Offset) bool {
	known := record.NoOffset
	for i := range b.events {
		e := &b.events[i]
		if e.Kind == OffsetCommitted {
			known = max(known, e.Offset)
		}
		switch {
		case e.Kind != OffsetTold || by < 0 && known < 0:
			continue
		case by > 0:
			e.Offset += by
		default:
			e.Offset = known - 1
		}
		return true
	}
	return false
}

// drop leaves out an event of one of these kinds.
func (b *breaker) drop(kinds ...Kind) bool {
	e := b.pick(func(e *Event) bool { return slices.Contains(kinds, e.Kind) })
	if e == nil {
		return false
	}
	*e = Event{Kind: Fault, Text: "left out"}
	return true
}

// dropReader leaves out all that one reader did, if it is not one of those that read everything.
func (b *breaker) dropReader() bool {
	final := make(map[Process]bool)
	for i := range b.events {
		if b.events[i].Kind == Final {
			final[b.events[i].Process] = true
		}
	}
	e := b.pick(func(e *Event) bool { return e.Kind == Poll && !final[e.Process] })
	if e == nil {
		return false
	}
	reader := e.Process
	b.events = slices.DeleteFunc(b.events, func(e Event) bool {
		return e.Process == reader && (e.Kind == Poll || e.Kind == Assign || e.Kind == Revoke)
	})
	return true
}

// result picks the Send of a visible result.
func (b *breaker) result(ok func(e *Event) bool) *Event {
	return b.pick(func(e *Event) bool {
		return e.Kind == Send && e.Source.Topic != "" && b.reads[valueKey{e.Key, e.Value()}] > 0 && ok(e)
	})
}

// makeTwice lets a stranger make the result of a record again, outside of transactions.
func (b *breaker) makeTwice() bool {
	e := b.result(func(*Event) bool { return true })
	if e == nil {
		return false
	}
	again := *e
	again.Process, again.N, again.Txn = 1<<20, 0, 0
	b.events = slices.Insert(b.events, 0, again)
	b.readAtEnd(again.Key, again.Value())
	return true
}

// passOver lets the job's last transaction carry an offset beyond a record of which nothing was made.
func (b *breaker) passOver() bool {
	var last *Event
	for i := range b.events {
		e := &b.events[i]
		if e.Kind == OffsetCommit && e.Group == jobName && b.ends[txnID{e.Process, e.Txn}] == Committed && (last == nil || e.Offset > last.Offset) {
			last = e
		}
	}
	if last == nil || b.pick(func(e *Event) bool { return e.Kind == Send && e.Source.Topic != "" }) == nil {
		return false // without any result there is no job
	}
	x, ok := b.visible(func(v valueKey) bool {
		return v.key == last.Key && b.acks[v] >= last.Offset && b.result(func(e *Event) bool { return e.SourceOffset == b.acks[v] }) == nil
	})
	if ok {
		last.Offset = x.at + 1
	}
	return ok
}

// swapSources exchanges what two results in one partition were made of.
func (b *breaker) swapSources() bool {
	x := b.result(func(*Event) bool { return true })
	if x == nil {
		return false
	}
	y := b.result(func(e *Event) bool { return e.Key == x.Key && e.SourceOffset != x.SourceOffset })
	if y == nil {
		return false
	}
	x.SourceOffset, y.SourceOffset = y.SourceOffset, x.SourceOffset
	return true
}
