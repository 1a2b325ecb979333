package client

import (
	"math"
	"time"

	"github.com/oncelog/oncelog/record"
)

const (
	// maxEpoch is the last epoch a client may use; 32767 is the coordinator's (semantics, section 0).
	maxEpoch record.Epoch = math.MaxInt16 - 1
	// maxSurprises is how often a batch that may have been written, and is told that it is not the
	// next one although it should be, is sent again before it is given up as unknown.
	maxSurprises = 3
	// idleProbe is the silence after which a producer's state on the broker is no longer taken for
	// granted (P13, P25): half of the least time that brokers remember an idle one.
	idleProbe = 30 * time.Second
)

// identity is what a batch is written under.
type identity struct {
	pid   record.ProducerID
	epoch record.Epoch
}

// gap is what lies between the last batch known to be written and the oldest unresolved one.
type gap uint8

const (
	// noGap: nothing is missing.
	noGap gap = iota
	// openGap: a batch before the oldest unresolved one was given up with its outcome unknown.
	openGap
	// deadGap: a number before the oldest unresolved one was never taken and never will be, so
	// nothing after it can ever be written under this identity.
	deadGap
)

// ledger keeps the order and the numbers of one partition's batches, and what is known of each:
// it decides what may be sent, what an answer means, when an identity is used up, and which of the
// three outcomes each batch gets. DESIGN.md gives the argument why none is written twice.
//
// It is a machine: no clock, no goroutine, no I/O; its owner calls one method at a time and takes
// what was decided from resolved. The answer to every attempt that take or resend gave out must
// come back through exactly one of acked, failed, unsent and gone; abandon may come before.
type ledger struct {
	idempotent bool
	// once: a batch that may have been written is not sent again (acks none).
	once bool
	// fixed: the identity is that of a transaction and not ours to renew. Whatever would need a new one ends
	// the transaction: all that is left is given up, and nothing is sent until begin.
	fixed bool
	// window is how many batches may lie between the oldest unresolved one and the newest sent,
	// both included. With five the broker still remembers the oldest (P5).
	window int
	// split cuts a batch that is too large into parts; nil when it cannot be cut.
	split func(*batch) []*batch
	// backoff is the wait before retry n, from 1.
	backoff func(n int) time.Duration

	id         identity
	hasID      bool   // false: an id must be fetched before anything is sent
	generation uint64 // rises with every identity
	next       record.Sequence
	// confirmed: the broker has a state for this identity here, which it will hold us to. Until
	// then one batch at a time, because a broker without state takes any first sequence (P13), and
	// a second batch could overtake the first.
	confirmed bool
	lastAck   time.Time

	sent    []*batch // numbered under the current identity, oldest first, from the oldest unresolved on
	waiting []*batch // closed, without a number; those that lost theirs come first

	gap       gap
	former    *Error // the batches were sent to a topic that is gone: what is said of those that it may have got
	fenced    bool   // the identity was refused as too old
	surprises int
	live      int  // attempts whose end is awaited
	draining  bool // something failed: nothing is sent until live is 0
	failures  int  // in a row
	retryAt   time.Time

	resolved []resolution

	bumps, contradictions int
}

// resolution is a batch that has got its outcome.
type resolution struct {
	b       *batch
	outcome Outcome
	err     *Error

	// The lane adds these.

	lane    *lane
	deliver bool // callbacks are called from the outbox
}

// give sets a fetched producer id.
func (l *ledger) give(id identity) {
	l.id, l.hasID = id, true
	l.next, l.confirmed = 0, false
}

// begin starts a transaction under the identity that its coordinator gave. Nothing of the last one is left.
func (l *ledger) begin(id identity) {
	l.generation++
	l.give(id)
	l.gap, l.former, l.fenced, l.surprises, l.draining, l.failures = noGap, nil, false, 0, false, 0
	l.retryAt = time.Time{}
}

// take gives the next attempt; nil when nothing may be sent now. The batch gets its number here
// if it has none.
func (l *ledger) take(now time.Time) *attempt {
	if !l.mayTake(now, false) {
		return nil
	}
	if i := l.resend(); i >= 0 {
		return l.send(l.sent[i], now)
	}
	b := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	b.base = record.NoSequence
	if l.idempotent {
		b.base = l.next
		l.next = l.next.Add(b.records)
	}
	l.sent = append(l.sent, b)
	return l.send(b, now)
}

// limit is how many batches may be on their way.
func (l *ledger) limit(now time.Time) int {
	if !l.idempotent || l.fixed { // brokers hold a transaction to sequence 0 at its epoch (P12, P14)
		return l.window
	}
	if l.confirmed && len(l.sent) == 0 && now.Sub(l.lastAck) > idleProbe {
		l.confirmed = false
	}
	if !l.confirmed {
		return 1
	}
	return l.window
}

func (l *ledger) send(b *batch, now time.Time) *attempt {
	a := &attempt{b: b, generation: l.generation, sentAt: now, live: true, oldest: b == l.sent[0]}
	b.live = a
	b.attempts++
	l.live++
	return a
}

// sequence is what an attempt's batch is numbered with.
func (l *ledger) sequence(b *batch) (identity, record.Sequence) {
	if !l.idempotent {
		return identity{record.NoProducerID, record.NoEpoch}, record.NoSequence
	}
	return l.id, b.base
}

// acked takes a broker's word that the batch is written.
func (l *ledger) acked(a *attempt, got ack, now time.Time) {
	b := a.b
	l.end(a, true)
	switch {
	case b.resolved:
	case a.generation != l.generation:
		// It was given another number on the proof that this one could not be written.
		l.contradictions++
	default:
		b.acked, b.ack = true, got
		l.confirmed, l.lastAck = true, now
		l.surprises, l.failures = 0, 0
		l.closeGap(b)
		l.popAcked()
	}
	l.settleIfQuiet(now)
}

// closeGap draws the conclusion from an acknowledged batch: sequences have no holes (P10), so all
// before it under this identity are written too, those given up as unknown included.
func (l *ledger) closeGap(b *batch) {
	if !l.idempotent {
		return
	}
	if l.gap == deadGap {
		l.contradictions++
	} else {
		for _, earlier := range l.sent {
			if earlier == b {
				break
			}
			// A refusal that left no doubt is believed over this inference.
			earlier.known = !(earlier.verdict.final() && l.clean(earlier))
		}
	}
	l.gap = noGap
}

// failed takes the end of an attempt that was not acknowledged.
func (l *ledger) failed(a *attempt, v verdict, err *Error, now time.Time) {
	b, awaited := a.b, a.live
	l.end(a, v.definite())
	if v == verdictOutOfOrder && !a.oldest {
		v = verdictAgain // those before it were not all written then; that says nothing of now
	}
	if awaited && !b.resolved && a.generation == l.generation {
		b.verdict, b.err = v, err
		if !v.definite() {
			b.doubtful++
		}
		l.draining = true
	}
	l.settleIfQuiet(now)
}

// unsent takes back an attempt that was never handed to the network.
func (l *ledger) unsent(a *attempt, err *Error, now time.Time) {
	if a.live && !a.b.resolved && a.generation == l.generation {
		a.b.attempts--
	}
	l.failed(a, verdictAgain, err, now)
}

// gone ends an attempt that nobody will answer (acks none): all that can be known is known.
func (l *ledger) gone(a *attempt, now time.Time) {
	b := a.b
	l.end(a, true)
	if !b.resolved {
		l.remove(b)
		l.resolve(b, Unknown, nil)
	}
	l.failures = 0
	l.settleIfQuiet(now)
}

// abandon stops waiting for the attempts on their way: their connection hangs, or another broker
// leads now. Each may still be written.
func (l *ledger) abandon(err *Error, now time.Time) {
	for _, b := range l.sent {
		if b.live != nil {
			l.disown(b, err)
		}
	}
	l.settleIfQuiet(now)
}

func (l *ledger) disown(b *batch, err *Error) {
	b.live.live = false
	b.live = nil
	l.live--
	b.doubtful++
	b.verdict, b.err = verdictLost, err
	l.draining = true
}

// end closes the books on an attempt. One that was abandoned had left a doubt, which a definite
// answer takes away.
func (l *ledger) end(a *attempt, definite bool) {
	b := a.b
	switch {
	case a.live:
		a.live = false
		l.live--
		if b.live == a {
			b.live = nil
		}
	case definite && !b.resolved && a.generation == l.generation && b.doubtful > 0:
		b.doubtful--
	}
}

// elsewhere begins anew with another broker: what the one before refused says nothing of it.
func (l *ledger) elsewhere() { l.failures, l.retryAt = 0, time.Time{} }

// replaced begins anew with another topic of the same name. That one's brokers have no state of ours and take any first sequence (P13); and what
// the one before may have got was written there, or nowhere.
func (l *ledger) replaced(err *Error, now time.Time) {
	l.former, l.draining = err, true
	l.elsewhere()
	l.settleIfQuiet(now)
}

func (l *ledger) settleIfQuiet(now time.Time) {
	if l.live == 0 {
		l.settle(now)
	}
}

// settle decides what failures mean, once no attempt is on its way: what is resolved, whether the
// identity is used up, and otherwise when to send again.
func (l *ledger) settle(now time.Time) {
	failed := l.draining
	l.draining = false
	for len(l.sent) > 0 && l.settleOldest() {
	}
	if l.former != nil {
		l.leave()
	}
	renewed := l.gap == deadGap || l.gap == openGap && len(l.sent) == 0
	switch {
	case renewed && l.fixed:
		l.collapse()
		return
	case renewed:
		l.renew()
	}
	if failed && (len(l.sent) > 0 || len(l.waiting) > 0) {
		l.failures++
		if !renewed || l.failures > 1 { // a first new identity is the cure, nothing to wait for
			l.retryAt = now.Add(l.backoff(l.failures))
		}
	}
}

// leave gives up what a topic that is gone may have got. All else gets numbers of a new identity.
func (l *ledger) leave() {
	for len(l.sent) > 0 && !l.clean(l.sent[0]) {
		l.giveUp(l.former)
	}
	if len(l.sent) > 0 {
		l.gap = deadGap
	}
	l.former, l.confirmed = nil, false
}

// settleOldest resolves the oldest batch if it can be, and says whether to go on with the next.
func (l *ledger) settleOldest() bool {
	b := l.sent[0]
	switch {
	case b.acked:
		l.gap = noGap // whatever was believed: the broker has taken this number
		l.pop(Written, nil)
		return true
	case b.known && (b.verdict.final() || b.verdict == verdictOutOfOrder || b.verdict == verdictFenced):
		// Written, but the broker no longer says where.
		l.pop(Written, nil)
		return true
	case b.verdict == verdictTooLarge && l.clean(b):
		if parts := l.cut(b); parts != nil {
			l.sent = append(parts, l.sent[1:]...)
			if l.fixed {
				l.share(b.base, parts)
			} else {
				l.gap = deadGap
			}
			return false
		}
		l.giveUp(b.err)
		return true
	case b.verdict.final() || l.once && b.verdict == verdictLost:
		l.giveUp(b.err)
		return true
	case b.verdict == verdictOutOfOrder || b.verdict == verdictFenced:
		return l.settleMisnumbered(b)
	}
	return false // to be sent again
}

// settleMisnumbered handles a batch that should be next and that the broker does not take as next:
// because of a gap before it, or because the broker's state is not what it was.
func (l *ledger) settleMisnumbered(b *batch) bool {
	if b.verdict == verdictFenced {
		l.fenced = true
	}
	switch {
	case l.clean(b):
		// Every attempt was refused: its number is dead, and it may have another.
		l.gap = deadGap
		return false
	case b.verdict == verdictOutOfOrder && l.gap == noGap && l.surprises < maxSurprises:
		l.surprises++
		return false
	}
	// Some attempt of it may have been written. Under another number it could be there twice (F1).
	l.giveUp(b.err)
	return true
}

// clean says that a batch was not written and never will be under its present number.
func (l *ledger) clean(b *batch) bool {
	return l.gap == deadGap || b.doubtful == 0 && b.live == nil && !b.acked && !b.known
}

// giveUp resolves the oldest batch as not written if that is certain, else as unknown, and notes
// the gap it leaves.
func (l *ledger) giveUp(err *Error) {
	b := l.sent[0]
	switch {
	case b.acked || b.known:
		l.pop(Written, nil)
	case l.clean(b):
		l.gap = deadGap
		l.pop(NotWritten, err)
	default:
		if l.gap == noGap {
			l.gap = openGap
		}
		l.pop(Unknown, err)
	}
	if !l.idempotent {
		l.gap = noGap // nothing is numbered
	}
}

// cut splits a batch that is too large.
func (l *ledger) cut(b *batch) []*batch {
	if b.records < 2 || l.split == nil {
		return nil
	}
	return l.split(b)
}

// share deals the numbers of a batch that was not written out over its parts: none is left over, and what was sent
// behind it keeps its own (P29).
func (l *ledger) share(base record.Sequence, parts []*batch) {
	for _, part := range parts {
		part.base = base
		base = base.Add(part.records)
	}
}

// collapse gives up all that is left of a transaction that cannot be completed, each batch with its own error if it has one. What
// comes behind a dead number is not written and never will be.
func (l *ledger) collapse() {
	cause := refusal(ReasonTransactionAbortable, "an earlier batch of the transaction on this partition failed")
	for len(l.sent) > 0 {
		b := l.sent[0]
		err := b.err
		if err == nil {
			err = cause
		}
		l.giveUp(err)
	}
	l.abort(cause)
	l.gap, l.hasID = noGap, false
}

// renew puts everything that is left under a new identity, numbered from 0 (KIP-360). It is called
// only when no batch in sent can have been written or ever be, under the old one.
func (l *ledger) renew() {
	for _, b := range l.sent {
		b.attempts, b.doubtful, b.verdict = 0, 0, verdictNone
	}
	l.waiting = append(l.sent, l.waiting...)
	l.sent = nil
	l.gap, l.surprises = noGap, 0
	if !l.idempotent {
		return
	}
	l.generation++
	l.bumps++
	l.next, l.confirmed = 0, false
	if l.fenced || l.id.epoch >= maxEpoch {
		l.hasID = false
	} else {
		l.id.epoch++
	}
	l.fenced = false
}

// expire gives up what has been waiting past its deadline, oldest first.
func (l *ledger) expire(now time.Time, late func(*batch) *Error) {
	for len(l.sent) > 0 && !now.Before(l.sent[0].deadline) {
		b := l.sent[0]
		if b.live != nil && !b.acked {
			l.disown(b, b.err)
		}
		l.giveUp(late(b))
	}
	for len(l.sent) == 0 && len(l.waiting) > 0 && !now.Before(l.waiting[0].deadline) {
		b := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.resolve(b, NotWritten, late(b))
	}
	l.settleIfQuiet(now)
}

// abort resolves everything as it stands.
func (l *ledger) abort(err *Error) {
	for len(l.sent) > 0 {
		if b := l.sent[0]; b.live != nil && !b.acked {
			l.disown(b, err)
		}
		l.giveUp(err)
	}
	for _, b := range l.waiting {
		l.resolve(b, NotWritten, err)
	}
	l.waiting = nil
}

// popAcked resolves what is acknowledged at the front, in order.
func (l *ledger) popAcked() {
	for len(l.sent) > 0 && l.sent[0].acked {
		l.pop(Written, nil)
	}
}

// pop resolves the oldest batch.
func (l *ledger) pop(o Outcome, err *Error) {
	b := l.sent[0]
	l.sent[0] = nil
	l.sent = l.sent[1:]
	l.resolve(b, o, err)
}

// remove takes a batch out of sent, wherever it is.
func (l *ledger) remove(b *batch) {
	for i := range l.sent {
		if l.sent[i] == b {
			l.sent = append(l.sent[:i], l.sent[i+1:]...)
			return
		}
	}
}

func (l *ledger) resolve(b *batch, o Outcome, err *Error) {
	b.resolved = true
	if b.live != nil { // a later attempt than the one that brought the answer: nothing hangs on it
		b.live.live, b.live = false, nil
		l.live--
	}
	if !b.acked {
		b.ack = ack{base: record.NoOffset, logStart: record.NoOffset, appended: -1}
	}
	l.resolved = append(l.resolved, resolution{b: b, outcome: o, err: err})
}

// room says that take would number one more batch if there were one.
func (l *ledger) room(now time.Time) bool {
	return !l.held(now) && l.resend() < 0 && l.gap == noGap && len(l.sent) < l.limit(now)
}

// mayTake says whether take has something to give; due: if a batch that can be closed is counted.
func (l *ledger) mayTake(now time.Time, due bool) bool {
	if i := l.resend(); i >= 0 {
		return !l.held(now) && i < l.limit(now) && !l.sent[i].verdict.final()
	}
	if len(l.waiting) > 0 {
		due = l.waiting[0].encoded
	}
	return due && l.room(now)
}

// held says that nothing may be sent at all.
func (l *ledger) held(now time.Time) bool {
	return l.draining || now.Before(l.retryAt) || l.idempotent && !l.hasID
}

// resend is the index in sent of the first batch that must be sent again; -1: none.
func (l *ledger) resend() int {
	for i, b := range l.sent {
		if !b.acked && b.live == nil {
			return i
		}
	}
	return -1
}

// oldest is the unresolved batch whose deadline comes first; nil: there is none.
func (l *ledger) oldest() *batch {
	switch {
	case len(l.sent) > 0:
		return l.sent[0]
	case len(l.waiting) > 0:
		return l.waiting[0]
	}
	return nil
}

// newest is the unresolved batch that will be resolved last; nil: there is none.
func (l *ledger) newest() *batch {
	switch {
	case len(l.waiting) > 0:
		return l.waiting[len(l.waiting)-1]
	case len(l.sent) > 0:
		return l.sent[len(l.sent)-1]
	}
	return nil
}

// oldestLive is the attempt that has waited longest for its answer; nil: there is none.
func (l *ledger) oldestLive() *attempt {
	for _, b := range l.sent {
		if b.live != nil {
			return b.live
		}
	}
	return nil
}

// idle says that there is nothing to do for anybody.
func (l *ledger) idle() bool { return len(l.sent) == 0 && len(l.waiting) == 0 && l.live == 0 }
