package history

import (
	"github.com/oncelog/oncelog/record"
)

// naive is a second checker. It keeps every event, looks at all pairs, and knows nothing of tables, walks or of which finding stands for
// which: a value that is stored twice may be a duplicate, misplaced and reordered at once. So what Check finds must be among what
// it finds, and where it finds nothing neither may Check, and the other way round.
type naive struct {
	events []Event
	found  map[Anomaly]bool

	sent  map[valueKey]int // index of its Send
	acked map[valueKey]record.Offset
	reads []naiveRead
	moves []naiveMove
}

// naiveRead is one record that somebody got.
type naiveRead struct {
	valueKey
	at          record.Offset
	index       int
	uncommitted bool
}

// naiveMove says that a reader has passed all offsets from one to another, exclusive.
type naiveMove struct {
	key         record.TopicPartition
	from, end   record.Offset
	index       int
	uncommitted bool
}

func naiveCheck(events []Event) map[Anomaly]bool {
	x := &naive{events: events, found: make(map[Anomaly]bool), sent: make(map[valueKey]int), acked: make(map[valueKey]record.Offset)}
	isolation := make(map[Process]bool)
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case Send:
			x.sent[valueKey{e.Key, e.Value()}] = i
		case Written:
			x.acked[valueKey{e.Key, e.Value()}] = e.Offset
		case Poll:
			isolation[e.Process] = e.Uncommitted
		}
	}
	x.readers(isolation)
	x.values()
	x.pairs()
	x.missing()
	x.offsets()
	x.jobs()
	x.replicas()
	return x.found
}

// readers follows every consumer.
func (x *naive) readers(uncommitted map[Process]bool) {
	at := make(map[reader]record.Offset)
	for i, e := range x.events {
		r := reader{e.Process, e.Key}
		pass := func(from, end record.Offset) {
			x.moves = append(x.moves, naiveMove{e.Key, from, end, i, uncommitted[e.Process]})
		}
		switch e.Kind {
		case Assign:
			at[r] = e.Offset
		case Revoke:
			at[r] = record.NoOffset
		case Final:
			if pos, ok := at[r]; ok && pos >= 0 && e.End > pos {
				pass(pos, e.End)
			}
		case Poll:
			pos, ok := at[r]
			if !ok {
				pos = record.NoOffset
			}
			for _, run := range e.Records {
				if pos >= 0 && run.Offset < pos {
					x.found[Backwards] = true
				}
				if pos >= 0 && run.Offset > pos {
					pass(pos, run.Offset)
				}
				pass(run.Offset, run.end())
				for n := range run.Count {
					v := valueKey{e.Key, Value{run.Value.Process, run.Value.N + n}}
					if sent, ok := x.sent[v]; run.Bad != "" || !ok || sent > i {
						x.found[Phantom] = true
					}
					if run.Bad == "" {
						x.reads = append(x.reads, naiveRead{v, run.Offset + record.Offset(n), i, e.Uncommitted})
					}
				}
				pos = run.end()
			}
			if e.End > pos {
				if pos >= 0 {
					pass(pos, e.End)
				}
				pos = e.End
			}
			at[r] = pos
		}
	}
}

// txnOf is the transaction in which a value was sent.
func (x *naive) txnOf(v valueKey) (txnID, bool) {
	i, ok := x.sent[v]
	if !ok || x.events[i].Txn == 0 {
		return txnID{}, false
	}
	return txnID{v.value.Process, x.events[i].Txn}, true
}

// did says whether something was said of a transaction before an event.
func (x *naive) did(id txnID, k Kind, before int) bool {
	for i := range before {
		if e := &x.events[i]; e.Kind == k && e.Process == id.process && e.Txn == id.n {
			return true
		}
	}
	return false
}

func (x *naive) all(id txnID, k Kind) bool { return x.did(id, k, len(x.events)) }

// shows says whether the values of a transaction have to be seen: it is committed, or one that was acknowledged has been seen.
func (x *naive) shows(id txnID) bool {
	if x.all(id, Committed) || x.all(id, Aborted) {
		return x.all(id, Committed)
	}
	for _, r := range x.reads {
		if t, ok := x.txnOf(r.valueKey); ok && t == id && !r.uncommitted {
			if _, acked := x.acked[r.valueKey]; acked {
				return true
			}
		}
	}
	return false
}

// values judges each read by itself.
func (x *naive) values() {
	for _, r := range x.reads {
		for _, e := range x.events {
			if e.Kind == NotWritten && e.Key == r.key && e.Value() == r.value {
				x.found[Refused] = true
			}
		}
		if id, ok := x.txnOf(r.valueKey); ok && !r.uncommitted {
			if x.all(id, Aborted) {
				x.found[AbortedRead] = true
			} else if !x.did(id, Commit, r.index) {
				x.found[Early] = true
			}
		}
		if at, ok := x.acked[r.valueKey]; ok && at >= 0 && !x.readAt(r.valueKey, at) {
			x.found[Misplaced] = true
		}
	}
}

func (x *naive) readAt(v valueKey, at record.Offset) bool {
	for _, r := range x.reads {
		if r.valueKey == v && r.at == at {
			return true
		}
	}
	return false
}

func (x *naive) read(v valueKey, committed bool) bool {
	for _, r := range x.reads {
		if r.valueKey == v && !(committed && r.uncommitted) {
			return true
		}
	}
	return false
}

// pairs compares every two places where something is.
func (x *naive) pairs() {
	all := append([]naiveRead(nil), x.reads...)
	for v, at := range x.acked {
		if at >= 0 && !x.read(v, false) {
			all = append(all, naiveRead{valueKey: v, at: at})
		}
	}
	for i, a := range all {
		for j, b := range all {
			if a.key != b.key {
				continue
			}
			inReads := i < len(x.reads) && j < len(x.reads)
			switch {
			case inReads && a.value == b.value && a.at != b.at:
				x.found[Duplicate] = true
			case inReads && a.value != b.value && a.at == b.at:
				x.found[Inconsistent] = true
			case a.value.Process == b.value.Process && a.value.N < b.value.N && a.at > b.at:
				x.found[Reordered] = true
			}
		}
	}
	for _, m := range x.moves {
		for _, r := range x.reads {
			if r.key == m.key && r.at >= m.from && r.at < m.end && !x.gotAt(m, r.at) && x.mayExpect(m, r.valueKey) {
				x.found[Skipped] = true
			}
		}
	}
}

// gotAt says whether the move is over something that the reader was given.
func (x *naive) gotAt(m naiveMove, at record.Offset) bool {
	for _, run := range x.events[m.index].Records {
		if at >= run.Offset && at < run.end() {
			return true
		}
	}
	return false
}

// mayExpect says whether a reader who passes a value has to be given it.
func (x *naive) mayExpect(m naiveMove, v valueKey) bool {
	id, inTxn := x.txnOf(v)
	switch {
	case m.uncommitted:
		return true
	case inTxn:
		return x.did(id, Commit, m.index) && x.shows(id)
	}
	for _, e := range x.events {
		if e.Kind == NotWritten && e.Key == v.key && e.Value() == v.value {
			return false
		}
	}
	return true
}

// missing looks for values that were acknowledged, have to be seen, and are not.
func (x *naive) missing() {
	for v, at := range x.acked {
		id, inTxn := x.txnOf(v)
		if x.read(v, inTxn) || inTxn && !(x.all(id, Commit) && x.shows(id)) {
			continue
		}
		for _, m := range x.moves {
			if at >= 0 && m.key == v.key && at >= m.from && at < m.end && !(inTxn && m.uncommitted) {
				x.found[Lost] = true
			}
		}
		for _, e := range x.events {
			if e.Kind != Final || e.Key != v.key || inTxn && e.Uncommitted || at < 0 && e.From > 0 || at >= 0 && at < e.End {
				continue
			}
			if at >= e.High || at < 0 && e.High == e.End {
				x.found[Lost] = true
			} else {
				x.found[Unseen] = true
			}
		}
	}
}

// offsets holds what groups were told against what was committed. It knows no resets.
func (x *naive) offsets() {
	// certain says from where on an offset certainly is committed; -1: never.
	certain := func(i int) int {
		for j := i; j < len(x.events); j++ {
			e, c := &x.events[j], &x.events[i]
			if e.Process == c.Process && (c.Txn != 0 && e.Kind == Committed && e.Txn == c.Txn ||
				c.Txn == 0 && e.Kind == OffsetCommitted && e.Group == c.Group && e.Key == c.Key && e.Offset == c.Offset) {
				return j
			}
		}
		return -1
	}
	// asked says when an offset was to be committed, at the earliest.
	asked := func(i int) int {
		c := &x.events[i]
		if c.Txn == 0 {
			return i
		}
		for j := range x.events {
			if e := &x.events[j]; e.Kind == Commit && e.Process == c.Process && e.Txn == c.Txn {
				return j
			}
		}
		return len(x.events)
	}
	floor := func(group string, key record.TopicPartition, before int) record.Offset {
		most := record.NoOffset
		for i, e := range x.events {
			if e.Kind == OffsetCommit && e.Group == group && e.Key == key {
				if done := certain(i); done >= 0 && done < before {
					most = max(most, e.Offset)
				}
			}
		}
		return most
	}
	for i, e := range x.events {
		switch e.Kind {
		case OffsetCommit:
			if certain(i) >= 0 && e.Offset < floor(e.Group, e.Key, asked(i)) {
				x.found[OffsetBack] = true
			}
		case OffsetTold:
			question := i
			for x.events[question].Kind != OffsetAsked || x.events[question].Process != e.Process {
				question--
			}
			possible := e.Offset < 0
			for j, c := range x.events[:i] {
				possible = possible || c.Kind == OffsetCommit && c.Group == e.Group && c.Key == e.Key && c.Offset == e.Offset &&
					!x.refused(j, i) && asked(j) < i && !(c.Txn != 0 && x.all(txnID{c.Process, c.Txn}, Aborted))
			}
			if e.Offset < floor(e.Group, e.Key, question) {
				x.found[OffsetBack] = true
			} else if !possible {
				x.found[OffsetPhantom] = true
			}
		}
	}
}

// refused says whether what became of a commit outside of transactions is, before an event, that it was refused.
func (x *naive) refused(commit, before int) bool {
	c := &x.events[commit]
	for _, e := range x.events[commit+1 : before] {
		same := e.Process == c.Process && e.Group == c.Group && e.Key == c.Key && e.Offset == c.Offset
		if c.Txn == 0 && same && (e.Kind == OffsetCommitted || e.Kind == OffsetRefused || e.Kind == OffsetCommit && e.Txn == 0) {
			return e.Kind == OffsetRefused
		}
	}
	return false
}

// jobs looks for records that were made of the same one, or of none, or in another order.
func (x *naive) jobs() {
	visible := func(v valueKey) bool { _, inTxn := x.txnOf(v); return x.read(v, inTxn) }
	type result struct {
		*Event
		at record.Offset
	}
	var results []result
	for i := range x.events {
		e := &x.events[i]
		if e.Kind != Send || e.Source.Topic == "" || !visible(valueKey{e.Key, e.Value()}) {
			continue
		}
		for _, r := range x.reads {
			if r.key == e.Key && r.value == e.Value() {
				results = append(results, result{e, r.at})
				break
			}
		}
	}
	for i, a := range results {
		for _, b := range results[i+1:] {
			if a.Group != b.Group || a.Source != b.Source || a.Key.Topic != b.Key.Topic {
				continue
			}
			if a.SourceOffset == b.SourceOffset {
				x.found[MadeTwice] = true
			}
			if a.Key == b.Key && a.at != b.at && (a.at < b.at) != (a.SourceOffset < b.SourceOffset) && a.SourceOffset != b.SourceOffset {
				x.found[MadeOutOfOrder] = true
			}
		}
	}
	for i, e := range x.events {
		if e.Kind != OffsetCommit || !x.isJob(e.Group, e.Key) {
			continue
		}
		for j, done := range x.events {
			if j < i || done.Process != e.Process || !(e.Txn != 0 && done.Kind == Committed && done.Txn == e.Txn || e.Txn == 0 && done.Kind == OffsetCommitted && done.Offset == e.Offset) {
				continue
			}
			for _, r := range x.reads {
				if r.key != e.Key || r.at >= e.Offset || !visible(r.valueKey) {
					continue
				}
				made := false
				for _, m := range results {
					made = made || m.Group == e.Group && m.Source == e.Key && m.SourceOffset == r.at
				}
				if !made {
					x.found[NotMade] = true
				}
			}
		}
	}
}

func (x *naive) isJob(group string, source record.TopicPartition) bool {
	for _, e := range x.events {
		if e.Kind == Send && e.Group == group && e.Source == source {
			return true
		}
	}
	return false
}

func (x *naive) replicas() {
	for _, a := range x.events {
		for _, b := range x.events {
			if a.Kind == Checksum && b.Kind == Checksum && a.Key == b.Key && a.From == b.From && a.End == b.End && a.CRC != b.CRC {
				x.found[ReplicasDiffer] = true
			}
		}
	}
}
