package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// worker is a member of the group.
type worker struct {
	s      *sink
	group  *client.GroupConsumer
	moment func(string)
	// at is the position in the database from which each partition is being read, as this worker has last seen it.
	at map[record.TopicPartition]record.Offset
	// failure is why a new partition's position could not be asked for.
	failure error
}

// work books orders until ctx ends or the cluster refuses. A database that does not answer is waited for.
func (w *worker) work(ctx context.Context) error {
	w.at = make(map[record.TopicPartition]record.Offset)
	for {
		fetched, err := w.group.Poll(ctx)
		if err = errors.Join(err, w.failure); err != nil {
			return err
		}
		for i := range fetched {
			f := &fetched[i]
			if f.Err != nil {
				return f.Err
			}
			w.moment("read")
			if err := w.book(ctx, f); err != nil {
				fmt.Fprintf(os.Stderr, "%v: %v; going on from where the database is\n", f.TopicPartition, err)
				if err := w.goBack(ctx); err != nil {
					return err
				}
				break // what else was fetched comes again
			}
		}
		w.group.CommitAsync(nil, nil) // for brokerctl group lag
	}
}

// book stores what the orders of one partition come to, and the position behind them.
func (w *worker) book(ctx context.Context, f *client.Fetched) error {
	changes := make(map[string]change)
	for order, err := range f.Records() {
		if err != nil {
			return err
		}
		if err := add(changes, order); err != nil {
			return err
		}
	}
	from := w.at[f.TopicPartition]
	if err := w.s.store(ctx, f.TopicPartition, from, f.Next, changes, func() { w.moment("booked") }); err != nil {
		return err
	}
	w.at[f.TopicPartition] = f.Next
	w.moment("stored")
	return nil
}

// assigned begins new partitions where the database is with them.
func (w *worker) assigned(ctx context.Context, tps []record.TopicPartition) {
	for _, tp := range tps {
		if err := w.begin(ctx, tp); err != nil {
			w.failure = err
		}
	}
}

func (w *worker) begin(ctx context.Context, tp record.TopicPartition) error {
	at, err := w.s.position(ctx, tp)
	if err != nil {
		return err
	}
	w.at[tp] = at
	return w.group.Seek(tp, client.At(at))
}

// goBack reads all partitions from where the database is with them. Its last transaction may have been stored although no answer came:
// the position tells. It asks until the database answers.
func (w *worker) goBack(ctx context.Context) error {
	for _, tp := range w.group.Assignment() {
		for w.begin(ctx, tp) != nil {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
