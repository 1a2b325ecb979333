package client

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run only this seed of the random tests; 0: many")
	seedsFlag = flag.Int("seeds", 0, "how many seeds the random tests run; 0: a few seconds' worth")
)

// seeds calls run for each seed of a random test.
func seeds(t *testing.T, fallback int, run func(t *testing.T, seed uint64)) {
	t.Helper()
	if *seedFlag != 0 {
		run(t, *seedFlag)
		return
	}
	n := fallback
	if *seedsFlag > 0 {
		n = *seedsFlag
	}
	for seed := uint64(1); seed <= uint64(n) && !t.Failed(); seed++ {
		run(t, seed)
	}
	if t.Failed() {
		t.Log("run one seed again with -seed N")
	}
}

// modelLog is the dedup model of one partition: P5 to P13, nothing else.
type modelLog struct {
	producers map[record.ProducerID]*modelProducer
	written   []int // batch names in the order of the log
	offsets   map[int]record.Offset
	end       record.Offset
}

type modelProducer struct {
	epoch  record.Epoch
	last   record.Sequence
	window []modelBatch
}

type modelBatch struct {
	first, last record.Sequence
	base        record.Offset
}

func newModelLog() *modelLog {
	return &modelLog{producers: make(map[record.ProducerID]*modelProducer), offsets: make(map[int]record.Offset)}
}

// append decides about a batch: verdictNone means written, at the returned offset.
func (m *modelLog) append(name int, id identity, base record.Sequence, n int32) (record.Offset, bool, verdict) {
	if id.pid != record.NoProducerID {
		last := base.Add(n - 1)
		p := m.producers[id.pid]
		if p != nil {
			if id.epoch == p.epoch {
				for _, w := range p.window {
					if w.first == base && w.last == last {
						return w.base, true, verdictNone
					}
				}
			}
			if id.epoch < p.epoch {
				return record.NoOffset, false, verdictFenced
			}
			if id.epoch == p.epoch && base != p.last.Add(1) || id.epoch > p.epoch && base != 0 {
				return record.NoOffset, false, verdictOutOfOrder
			}
		}
		if p == nil || id.epoch > p.epoch {
			p = &modelProducer{epoch: id.epoch}
			m.producers[id.pid] = p
		}
		p.last = last
		p.window = append(p.window, modelBatch{base, last, m.end})
		if len(p.window) > 5 {
			p.window = p.window[1:]
		}
	}
	at := m.end
	m.written = append(m.written, name)
	if _, again := m.offsets[name]; !again {
		m.offsets[name] = at
	}
	m.end += record.Offset(n)
	return at, false, verdictNone
}

// letter is one attempt on its way to the broker.
type letter struct {
	name int
	id   identity
	seq  record.Sequence
	n    int32
	a    *attempt
	conn *modelConn
}

// modelConn keeps the order of what it carries. Once cut, the client hears nothing of it any more,
// but what it carried may still arrive: the broker was paused with the bytes in its socket.
type modelConn struct {
	cut     bool
	letters []letter
	replies []func(now time.Time)
	pending map[*attempt]struct{}
}

// ledgerRun drives a ledger against the model through a network that loses, delays and reorders.
type ledgerRun struct {
	rng      *rand.Rand
	led      ledger
	log      *modelLog
	now      time.Time
	conns    []*modelConn
	raft     []letter // proposed, answered as may have happened, not yet applied or dropped
	outcomes map[int]resolution
	names    map[*batch]int
	order    []int
	refused  map[int]bool
	pids     record.ProducerID
	calm     bool
	mild     bool // nothing is refused for good and there is time: every batch must be written
	trace    []string
}

func (r *ledgerRun) tracef(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf(format, args...))
}

func newLedgerRun(seed uint64, idempotent bool, epoch record.Epoch) *ledgerRun {
	r := &ledgerRun{
		rng: rand.New(rand.NewPCG(seed, 7)), log: newModelLog(), now: time.Unix(1000, 0),
		outcomes: make(map[int]resolution), names: make(map[*batch]int), refused: make(map[int]bool), pids: 1,
	}
	r.led = ledger{idempotent: idempotent, window: 5, backoff: func(n int) time.Duration { return time.Duration(n) * 10 * time.Millisecond }}
	r.led.give(identity{1, epoch})
	if idempotent && r.rng.IntN(4) == 0 {
		// Near the wrap: an earlier batch has brought the sequence there (P11).
		r.led.next = record.Sequence(1<<31 - 1 - r.rng.IntN(20))
	}
	r.conns = []*modelConn{{pending: map[*attempt]struct{}{}}}
	return r
}

func (r *ledgerRun) conn() *modelConn { return r.conns[len(r.conns)-1] }

func (r *ledgerRun) add() {
	name := len(r.order)
	b := &batch{records: 1 + r.rng.Int32N(4), deadline: r.now.Add(2 * time.Second), encoded: true}
	r.names[b] = name
	r.order = append(r.order, name)
	if r.mild {
		b.deadline = r.now.Add(time.Hour)
	} else {
		r.refused[name] = r.rng.IntN(12) == 0
	}
	r.led.waiting = append(r.led.waiting, b)
}

func (r *ledgerRun) send() {
	if !r.led.hasID {
		r.pids++
		r.led.give(identity{r.pids, 0})
	}
	a := r.led.take(r.now)
	if a == nil {
		return
	}
	id, seq := r.led.sequence(a.b)
	c := r.conn()
	r.tracef("send %d as %v+%d conn %d", r.names[a.b], id, seq, len(r.conns))
	c.pending[a] = struct{}{}
	c.letters = append(c.letters, letter{r.names[a.b], id, seq, a.b.records, a, c})
}

// arrive lets the broker take the next letter of one connection.
func (r *ledgerRun) arrive(c *modelConn) {
	if len(c.letters) == 0 {
		return
	}
	m := c.letters[0]
	c.letters = c.letters[1:]
	odds := r.rng.IntN(20)
	switch {
	case r.refused[m.name]:
		r.reply(c, m, 0, false, verdictRefused)
	case odds == 0 && !r.calm:
		r.reply(c, m, 0, false, verdictAgain)
	case odds < 3 && !r.calm:
		r.raft = append(r.raft, m)
		r.reply(c, m, 0, false, verdictLost)
	default:
		base, dup, v := r.log.append(m.name, m.id, m.seq, m.n)
		r.tracef("arrive %d %v+%d: %v dup=%v", m.name, m.id, m.seq, v, dup)
		r.reply(c, m, base, dup, v)
	}
}

func (r *ledgerRun) reply(c *modelConn, m letter, base record.Offset, dup bool, v verdict) {
	c.replies = append(c.replies, func(now time.Time) {
		if _, ok := c.pending[m.a]; !ok {
			return
		}
		delete(c.pending, m.a)
		r.tracef("answer %d: %v", m.name, v)
		if v == verdictNone {
			r.led.acked(m.a, ack{base: base, duplicate: dup}, now)
		} else {
			r.led.failed(m.a, v, &Error{Reason: fmt.Sprint(v)}, now)
		}
	})
}

// hear gives the client an answer, not always the oldest.
func (r *ledgerRun) hear(c *modelConn) {
	if c.cut || len(c.replies) == 0 {
		return
	}
	i := 0
	if r.rng.IntN(4) == 0 {
		i = r.rng.IntN(len(c.replies))
	}
	f := c.replies[i]
	c.replies = slices.Delete(c.replies, i, i+1)
	f(r.now)
}

// breakConn cuts the connection in use: every attempt on it is lost, its letters may still come.
func (r *ledgerRun) breakConn() {
	c := r.conn()
	c.cut = true
	r.tracef("cut conn %d", len(r.conns))
	lost := make([]*attempt, 0, len(c.pending))
	for a := range c.pending {
		lost = append(lost, a)
	}
	slices.SortFunc(lost, func(a, b *attempt) int { return r.names[a.b] - r.names[b.b] })
	clear(c.pending)
	for _, a := range lost {
		r.led.failed(a, verdictLost, &Error{Reason: "lost"}, r.now)
	}
	r.conns = append(r.conns, &modelConn{pending: map[*attempt]struct{}{}})
}

// apply takes what was left uncertain in the broker: it is written after all, or never.
func (r *ledgerRun) apply() {
	if len(r.raft) == 0 {
		return
	}
	m := r.raft[0]
	r.raft = r.raft[1:]
	if r.rng.IntN(2) == 0 {
		_, _, v := r.log.append(m.name, m.id, m.seq, m.n)
		r.tracef("late apply %d %v+%d: %v", m.name, m.id, m.seq, v)
	}
}

func (r *ledgerRun) step() {
	c := r.conns[r.rng.IntN(len(r.conns))]
	switch n := r.rng.IntN(100); {
	case n < 15:
		if len(r.led.waiting) < 10 {
			r.add()
		}
	case n < 45:
		r.send()
	case n < 60:
		r.arrive(r.conn())
	case n < 63:
		r.arrive(c)
	case n < 85:
		r.hear(r.conn())
	case n < 88:
		r.hear(c)
	case n < 89:
		r.apply()
	case n < 96:
		r.advance(time.Duration(r.rng.IntN(40)) * time.Millisecond)
	case n == 96 && r.rng.IntN(4) == 0:
		r.advance(time.Duration(r.rng.IntN(3000)) * time.Millisecond)
	case n == 97 || n == 98:
		r.tracef("abandon")
		r.led.abandon(&Error{Reason: "moved"}, r.now)
		r.conns = append(r.conns, &modelConn{pending: map[*attempt]struct{}{}})
	case n == 99:
		r.breakConn()
	}
	r.collect()
}

func (r *ledgerRun) advance(d time.Duration) {
	r.now = r.now.Add(d)
	r.led.expire(r.now, func(*batch) *Error { return &Error{Reason: ReasonDeliveryTimeout} })
}

func (r *ledgerRun) collect() {
	for _, res := range r.led.resolved {
		r.tracef("outcome %d: %v", r.names[res.b], res.outcome)
		r.outcomes[r.names[res.b]] = res
	}
	r.led.resolved = nil
}

// finish lets everything that can still arrive arrive, and the client come to an end.
func (r *ledgerRun) finish() {
	r.calm = true
	for range 20000 {
		if r.led.idle() {
			break
		}
		r.send()
		r.arrive(r.conn())
		r.hear(r.conn())
		r.advance(time.Millisecond)
		r.collect()
	}
	for _, c := range r.conns {
		for len(c.letters) > 0 {
			r.arrive(c)
		}
	}
	for len(r.raft) > 0 {
		r.apply()
	}
}

// check compares what the producer was told with what is in the log.
func (r *ledgerRun) check(idempotent bool) error {
	count := make(map[int]int)
	for _, name := range r.log.written {
		count[name]++
	}
	last := -1
	for _, name := range r.order {
		res, ok := r.outcomes[name]
		if !ok {
			return fmt.Errorf("batch %d has no outcome", name)
		}
		switch {
		case idempotent && count[name] > 1:
			return fmt.Errorf("batch %d (%v) is in the log %d times", name, res.outcome, count[name])
		case res.outcome == Written && count[name] == 0:
			return fmt.Errorf("batch %d was reported written and is not in the log", name)
		case res.outcome == NotWritten && count[name] > 0:
			return fmt.Errorf("batch %d was reported not written and is in the log", name)
		case idempotent && r.mild && (res.outcome != Written || res.b.ack.base == record.NoOffset || r.led.bumps > 0):
			return fmt.Errorf("batch %d is %v at %d after %d bumps, although nothing stood in its way", name, res.outcome, res.b.ack.base, r.led.bumps)
		case idempotent && res.outcome == Written && res.b.ack.base != record.NoOffset && res.b.ack.base != r.log.offsets[name]:
			return fmt.Errorf("batch %d was reported at %d and is at %d", name, res.b.ack.base, r.log.offsets[name])
		}
	}
	if !idempotent {
		return nil
	}
	for _, name := range r.log.written {
		// A batch whose outcome is unknown may come late only where the producer id was given up.
		if r.outcomes[name].outcome != Written && r.pids > 1 {
			continue
		}
		if name < last {
			return fmt.Errorf("batch %d lies behind %d in the log", name, last)
		}
		last = name
	}
	if r.led.contradictions > 0 {
		return fmt.Errorf("%d contradictions", r.led.contradictions)
	}
	return nil
}

// TestLedgerRandom: over a network that loses, delays and repeats, with brokers that refuse, time
// out and apply late, no batch is written twice, outcomes are true, and order is kept (P5-P13, F1).
func TestLedgerRandom(t *testing.T) {
	counts := map[string]int{}
	seeds(t, 600, func(t *testing.T, seed uint64) {
		epoch := record.Epoch(0)
		if seed%5 == 0 {
			epoch = maxEpoch - 1 // ids run out soon
		}
		idempotent := seed%7 != 0
		r := newLedgerRun(seed, idempotent, epoch)
		r.mild = seed%3 == 1
		for range 600 {
			r.step()
		}
		r.finish()
		if err := r.check(idempotent); err != nil {
			for _, line := range r.trace {
				t.Log(line)
			}
			t.Errorf("seed %d: %v", seed, err)
		}
		for _, res := range r.outcomes {
			counts[res.outcome.String()]++
		}
		counts["bumps"] += r.led.bumps
		counts["new ids"] += int(r.pids) - 1
	})
	t.Log(counts)
}
