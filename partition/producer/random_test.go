package producer

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// TestModel runs random operations on the machine and on the model (model_test.go), in episodes that start empty, and compares all
// answers. It also holds a third state that is encoded, decoded and cloned at random points and must stay byte for byte equal to
// the first (R6), and reads the log as a client does, by stable offset and aborted list (F3, L10, L11).
//
// ONCELOG_MODEL_OPS sets the number of operations, ONCELOG_MODEL_SEED repeats a run.
func TestModel(t *testing.T) {
	ops, seed := 400_000, uint64(time.Now().UnixNano())
	if raceEnabled {
		ops /= 8
	}
	if testing.Short() {
		ops /= 10
	}
	if s := os.Getenv("ONCELOG_MODEL_OPS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ops = n
	}
	if s := os.Getenv("ONCELOG_MODEL_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("ONCELOG_MODEL_SEED=%d, %d operations", seed, ops)
	codes := make(map[string]int)
	for done, number := 0, uint64(0); done < ops; number++ {
		e := newEpisode(t, seed, number, codes)
		for range 50 + e.r.IntN(350) {
			e.step()
			done++
		}
		e.compareAll()
	}
	for _, must := range []string{
		"ACCEPTED", "DUPLICATE", "OUT_OF_ORDER_SEQUENCE_NUMBER", "INVALID_PRODUCER_EPOCH", "INVALID_TXN_STATE", "TOO_MANY_PRODUCERS", "MALFORMED",
		"marker ACCEPTED", "marker INVALID_PRODUCER_EPOCH", "marker TRANSACTION_COORDINATOR_FENCED", "marker TOO_MANY_PRODUCERS", "marker MALFORMED",
		"evicted", "expired", "truncated", "reloaded", "cloned", "read", "read aborted", "restarted at 0 by wrap", "pinned by log start",
	} {
		if codes[must] == 0 {
			t.Errorf("no operation met %q: the test is blind there", must)
		}
	}
	t.Log(codes)
}

// episode is one run from an empty partition.
type episode struct {
	t      *testing.T
	r      *rand.Rand
	seed   uint64
	number uint64
	ops    []any // what was done, for the report

	model    *model
	plain    *State // only ever changed by operations
	traveled *State // encoded, decoded and cloned in between

	frozen      *State // a clone or original left behind, and its bytes, which must not change
	frozenBytes []byte

	producers int
	end       record.Offset
	now       int64
	sent      map[record.ProducerID][]Batch // what was tried of late, for retries
	picked    []Expirable                   // idle at some time, not yet proposed
	cutoff    int64
	below     record.Offset
	log       []logged
	codes     map[string]int
}

// logged is one batch or marker in the log, with the fate of its transaction.
type logged struct {
	base, last    record.Offset
	id            record.ProducerID
	transactional bool
	marker, abort bool
	fate          fate
}

type fate uint8

const (
	undecided fate = iota
	committed
	aborted
)

func newEpisode(t *testing.T, seed, number uint64, codes map[string]int) *episode {
	r := rand.New(rand.NewPCG(seed, number))
	limits := Limits{MaxProducers: 2 + r.IntN(14), MinIdle: int64(max(0, r.IntN(120)-40))}
	return &episode{
		t: t, r: r, seed: seed, number: number, codes: codes,
		model: newModel(limits.MaxProducers, limits.MinIdle), plain: New(limits), traveled: New(limits),
		producers: 2 + r.IntN(10), now: 1000, sent: make(map[record.ProducerID][]Batch),
	}
}

func (e *episode) fatalf(format string, args ...any) {
	e.t.Helper()
	for i, op := range e.ops {
		e.t.Logf("%4d %+v", i, op)
	}
	e.t.Fatalf("ONCELOG_MODEL_SEED=%d, episode %d, operation %d: %s", e.seed, e.number, len(e.ops)-1, fmt.Sprintf(format, args...))
}

// one says true once in n times.
func (e *episode) one(n int) bool { return e.r.IntN(n) == 0 }

func (e *episode) step() {
	e.t.Helper()
	if e.now += int64(e.r.IntN(20)); e.one(40) {
		e.now += int64(e.r.IntN(400) - 200) // another leader
	}
	switch n := e.r.IntN(100); {
	case n < 70:
		e.append()
	case n < 88:
		e.mark()
	case n < 91:
		e.pick()
	case n < 93:
		e.expire()
	case n < 95:
		e.truncate()
	case n < 97:
		e.travel()
	default:
		e.read()
	}
	if e.one(12) {
		e.compareAll()
	}
	if got, want := e.plain.LastStable(e.end), e.model.lastStable(e.end); got != want {
		e.fatalf("last stable offset %d, model %d", got, want)
	}
}

func (e *episode) id() record.ProducerID { return record.ProducerID(e.r.IntN(e.producers)) }

// batch makes a batch that is right more often than not.
func (e *episode) batch() Batch {
	if e.one(60) { // no idempotence
		return Batch{ProducerID: -1, Epoch: -1, BaseSequence: -1, LastSequence: -1, Records: int32(1 + e.r.IntN(3)), Transactional: e.one(8)}
	}
	id := e.id()
	if old := e.sent[id]; len(old) > 0 && e.one(4) { // a retry, perhaps of something odd
		b := old[e.r.IntN(len(old))]
		if e.one(4) {
			b.Epoch += record.Epoch(e.r.IntN(3) - 1)
		}
		if e.one(4) { // overlaps: longer, shorter, shifted
			b.Records = max(1, b.Records+int32(e.r.IntN(3)-1))
			b.BaseSequence = b.BaseSequence.Add(int32(e.r.IntN(2)))
			b.LastSequence = b.BaseSequence.Add(b.Records - 1)
		}
		return b
	}
	epoch, open := e.model.epoch(id), e.model.open(id)
	next := record.Sequence(0)
	if five := e.model.lastFive(id); len(five) > 0 {
		next = five[len(five)-1].batch.LastSequence.Add(1)
	} else if epoch == -1 && e.one(2) {
		next = record.Sequence(e.r.IntN(5))
		if e.one(2) {
			next = math.MaxInt32 - next
		}
	}
	b := Batch{
		ProducerID: id, Epoch: max(epoch, 0), BaseSequence: next, Records: int32(1 + e.r.IntN(3)),
		MaxTimestamp: e.now + int64(e.r.IntN(9)), Transactional: open != -1 || e.one(3),
		Knew: Knew{Verified: !e.one(15), Version: int8(e.r.IntN(3)), Marker: -1, LowestSequence: next},
	}
	if last, ok := e.model.lastMarker(id); ok {
		b.Knew.Marker = last.last
	}
	e.spoil(&b)
	b.LastSequence = -1
	if b.BaseSequence >= 0 {
		b.LastSequence = b.BaseSequence.Add(b.Records - 1)
	}
	if e.one(100) {
		b.LastSequence++
	}
	if e.one(100) {
		b.Records = -int32(e.r.IntN(2))
	}
	return b
}

// spoil makes a right batch one that may be refused.
func (e *episode) spoil(b *Batch) {
	if e.one(8) { // an epoch raised by the client (KIP-360), sometimes wrongly numbered
		b.Epoch += record.Epoch(1 + e.r.IntN(2))
		if !e.one(4) {
			b.BaseSequence = 0
		}
	}
	if e.one(25) {
		b.Epoch -= record.Epoch(1 + e.r.IntN(3))
	}
	if e.one(60) {
		b.Epoch = math.MaxInt16 - record.Epoch(e.r.IntN(2))
	}
	if e.one(20) {
		b.BaseSequence = b.BaseSequence.Add(int32(1 + e.r.IntN(4)))
	}
	if e.one(12) {
		b.Transactional = !b.Transactional
	}
	if e.one(6) && b.Knew.Marker >= 0 {
		b.Knew.Marker = max(record.NoOffset, b.Knew.Marker-record.Offset(e.r.IntN(10)))
	}
	if e.one(6) {
		b.Knew.LowestSequence = record.Sequence(e.r.IntN(4) - 1)
		if e.one(3) {
			b.Knew.LowestSequence = math.MaxInt32 - record.Sequence(e.r.IntN(3))
		}
	}
	if e.one(15) {
		b.Coordinator = true
		b.BaseSequence = record.NoSequence
	}
	if e.one(100) {
		b.BaseSequence = record.NoSequence
	}
}

func (e *episode) append() {
	e.t.Helper()
	b := e.batch()
	e.ops = append(e.ops, b)
	want := e.model.append(b, e.end, e.now)
	foreseen := e.plain.Check(b, e.now)
	got := e.plain.Append(b, e.end, e.now)
	if !equalVerdicts(got, want) {
		e.fatalf("got   %+v\nmodel %+v", got, want)
	}
	if other := e.traveled.Append(b, e.end, e.now); !equalVerdicts(got, other) {
		e.fatalf("got      %+v\ntraveled %+v", got, other)
	}
	if got.Code == Accepted {
		foreseen.Base, foreseen.Last = got.Base, got.Last
	}
	if foreseen.Evicted = got.Evicted; !equalVerdicts(foreseen, got) {
		e.fatalf("got   %+v\nCheck %+v", got, foreseen)
	}
	e.codes[got.Code.String()]++
	e.codes["evicted"] += len(got.Evicted)
	if got.Code == Accepted {
		if got.Got >= 0 && b.LastSequence < b.BaseSequence {
			e.codes["restarted at 0 by wrap"]++
		}
		e.log = append(e.log, logged{base: got.Base, last: got.Last, id: b.ProducerID, transactional: b.Transactional})
		e.end = got.Last + 1
	}
	if b.ProducerID >= 0 && b.BaseSequence >= 0 && b.Records > 0 {
		e.sent[b.ProducerID] = append(e.sent[b.ProducerID], b)
		if old := e.sent[b.ProducerID]; len(old) > 8 {
			e.sent[b.ProducerID] = old[1:]
		}
	}
}

func equalVerdicts(a, b Verdict) bool {
	same := slices.Equal(a.Evicted, b.Evicted)
	a.Evicted, b.Evicted = nil, nil
	return same && reflect.DeepEqual(a, b)
}

func (e *episode) mark() {
	e.t.Helper()
	id := e.id()
	m := Marker{ProducerID: id, Epoch: max(0, e.model.epoch(id)), Commit: e.one(2), Version: int8(e.r.IntN(3))}
	if last, ok := e.model.lastMarker(id); ok {
		m.CoordinatorEpoch = last.coordinatorEpoch
	}
	if m.Version == 2 && !e.one(4) || e.one(4) {
		m.Epoch++
	}
	if e.one(10) {
		m.Epoch -= record.Epoch(e.r.IntN(4))
	}
	if e.one(8) {
		m.CoordinatorEpoch += int32(e.r.IntN(4) - 2)
	}
	if e.one(60) {
		m.Epoch = math.MaxInt16
	}
	if e.one(80) {
		m.ProducerID = -1
	}
	e.ops = append(e.ops, m)
	want := e.model.end(m, e.end, e.now)
	got := e.plain.EndTransaction(m, e.end, e.now)
	if !reflect.DeepEqual(got, want) {
		e.fatalf("got   %+v\nmodel %+v", got, want)
	}
	if other := e.traveled.EndTransaction(m, e.end, e.now); !reflect.DeepEqual(got, other) {
		e.fatalf("got      %+v\ntraveled %+v", got, other)
	}
	e.codes["marker "+got.Code.String()]++
	e.codes["evicted"] += len(got.Evicted)
	if got.Code != Accepted {
		return
	}
	for i := range e.log {
		if l := &e.log[i]; l.id == m.ProducerID && l.transactional && !l.marker && l.fate == undecided {
			if l.fate = aborted; m.Commit {
				l.fate = committed
			}
		}
	}
	e.log = append(e.log, logged{base: e.end, last: e.end, id: m.ProducerID, transactional: true, marker: true, abort: !m.Commit})
	e.end++
}

// pick is the leader looking for the idle; expire applies what it picked, perhaps much later (R5).
func (e *episode) pick() {
	e.t.Helper()
	e.cutoff = e.now - int64(e.r.IntN(600))
	if id := e.id(); e.one(2) && e.model.known(id) { // the very moment, or just before
		e.cutoff = e.model.lastTimestamp(id) - int64(e.r.IntN(2))
	}
	e.below = e.end
	if e.one(3) {
		e.below -= record.Offset(e.r.IntN(50))
	}
	e.ops = append(e.ops, fmt.Sprintf("pick idle at %d below %d", e.cutoff, e.below))
	e.picked = e.plain.Idle(e.cutoff, e.below, math.MaxInt)
	if want := e.model.idle(e.cutoff, e.below); !slices.Equal(e.picked, want) {
		e.fatalf("idle %v, model %v", e.picked, want)
	}
	if n := e.r.IntN(3); !slices.Equal(e.plain.Idle(e.cutoff, e.below, n), e.picked[:min(n, len(e.picked))]) {
		e.fatalf("idle, at most %d: %v", n, e.plain.Idle(e.cutoff, e.below, n))
	}
}

func (e *episode) expire() {
	e.t.Helper()
	id := e.id()
	other := e.id()
	candidates := append(slices.Clone(e.picked), Expirable{id, record.Epoch(e.r.IntN(2))}, Expirable{other, e.model.epoch(other)})
	e.ops = append(e.ops, fmt.Sprintf("expire %v at %d below %d", candidates, e.cutoff, e.below))
	want := e.model.expire(candidates, e.cutoff, e.below)
	got, traveled := e.plain.Expire(candidates, e.cutoff, e.below), e.traveled.Expire(candidates, e.cutoff, e.below)
	if got != want || traveled != want {
		e.fatalf("expired %d, traveled %d, model %d", got, traveled, want)
	}
	e.codes["expired"] += got
}

func (e *episode) truncate() {
	to := e.plain.LogStart() + record.Offset(e.r.IntN(20)-2)
	if to > e.end {
		return
	}
	e.ops = append(e.ops, fmt.Sprintf("truncate start to %d", to))
	e.plain.TruncateStart(to)
	e.traveled.TruncateStart(to)
	e.model.logStart = max(e.model.logStart, to)
	e.codes["truncated"]++
}

// travel sends the traveled state through a snapshot or a clone.
func (e *episode) travel() {
	e.t.Helper()
	e.thaw()
	if e.one(2) {
		e.ops = append(e.ops, "reload")
		state, err := Decode(e.traveled.AppendTo(nil), e.traveled.limits)
		if err != nil {
			e.fatalf("%v", err)
		}
		e.traveled = state
		e.codes["reloaded"]++
		return
	}
	e.ops = append(e.ops, "clone")
	clone := e.traveled.Clone()
	if e.frozen = clone; e.one(2) { // go on with either side
		e.frozen, e.traveled = e.traveled, clone
	}
	e.frozenBytes = e.frozen.AppendTo(nil)
	e.codes["cloned"]++
}

// thaw checks that what was left behind at the last clone has not changed, and then changes it, which must
// not be seen in the traveled state.
func (e *episode) thaw() {
	e.t.Helper()
	if e.frozen == nil {
		return
	}
	if !bytes.Equal(e.frozen.AppendTo(nil), e.frozenBytes) {
		e.fatalf("a clone changed with its other side")
	}
	checkInvariants(e.t, e.frozen)
	before, end := e.traveled.AppendTo(nil), e.frozen.end
	for id := range record.ProducerID(6) {
		e.frozen.EndTransaction(Marker{ProducerID: id, Epoch: math.MaxInt16, CoordinatorEpoch: math.MaxInt32}, end, 0)
		end = e.frozen.end
		e.frozen.Append(Batch{ProducerID: id, Epoch: math.MaxInt16, Records: 1}, end, 0)
		end = e.frozen.end
	}
	e.frozen.TruncateStart(end)
	e.frozen.Expire(e.frozen.Idle(math.MaxInt64, math.MaxInt64, 3), math.MaxInt64, math.MaxInt64)
	if !bytes.Equal(e.traveled.AppendTo(nil), before) {
		e.fatalf("a clone changed its other side")
	}
	checkInvariants(e.t, e.frozen)
	e.frozen = nil
}

func (e *episode) compareAll() {
	e.t.Helper()
	checkInvariants(e.t, e.plain)
	checkInvariants(e.t, e.traveled)
	data := e.plain.AppendTo([]byte("before"))
	if size := len(data) - 6; size > e.plain.EncodedSize() {
		e.fatalf("%d bytes, EncodedSize %d", size, e.plain.EncodedSize())
	}
	if !bytes.Equal(data[6:], e.traveled.AppendTo(nil)) {
		e.fatalf("the traveled state encodes differently (R6)")
	}
	n := 0
	for id := range record.ProducerID(e.producers) {
		got, _ := e.plain.Describe([]record.ProducerID{id}, 1)
		if !e.model.known(id) {
			if len(got) != 0 {
				e.fatalf("producer %d is known, not to the model: %+v", id, got)
			}
			continue
		}
		n++
		if want := e.model.describe(id); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			e.fatalf("producer %d\ngot   %+v\nmodel %+v", id, got, want)
		}
		if open := e.model.open(id) != -1; e.plain.HasOpen(id, e.model.epoch(id)) != open || e.plain.HasOpen(id, e.model.epoch(id)+1) {
			e.fatalf("producer %d: HasOpen, model %t", id, open)
		}
		if open := e.model.open(id); open >= e.plain.LogStart() && e.plain.LastStable(e.end) > open { // F3
			e.fatalf("last stable offset %d is above the transaction open from %d", e.plain.LastStable(e.end), open)
		} else if open != -1 && open < e.plain.LogStart() {
			e.codes["pinned by log start"]++
		}
	}
	if e.plain.Len() != n {
		e.fatalf("%d producers, model %d", e.plain.Len(), n)
	}
	from := record.Offset(e.r.IntN(int(e.end) + 2))
	upTo := from + record.Offset(e.r.IntN(30))
	got := e.plain.Aborted(from, upTo)
	want := e.model.aborted(from, upTo)
	same := slices.EqualFunc(got, want, func(a, b Aborted) bool {
		a.LastStable = 0
		return a == b
	})
	if !same {
		e.fatalf("aborted in [%d, %d)\ngot   %+v\nmodel %+v", from, upTo, got, want)
	}
}

// read is a consumer of committed records: it takes a piece of the log below the last stable offset, with the aborted
// list that goes with it, and drops what L11 says. What is left must be what was committed.
func (e *episode) read() {
	e.t.Helper()
	stable := e.plain.LastStable(e.end)
	start := e.plain.LogStart()
	if start >= stable {
		return
	}
	from := start + record.Offset(e.r.IntN(int(stable-start)))
	first, _ := slices.BinarySearchFunc(e.log, from, func(l logged, from record.Offset) int { return compare(l.last, from) })
	var piece []logged
	for _, l := range e.log[first:] {
		if l.last >= stable || len(piece) > 0 && e.one(12) {
			break
		}
		piece = append(piece, l)
	}
	if len(piece) == 0 {
		return
	}
	e.ops = append(e.ops, fmt.Sprintf("read %d to %d, last stable offset %d", from, piece[len(piece)-1].last, stable))
	e.codes["read"]++
	list := e.plain.Aborted(from, piece[len(piece)-1].last+1)
	slices.SortFunc(list, func(a, b Aborted) int { return compare(a.First, b.First) })
	dropping := make(map[record.ProducerID]bool)
	for _, l := range piece {
		for len(list) > 0 && list[0].First <= l.last {
			dropping[list[0].ProducerID] = true
			list = list[1:]
		}
		switch {
		case l.marker:
			if l.abort {
				delete(dropping, l.id)
			}
		case l.transactional && dropping[l.id]:
			e.codes["read aborted"]++
			if l.fate != aborted {
				e.fatalf("a reader of [%d, %d) drops %+v", from, stable, l)
			}
		case l.transactional && l.fate != committed: // F3
			e.fatalf("a reader of [%d, %d) gets %+v", from, stable, l)
		}
	}
}
