package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/record"
)

// TxnOptions say which transactions to make.
type TxnOptions struct {
	Topic      string
	Partitions int32
	// Producers run transactions at once, each with a transactional id of its own: the topic's name and a number. Default 3.
	Producers int
	// Rate is how many transactions all producers together begin in a second. Default 50; negative: as fast as they end.
	Rate float64
	// Records is how many a transaction has at the most, on partitions at random. Default 12.
	Records int
	// Size of a record's value in bytes, or the least that can be checked. Default the latter.
	Size int
	// Think is how long producers wait inside a transaction, at the most. Default 20 ms.
	Think time.Duration
	// Rest is how long a producer does nothing, at the most, now and then; and how late zombies may be. Default: no rest.
	Rest time.Duration
	// Timeout of the transactions. Default 10 s.
	Timeout time.Duration
	// Producer configures the producers. Default: small batches, 1 s for a request, so that faults meet many of them.
	Producer client.ProducerConfig
	// Seed decides what each transaction is, and how it ends.
	Seed uint64
	// Recorder takes the history down. Default: one in memory.
	Recorder *history.Recorder
}

// Txns runs transactions until it is stopped: each writes some records to some partitions and, mostly, moves an offset of the producer's
// own group. A quarter is aborted. Now and then a producer dies in the middle of a transaction and another one takes its id; half of the dead
// wake up later and try to commit.
type Txns struct {
	options TxnOptions
	counts  TxnCounts
}

// TxnCounts is progress.
type TxnCounts struct {
	Begun, Committed, Aborted, Undecided, Zombies, Records atomic.Int64
}

// NewTxns makes a workload; nothing is sent before Run.
func NewTxns(o TxnOptions) *Txns {
	orDefault(&o.Producers, 3)
	orDefault(&o.Rate, 50)
	orDefault(&o.Records, 12)
	orDefault(&o.Think, 20*time.Millisecond)
	orDefault(&o.Timeout, 10*time.Second)
	if o.Recorder == nil {
		o.Recorder = history.NewRecorder()
	}
	orDefault(&o.Producer.Linger, 2*time.Millisecond)
	orDefault(&o.Producer.RequestTimeout, time.Second)
	return &Txns{options: o}
}

// Counts gives the progress.
func (t *Txns) Counts() *TxnCounts { return &t.counts }

// History is what takes down the history.
func (t *Txns) History() *history.Recorder { return t.options.Recorder }

// Run runs transactions from all producers until stop is closed, then ends what is open. clients gives the client of each
// producer.
func (t *Txns) Run(ctx context.Context, clients func(i int) *client.Client, stop <-chan struct{}) error {
	errs := make([]error, t.options.Producers)
	var running sync.WaitGroup
	for i := range errs {
		s := &txnSeat{
			t: t, cl: clients(i), id: fmt.Sprintf("%s-%d", t.options.Topic, i), rng: rand.New(rand.NewPCG(t.options.Seed, uint64(i))), began: time.Now(),
			groupAt: record.TopicPartition{Topic: t.options.Topic, Partition: int32(i) % t.options.Partitions},
		}
		running.Go(func() {
			defer s.zombies.Wait()
			if err := s.run(ctx, stop); err != nil {
				errs[i] = fmt.Errorf("producer %s: %w", s.id, err)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// txnSeat is one transactional id and whoever has it.
type txnSeat struct {
	t       *Txns
	cl      *client.Client
	id      string
	rng     *rand.Rand
	began   time.Time
	n       int // transactions so far
	groupAt record.TopicPartition
	next    record.Offset // of the group
	zombies sync.WaitGroup
}

// txnProducer is one owner of the id: one process of the history.
type txnProducer struct {
	s     *txnSeat
	p     *client.TransactionalProducer
	notes *history.Producer
	rng   *rand.Rand
}

// run is one owner after the other.
func (s *txnSeat) run(ctx context.Context, stop <-chan struct{}) error {
	replaced := make(chan struct{}) // closed when the next owner is there
	defer func() { close(replaced) }()
	for {
		p, err := s.newProducer(ctx, stop)
		if p == nil {
			return err
		}
		close(replaced)
		replaced = make(chan struct{})
		for life := 1 + s.rng.IntN(30); life > 0; life-- {
			first := s.n == 0 // is made in any case
			if !waitUntil(ctx, s.due(), stop) && !(first && ctx.Err() == nil) {
				return errors.Join(ctx.Err(), p.p.Close(ctx))
			}
			if err := p.transaction(ctx); err != nil {
				break // fenced, or nobody answers: the next owner finds out
			}
		}
		s.leave(ctx, p, replaced)
	}
}

// due is when the next transaction begins.
func (s *txnSeat) due() time.Time {
	s.n++
	o := s.t.options
	if o.Rest > 0 && s.rng.IntN(20) == 0 {
		rest := time.Duration(s.rng.Int64N(int64(o.Rest)))
		s.began = s.began.Add(rest) // the others are later, too
	}
	if o.Rate <= 0 {
		return s.began
	}
	return s.began.Add(time.Duration(float64(s.n) * float64(o.Producers) / o.Rate * float64(time.Second)))
}

// newProducer becomes the owner of the id; nil: it is over.
func (s *txnSeat) newProducer(ctx context.Context, stop <-chan struct{}) (*txnProducer, error) {
	for {
		p, err := s.cl.NewTransactionalProducer(client.TransactionalConfig{ProducerConfig: s.t.options.Producer, TransactionalID: s.id, TransactionTimeout: s.t.options.Timeout})
		if err != nil {
			return nil, err
		}
		if err = p.InitTransactions(ctx); err == nil {
			return &txnProducer{s, p, s.t.options.Recorder.NewProducer(), rand.New(rand.NewPCG(s.rng.Uint64(), 0))}, nil
		}
		_ = p.Close(ctx) // it has nothing
		if !waitUntil(ctx, time.Now().Add(100*time.Millisecond), stop) {
			return nil, ctx.Err()
		}
	}
}

// leave ends an owner: as it should, or in the middle of a transaction, for good or to wake up when another has the id.
func (s *txnSeat) leave(ctx context.Context, p *txnProducer, replaced <-chan struct{}) {
	dead, cancel := context.WithCancel(ctx)
	cancel()
	switch s.rng.IntN(4) {
	case 0:
		_ = p.p.Close(ctx) // nothing is open, or the next owner aborts it
	case 1:
		if p.begin() == nil {
			p.send(ctx)
		}
		_ = p.p.Close(dead)
	default:
		began := p.begin() == nil
		if began {
			p.send(ctx)
			_ = p.p.Flush(ctx) // what it has, before it sleeps
		}
		late := time.Duration(s.rng.Int64N(int64(max(10*s.t.options.Think, s.t.options.Rest))))
		s.zombies.Go(func() {
			defer func() { _ = p.p.Close(dead) }()
			select {
			case <-replaced:
			case <-ctx.Done():
				return
			}
			if !began || !waitUntil(ctx, time.Now().Add(late), nil) {
				return
			}
			s.t.counts.Zombies.Add(1)
			if p.rng.IntN(2) == 0 {
				p.send(ctx)
			}
			_ = p.commit(ctx)
		})
	}
}

// transaction is one from its beginning to its end. An error says that the producer is of no more use.
func (p *txnProducer) transaction(ctx context.Context) error {
	if err := p.begin(); err != nil {
		return err
	}
	p.send(ctx)
	r := p.rng
	if r.IntN(2) == 0 {
		waitUntil(ctx, time.Now().Add(time.Duration(r.Int64N(int64(p.s.t.options.Think)))), nil)
		p.send(ctx)
	}
	if r.IntN(3) > 0 {
		p.s.next++
		p.notes.SendOffset(p.s.id, p.s.groupAt, p.s.next)
		_ = p.p.SendOffsets(ctx, client.GroupMember{GroupID: p.s.id, Epoch: -1}, client.Offsets{p.s.groupAt: p.s.next}) // Commit says the same
	}
	if r.IntN(4) == 0 {
		if r.IntN(2) == 0 {
			_ = p.p.Flush(ctx) // aborted before or after it is written
		}
		return p.abort(ctx)
	}
	return p.commit(ctx)
}

func (p *txnProducer) begin() error {
	if err := p.p.Begin(); err != nil {
		return err
	}
	p.s.t.counts.Begun.Add(1)
	p.notes.Begin()
	return nil
}

// send writes some records, and takes down what became of each.
func (p *txnProducer) send(ctx context.Context) {
	o, r := p.s.t.options, p.rng
	for range 1 + r.IntN(o.Records) {
		sent := p.notes.Send(record.TopicPartition{Topic: o.Topic, Partition: r.Int32N(o.Partitions)})
		rec := client.Record{Topic: o.Topic, Partition: client.ToPartition(sent.Key.Partition), Value: sent.Payload(o.Size)}
		if err := p.p.Send(ctx, rec, func(res client.Result) { p.told(sent, res) }); err != nil { // It was not taken.
			sent.NotWritten(err.Error())
			return
		}
	}
}

func (p *txnProducer) told(sent history.Sent, res client.Result) {
	switch res.Outcome {
	case client.Written:
		p.s.t.counts.Records.Add(1)
		sent.Written(res.Offset, res.Duplicate)
	case client.NotWritten:
		sent.NotWritten(text(res.Err))
	default:
		sent.Unknown(text(res.Err))
	}
}

// endTries bounds how often an end is asked for whose outcome is unknown.
const endTries = 5

// commit asks until it is known what came of it. An error says that the producer is of no more use.
func (p *txnProducer) commit(ctx context.Context) error {
	p.notes.Commit()
	err := p.p.Commit(ctx)
	for n := 1; err != nil && n < endTries && asksAgain(err) && ctx.Err() == nil; n++ {
		err = p.p.Commit(ctx)
	}
	var e *client.Error
	switch {
	case err == nil:
		p.committed()
		return nil
	case errors.As(err, &e) && e.Abortable && e.Outcome == client.NotWritten:
		return p.abortAfter(ctx, err)
	case client.OutcomeOf(err) == client.NotWritten && e.Fatal:
		p.aborted(err)
	default: // it is asked no more, and may yet be
		p.s.t.counts.Undecided.Add(1)
		p.notes.Undecided(err.Error())
	}
	return err
}

func asksAgain(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && !e.Fatal && !e.Abortable && e.Retriable
}

func (p *txnProducer) abort(ctx context.Context) error {
	p.notes.Abort()
	return p.abortAfter(ctx, nil)
}

// abortAfter aborts a transaction that certainly is not committed.
func (p *txnProducer) abortAfter(ctx context.Context, why error) error {
	err := p.p.Abort(ctx)
	for n := 1; err != nil && n < endTries && asksAgain(err) && ctx.Err() == nil; n++ {
		err = p.p.Abort(ctx)
	}
	p.aborted(errors.Join(why, err))
	return err
}

func (p *txnProducer) committed() {
	p.s.t.counts.Committed.Add(1)
	p.notes.Committed()
}

func (p *txnProducer) aborted(why error) {
	p.s.t.counts.Aborted.Add(1)
	p.notes.Aborted(text(why))
}

// WatchOffsets asks for the committed offsets of the producers' groups again and again, until ctx ends.
func (t *Txns) WatchOffsets(ctx context.Context, cl *client.Client) {
	notes := t.options.Recorder.NewConsumer(false)
	for n := 0; waitUntil(ctx, time.Now().Add(100*time.Millisecond), nil); n++ {
		t.askOffset(ctx, cl, notes, n%t.options.Producers)
	}
}

// AskOffsets asks for the committed offsets of all groups at the end, and until each is told.
func (t *Txns) AskOffsets(ctx context.Context, cl *client.Client) error {
	notes := t.options.Recorder.NewConsumer(false)
	for i := range t.options.Producers {
		for !t.askOffset(ctx, cl, notes, i) {
			if !waitUntil(ctx, time.Now().Add(50*time.Millisecond), nil) {
				return fmt.Errorf("the offset of group %s-%d is not told: it waits for a transaction, or nobody answers: %w", t.options.Topic, i, ctx.Err())
			}
		}
	}
	return nil
}

// askOffset asks once, and says whether there was an answer.
func (t *Txns) askOffset(ctx context.Context, cl *client.Client, notes *history.Consumer, i int) bool {
	group, at := fmt.Sprintf("%s-%d", t.options.Topic, i), record.TopicPartition{Topic: t.options.Topic, Partition: int32(i) % t.options.Partitions}
	notes.AskOffset(group, at)
	list, err := cl.GroupOffsets(ctx, group, true, at)
	switch {
	case err != nil:
		var e *client.Error
		if errors.As(err, &e) && e.Reason == "GROUP_ID_NOT_FOUND" {
			notes.OffsetTold(group, at, record.NoOffset)
			return true
		}
		return false
	case len(list) != 1 || list[0].Unstable:
		return false
	}
	notes.OffsetTold(group, at, list[0].Offset)
	return true
}

// AwaitEnds waits until no transaction is open, or ending, whose transactional id has a prefix. The error names those that are.
func AwaitEnds(ctx context.Context, cl *client.Client, prefix string) error {
	open := client.TransactionFilter{Prefix: prefix, States: []client.TransactionState{client.TransactionOngoing, client.TransactionPrepareCommit, client.TransactionPrepareAbort}}
	for {
		list, _, err := cl.ListTransactions(ctx, open)
		if err == nil && len(list) == 0 {
			return nil
		}
		if waitUntil(ctx, time.Now().Add(50*time.Millisecond), nil) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("transactions do not end: %d, such as %q, %s since %s", len(list), list[0].TransactionalID, list[0].State, list[0].Updated.Format(time.RFC3339))
		}
		return err
	}
}
