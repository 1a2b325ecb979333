package producer

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// TestSpeculation plays a leader with a pipeline of proposals, clients that retry out of impatience, applies that refuse, and proposals
// that fail with known and unknown outcome. Whatever happens: a batch gets into the log once; a duplicate in flight names a batch that
// is the same; the bound holds; and as long as nothing fails, apply never sees a duplicate, because Admit has caught it.
func TestSpeculation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	seen := make(map[Action]int)
	for episode := range uint64(300) {
		l := &leader{t: t, r: rand.New(rand.NewPCG(seed, episode)), state: New(Limits{}), seen: seen, stored: make(map[batchName]record.Offset)}
		l.limit = 1 + l.r.IntN(12)
		l.tail = NewSpeculation(l.limit)
		l.run(400)
	}
	t.Log(seen)
	for _, a := range []Action{Propose, DuplicateInFlight, CommittedDuplicate, Full} {
		if seen[a] == 0 {
			t.Errorf("never answered %q", a)
		}
	}
}

type batchName struct {
	id    record.ProducerID
	epoch record.Epoch
	first record.Sequence
	n     int32
}

func name(b Batch) batchName { return batchName{b.ProducerID, b.Epoch, b.BaseSequence, b.Records} }

type proposal struct {
	key   Key
	batch Batch
	stale bool // from before a discard: its outcome has been reported as unknown
}

type leader struct {
	t        *testing.T
	r        *rand.Rand
	state    *State
	tail     *Speculation
	limit    int
	pipeline []proposal
	clean    bool // nothing from before a discard can still be applied, nor has it been
	stored   map[batchName]record.Offset
	seen     map[Action]int
	sent     [3][]Batch
}

func (l *leader) run(steps int) {
	l.clean = true
	for range steps {
		switch n := l.r.IntN(100); {
		case n < 55:
			l.submit()
		case n < 98:
			l.apply()
		default:
			l.fail()
		}
		if l.tail.Len() > l.limit {
			l.t.Fatalf("%d in flight, limit %d", l.tail.Len(), l.limit)
		}
		fresh := 0
		for _, p := range l.pipeline {
			if !p.stale {
				fresh++
			}
		}
		if l.tail.Len() != fresh {
			l.t.Fatalf("%d in flight, %d proposed since the last discard", l.tail.Len(), fresh)
		}
	}
	for len(l.pipeline) > 0 {
		l.apply()
	}
	if l.tail.Len() != 0 {
		l.t.Fatalf("%d in flight after all were applied", l.tail.Len())
	}
}

// submit sends a client's next batch, a retry of one of its last four, or one after a gap.
func (l *leader) submit() {
	id := l.r.IntN(len(l.sent))
	old := l.sent[id]
	b := Batch{ProducerID: record.ProducerID(id), Records: int32(1 + l.r.IntN(2))}
	if len(old) > 0 {
		last := old[len(old)-1]
		b.Epoch, b.BaseSequence = last.Epoch, last.LastSequence.Add(1)
	}
	retry := false
	switch n := l.r.IntN(20); {
	case n < 9 && len(old) > 0:
		b, retry = old[len(old)-1-l.r.IntN(min(4, len(old)))], true
	case n == 18:
		b.BaseSequence = b.BaseSequence.Add(2)
	case n == 19:
		b.Epoch, b.BaseSequence = b.Epoch+1, 0
	}
	b.LastSequence = b.BaseSequence.Add(b.Records - 1)
	a := l.tail.Admit(l.state, b)
	l.seen[a.Action]++
	switch a.Action {
	case Propose:
		l.pipeline = append(l.pipeline, proposal{key: a.Key, batch: b})
		if !retry {
			l.sent[id] = append(l.sent[id], b)
		}
	case DuplicateInFlight:
		for _, p := range l.pipeline {
			if p.key == a.Key && !p.stale && name(p.batch) == name(b) {
				return
			}
		}
		l.t.Fatalf("duplicate in flight of %+v, which is not in flight", b)
	case CommittedDuplicate:
		if at, ok := l.stored[name(b)]; !ok || at != a.Verdict.Base {
			l.t.Fatalf("committed duplicate of %+v at %d, stored %t at %d", b, a.Verdict.Base, ok, at)
		}
	case Full:
		if l.tail.Len() != l.limit {
			l.t.Fatalf("full with %d in flight, limit %d", l.tail.Len(), l.limit)
		}
	}
}

// apply applies the oldest proposal.
func (l *leader) apply() {
	if len(l.pipeline) == 0 {
		return
	}
	p := l.pipeline[0]
	l.pipeline = l.pipeline[1:]
	v := l.state.Append(p.batch, l.state.end, 0)
	switch v.Code {
	case Accepted:
		if _, ok := l.stored[name(p.batch)]; ok {
			l.t.Fatalf("stored twice: %+v", p.batch)
		}
		l.stored[name(p.batch)] = v.Base
	case Duplicate:
		if l.clean {
			l.t.Fatalf("proposed although a duplicate: %+v", p.batch)
		}
	}
	l.tail.Done(p.key)
}

// fail loses some of the proposals at the end of the pipeline; of the rest the leader knows nothing, but they may be applied yet.
func (l *leader) fail() {
	l.tail.Discard()
	l.pipeline = l.pipeline[:l.r.IntN(len(l.pipeline)+1)]
	for i := range l.pipeline {
		l.pipeline[i].stale = true
		l.clean = false
	}
}
