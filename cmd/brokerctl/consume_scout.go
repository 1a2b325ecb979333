package main

import (
	"context"
	"errors"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// scout reads ahead of what is printed, as far as it has to, for the markers that say what became of transactions. It
// remembers those that lie between what was printed and where it is.
type scout struct {
	k *client.Consumer
	// ends are the markers of each producer that are ahead, in order.
	ends map[producerAt][]ended
}

type producerAt struct {
	record.TopicPartition
	id record.ProducerID
}

// ended is a marker.
type ended struct {
	at     record.Offset
	commit bool
}

func newScout(ctx context.Context, c *client.Client, plan map[record.TopicPartition]consumed) (*scout, error) {
	k, err := consumerOf(ctx, c, client.ConsumerConfig{ControlBatches: true}, plan)
	return &scout{k: k, ends: make(map[producerAt][]ended)}, err
}

// outcome says what became of a batch's transaction, as of what the partition held when the batch was fetched: committed, aborted or
// open; plain: there is none; marker: it is one itself. Batches are asked about in order.
func (s *scout) outcome(ctx context.Context, f *client.Fetched, b record.Batch) (string, error) {
	switch a := b.Attributes(); {
	case a.Control():
		return "marker", nil
	case !a.Transactional():
		return "plain", nil
	}
	key := producerAt{f.TopicPartition, b.ProducerID()}
	for {
		ends := s.ends[key]
		for len(ends) > 0 && ends[0].at < b.BaseOffset() {
			ends = ends[1:]
		}
		if s.ends[key] = ends; len(ends) > 0 {
			return map[bool]string{true: "committed", false: "aborted"}[ends[0].commit], nil
		}
		delete(s.ends, key)
		if at, ok, err := s.k.Position(f.TopicPartition); err != nil || ok && at >= f.HighWatermark {
			return "open", err
		}
		if err := s.goOn(ctx); err != nil {
			return "", err
		}
	}
}

// goOn reads some more. What holds nothing to show moves the position without coming out of Poll, so that is looked at now and
// then.
func (s *scout) goOn(ctx context.Context) error {
	pollCtx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	fs, err := s.k.Poll(pollCtx)
	if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	for i := range fs {
		if fs[i].Err != nil {
			return fs[i].Err
		}
		for _, b := range fs[i].Batches() {
			if m, ok, err := record.ParseMarker(b); ok && err == nil {
				key := producerAt{fs[i].TopicPartition, m.ProducerID}
				s.ends[key] = append(s.ends[key], ended{b.BaseOffset(), m.Commit})
			}
		}
	}
	return nil
}
