package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) producerHistory() *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "Tell what happened to a producer: taken over, fenced, timed out, aborted, refused",
		Long: `Tell what happened to a producer, by its transactional id or by its producer id.

Of a transactional id its coordinator keeps the last 16 events, replicated: who took it
over, who was fenced by whom, which transaction timed out or was aborted by an operator,
and the first batch of each epoch that a partition refused. Ordinary commits and aborts
are not events. The client's PRODUCER_FENCED shows the last of them.

A producer without a transactional id has no coordinator. Of such a one every partition is
asked what it knows (--topic: those of one topic), and the first batch of its epoch that
the partition's present leader refused. That is no history: it ends with the leader.`,
		Example: `  brokerctl producer history billing-1
  brokerctl producer history 4001
  brokerctl producer history 4001 --topic orders -o json`,
		Args:              exactly("ID"),
		ValidArgsFunction: p.completeTransactions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error { return p.history(cmd.Context(), c, args[0], topic) })
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "with a producer id that no coordinator knows: only this topic's partitions")
	return cmd
}

// historyJSON is what is known of a producer as -o json shows it: either transactions or partitions are there.
type historyJSON struct {
	Transactions []transactionJSON `json:"transactional_ids,omitempty"`
	Partitions   []knownAtJSON     `json:"partitions,omitempty"`
}

// knownAtJSON is a producer as one partition knows it.
type knownAtJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	producerJSON
}

// history tells of a transactional id, else of the transactional ids of a producer id, else what partitions know of that.
func (p *program) history(ctx context.Context, c *client.Client, id, topic string) error {
	t, err := c.DescribeTransaction(ctx, id)
	if err == nil {
		return p.showHistories([]client.Transaction{t})
	}
	var e *client.Error
	pid, notNumber := strconv.ParseInt(id, 10, 64)
	switch {
	case !errors.As(err, &e) || e.Reason != client.ReasonTransactionalIDNotFound && e.Reason != client.ReasonCoordinatorNotAvailable:
		return err
	case notNumber != nil || pid < 0:
		return fmt.Errorf("%w: nobody has used it, or not for so long that it was forgotten", err)
	}
	known, _, err := c.ListTransactions(ctx, client.TransactionFilter{ProducerIDs: []record.ProducerID{record.ProducerID(pid)}})
	if err != nil {
		return err
	}
	for i := range known {
		if known[i], err = c.DescribeTransaction(ctx, known[i].TransactionalID); err != nil {
			return err
		}
	}
	if len(known) > 0 {
		return p.showHistories(known)
	}
	return p.historyInPartitions(ctx, c, record.ProducerID(pid), topic)
}

func (p *program) showHistories(list []client.Transaction) error {
	if p.json() {
		var out historyJSON
		for _, t := range list {
			out.Transactions = append(out.Transactions, describedTransaction(t))
		}
		return p.writeJSON(out)
	}
	for i, t := range list {
		head := fmt.Sprintf("transactional id %s: producer %d, epoch %d, %s; coordinator broker %d\n",
			clipped(t.TransactionalID, 32), t.ProducerID, t.Epoch, t.State, t.Coordinator)
		if i > 0 {
			head = "\n" + head
		}
		if err := writeTo(p.stdout, head); err != nil {
			return err
		}
		if err := eventTable(t.History).write(p.stdout); err != nil {
			return err
		}
	}
	return nil
}

// historyAsked is how many partitions are asked at a time.
const historyAsked = 32

func (p *program) historyInPartitions(ctx context.Context, c *client.Client, id record.ProducerID, topic string) error {
	tps, err := somePartitions(ctx, c, topic)
	if err != nil {
		return err
	}
	var (
		mu     sync.Mutex
		found  = []knownAtJSON{}
		failed []error
		wg     sync.WaitGroup
		slots  = make(chan struct{}, historyAsked)
	)
	for _, tp := range tps {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			states, _, err := c.DescribeProducers(ctx, tp, id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
			}
			for _, j := range producersJSON(states) {
				found = append(found, knownAtJSON{tp.Topic, tp.Partition, j})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(found, func(a, b knownAtJSON) int {
		return comparePartitions(record.TopicPartition{Topic: a.Topic, Partition: a.Partition}, record.TopicPartition{Topic: b.Topic, Partition: b.Partition})
	})
	for _, err := range failed {
		p.sayf("not known: %v", err)
	}
	if len(found) == 0 {
		return fmt.Errorf("no coordinator and none of the %s asked knows producer %d: it has written nothing, or not for so long that it was forgotten", plural(int64(len(tps)), "partition"), id)
	}
	if p.json() {
		return p.writeJSON(historyJSON{Partitions: found})
	}
	p.sayf("producer %d has no transactional id, so there is no history of it; this is what partitions know", id)
	t := newTable("PARTITION", ">EPOCH", ">LAST SEQ", "LAST WRITE (UTC)", "FIRST REFUSED")
	for _, k := range found {
		refused := "-"
		if r := k.Refused; r != nil {
			refused = fmt.Sprintf("%s %s", shortStamp(r.TimeMS), r.Reason)
			if r.Received != nil {
				refused += fmt.Sprintf(", %d for %d", *r.Received, *r.Expected)
			}
		}
		t.row(clipped(record.TopicPartition{Topic: k.Topic, Partition: k.Partition}.String(), 32), k.Epoch, dash(k.LastSequence), shortStamp(k.LastTimestamp), refused)
	}
	return t.write(p.stdout)
}

// somePartitions are those of a topic, or of all topics but the brokers' own, where no client writes.
func somePartitions(ctx context.Context, c *client.Client, topic string) ([]record.TopicPartition, error) {
	if topic != "" {
		return partitionsOf(ctx, c, topic)
	}
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	var tps []record.TopicPartition
	for _, t := range m.Topics {
		if t.Internal {
			continue
		}
		for i := range t.Partitions {
			tps = append(tps, record.TopicPartition{Topic: t.Name, Partition: int32(i)})
		}
	}
	return tps, nil
}
