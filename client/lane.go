package client

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// stallAfter is how long an attempt may go unanswered before metadata is asked whether the
// partition has another leader by now. A paused leader keeps its connections open.
const stallAfter = time.Second

// lane is one partition of a producer: the open batch that Send fills, the ledger with all that
// was closed, and the sink of the broker that leads. Lock order: lane, then sink, stream or clock.
type lane struct {
	p    *Producer
	tp   record.TopicPartition
	acks clientv1.Acks

	// alarm is when the clock will call tick, in ns since the producer's start; 0: never. The
	// clock's lock guards writes.
	alarm atomic.Int64

	mu     sync.Mutex // guards what follows
	led    ledger
	open   *batch
	limit  int  // size at which the open batch is closed; lowered by MESSAGE_TOO_LARGE
	asked  bool // a producer id is on its way
	closed bool

	home   *sink   // of the leader; nil while there is none
	stream *stream // the attempts on their way are on this one
	queued bool    // home has the lane in its queue
	epoch  int32   // of the leader that home was chosen for
	topic  string  // id of the topic that it writes to; empty: not known yet

	outbox     []resolution // resolved, callbacks not yet called
	delivering bool         // a goroutine is calling them
}

func newLane(p *Producer, tp record.TopicPartition) *lane {
	l := &lane{p: p, tp: tp, limit: min(p.cfg.BatchBytes, p.cfg.MaxRequestBytes), epoch: -1}
	l.acks = map[Acks]clientv1.Acks{AcksAll: clientv1.Acks_ACKS_ALL, AcksLeader: clientv1.Acks_ACKS_LEADER, AcksNone: clientv1.Acks_ACKS_NONE}[p.cfg.Acks]
	l.led = ledger{idempotent: !p.cfg.DisableIdempotence, fixed: p.txn != nil, window: p.cfg.MaxInFlight, once: p.cfg.Acks == AcksNone, backoff: p.c.backoff}
	l.led.split = func(b *batch) []*batch {
		l.limit = max(record.HeaderSize, b.size()/2)
		return b.halve(p.compression)
	}
	if p.txn != nil {
		l.led.begin(p.txn.identity())
	}
	return l
}

// append adds a record to the open batch. reserved is what was taken from the budget for it.
func (l *lane) append(now time.Time, ts int64, r *Record, tell telling, urgent bool, reserved int64) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return refusal(ReasonClosed, "producer is closed").at(l.tp)
	}
	var full *batch
	if l.open != nil && l.open.builder.SizeWith(ts, r.Key, r.Value, r.Headers) > l.limit {
		full = l.closeOpen()
	}
	if l.open == nil {
		l.open = l.p.newBatch(now)
	}
	b := l.open
	if err := b.builder.Append(ts, r.Key, r.Value, r.Headers); err != nil {
		if b.records == 0 {
			l.open = nil
			l.p.recycle(b)
		}
		l.mu.Unlock()
		l.finishEncoding(full)
		return l.p.invalidRecord(l.tp, err)
	}
	if tell.callback != nil || tell.future != nil {
		tell.delta = b.records
		b.tellings = append(b.tellings, tell)
		b.callbacks = b.callbacks || tell.callback != nil
	}
	b.records++
	b.reserved += reserved
	b.urgent = b.urgent || urgent
	if full == nil && b.size() >= l.limit {
		full = l.closeOpen()
	}
	l.schedule(now)
	l.mu.Unlock()
	l.finishEncoding(full)
	return nil
}

// closeOpen moves the open batch to the ledger and returns it if it must still be encoded.
func (l *lane) closeOpen() *batch {
	b := l.open
	l.open = nil
	l.led.waiting = append(l.led.waiting, b)
	b.encoded = l.p.cfg.Compression == record.CodecNone
	if b.encoded {
		return nil
	}
	return b
}

// finishEncoding compresses a batch that was closed, outside of the lock, and puts it up for
// sending. The ledger does not pass it by meanwhile.
func (l *lane) finishEncoding(b *batch) {
	if b == nil {
		return
	}
	b.builder.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, b.transactional)
	l.mu.Lock()
	b.encoded = true
	l.schedule(time.Now())
	l.mu.Unlock()
}

// due says that the open batch should be sent although it is not full.
func (l *lane) due(now time.Time) bool {
	return l.open != nil && l.open.records > 0 &&
		(l.open.urgent || !now.Before(l.open.lingerAt) || l.p.budget.pressed.Load() > 0)
}

// schedule does what the present state calls for: offers the lane to its sink, sets the alarm,
// asks for a producer id. Needs mu.
func (l *lane) schedule(now time.Time) {
	if l.led.idempotent && !l.led.fixed && !l.led.hasID && !l.asked && (l.open != nil || len(l.led.waiting) > 0) {
		l.asked = true
		l.p.ids.ask(l, l.led.generation > 0)
	}
	if l.home != nil && !l.queued && l.led.mayTake(now, l.due(now)) {
		l.queued = true
		l.home.push(l)
	}
	if at := l.nextAlarm(now); !at.IsZero() {
		l.p.clock.set(l, at)
	}
}

// nextAlarm is when tick has something to do; zero: never.
func (l *lane) nextAlarm(now time.Time) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if b := l.open; b != nil {
		sooner(b.deadline)
		if now.Before(b.lingerAt) {
			sooner(b.lingerAt)
		}
	}
	if b := l.led.oldest(); b != nil {
		sooner(b.deadline)
	}
	if now.Before(l.led.retryAt) && !l.led.idle() {
		sooner(l.led.retryAt)
	}
	if a := l.led.oldestLive(); a != nil {
		sooner(now.Add(stallAfter))
		sooner(a.sentAt.Add(l.p.cfg.RequestTimeout))
	}
	if l.home == nil && (l.open != nil || !l.led.idle()) {
		sooner(now.Add(l.p.c.cfg.RetryBackoff))
	}
	return at
}

// tick is called by the clock.
func (l *lane) tick(now time.Time) {
	var hung *stream
	l.mu.Lock()
	if l.open != nil && !now.Before(l.open.deadline) {
		if b := l.closeOpen(); b != nil {
			b.encode() // too late to matter, but the ledger wants it
		}
	}
	l.led.expire(now, l.late)
	if a := l.led.oldestLive(); a != nil {
		age := now.Sub(a.sentAt)
		if age >= l.p.cfg.RequestTimeout {
			hung = a.stream
		}
		if age >= stallAfter {
			l.p.c.meta.refresh()
		}
	}
	if l.home == nil && (l.open != nil || !l.led.idle()) {
		l.p.c.meta.refresh()
	}
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
	if hung != nil {
		hung.abort(&Error{Reason: ReasonNetwork, Outcome: Unknown, Retriable: true,
			Message: fmt.Sprintf("broker %d at %s did not answer within RequestTimeout %v", hung.s.broker, hung.s.addr, l.p.cfg.RequestTimeout)})
	}
}

// late makes the error of a batch whose time is up.
func (l *lane) late(b *batch) *Error {
	e := &Error{Reason: ReasonDeliveryTimeout, TopicPartition: l.tp, Metadata: map[string]string{}}
	e.Message = fmt.Sprintf("not acknowledged within DeliveryTimeout %v", l.p.cfg.DeliveryTimeout)
	switch {
	case b.err != nil:
		e.Message += "; last: " + b.err.Error()
		e.cause = b.err
	case b.attempts > 0:
		e.Message += "; no answer from the broker"
	case l.led.idempotent && !l.led.hasID:
		e.Message += "; no producer id: " + l.p.ids.problem()
	case l.home == nil:
		e.Message += "; the partition has no leader that is known"
	default:
		e.Message += "; never sent"
	}
	return e
}

// next gives the attempt to send on a stream; nil if there is none now.
func (l *lane) next(s *sink, st *stream) *attempt {
	l.mu.Lock()
	if l.home == s {
		l.queued = false
		if now := time.Now(); l.led.room(now) && len(l.led.waiting) == 0 && l.due(now) {
			if b := l.closeOpen(); b != nil {
				l.mu.Unlock()
				l.finishEncoding(b)
				l.mu.Lock()
			}
		}
	}
	if l.home != s || l.stream != st && l.led.live > 0 {
		l.mu.Unlock() // led elsewhere, or answers on the old stream come first and will offer the lane again
		return nil
	}
	now := time.Now()
	a := l.led.take(now)
	if a == nil {
		l.mu.Unlock()
		return nil
	}
	a.lane, a.topic, a.stream, l.stream = l, l.topic, st, st
	id, seq := l.led.sequence(a.b)
	a.b.stamp(l.led.generation, id, seq)
	var done []resolution
	if st.register(a) {
		a.b.handed++
		l.p.stats.sent.Add(1)
		if a.b.attempts > 1 {
			l.p.stats.retried.Add(1)
		}
	} else {
		l.led.unsent(a, st.failure(), now)
		a = nil
	}
	done = l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
	return a
}

// settled takes what the ledger has resolved, schedules what comes next, and returns the batches
// that the caller must hand to Producer.finish after unlocking. Needs mu.
func (l *lane) settled(now time.Time) []resolution {
	done := l.led.resolved
	l.led.resolved = nil
	l.schedule(now)
	for i := range done {
		// Before anybody can hear of it: who has flushed looks at what has become of the records, and does
		// not commit a transaction with one that was not written.
		l.p.account(&done[i])
		done[i].lane = l
		done[i].deliver = done[i].b.callbacks || len(done[i].b.flushes) > 0
		done[i].b.users.Add(1)
		if done[i].deliver {
			done[i].b.users.Add(1)
			l.outbox = append(l.outbox, done[i])
		}
	}
	if len(l.outbox) > 0 && !l.delivering {
		l.delivering = true
		l.p.wg.Go(l.deliver)
	}
	return done
}

// deliver calls callbacks in order until there are none left. At most one runs per lane.
func (l *lane) deliver() {
	for {
		l.mu.Lock()
		batch := l.outbox
		l.outbox = nil
		if len(batch) == 0 {
			l.delivering = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, r := range batch {
			l.p.call(r)
		}
	}
}

// hasLetGo says that a resolved batch is held by nobody: it may have been given up, by its deadline or by an abort, while it was being
// compressed, while gRPC read it, or while the answer to an attempt was being taken in.
func (l *lane) hasLetGo(b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.encoded && b.handed == b.answered
}

// answered takes a broker's answer to an attempt.
func (l *lane) answered(a *attempt, r *clientv1.ProduceResponse) {
	now := time.Now()
	err := fromProto(r.GetError())
	l.mu.Lock()
	a.b.answered++
	if err == nil {
		l.led.acked(a, ack{
			base: record.Offset(r.GetBaseOffset()), logStart: record.Offset(r.GetLogStartOffset()),
			appended: r.GetLogAppendTimeMs(), duplicate: r.GetDuplicate(),
		}, now)
	} else {
		l.led.failed(a, verdictOf(err), err.at(l.tp), now)
	}
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
	if err != nil {
		l.p.heard(l.tp, err)
	}
}

// verdictOf says what a broker's refusal means for the ledger.
func verdictOf(err *Error) verdict {
	switch {
	case err.Outcome != NotWritten:
		return verdictLost
	case err.Reason == ReasonOutOfOrderSequence:
		return verdictOutOfOrder
	case err.Reason == ReasonInvalidProducerEpoch:
		return verdictFenced
	case err.Reason == ReasonMessageTooLarge || err.Reason == ReasonRecordListTooLarge:
		return verdictTooLarge
	case err.Retriable:
		return verdictAgain
	default:
		return verdictRefused
	}
}

// lost takes the news that an attempt's stream has ended without an answer.
func (l *lane) lost(a *attempt, err *Error) { l.unanswered(a, verdictLost, err) }

// tooLarge takes the news that the broker did not read an attempt because of its size.
func (l *lane) tooLarge(a *attempt, err *Error) { l.unanswered(a, verdictTooLarge, err) }

func (l *lane) unanswered(a *attempt, v verdict, err *Error) {
	now := time.Now()
	l.mu.Lock()
	l.led.failed(a, v, err.at(l.tp), now)
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
}

// gone takes the news that an attempt which nobody answers has been handed to the network.
func (l *lane) gone(a *attempt) {
	now := time.Now()
	l.mu.Lock()
	l.led.gone(a, now)
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
}

// move makes s the lane's sink, because broker leads under epoch. What is on its way to another
// broker is not waited for: it may have been written there, and asking the new leader tells.
func (l *lane) move(s *sink, epoch int32) {
	now := time.Now()
	l.mu.Lock()
	if l.home == s {
		l.epoch = epoch
		l.mu.Unlock()
		return
	}
	l.home, l.queued = s, false
	if s != nil {
		if l.led.live > 0 && epoch > l.epoch {
			l.led.abandon(&Error{Reason: ReasonNotLeader, Outcome: Unknown, Retriable: true, TopicPartition: l.tp,
				Message: fmt.Sprintf("broker %d leads now; the one asked before has not answered", s.broker)}, now)
		}
		if epoch > l.epoch {
			s.hear()
		}
		l.epoch = epoch
		l.led.elsewhere()
	}
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
}

// belong makes the topic with this id the one that the lane writes to.
func (l *lane) belong(topic string) {
	now := time.Now()
	l.mu.Lock()
	if l.topic == topic {
		l.mu.Unlock()
		return
	}
	if l.topic != "" {
		l.epoch = -1 // of the topic before
		l.led.replaced(&Error{Reason: ReasonUnknownTopicID, Outcome: Unknown, TopicPartition: l.tp,
			Message: "the topic was deleted, and another one of its name created; the record may have been in the one that is gone"}, now)
	}
	l.topic = topic
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
}

// give hands the lane the producer id it asked for.
func (l *lane) give(id identity) {
	now := time.Now()
	l.mu.Lock()
	l.asked = false
	if !l.led.hasID {
		l.led.give(id)
	}
	done := l.settled(now)
	l.mu.Unlock()
	l.p.finish(done)
}

// refuse tells the lane that it cannot have the producer id it asked for. Nothing of what waits for it was sent.
func (l *lane) refuse(err *Error) {
	l.mu.Lock()
	l.asked = false
	done := l.giveUpAll(err)
	l.mu.Unlock()
	l.p.finish(done)
}

// flush makes everything in the lane go out, and returns a channel that is closed when all of it
// is resolved and told; nil if there is nothing.
func (l *lane) flush() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := make(chan struct{})
	b := l.open
	switch {
	case b != nil:
		b.urgent = true
	case l.led.newest() != nil:
		b = l.led.newest()
	case l.delivering || len(l.outbox) > 0:
		// Behind the callbacks that are being called: a batch of nothing.
		b = &batch{}
		b.users.Add(1)
		l.outbox = append(l.outbox, resolution{b: b})
	default:
		return nil
	}
	b.flushes = append(b.flushes, done)
	l.schedule(time.Now())
	return done
}

// shut resolves everything as it stands and takes no more records.
func (l *lane) shut(err *Error) {
	l.mu.Lock()
	l.closed = true
	l.home = nil
	done := l.giveUpAll(err)
	l.mu.Unlock()
	l.p.finish(done)
}

// drop resolves everything as it stands: the transaction is aborted.
func (l *lane) drop(err *Error) {
	l.mu.Lock()
	done := l.giveUpAll(err)
	l.mu.Unlock()
	l.p.finish(done)
}

// giveUpAll resolves what is left. Needs mu.
func (l *lane) giveUpAll(err *Error) []resolution {
	if l.open != nil {
		if b := l.closeOpen(); b != nil {
			b.encode() // nobody will send it, but the ledger wants it
		}
	}
	l.led.abort(err.at(l.tp))
	return l.settled(time.Now())
}

// begin starts a transaction.
func (l *lane) begin(id identity) {
	l.mu.Lock()
	l.led.begin(id)
	l.mu.Unlock()
}
