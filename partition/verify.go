package partition

import (
	"context"
	"slices"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// The first batch of a transaction on a partition is appended only after the transaction's coordinator has said that the partition
// belongs to it (T9): a batch that comes late, after an abort, would otherwise open a transaction that nobody ends. Batches of
// the same producer that come meanwhile wait behind it. What the leader knew when it asked travels with each of them, so that
// apply decides alike on every replica (R3a), and a marker that came in between voids the answer (T10).

// Transactions answers for the coordinators of transactions. Its methods may be called from many goroutines.
type Transactions interface {
	// Join returns nil once the partition is in the producer's transaction: under TV2 it joins by this question, under TV1 the
	// producer must have added it before (T8). Else it says why not, in the coordinator's words.
	Join(ctx context.Context, j Joining) *Error
	// Refused is told of the first batch of a producer's epoch that this partition refused, for the id's history.
	Refused(ctx context.Context, r Refusal)
}

// Joining asks for a partition to be in a transaction.
type Joining struct {
	record.TopicPartition
	TransactionalID string
	ProducerID      record.ProducerID
	Epoch           record.Epoch
	// Version is the client's transaction version, 1 or 2.
	Version int8
}

// Refusal is a batch that was refused.
type Refusal struct {
	Joining
	Code Code
	// Expected and Received are NoSequence where sequences were not the reason.
	Expected, Received record.Sequence
}

const (
	// maxJoins bounds the questions of one partition that wait for an answer or whose batches are in flight.
	maxJoins = 1000
	// maxHeld bounds the batches of one partition that wait for answers. Their bytes are bounded by the listener.
	maxHeld = 1000
	// maxNoted bounds the memory of refusals.
	maxNoted = 1000
	// refusalTimeout bounds the telling of one, maxTelling how many are being told.
	refusalTimeout = 5 * time.Second
	maxTelling     = 16
)

// joinKey is a producer at one epoch.
type joinKey struct {
	id    record.ProducerID
	epoch record.Epoch
}

func keyOf(b record.Batch) joinKey { return joinKey{b.ProducerID(), b.ProducerEpoch()} }

// join is one question and what hangs on it. It lives from the first batch of a transaction until those that its answer
// vouched for are decided; from then on the transaction is open here, and nobody has to be asked.
type join struct {
	key joinKey
	// marker is the producer's last marker here when the question was asked.
	marker record.Offset
	// lowest is the lowest first sequence that was handed in under this question (P15).
	lowest  record.Sequence
	version int8
	granted bool
	// held wait for the answer, in the order they came.
	held []candidate
	// inFlight counts the batches that were proposed on the strength of the answer.
	inFlight int
}

func (j *join) knew() producer.Knew {
	return producer.Knew{Verified: true, Version: j.version, Marker: j.marker, LowestSequence: j.lowest}
}

// admitTransactional proposes a batch of a transaction, or has it wait until the coordinator has answered. Held: mu.
func (a *admission) admitTransactional(c candidate) (after []func()) {
	key := keyOf(c.batch)
	open, repeated, marker := a.lookTransactional(key, c)
	if open || repeated {
		return a.propose(c, producer.Knew{}, nil)
	}
	j := a.joins[key]
	if j != nil && j.granted && j.marker != marker {
		j = nil // ended here since: another transaction, another question
	}
	switch {
	case j == nil && a.r.host.config.Transactions == nil:
		return refuseLater(c.waiter, refused(CodeInvalidRequest, "this broker serves no transactions"))
	case j == nil && len(a.joins) >= maxJoins, a.held >= maxHeld:
		return []func(){func() { a.refuseFull(c.waiter) }}
	case j == nil:
		j = &join{key: key, marker: marker, lowest: c.batch.BaseSequence(), version: c.version}
		a.joins[key] = j
		after = append(after, a.ask(j, c))
	case producer.After(j.lowest, c.batch.BaseSequence()):
		j.lowest = c.batch.BaseSequence()
	}
	if j.granted {
		return a.propose(c, j.knew(), j)
	}
	j.held = append(j.held, c)
	a.held++
	return after
}

// lookTransactional says whether the producer's transaction is open here, whether the batch is a repeated one, and where
// its last marker is.
func (a *admission) lookTransactional(key joinKey, c candidate) (open, repeated bool, marker record.Offset) {
	a.r.mu.RLock()
	defer a.r.mu.RUnlock()
	p := a.r.state.producers
	code := p.Check(batchOf(c.batch, producer.Knew{}), c.stamp).Code
	return p.HasOpen(key.id, key.epoch), code == producer.Duplicate || a.r.host.config.Sabotage.admits(code), p.LastMarker(key.id)
}

// ask gives the function that asks the coordinator.
func (a *admission) ask(j *join, c candidate) func() {
	r, term := a.r, a.term
	question := Joining{TopicPartition: r.spec.TopicPartition, TransactionalID: c.txn, ProducerID: j.key.id, Epoch: j.key.epoch, Version: c.version}
	return func() {
		r.host.background(func() {
			ctx, cancel := context.WithDeadline(r.host.ctx, c.waiter.deadline)
			defer cancel()
			ctx, cancelTerm := r.group.TermContext(ctx, term)
			defer cancelTerm()
			refusal := r.host.config.Transactions.Join(ctx, question)
			r.host.metrics.joined(refusal)
			a.answered(j, refusal)
		})
	}
}

// answered deals with the coordinator's answer: those who wait are proposed, in order, or refused.
func (a *admission) answered(j *join, refusal *Error) {
	a.mu.Lock()
	if a.joins[j.key] != j {
		a.mu.Unlock()
		return // leadership was lost meanwhile: they have been told
	}
	held := j.held
	j.held = nil
	a.held -= len(held)
	var after []func()
	if refusal != nil {
		delete(a.joins, j.key)
		for _, c := range held {
			after = append(after, refuseLater(c.waiter, joinError(refusal, c.version))...)
		}
	} else {
		j.granted = true
		for _, c := range held {
			after = append(after, a.propose(c, j.knew(), j)...)
		}
		if j.inFlight == 0 {
			delete(a.joins, j.key) // all had waited too long
		}
	}
	a.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// releaseJoin is told that a batch for which a join had vouched is decided. Held: mu.
func (a *admission) releaseJoin(j *join) {
	if j == nil {
		return
	}
	j.inFlight--
	if j.inFlight == 0 && a.joins[j.key] == j {
		delete(a.joins, j.key)
	}
}

// dropJoins ends all questions: leadership is over. What waits was never proposed, and is told to go elsewhere, never that it is
// refused (R3a). Held: mu.
func (a *admission) dropJoins() (after []func()) {
	for key, j := range a.joins {
		for _, c := range j.held {
			after = append(after, refuseLater(c.waiter, a.r.notLeader())...)
		}
		j.held = nil
		delete(a.joins, key)
	}
	a.held = 0
	return after
}

// expireJoins refuses those who have waited too long for an answer. Nothing was proposed for them. Held: mu.
func (a *admission) expireJoins(now time.Time) (after []func()) {
	for _, j := range a.joins {
		j.held = slices.DeleteFunc(j.held, func(c candidate) bool {
			if now.Before(c.waiter.deadline) {
				return false
			}
			a.held--
			after = append(after, refuseLater(c.waiter, refused(CodeNotEnoughReplicas, "the coordinator of the transaction did not answer in time: send the batch again"))...)
			return true
		})
	}
	return after
}

func refuseLater(w waiter, e *Error) []func() { return []func(){func() { w.done(noResult, e) }} }

// joinError is what a producer is told when its coordinator said no (T11). The batch did not happen, whatever became of the
// question.
func joinError(e *Error, version int8) *Error {
	code := e.Code
	switch {
	case code == CodeProducerFenced:
		code = CodeInvalidProducerEpoch
	case code == CodeTransactionAbortable, code == CodeInvalidProducerIDMapping, code == CodeInvalidRequest, code == CodePolicyViolation:
	case code == CodeConcurrentTransactions && version >= 2:
	default:
		code = CodeNotEnoughReplicas
	}
	told := *e
	told.Code, told.Outcome, told.Leader = code, raftgroup.DidNotHappen, nil
	return &told
}
