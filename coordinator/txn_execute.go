package coordinator

import (
	"context"
	"strconv"
	"strings"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// leading finds the shard of an id, if this broker leads it, and in which term. With create, shards that do not exist yet are made (T36).
func (t *Transactions) leading(ctx context.Context, id string, create bool) (*txnShard, record.Term, *Error) {
	at, err := t.host.locate(ctx, KindTransactions, id, create)
	if err != nil {
		return nil, 0, err
	}
	s := t.host.find(KindTransactions, at.Number)
	if s == nil {
		return nil, 0, at.elsewhere()
	}
	t.mu.RLock()
	ts := t.shards[s]
	t.mu.RUnlock()
	if ts == nil {
		return nil, 0, at.elsewhere()
	}
	term, err := s.ready()
	return ts, term, err
}

// execute carries a command to its answer: it looks at the applied state, proposes if something is to be written, and looks
// again if the id has moved on meanwhile. Nothing is known here but what is applied, so there is nothing to take back after a
// proposal whose outcome is unknown (R2): whoever asks again is answered from what came of it. A failure after a step that has happened,
// or may have, says that it may have happened.
func (t *Transactions) execute(ctx context.Context, s *txnShard, c *statev1.TransactionCommand) (txn.Result, *Error) {
	r, begun, err := t.carryOut(ctx, s, c)
	if err != nil && begun {
		err.Outcome = raftgroup.MayHaveHappened
	}
	return r, err
}

func (t *Transactions) carryOut(ctx context.Context, s *txnShard, c *statev1.TransactionCommand) (r txn.Result, begun bool, err *Error) {
	waited := time.Now().Add(t.config.MarkerWait)
	for {
		r, err = t.attempt(ctx, s, c)
		begun = begun || err == nil && r.Changed
		switch {
		case err != nil:
			return r, begun, err
		case r.Code == txn.Stale && looksAgain(c) && ctx.Err() == nil:
			continue
		case r.Code == txn.NeedsProducerID:
			if err := t.freshID(ctx, c); err != nil {
				return r, begun, err
			}
			continue
		case r.Code == txn.ConcurrentTransactions && looksAgain(c):
			e, ok := s.awaitEnd(ctx, r.Transaction, c.GetAdd(), waited)
			begun = begun || e.maybe
			if ok && !e.carried {
				if c.GetInit() != nil {
					c.GetInit().FreshProducerId = int64(record.NoProducerID) // the fencing may have used it
				}
				continue
			}
			if ok {
				r = e.result
			}
		}
		t.metrics.answered(c, r)
		told := answer(c.GetTransactionalId(), r)
		if r.Code == txn.Stale && c.GetAbort() != nil {
			told = refused(CodeInvalidTxnState, "the transaction of %q that was to be aborted has ended meanwhile: look again", c.GetTransactionalId())
		}
		t.logFenced(s, c, told)
		return r, begun, told
	}
}

// looksAgain says whether a command may be carried out on an id that has moved on since it came. An end of version 1 may not: the next transaction
// has the same epoch, and a repeated end would end it, half written (T18). An abort is meant for what was seen.
func looksAgain(c *statev1.TransactionCommand) bool {
	return c.GetAbort() == nil && (c.GetEnd() == nil || c.GetEnd().GetClientVersion() >= 2)
}

// attempt is one look and, if needed, one proposal.
func (t *Transactions) attempt(ctx context.Context, s *txnShard, c *statev1.TransactionCommand) (txn.Result, *Error) {
	term, err := s.ready()
	if err != nil {
		return txn.Result{}, err
	}
	var r txn.Result
	s.machine.read(func(m *txn.State) { r = m.Check(t.host.nowMS(), c) })
	switch {
	case r.Code == txn.NeedsProducerID:
		return r, nil
	case !r.Changed:
		return r, s.confirm(ctx, term)
	}
	c.Version = r.Version()
	data, invalid := txn.EncodeCommand(c)
	if invalid != nil {
		e := refused(CodeInvalidRequest, "%v", invalid)
		e.Cause = invalid
		return r, e
	}
	applied, err := s.propose(ctx, term, data)
	if err != nil {
		return r, err
	}
	r = applied.(txn.Result)
	s.logEvent(c, r)
	return r, nil
}

// freshID puts a producer id that was never given into a command that needs one.
func (t *Transactions) freshID(ctx context.Context, c *statev1.TransactionCommand) *Error {
	id, err := t.config.ProducerIDs.NextProducerID(ctx)
	if err != nil {
		e := refused(CodeLoading, "no producer id is to be had yet")
		e.Cause = err
		return e
	}
	switch cmd := c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		cmd.Init.FreshProducerId = int64(id)
	case *statev1.TransactionCommand_End:
		cmd.End.FreshProducerId = int64(id)
	case *statev1.TransactionCommand_Abort:
		cmd.Abort.FreshProducerId = int64(id)
	}
	return nil
}

// answer turns what the machine said into what is told. Fencing is explained by the last thing that happened to the id.
func answer(id string, r txn.Result) *Error {
	var e *Error
	switch r.Code {
	case txn.OK:
		return nil
	case txn.Stale:
		return refused(CodeConcurrentTransactions, "transactional id %q is being used by others at once: try again", id)
	case txn.InvalidProducerIDMapping:
		e = refused(CodeInvalidProducerIDMapping, "transactional id %q is not known with this producer id: it was never initialised, or not used for so long that it was forgotten", id)
	case txn.ProducerFenced:
		e = refused(CodeProducerFenced, "transactional id %q is owned by a newer producer", id)
	case txn.ConcurrentTransactions:
		return refused(CodeConcurrentTransactions, "the markers of the last transaction of %q are still on their way: try again", id)
	case txn.InvalidTxnState:
		e = refused(CodeInvalidTxnState, "transactional id %q is in state %v, where this cannot be asked", id, statusOf(r.Transaction))
	case txn.TransactionAbortable:
		return refused(CodeTransactionAbortable, "the partition is not in the transaction of %q, or one more is more than limits.max_transaction_partitions allows: abort it", id)
	case txn.TooManyIDs:
		return badField(CodePolicyViolation, "transactional_id", "limits.max_transactional_ids", "as many transactional ids are known as limits.max_transactional_ids allows; unused ones are forgotten in time")
	case txn.NotFound:
		return refused(CodeTransactionalIDNotFound, "transactional id %q is not known", id)
	default:
		return refused(CodeUnknown, "the transaction machine said %v", r.Code)
	}
	e.Event = r.Transaction.LastEvent()
	return e
}

func statusOf(t *txn.Transaction) string {
	if t == nil {
		return "unknown"
	}
	return t.Status.String()
}

// location is the shard of a name.
type location struct {
	kind   Kind
	Number int32
	host   *Host
}

// locate gives the shard of a name. With create, shards that do not exist yet are made.
func (h *Host) locate(ctx context.Context, k Kind, name string, create bool) (location, *Error) {
	n := h.config.Directory.Shards(k)
	if n == 0 && create {
		if err := h.config.Directory.Create(ctx, k); err != nil {
			e := refused(CodeNotAvailable, "%s could not be created", k.Topic())
			e.Cause = err
			return location{}, e
		}
		n = h.config.Directory.Shards(k)
	}
	if n == 0 {
		return location{}, refused(CodeNotAvailable, "%s does not exist yet", k.Topic())
	}
	return location{kind: k, Number: ShardOf(name, n), host: h}, nil
}

// elsewhere says that this broker has no replica of the shard, and who leads it.
func (l location) elsewhere() *Error {
	e := refused(CodeNotCoordinator, "this broker has no replica of %s", record.TopicPartition{Topic: l.kind.Topic(), Partition: l.Number})
	if broker, ok := l.host.config.Directory.Leader(l.kind, l.Number); ok && broker != l.host.config.Broker {
		e.Coordinator = &broker
	}
	return e
}

// Lookup says which broker coordinates a name, as far as this one has heard; false: nobody that is known. It makes nothing.
func (h *Host) Lookup(k Kind, name string) (broker int32, ok bool) {
	n := h.config.Directory.Shards(k)
	if n == 0 {
		return -1, false
	}
	return h.config.Directory.Leader(k, ShardOf(name, n))
}

// Find says which broker coordinates a name, as far as this one has heard. Shards that do not exist yet are made (T36).
func (h *Host) Find(ctx context.Context, k Kind, name string) (broker int32, err error) {
	at, refusal := h.locate(ctx, k, name, true)
	if refusal != nil {
		return -1, refusal
	}
	broker, ok := h.config.Directory.Leader(k, at.Number)
	if !ok {
		return -1, refused(CodeNotAvailable, "%s/%s has no leader yet: try again", k.Topic(), strconv.Itoa(int(at.Number)))
	}
	return broker, nil
}

func toValid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
