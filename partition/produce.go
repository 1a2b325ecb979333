package partition

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Produce appends a batch and calls done exactly once, from any goroutine, with where it lies or
// with an *Error. Calls from one goroutine are ordered as they are made. Nothing here refuses a
// sequence or an epoch: apply decides, and what is looked up before only shortens the way of
// duplicates (R3).
func (h *Host) Produce(req ProduceRequest, done func(ProduceResult, error)) {
	// Of a topic with another id: whoever has numbered a batch for that is not known here, and any number would be taken (P13).
	r, refusal := h.meant(req.TopicPartition, req.TopicID)
	if refusal != nil {
		done(noResult, refusal)
		return
	}
	term, refusal := r.ready()
	if refusal != nil {
		r.group.AfterHandover(func() { done(noResult, r.notLeader()) })
		return
	}
	if req.Timeout <= 0 {
		req.Timeout = DefaultProduceTimeout
	}
	stamp := h.config.Wall().UnixMilli()
	if c := r.config.Load(); c.LogAppendTime {
		req.Batch.SetLogAppendTime(stamp)
	}
	r.admission.admit(candidate{
		batch: req.Batch, txn: req.TransactionalID, version: req.Version, stamp: stamp,
		waiter: waiter{done: done, deadline: time.Now().Add(req.Timeout)},
	}, term)
}

// noResult goes with errors of partitions that are not led here (F17, P33).
var noResult = ProduceResult{BaseOffset: record.NoOffset, LogStart: record.NoOffset, LogAppendTime: -1}

// noResult goes with all other errors: the log start tells a client retention from loss (P33).
func (r *Replica) noResult() ProduceResult {
	return ProduceResult{BaseOffset: record.NoOffset, LogStart: r.bounds.Load().start, LogAppendTime: -1}
}

// LogStart is the log start offset of a partition for the answer to a batch that the listener refuses (P33); NoOffset where
// no replica leads here.
func (h *Host) LogStart(tp record.TopicPartition) record.Offset {
	r, refusal := h.leading(tp)
	if refusal != nil {
		return record.NoOffset
	}
	return r.bounds.Load().start
}

// maxConfirming bounds the duplicates whose answers wait for a quorum round; beyond it they are
// proposed like any batch, and apply finds them out.
const maxConfirming = 64

// maxInFlight bounds the batches of one partition that are proposed and not resolved; raftgroup
// bounds their bytes.
const maxInFlight = 1000

// admission orders a leader's batches between the listeners and Raft, and knows what is in
// flight: a duplicate of a batch in flight takes over the original's outcome (F14).
type admission struct {
	r *Replica
	// configured has a token when the topic's configuration has changed.
	configured chan struct{}

	// mu makes the order of admission the order of proposals. Taken before Replica.mu.
	mu sync.Mutex
	// term is the leadership that tail belongs to.
	term record.Term
	tail *producer.Speculation
	// pending holds what has been proposed and not resolved, oldest first.
	pending []*pending
	// byKey finds those that a duplicate may come to wait for. The keys are unique over all
	// lives of the tail.
	byKey      map[producer.Key]*pending
	confirming int
	// joins are the questions to transaction coordinators (verify.go); held counts the batches that wait
	// for an answer.
	joins map[joinKey]*join
	held  int
	// noted are the first refused batches of producers at their epochs (refused.go).
	noted map[joinKey]producer.Refused
}

// candidate is a batch on its way to be proposed.
type candidate struct {
	batch record.Batch
	// txn is the transactional id, and version the client's transaction version; empty and 0 for a plain
	// batch.
	txn     string
	version int8
	// stamp is the time of day when it came, ms since 1970.
	stamp  int64
	waiter waiter
}

// pending is one proposed batch.
type pending struct {
	key producer.Key
	// join has vouched for the batch; nil: nobody had to.
	join *join
	// txn is the transactional id, empty for plain batches; by is the producer.
	txn string
	by  joinKey
	// waiters are those to answer; none when all have been told that time is up.
	waiters []waiter
	one     [1]waiter
}

// waiter is one request that waits for a batch.
type waiter struct {
	done      func(ProduceResult, error)
	deadline  time.Time
	duplicate bool
}

func (a *admission) init(r *Replica) {
	a.r = r
	a.configured = make(chan struct{}, 1)
	a.tail = producer.NewSpeculation(maxInFlight)
	a.byKey = make(map[producer.Key]*pending)
	a.joins = make(map[joinKey]*join)
	a.noted = make(map[joinKey]producer.Refused)
}

func (a *admission) reconfigured() {
	select {
	case a.configured <- struct{}{}:
	default:
	}
}

// admit proposes a batch, or lets it wait for the one in flight that it repeats, or for the transaction coordinator.
func (a *admission) admit(c candidate, term record.Term) {
	a.mu.Lock()
	var after []func()
	if a.term != term {
		after = a.discardLocked()
		a.term = term
	}
	if c.batch.Attributes().Transactional() {
		after = append(after, a.admitTransactional(c)...)
	} else {
		after = append(after, a.propose(c, producer.Knew{}, nil)...)
	}
	a.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// propose hands a batch to Raft, unless it repeats another or there is no room. What has to be told, the caller does once mu is
// free. Held: mu.
func (a *admission) propose(c candidate, knew producer.Knew, j *join) (after []func()) {
	admitted := a.look(batchOf(c.batch, knew))
	w := c.waiter
	switch admitted.Action {
	case producer.DuplicateInFlight:
		p := a.byKey[admitted.Key]
		w.duplicate = true
		p.waiters = append(p.waiters, w)
		return nil
	case producer.CommittedDuplicate:
		if a.confirming < maxConfirming {
			a.confirming++
			return []func(){func() { a.r.host.background(func() { a.answerDuplicate(admitted.Verdict, w) }) }}
		}
	case producer.Full:
		return []func(){func() { a.refuseFull(w) }}
	}
	p := &pending{key: admitted.Key, join: j, txn: c.txn, by: keyOf(c.batch)}
	if j != nil {
		j.inFlight++
	}
	p.one[0] = w
	p.waiters = p.one[:]
	a.pending = append(a.pending, p)
	if p.key.Tracked() {
		a.byKey[p.key] = p
	}
	a.r.host.metrics.inFlight.Inc()
	a.r.group.ProposeAsync(raftgroup.Command{
		Meta: metaOfAppend(knew), Data: c.batch, AppendTime: c.stamp, Term: a.term,
	}, func(result any, err error) { a.resolve(p, result, err) })
	return nil
}

func (a *admission) refuseFull(w waiter) {
	a.r.host.metrics.refusedBusy.Inc()
	w.done(a.r.noResult(), refused(CodeBusy, "%d batches are in flight on %s: try again", maxInFlight, a.r.spec.TopicPartition))
}

// look asks the committed state and the tail in flight, and notes a batch that is to be proposed.
func (a *admission) look(b producer.Batch) producer.Answer {
	a.r.mu.RLock()
	defer a.r.mu.RUnlock()
	if s := &a.r.state; s.settings.minIdle < keptIdleMS && crowded(s.producers.Len(), max(a.r.config.Load().MaxProducers, 1)) {
		a.reconfigured()
	}
	return a.tail.Admit(a.r.state.producers, b)
}

// answerDuplicate reports a committed duplicate, after proof that this replica still leads: a
// positive answer that writes nothing needs it (R1).
func (a *admission) answerDuplicate(v producer.Verdict, w waiter) {
	ctx, cancel := context.WithDeadline(context.Background(), w.deadline)
	defer cancel()
	err := a.r.confirm(ctx)
	a.mu.Lock()
	a.confirming--
	a.mu.Unlock()
	if err != nil {
		// The batch is in the log that we know: whatever this attempt did, it may well be written.
		err.Outcome = raftgroup.MayHaveHappened
		w.done(noResult, err)
		return
	}
	a.r.host.metrics.duplicates.Inc()
	w.done(a.r.result(appended{base: v.Base, logStart: a.r.bounds.Load().start, appendTime: v.Timestamp, duplicate: true}), nil)
}

// resolve answers everyone who waits for a batch. The outcome is apply's, or why there is none.
func (a *admission) resolve(p *pending, result any, err error) {
	a.mu.Lock()
	if i := slices.Index(a.pending, p); i == 0 {
		a.pending = a.pending[1:] // They come back in order but for refusals.
	} else if i > 0 {
		a.pending = slices.Delete(a.pending, i, i+1)
	}
	if err != nil {
		// Any failed proposal ends all speculation (R3).
		a.tail.Discard()
	} else {
		a.tail.Done(p.key)
	}
	delete(a.byKey, p.key)
	a.releaseJoin(p.join)
	refusal := a.firstRefusal(p, result)
	waiters := p.waiters
	p.waiters = nil
	a.mu.Unlock()
	a.r.host.metrics.inFlight.Dec()
	if refusal != nil {
		a.r.host.tellRefusal(*refusal)
	}
	for _, w := range waiters {
		w.done(a.r.outcome(result, err, w.duplicate))
	}
}

// outcome turns what the proposal came back with into the answer for one waiter.
func (r *Replica) outcome(result any, err error, duplicate bool) (ProduceResult, error) {
	if err != nil {
		e := r.proposalError(err)
		if e.Code == CodeNotLeader {
			return noResult, e
		}
		return r.noResult(), e
	}
	ap, ok := result.(appended)
	if !ok {
		return r.noResult(), uncertain(CodeUnknown, nil, "apply answered %T", result)
	}
	if ap.err != nil {
		return ProduceResult{BaseOffset: record.NoOffset, LogStart: ap.logStart, LogAppendTime: -1}, ap.err
	}
	ap.duplicate = ap.duplicate || duplicate
	return r.result(ap), nil
}

func (r *Replica) result(a appended) ProduceResult {
	res := ProduceResult{BaseOffset: a.base, LogStart: a.logStart, LogAppendTime: -1, Duplicate: a.duplicate}
	if r.config.Load().LogAppendTime {
		res.LogAppendTime = a.appendTime
	}
	return res
}

// discard forgets the tail in flight: leadership is over. Those who wait hear from Raft, or at once if nothing was proposed
// for them yet.
func (a *admission) discard() {
	a.mu.Lock()
	after := a.discardLocked()
	a.mu.Unlock()
	for _, f := range after {
		f()
	}
}

func (a *admission) discardLocked() (after []func()) {
	a.tail.Discard()
	clear(a.noted)
	return a.dropJoins()
}

// expire answers those whose time is up. Their batches may still be written.
func (a *admission) expire(now time.Time) {
	var late []waiter
	a.mu.Lock()
	for _, p := range a.pending {
		kept := p.waiters[:0]
		for _, w := range p.waiters {
			if now.Before(w.deadline) {
				kept = append(kept, w)
			} else {
				late = append(late, w)
			}
		}
		p.waiters = kept
	}
	after := a.expireJoins(now)
	a.mu.Unlock()
	for _, f := range after {
		f()
	}
	for _, w := range late {
		a.r.host.metrics.timedOut.Inc()
		w.done(a.r.noResult(), uncertain(CodeRequestTimedOut, nil, "%s did not commit the batch in time; it may still be written: send it again with the same sequence", a.r.spec.TopicPartition))
	}
}

// sweepInterval is how late a timed-out request may be told.
const sweepInterval = 50 * time.Millisecond

// sweepTimeouts answers requests whose time is up, until the host stops.
func (h *Host) sweepTimeouts() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	var replicas []*Replica
	for {
		select {
		case <-h.stopping:
			return
		case now := <-ticker.C:
			replicas = replicas[:0]
			h.mu.RLock()
			for _, r := range h.byGroup {
				replicas = append(replicas, r)
			}
			h.mu.RUnlock()
			for _, r := range replicas {
				r.admission.expire(now)
			}
		}
	}
}
