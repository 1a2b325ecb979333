package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oncelog/oncelog/record"
)

// TransformConfig configures Transform. Zero fields stand for their defaults.
type TransformConfig struct {
	// Group says what is read, and as which group. Isolation is ReadCommitted whatever it says, and AutoCommit off: offsets
	// are committed with what was made of the records. OnAssigned, OnRevoked and OnLost are told as by a GroupConsumer; the transaction that
	// holds records of revoked partitions has been committed by then.
	Group GroupConfig
	// Producer is about what is written.
	Producer ProducerConfig
	// TransactionalID must be another one for each member [transactional.id]. Default: the group's id and a random part, which
	// is new at every start; then the transaction of a member that died stays open for TransactionTimeout.
	TransactionalID string
	// TransactionTimeout is how long a transaction may be open [transaction.timeout.ms]. Whoever takes over from a member that died waits for
	// the end of its transaction, that long at most. Default 10 s, at least 1 s; well above CommitInterval and what the function takes.
	TransactionTimeout time.Duration
	// CommitInterval is how long records are collected into one transaction [commit.interval.ms]. Default 100 ms, 0 to 1 min; below 0:
	// every Poll has a transaction of its own.
	CommitInterval time.Duration
}

func (c TransformConfig) withDefaults() TransformConfig {
	c.Group.Isolation, c.Group.AutoCommit = ReadCommitted, false
	c.Group = c.Group.withDefaults()
	orDefault(&c.TransactionTimeout, 10*time.Second)
	orDefault(&c.CommitInterval, 100*time.Millisecond)
	return c
}

// Validate says which field is out of its range, given the client's Config.
func (c TransformConfig) Validate(base Config) error {
	c = c.withDefaults()
	if err := c.Group.Validate(); err != nil {
		return err
	}
	id := c.TransactionalID
	if id == "" {
		id = "default"
	}
	if err := within("TransactionTimeout", c.TransactionTimeout, time.Second, 15*time.Minute); err != nil {
		return err
	}
	if err := within("CommitInterval", c.CommitInterval, -time.Nanosecond, time.Minute); err != nil {
		return err
	}
	return TransactionalConfig{ProducerConfig: c.Producer, TransactionalID: id, TransactionTimeout: c.TransactionTimeout}.Validate(base)
}

// Output takes what a TransformFunc makes.
type Output struct {
	ctx context.Context
	p   *TransactionalProducer
}

// Send writes a record in the transaction of its inputs. An error means that this try is over: return it.
func (o *Output) Send(r Record) error { return o.p.Send(o.ctx, r, nil) }

// TransformFunc makes records of records. It is called again with the same ones if their transaction had to be aborted, by this process or another
// one, so it must change nothing but what it sends to out. An error of its own ends Transform; its inputs are not done.
type TransformFunc func(ctx context.Context, in []Fetched, out *Output) error

// Transform reads a group's topics and writes what f makes of them, each input exactly once: however often processes, brokers and networks fail, what
// readers of committed data see is what one run without failures would have written, and the group's offsets agree with it. Any
// number of processes may run it with the same group; they share the partitions.
//
// What f makes and the offsets of what it was given are committed in one transaction. A process that has been taken for dead and comes back cannot commit
// any more, since its member's epoch and its producer's are checked with the offsets (KIP-447).
//
// It returns when ctx ends or the client is closed, with nil, after it has committed what was under way; or with an error of f, or one that
// nothing can be done about.
func (c *Client) Transform(ctx context.Context, cfg TransformConfig, f TransformFunc) error {
	if err := cfg.Validate(c.cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &transformer{c: c, cfg: cfg.withDefaults(), f: f, cancel: cancel, ended: make(chan struct{})}
	defer close(t.ended)
	if err := c.adopt(t); err != nil {
		return err
	}
	defer c.release(t)
	if err := t.start(ctx); err != nil {
		return err
	}
	err := t.run(ctx)
	return errors.Join(err, t.stop(err == nil))
}

// transformer is one Transform. All of it is one goroutine's, but for what Close uses.
type transformer struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when Transform has returned

	c   *Client
	cfg TransformConfig
	f   TransformFunc
	g   *GroupConsumer
	p   *TransactionalProducer

	// open: there is a transaction, to be committed at deadline. from is where its inputs begin, to where the next ones do.
	open     bool
	deadline time.Time
	from, to Offsets
	failures int
	// failed is why the transaction could not be ended in a callback of the group, which cannot return errors.
	failed error
}

// Close is the client's: Transform ends as with its context. Its member and its producer are not closed from here, while the function may be
// half done: the member's Close would commit what it was given, and not all of what it makes would be there.
func (t *transformer) Close(ctx context.Context) error {
	t.cancel()
	select {
	case <-t.ended:
		return nil
	case <-ctx.Done():
		return canceled(ctx, Unknown, "waiting for Transform to end")
	}
}

// endTimeout bounds how long the end of a transaction is waited for when the caller does not wait any more.
const endTimeout = 10 * time.Second

func (t *transformer) start(ctx context.Context) error {
	group := t.cfg.Group
	assigned, revoked, lost := group.OnAssigned, group.OnRevoked, group.OnLost
	group.OnAssigned = assigned
	group.OnRevoked = func(ctx context.Context, list []record.TopicPartition) {
		t.note(t.commit(ctx)) // before others have the partitions
		revoked(ctx, list)
	}
	group.OnLost = func(list []record.TopicPartition) {
		t.note(t.abort(t.g.ctx)) // others may have done the same by now
		lost(list)
	}
	g, err := t.c.newGroupConsumer(group, false)
	if err != nil {
		return err
	}
	t.g = g
	id := t.cfg.TransactionalID
	if id == "" {
		id = fmt.Sprintf("%.900s.%s", group.GroupID, g.Member().MemberID)
	}
	t.p, err = t.c.NewTransactionalProducer(TransactionalConfig{ProducerConfig: t.cfg.Producer, TransactionalID: id, TransactionTimeout: t.cfg.TransactionTimeout})
	if err == nil {
		t.c.release(t.p.p) // it is closed by this one
		if err = t.p.InitTransactions(ctx); err == nil {
			return nil
		}
		err = errors.Join(err, t.p.Close(ctx))
	}
	return errors.Join(err, t.g.Close(ctx))
}

func (t *transformer) note(err error) {
	if err != nil && t.failed == nil {
		t.failed = err
	}
}

// stop ends what is under way: well, if all went well.
func (t *transformer) stop(well bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var err error
	if t.open && well {
		err = t.commit(ctx)
	}
	if t.open {
		err = errors.Join(err, t.abort(ctx))
	}
	return errors.Join(err, t.g.Close(ctx), t.p.Close(ctx))
}

func (t *transformer) run(ctx context.Context) error {
	for {
		got, err := t.poll(ctx)
		if err == nil {
			err = t.failed
		}
		if err == nil && len(got) > 0 {
			err = t.process(ctx, got)
		}
		if err == nil && t.open && !time.Now().Before(t.deadline) {
			err = t.commit(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil // stop commits or aborts
		case err != nil:
			return err
		}
	}
}

// poll polls, while a transaction is open no longer than until it is to be committed.
func (t *transformer) poll(ctx context.Context) ([]Fetched, error) {
	if !t.open {
		return t.g.Poll(ctx)
	}
	bounded, cancel := context.WithDeadline(ctx, t.deadline)
	defer cancel()
	got, err := t.g.Poll(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return nil, nil
	}
	return got, err
}

// process has the function work on what was read, in the open transaction or a new one.
func (t *transformer) process(ctx context.Context, got []Fetched) error {
	for i := range got {
		if got[i].Err != nil {
			return got[i].Err
		}
	}
	if !t.open {
		if err := t.p.Begin(); err != nil {
			return err
		}
		t.open, t.from, t.to = true, make(Offsets), make(Offsets)
		t.deadline = time.Now().Add(t.cfg.CommitInterval)
	}
	for i := range got {
		tp := got[i].TopicPartition
		if _, ok := t.from[tp]; !ok {
			t.from[tp] = got[i].from
		}
	}
	err := t.f(ctx, got, &Output{ctx, t.p})
	if err == nil {
		for i := range got {
			t.to[got[i].TopicPartition] = got[i].Next
		}
		return nil
	}
	if abortErr := t.abort(ctx); abortErr != nil {
		return errors.Join(err, abortErr)
	}
	if isAbortable(err) {
		return t.pause(ctx, err)
	}
	return err
}

func isAbortable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Abortable
}

func isUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && !e.Fatal && !e.Abortable && (e.Retriable || e.Reason == ReasonCanceled)
}

// commit commits what was made, with the offsets of what it was made of. If that cannot be, it is undone and the same records come again. It
// returns an error only if nothing can be done.
func (t *transformer) commit(ctx context.Context) error {
	if !t.open {
		return nil
	}
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.cfg.TransactionTimeout+endTimeout)
	defer cancel()
	err := t.p.SendOffsets(detached, t.g.Member(), t.to)
	if err == nil {
		err = t.p.Commit(detached)
		for err != nil && isUnknown(err) && detached.Err() == nil { // until it is known
			err = t.p.Commit(detached)
		}
	}
	if err == nil {
		t.g.noteCommitted(t.to)
		t.open, t.failures = false, 0
		return nil
	}
	if abortErr := t.abort(detached); abortErr != nil {
		return errors.Join(err, abortErr)
	}
	return t.pause(ctx, err)
}

// abort undoes what was made, and goes back to where it began.
func (t *transformer) abort(ctx context.Context) error {
	if !t.open {
		return nil
	}
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.cfg.TransactionTimeout+endTimeout)
	defer cancel()
	err := t.p.Abort(detached)
	for err != nil && isUnknown(err) && detached.Err() == nil {
		err = t.p.Abort(detached)
	}
	if err != nil {
		return err
	}
	t.open = false
	for tp, o := range t.from {
		_ = t.g.Seek(tp, At(o)) // it fails for partitions that others have by now
	}
	return nil
}

// pause comes before another try.
func (t *transformer) pause(ctx context.Context, why error) error {
	t.failures++
	t.c.log.Info("transaction aborted; its records come again", "group", t.cfg.Group.GroupID, "err", why)
	sleep(ctx, t.c.backoff(t.failures))
	return nil
}
