package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Held is a partition as a reader of committed data meets it: how far it gets, and what keeps it from going on.
type Held struct {
	record.TopicPartition
	// Stable is the last stable offset, where readers of committed data stop; End is the high watermark.
	Stable, End record.Offset
	// Open are the transactions that are open in the partition, in the order of their first offsets. The first one holds
	// the last stable offset; empty: nothing does.
	Open []OpenTransaction
	// Truncated: more producers are remembered there than brokers tell at once. Those with open transactions come first.
	Truncated bool
	// Err is set where the partition could not be asked about.
	Err error
}

// Blocked is how many offsets lie behind what holds the partition.
func (h *Held) Blocked() int64 { return max(0, int64(h.End-h.Stable)) }

// OpenTransaction is a transaction that has begun in a partition and has no marker there yet.
type OpenTransaction struct {
	ProducerID  record.ProducerID
	Epoch       record.Epoch
	FirstOffset record.Offset
	// LastWrite is the timestamp of its producer's latest batch in the partition.
	LastWrite time.Time
	// Transaction is what the coordinator knows, with partitions and history only for the one that holds the partition.
	// nil: no coordinator has a transaction of that producer open or ending, so that nothing will write its marker.
	Transaction *Transaction
}

const (
	// holderLooks is how often WhatHolds looks: partition and coordinator are asked one after the other, and what ended
	// between the two is gone at the next look.
	holderLooks = 3
	// holderIDs of one ListTransactions: what brokers allow.
	holderIDs = 10_000
)

// WhatHolds says for each partition which open transactions keep readers of committed data from its end, with what their
// coordinators know of them. Partitions come in the order in which they were asked for. An error means that a coordinator,
// or the brokers, could not be asked; failures of single partitions are in Held.Err.
func (c *Client) WhatHolds(ctx context.Context, tps ...record.TopicPartition) ([]Held, error) {
	held := make([]Held, len(tps))
	again := make([]int, len(tps))
	for i, tp := range tps {
		held[i].TopicPartition, again[i] = tp, i
	}
	for look := 1; ; look++ {
		if err := c.lookAtHolders(ctx, held, again); err != nil {
			return nil, err
		}
		again = slices.DeleteFunc(again, func(i int) bool { return held[i].explained() })
		if len(again) == 0 || look == holderLooks || !sleep(ctx, c.backoff(look)) {
			return held, nil
		}
	}
}

// explained says whether partition and coordinators tell one story.
func (h *Held) explained() bool {
	switch {
	case h.Err != nil:
		return true
	case len(h.Open) == 0:
		return h.Stable >= h.End
	}
	return h.Open[0].FirstOffset == h.Stable && !slices.ContainsFunc(h.Open, func(o OpenTransaction) bool { return o.Transaction == nil })
}

// lookAtHolders fills in some of held.
func (c *Client) lookAtHolders(ctx context.Context, held []Held, which []int) error {
	at := make(map[record.TopicPartition]Position, len(which))
	for _, i := range which {
		at[held[i].TopicPartition] = End()
	}
	// The end after the stable offset, which is never beyond it then.
	stable, err := c.ListOffsets(ctx, ReadCommitted, at)
	if err != nil {
		return err
	}
	ends, err := c.ListOffsets(ctx, ReadUncommitted, at)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, i := range which {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			tp := held[i].TopicPartition
			held[i] = c.openIn(ctx, tp, stable[tp], ends[tp])
		})
	}
	wg.Wait()
	return c.addCoordinators(ctx, held, which)
}

func (c *Client) openIn(ctx context.Context, tp record.TopicPartition, stable, end ListedOffset) Held {
	h := Held{TopicPartition: tp, Stable: stable.Offset, End: end.Offset, Err: errors.Join(stable.Err, end.Err)}
	if h.Err != nil {
		return h
	}
	var states []ProducerState
	if states, h.Truncated, h.Err = c.DescribeProducers(ctx, tp); h.Err != nil {
		return h
	}
	for _, s := range states {
		if s.TxnStart != record.NoOffset {
			h.Open = append(h.Open, OpenTransaction{ProducerID: s.ID, Epoch: s.Epoch, FirstOffset: s.TxnStart, LastWrite: timeOf(s.LastTimestamp)})
		}
	}
	slices.SortFunc(h.Open, func(a, b OpenTransaction) int { return int(a.FirstOffset - b.FirstOffset) })
	return h
}

// addCoordinators asks who coordinates the open transactions, and for all of those that come first.
func (c *Client) addCoordinators(ctx context.Context, held []Held, which []int) error {
	var ids []record.ProducerID
	for _, i := range which {
		for _, o := range held[i].Open {
			ids = append(ids, o.ProducerID)
		}
	}
	slices.Sort(ids)
	var known []Transaction
	for some := range slices.Chunk(slices.Compact(ids), holderIDs) {
		list, _, err := c.ListTransactions(ctx, TransactionFilter{ProducerIDs: some})
		if err != nil {
			return err
		}
		known = append(known, list...)
	}
	described := make(map[string]*Transaction)
	for _, i := range which {
		for n := range held[i].Open {
			o := &held[i].Open[n]
			at := slices.IndexFunc(known, o.partOf)
			if at < 0 {
				continue
			}
			o.Transaction = &known[at]
			if n > 0 {
				continue
			}
			id := known[at].TransactionalID
			if described[id] == nil {
				t, err := c.describeIfKnown(ctx, id)
				if err != nil {
					return err
				}
				described[id] = &t
			}
			// It may have ended since it was listed: the next look tells.
			if o.Transaction = nil; o.partOf(*described[id]) {
				o.Transaction = described[id]
			}
		}
	}
	return nil
}

// describeIfKnown is DescribeTransaction; an id that is not known is the zero Transaction.
func (c *Client) describeIfKnown(ctx context.Context, id string) (Transaction, error) {
	t, err := c.DescribeTransaction(ctx, id)
	var e *Error
	if errors.As(err, &e) && e.Reason == ReasonTransactionalIDNotFound {
		return Transaction{}, nil
	}
	return t, err
}

// WhatHoldsGroup gives a group with the transactions that its pending offsets wait for.
func (c *Client) WhatHoldsGroup(ctx context.Context, id string) (Group, error) {
	for look := 1; ; look++ {
		g, err := c.DescribeGroup(ctx, id)
		if err != nil || len(g.Pending) == 0 {
			return g, err
		}
		ids := make([]record.ProducerID, len(g.Pending))
		for i, w := range g.Pending {
			ids[i] = w.ProducerID
		}
		known, _, err := c.ListTransactions(ctx, TransactionFilter{ProducerIDs: ids})
		if err != nil {
			return g, err
		}
		explained := true
		for i := range g.Pending {
			w := &g.Pending[i]
			open := OpenTransaction{ProducerID: w.ProducerID, Epoch: w.Epoch}
			if at := slices.IndexFunc(known, open.partOf); at >= 0 {
				t, err := c.describeIfKnown(ctx, known[at].TransactionalID)
				if err != nil {
					return g, err
				}
				if open.partOf(t) {
					w.Transaction = &t
				}
			}
			explained = explained && w.Transaction != nil
		}
		// What ended between the two questions is gone at the next look.
		if explained || look == holderLooks || !sleep(ctx, c.backoff(look)) {
			return g, nil
		}
	}
}

// partOf says whether what is open in a partition belongs to a transaction that is open, or whose markers are on their
// way. A decided one may show the epoch, or the producer, that comes next.
func (o *OpenTransaction) partOf(t Transaction) bool {
	switch t.State {
	case TransactionOngoing:
		return t.ProducerID == o.ProducerID && t.Epoch == o.Epoch
	case TransactionPrepareCommit, TransactionPrepareAbort:
		return t.ProducerID == o.ProducerID || t.PreviousProducerID == o.ProducerID
	}
	return false
}
