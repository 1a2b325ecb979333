package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/record"
)

// worker is a process that copies one topic to another exactly once, with others of its group. Each partition goes to the one of the same
// number, so that order can be compared. What it does is taken down by the process that has started it.
type worker struct {
	cl        *client.Client
	h         *history.Recorder
	rng       *rand.Rand
	id        string // transactional
	group     string
	from, to  string
	deathRate int // one transaction in so many is its last; 0: none

	producer *history.Producer
	consumer *history.Consumer
	p        *client.TransactionalProducer
	g        *client.GroupConsumer
}

// What a worker's end says. Any other way is a bug.
const (
	exitStopped  = 0
	exitReplaced = 3 // another process has its transactional id
)

func workerMain(args []string) int {
	f := flag.NewFlagSet("worker", flag.ExitOnError)
	bootstrap := f.String("bootstrap", "", "gRPC addresses")
	notes := f.String("notes", "", "socket of who takes the history down")
	process := f.Uint("process", 0, "first number in the history")
	seed := f.Uint64("seed", 1, "decides when it dies")
	transform := f.Bool("transform", false, "use client.Transform in place of a loop of its own")
	w := &worker{}
	f.StringVar(&w.id, "id", "", "transactional id")
	f.StringVar(&w.group, "group", "", "consumer group")
	f.StringVar(&w.from, "from", "", "topic to read")
	f.StringVar(&w.to, "to", "", "topic to write")
	f.IntVar(&w.deathRate, "death-rate", 0, "one transaction in so many is its last")
	_ = f.Parse(args) // exits
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := w.open(*bootstrap, *notes, history.Process(*process), *seed)
	if err == nil {
		if *transform {
			err = w.transform(ctx)
		} else {
			err = w.loop(ctx)
		}
	}
	switch {
	case err == nil:
		return exitStopped
	case errors.Is(err, client.ErrProducerFenced):
		return exitReplaced
	}
	fmt.Fprintf(os.Stderr, "worker %s: %v\n", w.id, err)
	return 1
}

func (w *worker) open(bootstrap, notes string, first history.Process, seed uint64) (err error) {
	w.rng = rand.New(rand.NewPCG(seed, uint64(first)))
	w.h, err = history.Dial("unix", notes, first, func(error) { os.Exit(exitStopped) }) // who has started it is gone
	if err != nil {
		return err
	}
	w.producer, w.consumer = w.h.NewProducer(), w.h.NewConsumer(false)
	w.cl, err = client.New(client.Config{Bootstrap: strings.Split(bootstrap, ","), ClientID: w.id, RequestTimeout: 2 * time.Second})
	return err
}

func (w *worker) reading() client.GroupConfig {
	return client.GroupConfig{
		ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted, MaxWait: 50 * time.Millisecond, MaxPollBytes: 1 << 10},
		GroupID:        w.group, Topics: []string{w.from},
	}
}

// writing has short timeouts: a broker that hangs is noticed only by them.
func writing() client.ProducerConfig {
	return client.ProducerConfig{Linger: time.Millisecond, RequestTimeout: 2 * time.Second}
}

// transactionTimeout is how long others wait for what a worker that died has left open.
const transactionTimeout = 5 * time.Second

// transform copies by client.Transform. What it sends is taken down; how its transactions end shows in what is stored.
func (w *worker) transform(ctx context.Context) error {
	return w.cl.Transform(ctx, client.TransformConfig{
		Group: w.reading(), Producer: writing(), TransactionalID: w.id, TransactionTimeout: transactionTimeout, CommitInterval: 20 * time.Millisecond,
	}, func(_ context.Context, in []client.Fetched, out *client.Output) error {
		for i := range in {
			for r, err := range in[i].Records() {
				if err != nil {
					return err
				}
				if err := out.Send(w.result(&in[i], r, w.producer.SendResult(w.target(&in[i]), w.group, in[i].TopicPartition, r.Offset))); err != nil {
					return err
				}
			}
		}
		if w.dies() {
			w.dieWithin(30 * time.Millisecond)
		}
		return nil
	})
}

func (w *worker) target(f *client.Fetched) record.TopicPartition {
	return record.TopicPartition{Topic: w.to, Partition: f.Partition}
}

// result is the copy of a record: its value says who copied it, its key what it is a copy of.
func (w *worker) result(f *client.Fetched, r *record.Record, sent history.Sent) client.Record {
	return client.Record{Topic: w.to, Partition: client.ToPartition(f.Partition), Key: append([]byte(nil), r.Value...), Value: sent.Payload(0)}
}

func (w *worker) dies() bool { return w.deathRate > 0 && w.rng.IntN(w.deathRate) == 0 }

// dieWithin kills the process, as the machine might, some time from now.
func (w *worker) dieWithin(d time.Duration) {
	after := time.Duration(w.rng.Int64N(int64(d) + 1))
	time.AfterFunc(after, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
}

// loop copies by a loop as programs have that want more control: a transaction for each poll.
func (w *worker) loop(ctx context.Context) error {
	var err error
	cfg := w.reading()
	cfg.OnAssigned = func(_ context.Context, list []record.TopicPartition) { w.noteMoved(list) }
	cfg.OnRevoked = func(_ context.Context, list []record.TopicPartition) { w.noteRevoked(list) }
	cfg.OnLost = w.noteRevoked
	if w.g, err = w.cl.NewGroupConsumer(cfg); err != nil {
		return err
	}
	w.p, err = w.cl.NewTransactionalProducer(client.TransactionalConfig{
		ProducerConfig: writing(), TransactionalID: w.id, TransactionTimeout: transactionTimeout,
	})
	if err != nil {
		return err
	}
	for err = w.p.InitTransactions(ctx); err != nil; err = w.p.InitTransactions(ctx) {
		if errors.Is(err, client.ErrProducerFenced) || ctx.Err() != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		got, err := w.g.Poll(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil && len(got) > 0 {
			err = w.copy(got)
		}
		if err != nil {
			return err
		}
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(w.g.Close(end), w.p.Close(end))
}

func (w *worker) noteMoved(list []record.TopicPartition) {
	for _, tp := range list {
		w.consumer.Assign(tp, record.NoOffset)
	}
}

func (w *worker) noteRevoked(list []record.TopicPartition) {
	for _, tp := range list {
		w.consumer.Revoke(tp)
	}
}

// copy copies what one poll gave, in a transaction.
func (w *worker) copy(got []client.Fetched) error {
	ctx := context.Background() // what is begun is ended
	if err := w.p.Begin(); err != nil {
		return err
	}
	w.producer.Begin()
	ends := make(client.Offsets)
	for i := range got {
		if got[i].Err != nil {
			return got[i].Err
		}
		if err := w.send(ctx, &got[i]); err != nil {
			return err
		}
		ends[got[i].TopicPartition] = got[i].Next
	}
	for tp, o := range ends {
		w.producer.SendOffset(w.group, tp, o)
	}
	err := w.p.SendOffsets(ctx, w.g.Member(), ends)
	switch {
	case err == nil && w.rng.IntN(25) == 0:
		w.producer.Abort()
		return w.abort(ctx, got, nil)
	case err != nil && !isFatal(err):
		w.producer.Abort()
		return w.abort(ctx, got, err)
	case err != nil:
		w.producer.Aborted(err.Error()) // nobody has asked to commit it
		return err
	}
	return w.commit(ctx, got)
}

// send sends the copies of the records of one partition, and takes down what became of each.
func (w *worker) send(ctx context.Context, f *client.Fetched) error {
	var read []history.Got
	for r, err := range f.Records() {
		if err != nil {
			return err
		}
		read = append(read, history.Got{Offset: r.Offset, Payload: r.Value})
	}
	w.consumer.Poll(f.TopicPartition, read, f.Next)
	for r := range f.Records() {
		sent := w.producer.SendResult(w.target(f), w.group, f.TopicPartition, r.Offset)
		err := w.p.Send(ctx, w.result(f, r, sent), func(res client.Result) {
			switch res.Outcome {
			case client.Written:
				sent.Written(res.Offset, res.Duplicate)
			case client.NotWritten:
				sent.NotWritten(fmt.Sprint(res.Err))
			default:
				sent.Unknown(fmt.Sprint(res.Err))
			}
		})
		if err != nil {
			sent.NotWritten(err.Error()) // the transaction cannot be committed, as SendOffsets says
			return nil
		}
	}
	return nil
}

func (w *worker) commit(ctx context.Context, got []client.Fetched) error {
	if w.dies() {
		switch w.rng.IntN(3) {
		case 0: // before
			w.dieWithin(0)
			select {}
		case 1: // during, before the answer or after it
			w.dieWithin(10 * time.Millisecond)
		default:
			defer func() {
				w.dieWithin(0) // after
				select {}
			}()
		}
	}
	w.producer.Commit()
	err := w.p.Commit(ctx)
	for began := time.Now(); err != nil && isUnknown(err) && time.Since(began) < time.Minute; {
		err = w.p.Commit(ctx)
	}
	switch {
	case err == nil:
		w.producer.Committed()
		return nil
	case client.OutcomeOf(err) == client.NotWritten && isFatal(err):
		w.producer.Aborted(err.Error())
		return err
	case client.OutcomeOf(err) == client.NotWritten:
		return w.abort(ctx, got, err)
	}
	w.producer.Undecided(err.Error())
	return err
}

// abort undoes the transaction and goes back to where it began.
func (w *worker) abort(ctx context.Context, got []client.Fetched, why error) error {
	err := w.p.Abort(ctx)
	for began := time.Now(); err != nil && isUnknown(err) && time.Since(began) < time.Minute; {
		err = w.p.Abort(ctx)
	}
	w.producer.Aborted(fmt.Sprint(errors.Join(why, err)))
	if err != nil {
		return err
	}
	done := make(map[record.TopicPartition]bool)
	for i := range got {
		tp := got[i].TopicPartition
		for r := range got[i].Records() {
			if !done[tp] && w.g.Seek(tp, client.At(r.Offset)) == nil {
				w.consumer.Assign(tp, r.Offset)
			}
			done[tp] = true
			break // only the first one counts
		}
	}
	return nil
}

func isFatal(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Fatal
}

func isUnknown(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && !e.Fatal && !e.Abortable && e.Retriable
}
