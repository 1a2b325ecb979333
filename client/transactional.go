package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// TransactionalConfig configures a transactional producer.
type TransactionalConfig struct {
	// ProducerConfig is about records and batches. Idempotence cannot be disabled, and acks cannot be none.
	ProducerConfig
	// TransactionalID names the producer over its restarts, 1 to 1,024 bytes [transactional.id]. At any time one producer
	// owns it: whoever initialises it last fences those before. Required.
	TransactionalID string
	// TransactionTimeout is how long a transaction may be open before the coordinator aborts it, counted from its first record
	// [transaction.timeout.ms]. Default 1 min; at least 1 ms, at most what the brokers allow (15 min).
	TransactionTimeout time.Duration
}

// Validate says which field is out of its range, given the client's Config.
func (c TransactionalConfig) Validate(base Config) error {
	if n := len(c.TransactionalID); n < 1 || n > 1024 {
		return invalid("TransactionalID", "has %d bytes, want 1 to 1024", n)
	}
	if c.DisableIdempotence || c.Acks == AcksNone {
		return invalid("DisableIdempotence", "cannot be combined with transactions, and neither can AcksNone")
	}
	if c.TransactionTimeout != 0 {
		if err := within("TransactionTimeout", c.TransactionTimeout, time.Millisecond, 24*time.Hour); err != nil {
			return err
		}
	}
	return c.ProducerConfig.Validate(base)
}

// TransactionalProducer writes records in transactions: all of those between Begin and Commit become visible to
// readers of committed data together, on all their partitions, or none does.
//
//	p, err := c.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: "billing-7"})
//	err = p.InitTransactions(ctx)   // fences whoever used the id before
//	err = p.Begin()
//	err = p.Send(ctx, record, nil)  // any number, to any partitions
//	err = p.Commit(ctx)
//
// Errors are of three kinds. Abortable: the transaction cannot be committed; call Abort, and go on. Fatal: the producer is over, since
// another one owns its id by now; close it. Others: the call may be made again. Commit returns nil only if the transaction is
// committed; with Outcome Unknown it may be, and Commit must be called again to find out.
//
// Send and its variants may be called from many goroutines, the other methods from one at a time.
type TransactionalProducer struct {
	p   *Producer
	txn *transactions
}

// NewTransactionalProducer makes a producer that is not initialised yet. The error is that of TransactionalConfig.Validate, or
// that the client is closed.
func (c *Client) NewTransactionalProducer(cfg TransactionalConfig) (*TransactionalProducer, error) {
	if err := cfg.Validate(c.cfg); err != nil {
		return nil, err
	}
	orDefault(&cfg.TransactionTimeout, time.Minute)
	t := &transactions{id: cfg.TransactionalID, timeout: cfg.TransactionTimeout}
	t.producer.Store(&identity{record.NoProducerID, record.NoEpoch})
	t.mishap.Store(newMishap())
	p, err := c.newProducer(cfg.ProducerConfig, t)
	if err != nil {
		return nil, err
	}
	t.p = p
	t.coordinator = &coordinator{c: c, conns: p.conns, kind: clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION, key: t.id}
	return &TransactionalProducer{p: p, txn: t}, nil
}

// InitTransactions makes this producer the owner of its transactional id: earlier ones are fenced, and a transaction that one of
// them left open is aborted first. It is called once, before the first Begin, and again only if it failed.
func (p *TransactionalProducer) InitTransactions(ctx context.Context) error {
	return asError(p.txn.init(ctx))
}

// Begin starts a transaction. It talks to nobody.
func (p *TransactionalProducer) Begin() error { return asError(p.txn.begin()) }

// Send hands a record of the open transaction to the producer; see Producer.Send. A result of Written says that the record is in
// the log, not that it is committed.
func (p *TransactionalProducer) Send(ctx context.Context, r Record, done func(Result)) error {
	return p.txn.send(func() error { return p.p.Send(ctx, r, done) })
}

// SendFuture is Send with a Future in place of a callback.
func (p *TransactionalProducer) SendFuture(ctx context.Context, r Record) (f *Future, err error) {
	err = p.txn.send(func() error {
		f, err = p.p.SendFuture(ctx, r)
		return err
	})
	return f, err
}

// SendSync sends a record without linger and waits for its result.
func (p *TransactionalProducer) SendSync(ctx context.Context, r Record) (res Result) {
	var tp record.TopicPartition
	f := &Future{done: make(chan struct{})}
	err := p.txn.send(func() (err error) {
		tp, err = p.p.send(ctx, &r, telling{future: f}, true)
		return err
	})
	if err != nil {
		return Result{TopicPartition: record.TopicPartition{Topic: r.Topic, Partition: -1}, Outcome: NotWritten, Offset: record.NoOffset, AppendTime: -1, Err: err}
	}
	res = f.Result(ctx)
	res.TopicPartition = tp
	return res
}

// SendOffsets makes offsets of a consumer group part of the open transaction: they are the group's once it is committed, and never if it is
// aborted. by is the member that has read them (GroupConsumer.Member), as it was when Poll returned their records; if it has lost the partitions
// meanwhile the error is Abortable, and others are doing its work. As it is after another Poll it may be believed although it gave partitions
// back there (G20): commit in OnRevoked what was read of them. Any other error than an Abortable one may be followed by the same call. It is the last thing before
// Commit, mostly: where it is called several times, and a coordinator did not answer, other offsets of the same partitions are refused with an Abortable
// error, since those before may be taken late and replace them.
func (p *TransactionalProducer) SendOffsets(ctx context.Context, by GroupMember, offsets Offsets) error {
	return asError(p.txn.sendOffsets(ctx, by, offsets))
}

// Flush sends everything that was taken before, without linger, and waits for the results; see Producer.Flush. Commit
// does it by itself.
func (p *TransactionalProducer) Flush(ctx context.Context) error { return p.p.Flush(ctx) }

// Commit waits until all records of the transaction are written and commits it. Nil: it is committed, for ever. An Abortable
// error: it is not and cannot be; Abort. Outcome Unknown: it may be committed; call Commit again. It waits as long as ctx allows, at
// most ProducerConfig.MaxBlock.
func (p *TransactionalProducer) Commit(ctx context.Context) error { return asError(p.txn.commit(ctx)) }

// Abort ends the transaction; none of its records will be seen by readers of committed data. It may be called again if it
// failed.
func (p *TransactionalProducer) Abort(ctx context.Context) error { return asError(p.txn.abort(ctx)) }

// Stats are those of its producer.
func (p *TransactionalProducer) Stats() ProducerStats { return p.p.Stats() }

// Close aborts what is open, as long as ctx allows, and closes the producer. What it leaves open the coordinator aborts at its
// timeout.
func (p *TransactionalProducer) Close(ctx context.Context) error {
	if p.txn.isOpen() {
		_ = p.txn.abort(ctx) // the coordinator does it otherwise, later
	}
	return p.p.Close(ctx)
}

func asError(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}

// phase is where a transactional producer is.
type phase uint8

const (
	phaseNew phase = iota
	phaseReady
	phaseOpen
	// phaseCommitting, phaseAborting: it was asked for, and its end is not known.
	phaseCommitting
	phaseAborting
	phaseFatal
)

var phaseNames = [...]string{"not initialised", "without a transaction", "in a transaction", "committing", "aborting", "over"}

// String says it in words.
func (p phase) String() string { return phaseNames[p] }

// transactions is the state of a transactional producer.
type transactions struct {
	id          string
	timeout     time.Duration
	p           *Producer
	coordinator *coordinator

	// calls makes the calls that change the phase one at a time.
	calls sync.Mutex
	// lost: an attempt to commit may have happened although no answer came. Guarded by calls.
	lost bool
	// groups are the coordinators of groups whose offsets were sent. Guarded by calls.
	groups map[string]*coordinator
	// unanswered are the offsets of attempts in the open transaction that may still be taken, by group. Guarded by calls.
	unanswered map[string]Offsets

	// mu guards what follows. Senders hold it for reading, so that a transaction does not end while a record is being
	// taken.
	mu    sync.RWMutex
	phase phase
	over  *Error // why it is over

	// producer is what is written under. It changes between transactions, with calls held.
	producer atomic.Pointer[identity]
	// touched: a record of the open transaction was taken.
	touched atomic.Bool
	// mishap is why the open transaction has to be aborted. It has no lock of its own, since senders that wait for room hold mu.
	mishap atomic.Pointer[mishap]
}

// mishap is what went wrong in one transaction: the first thing counts.
type mishap struct {
	once sync.Once
	err  *Error
	// set is closed when err is.
	set chan struct{}
}

func newMishap() *mishap { return &mishap{set: make(chan struct{})} }

func (f *mishap) note(err *Error) {
	f.once.Do(func() {
		f.err = err
		close(f.set)
	})
}

// get gives the error; nil: all is well.
func (f *mishap) get() *Error {
	select {
	case <-f.set:
		return f.err
	default:
		return nil
	}
}

// identity is what lanes write under.
func (t *transactions) identity() identity { return *t.producer.Load() }

// recordFailed is told of each batch that did not get written. The transaction has to be aborted.
func (t *transactions) recordFailed(err *Error) {
	if err == nil {
		err = refusal(ReasonTransactionAbortable, "a batch was not written")
	}
	e := *err
	e.Abortable, e.Retriable, e.Outcome = true, false, NotWritten
	e.Message = "the transaction has to be aborted: " + e.Message
	t.mishap.Load().note(&e)
}

func (t *transactions) isOpen() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.phase == phaseOpen || t.phase == phaseAborting
}

// wrongPhase says that a call makes no sense now. Held: mu.
func (t *transactions) wrongPhase(what string) *Error {
	if t.phase == phaseFatal {
		return t.over
	}
	return refusal(ReasonInvalidTxnState, "%s: the producer is %v", what, t.phase)
}

// send lets a record be taken, if a transaction is open and nothing has failed.
func (t *transactions) send(take func() error) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.phase != phaseOpen {
		return t.wrongPhase("Send")
	}
	if err := t.mishap.Load().get(); err != nil {
		return err
	}
	err := take()
	if err == nil {
		t.touched.Store(true)
	}
	return err
}

func (t *transactions) enter(p phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase = p
}

// ready is the end of a transaction, or of the initialisation: what comes next is written under id.
func (t *transactions) ready(id identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.lost = phaseReady, false
	t.producer.Store(&id)
}

// fatal ends the producer.
func (t *transactions) fatal(err *Error) *Error {
	e := *err
	e.Fatal, e.Retriable = true, false
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.over = phaseFatal, &e
	t.p.c.log.Warn("transactional producer is over", "transactional_id", t.id, "err", &e)
	return &e
}

// bounded is ctx, but not longer than MaxBlock.
func (t *transactions) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, t.p.cfg.MaxBlock)
}

func (t *transactions) init(ctx context.Context) *Error {
	t.calls.Lock()
	defer t.calls.Unlock()
	t.mu.RLock()
	wrong := t.phase != phaseNew
	refused := t.wrongPhase("InitTransactions")
	t.mu.RUnlock()
	if wrong {
		return refused
	}
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	id, err := t.initProducer(ctx, identity{record.NoProducerID, record.NoEpoch})
	switch {
	case err == nil:
		t.ready(id)
		return nil
	case err.Reason == ReasonProducerFenced:
		return t.fatal(err)
	}
	return err
}

// initProducer asks for the ownership of the id, as the producer has or for a new one.
func (t *transactions) initProducer(ctx context.Context, has identity) (id identity, _ *Error) {
	req := &clientv1.InitProducerIdRequest{TransactionalId: t.id, TransactionTimeoutMs: int32(t.timeout.Milliseconds())}
	if has.pid != record.NoProducerID {
		pid, epoch := int64(has.pid), int32(has.epoch)
		req.ProducerId, req.ProducerEpoch = &pid, &epoch
	}
	lost, err := t.coordinator.do(ctx, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewLogServiceClient(cc).InitProducerId(ctx, req)
		id = identity{record.ProducerID(r.GetProducerId()), record.Epoch(r.GetProducerEpoch())}
		return err
	})
	if err != nil && lost {
		err.Outcome = Unknown
	}
	return id, err
}

func (t *transactions) begin() *Error {
	t.calls.Lock()
	defer t.calls.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != phaseReady {
		return t.wrongPhase("Begin")
	}
	t.phase = phaseOpen
	t.unanswered = nil // the brokers refuse those of an ended transaction by its epoch
	t.touched.Store(false)
	t.mishap.Store(newMishap())
	// No lane is being made meanwhile, that would be left out.
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.p.eachLane(func(l *lane) { l.begin(t.identity()) })
	return nil
}

func (t *transactions) commit(ctx context.Context) *Error {
	t.calls.Lock()
	defer t.calls.Unlock()
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	t.mu.Lock()
	was := t.phase
	refused := t.wrongPhase("Commit")
	if was == phaseOpen {
		t.phase = phaseCommitting // from here on no record is taken
	}
	t.mu.Unlock()
	switch was {
	case phaseOpen:
		if err := t.flush(ctx); err != nil {
			t.enter(phaseOpen)
			return err
		}
		if !t.touched.Load() {
			t.enter(phaseReady) // an empty transaction: nobody has heard of it (T22)
			return nil
		}
	case phaseCommitting: // asked again
	default:
		return refused
	}
	id, err := t.end(ctx, true)
	if err != nil {
		return t.commitFailed(err)
	}
	t.ready(id)
	return nil
}

// flush waits until every record of the transaction is written, or one has failed.
func (t *transactions) flush(ctx context.Context) *Error {
	flushed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := t.mishap.Load()
	go func() { flushed <- t.p.Flush(ctx) }() // ends with ctx
	var err error
	select {
	case err = <-flushed:
	case <-f.set:
		cancel()
		<-flushed
	}
	if e := f.get(); e != nil {
		return e
	}
	if err != nil {
		e := canceled(ctx, NotWritten, "waiting for the records of the transaction; the transaction is still open")
		e.Retriable = true
		return e
	}
	return nil
}

// end asks the coordinator for the outcome. Asking again with the same producer is answered alike (T19).
func (t *transactions) end(ctx context.Context, commit bool) (id identity, _ *Error) {
	has := t.identity()
	req := &clientv1.EndTransactionRequest{TransactionalId: t.id, ProducerId: int64(has.pid), ProducerEpoch: int32(has.epoch), Commit: commit}
	lost, err := t.coordinator.do(ctx, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewTransactionServiceClient(cc).EndTransaction(ctx, req)
		id = identity{record.ProducerID(r.GetProducerId()), record.Epoch(r.GetProducerEpoch())}
		return err
	})
	t.lost = t.lost || lost
	return id, err
}

// commitFailed says what an error means for the transaction.
func (t *transactions) commitFailed(err *Error) *Error {
	e := *err
	switch {
	case err.Reason == ReasonInvalidTxnState:
		// Ended otherwise before we asked: it was aborted, since it took too long mostly.
		e.Outcome = NotWritten
	case err.Reason == ReasonInvalidProducerIDMapping && !t.lost:
		e.Outcome = NotWritten // the coordinator knows nothing of it
	case err.Retriable:
		e.Outcome = NotWritten
		if t.lost {
			e.Outcome = Unknown
			e.Message = "the transaction may be committed, call Commit again to find out: " + e.Message
		}
		return &e // still committing
	default:
		// Fenced. An attempt before this answer may have committed, and the new owner came afterwards.
		e.Outcome = NotWritten
		if t.lost {
			e.Outcome = Unknown
		}
		return t.fatal(&e)
	}
	e.Abortable, e.Retriable = true, false
	t.mishap.Load().note(&e)
	t.enter(phaseOpen)
	return &e
}

func (t *transactions) abort(ctx context.Context) *Error {
	t.calls.Lock()
	defer t.calls.Unlock()
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	t.mu.Lock()
	was := t.phase
	refused := t.wrongPhase("Abort")
	if was == phaseOpen {
		t.phase = phaseAborting
	}
	t.mu.Unlock()
	if was != phaseOpen && was != phaseAborting {
		return refused
	}
	cause := refusal(ReasonTransactionAbortable, "the transaction was aborted")
	t.p.eachLane(func(l *lane) { l.drop(cause) })
	if !t.touched.Load() {
		t.enter(phaseReady)
		return nil
	}
	id, err := t.end(ctx, false)
	if err != nil && err.Reason == ReasonInvalidProducerIDMapping {
		// Forgotten, with its transaction. Whoever owns the id by now keeps it.
		id, err = t.initProducer(ctx, t.identity())
	}
	switch {
	case err == nil:
		t.ready(id)
		return nil
	case err.Retriable:
		return err // still aborting
	}
	return t.fatal(err)
}
