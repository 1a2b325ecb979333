package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// ProducerIDs gives producer ids that were never given before (I1).
type ProducerIDs interface {
	NextProducerID(ctx context.Context) (record.ProducerID, error)
}

// TransactionsConfig is what the transaction coordinator needs.
type TransactionsConfig struct {
	Host        *Host
	Markers     Markers
	ProducerIDs ProducerIDs
	// MaxTimeout is the longest timeout that a producer can ask for (transaction.max.timeout.ms). 0: 15 minutes.
	MaxTimeout time.Duration
	// Expiration is how long an id is remembered that is not used (transactional.id.expiration.ms). 0: 7 days.
	Expiration time.Duration
	// ExpirationCheck is how often a leader looks for such ids. 0: 1 hour.
	ExpirationCheck time.Duration
	// TimeoutCheck is how late a transaction may be aborted after its timeout, at the most. 0: 1 second.
	TimeoutCheck time.Duration
	// MarkerWait is how long a request waits for markers that are on their way, before it is told to come again. 0: 1 second.
	MarkerWait time.Duration
	// RequestTimeout bounds a request whose context has no deadline. 0: 30 seconds.
	RequestTimeout time.Duration
	// Limits bound what clients can make one shard remember; zero fields: txn.DefaultLimits.
	Limits     txn.Limits
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c *TransactionsConfig) setDefaults() {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	or(&c.MaxTimeout, 15*time.Minute)
	or(&c.Expiration, 7*24*time.Hour)
	or(&c.ExpirationCheck, time.Hour)
	or(&c.TimeoutCheck, time.Second)
	or(&c.MarkerWait, time.Second)
	or(&c.RequestTimeout, 30*time.Second)
	limit := func(n *int, otherwise int) {
		if *n == 0 {
			*n = otherwise
		}
	}
	d := txn.DefaultLimits()
	limit(&c.Limits.MaxIDs, d.MaxIDs)
	limit(&c.Limits.MaxPartitions, d.MaxPartitions)
	limit(&c.Limits.MaxOpenPartitions, d.MaxOpenPartitions)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// serverVersion is the transaction version by which the coordinator aborts on its own (I12).
const serverVersion = 2

// Transactions answers what concerns transactional ids, as far as this broker leads their shards. Its methods may be called
// from many goroutines. Errors are *Error.
type Transactions struct {
	config  TransactionsConfig
	host    *Host
	metrics *txnMetrics
	fenced  fencedLog

	// mu guards shards. Nothing blocks under it.
	mu     sync.RWMutex
	shards map[*shard]*txnShard
}

// NewTransactions makes the host serve transaction shards.
func NewTransactions(c TransactionsConfig) *Transactions {
	c.setDefaults()
	t := &Transactions{config: c, host: c.Host, metrics: newTxnMetrics(c.Registerer), shards: make(map[*shard]*txnShard)}
	c.Host.serve(KindTransactions, t)
	return t
}

// open makes the machine of a shard (service).
func (t *Transactions) open(s *shard) raftgroup.StateMachine {
	ts := newTxnShard(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shards[s] = ts
	return &ts.machine
}

// closed forgets a shard (service).
func (t *Transactions) closed(s *shard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.shards, s)
}

// Producer is a producer id with its epoch.
type Producer struct {
	ID    record.ProducerID
	Epoch record.Epoch
}

// NoProducer stands for a producer that has neither yet.
var NoProducer = Producer{ID: record.NoProducerID, Epoch: record.NoEpoch}

// InitRequest asks for the ownership of a transactional id.
type InitRequest struct {
	TransactionalID string
	// Producer is what the client has; NoProducer: nothing, or it starts anew.
	Producer Producer
	// Timeout is how long a transaction may be open, 1 ms to MaxTimeout.
	Timeout time.Duration
	Client  txn.Client
}

// InitProducer makes the caller the owner of the id and fences everyone before (I2 to I14). A transaction that is open is aborted
// first; if its markers take longer than MarkerWait, the answer is CONCURRENT_TRANSACTIONS and the client asks again.
func (t *Transactions) InitProducer(ctx context.Context, r InitRequest) (Producer, error) {
	if err := t.checkInit(r); err != nil {
		return NoProducer, err
	}
	return producerOf(t.do(ctx, &statev1.TransactionCommand{
		TransactionalId: r.TransactionalID, Client: clientRef(r.Client),
		Command: &statev1.TransactionCommand_Init{Init: &statev1.InitTransactions{
			ProducerId: int64(r.Producer.ID), ProducerEpoch: int32(r.Producer.Epoch), TimeoutMs: int32(r.Timeout.Milliseconds()),
			FreshProducerId: int64(record.NoProducerID), ServerVersion: serverVersion,
		}},
	}))
}

// do finds the coordinator of a command's id and has it carried out there, if that is this broker.
func (t *Transactions) do(ctx context.Context, c *statev1.TransactionCommand) (txn.Result, *Error) {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	if err := checkID(c.GetTransactionalId()); err != nil {
		return txn.Result{}, err
	}
	s, _, err := t.leading(ctx, c.GetTransactionalId(), c.GetInit() != nil)
	if err != nil {
		return txn.Result{}, err
	}
	return t.execute(ctx, s, c)
}

// producerOf gives what a command handed out.
func producerOf(r txn.Result, err *Error) (Producer, error) {
	if err != nil {
		return NoProducer, err
	}
	return Producer{r.ProducerID, r.Epoch}, nil
}

func (t *Transactions) checkInit(r InitRequest) *Error {
	if r.Producer != NoProducer {
		if err := checkProducer(r.Producer); err != nil {
			return err
		}
	}
	if ms := r.Timeout.Milliseconds(); ms < 1 || r.Timeout > t.config.MaxTimeout {
		limit := fmt.Sprintf("1 to %d", t.config.MaxTimeout.Milliseconds())
		return badField(CodeInvalidTimeout, "transaction_timeout_ms", limit, "the transaction timeout is %d ms; %s are allowed", ms, limit)
	}
	return nil
}

// checkID refuses what no transactional id can be.
func checkID(id string) *Error {
	limit := "1 to " + strconv.Itoa(txn.MaxIDLength) + " bytes"
	switch {
	case id == "" || len(id) > txn.MaxIDLength:
		return badField(CodeInvalidRequest, "transactional_id", limit, "the transactional id has %d bytes; %s are allowed", len(id), limit)
	case !utf8.ValidString(id):
		return badField(CodeInvalidRequest, "transactional_id", "", "the transactional id is not UTF-8")
	}
	return nil
}

func checkProducer(p Producer) *Error {
	if p.ID < 0 || p.Epoch < 0 {
		return badField(CodeInvalidRequest, "producer_id, producer_epoch", "", "producer id %d and epoch %d: both must be set, from 0 on, or neither", p.ID, p.Epoch)
	}
	return nil
}

// unheardOf says that nobody can have been given this id and epoch. Commands do not carry such.
func (p Producer) unheardOf() bool { return p.ID < 0 || p.Epoch < 0 }

// refuseStranger says why a producer that nobody can have may do nothing with an id: for the same reasons, in the same order, as one that
// somebody else has (T5, T17, T19).
func (t *Transactions) refuseStranger(ctx context.Context, id string, p Producer) error {
	return t.VerifyPartition(ctx, id, p, record.TopicPartition{})
}

// AddRequest lets partitions join a transaction.
type AddRequest struct {
	TransactionalID string
	Producer        Producer
	Partitions      []record.TopicPartition
	// Version is the client's transaction version, 1 or 2.
	Version int8
}

// AddPartitions lets partitions join the transaction, which begins with the first (T5). Whoever asks has checked that the
// partitions exist.
func (t *Transactions) AddPartitions(ctx context.Context, r AddRequest) error {
	if r.Producer.unheardOf() {
		return t.refuseStranger(ctx, r.TransactionalID, r.Producer)
	}
	if n := len(r.Partitions); n > txn.MaxAdded {
		return badField(CodeInvalidRequest, "partitions", strconv.Itoa(txn.MaxAdded), "%d partitions in one request; at most %d are allowed", n, txn.MaxAdded)
	}
	_, err := t.do(ctx, &statev1.TransactionCommand{
		TransactionalId: r.TransactionalID,
		Command: &statev1.TransactionCommand_Add{Add: &statev1.AddPartitions{
			ProducerId: int64(r.Producer.ID), ProducerEpoch: int32(r.Producer.Epoch),
			Partitions: txn.PartitionsToProto(r.Partitions), ClientVersion: uint32(r.Version),
		}},
	})
	return asError(err)
}

// AddOffsets lets the offsets of a group join the transaction: the group's shard is a partition of it like any other (T15).
func (t *Transactions) AddOffsets(ctx context.Context, id string, p Producer, group string) error {
	at, err := t.host.locate(ctx, KindGroups, group, true)
	if err != nil {
		return err
	}
	return t.AddPartitions(ctx, AddRequest{TransactionalID: id, Producer: p, Version: 1,
		Partitions: []record.TopicPartition{{Topic: KindGroups.Topic(), Partition: at.Number}}})
}

// VerifyPartition says whether a partition is in the open transaction of a producer; nil: it is (T8).
func (t *Transactions) VerifyPartition(ctx context.Context, id string, p Producer, tp record.TopicPartition) error {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	if err := checkID(id); err != nil {
		return err
	}
	s, term, err := t.leading(ctx, id, false)
	if err != nil {
		return err
	}
	var r txn.Result
	s.machine.read(func(m *txn.State) { r = m.Verify(id, p.ID, p.Epoch, tp) })
	if err := s.confirm(ctx, term); err != nil {
		return err
	}
	return asError(answer(id, r))
}

// EndRequest commits or aborts a transaction.
type EndRequest struct {
	TransactionalID string
	Producer        Producer
	Commit          bool
	// Version is the client's transaction version, 1 or 2.
	Version int8
	Client  txn.Client
}

// EndTransaction decides on the transaction's outcome (T17, T19). When it returns without an error the decision is durable and
// irrevocable; the markers go out afterwards (T23). The producer that it gives is the one for the next transaction.
func (t *Transactions) EndTransaction(ctx context.Context, r EndRequest) (Producer, error) {
	if r.Producer.unheardOf() {
		return NoProducer, t.refuseStranger(ctx, r.TransactionalID, r.Producer)
	}
	return producerOf(t.do(ctx, &statev1.TransactionCommand{
		TransactionalId: r.TransactionalID, Client: clientRef(r.Client),
		Command: &statev1.TransactionCommand_End{End: &statev1.EndTransaction{
			ProducerId: int64(r.Producer.ID), ProducerEpoch: int32(t.host.config.Sabotage.ending(t, r.TransactionalID, r.Producer.Epoch)), Commit: r.Commit,
			ClientVersion: uint32(r.Version), FreshProducerId: int64(record.NoProducerID),
		}},
	}))
}

// Abort aborts the open transaction of an id against its producer, which is fenced (operators). p names the producer that the
// operator has seen; NoProducer: whoever owns the id now. A transaction that has ended meanwhile is not there to be
// aborted: INVALID_TXN_STATE.
func (t *Transactions) Abort(ctx context.Context, id string, p Producer, by txn.Client) error {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	if err := checkID(id); err != nil {
		return err
	}
	s, term, err := t.leading(ctx, id, false)
	if err != nil {
		return err
	}
	now := s.find(id)
	switch {
	case now == nil, p == NoProducer:
	case p.ID != now.ProducerID || p.Epoch != now.Epoch:
		if err := s.confirm(ctx, term); err != nil {
			return err
		}
		return refused(CodeInvalidTxnState, "transactional id %q is at producer %d epoch %d now, not at %d epoch %d: look again", id, now.ProducerID, now.Epoch, p.ID, p.Epoch)
	}
	cmd := &statev1.AbortTransaction{Reason: statev1.AbortReason_ABORT_REASON_OPERATOR, ServerVersion: serverVersion, FreshProducerId: int64(record.NoProducerID)}
	if now != nil {
		cmd.ProducerId, cmd.ProducerEpoch, cmd.StartedUntilMs = int64(now.ProducerID), int32(now.Epoch), now.StartMS
	}
	_, err = t.execute(ctx, s, &statev1.TransactionCommand{TransactionalId: id, Client: clientRef(by), Command: &statev1.TransactionCommand_Abort{Abort: cmd}})
	return asError(err)
}

// NoteRefusal enters into an id's history that a partition refused a batch of its producer.
func (t *Transactions) NoteRefusal(ctx context.Context, id string, p Producer, refused txn.RefusedBatch) error {
	if err := checkProducer(p); err != nil {
		return err
	}
	_, err := t.do(ctx, &statev1.TransactionCommand{TransactionalId: id, Command: &statev1.TransactionCommand_Note{Note: &statev1.NoteRefusal{
		ProducerId: int64(p.ID), ProducerEpoch: int32(p.Epoch), Topic: refused.Topic, Partition: refused.Partition,
		Code: clip(refused.Code), ExpectedSequence: int32(refused.Expected), ReceivedSequence: int32(refused.Received),
	}}})
	return asError(err)
}

func (t *Transactions) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, t.config.RequestTimeout)
}

// asError keeps a nil *Error from becoming an error that is not nil.
func asError(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}

func clientRef(c txn.Client) *statev1.ClientRef {
	if c == (txn.Client{}) {
		return nil
	}
	return &statev1.ClientRef{ClientId: clip(c.ID), Address: clip(c.Address)}
}

// clip makes a client's text fit into a command.
func clip(s string) string {
	if len(s) > txn.MaxTextLength {
		s = s[:txn.MaxTextLength]
	}
	return toValid(s)
}
