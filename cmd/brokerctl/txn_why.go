package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) txnWhy() *cobra.Command {
	var groupID string
	cmd := &cobra.Command{
		Use:   "why TOPIC[/PARTITION,...]",
		Short: "Say what holds readers of committed data back, and what to do",
		Long: `Say for each partition what holds its last stable offset, where readers of committed
data stop: the transaction that is open there, its producer and who that is, which broker
coordinates it, how long it has been open, when its time is up, and the next safe step as
a command to copy. Partitions that nothing holds are named too.

Ages go by this machine's clock. --group asks for the group's own offsets, those committed
inside of transactions that are not over, each with its producer; and for the partitions
that the group has offsets or members for.`,
		Example: `  brokerctl txn why orders
  brokerctl txn why orders/0
  brokerctl txn why --group billing
  brokerctl txn why orders -o json | jq -r '.[] | select(.holder) | .holder.transactional_id'
  brokerctl txn why --group billing -o json | jq .pending`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case groupID == "":
				return exactly("TOPIC")(cmd, args)
			case len(args) > 0:
				return usagef("%q and --group: want one of them", args[0])
			}
			return nil
		},
		ValidArgsFunction: p.completePartitions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				if groupID != "" {
					return p.whyGroup(cmd.Context(), c, groupID)
				}
				tps, err := partitionsOf(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return p.why(cmd.Context(), c, tps)
			})
		},
	}
	cmd.Flags().StringVar(&groupID, "group", "", "the partitions and the offsets of a consumer group")
	_ = cmd.RegisterFlagCompletionFunc("group", p.completeGroups) // the flag is there
	return cmd
}

// partitionsOf gives the partitions that TOPIC or TOPIC/0,2 names.
func partitionsOf(ctx context.Context, c *client.Client, arg string) ([]record.TopicPartition, error) {
	topic, some, err := parsePartitions(arg)
	if err != nil {
		return nil, err
	}
	m, err := c.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	if m.Topics[0].Err != nil {
		return nil, m.Topics[0].Err
	}
	n := int32(len(m.Topics[0].Partitions))
	if some == nil {
		for i := range n {
			some = append(some, i)
		}
	}
	tps := make([]record.TopicPartition, len(some))
	for i, part := range some {
		if part >= n {
			return nil, &client.Error{Reason: client.ReasonUnknownTopicOrPartition, Outcome: client.NotWritten,
				Message: fmt.Sprintf("topic %s has partitions 0 to %d, not %d", topic, n-1, part)}
		}
		tps[i] = record.TopicPartition{Topic: topic, Partition: part}
	}
	return tps, nil
}

// whyJSON is a partition as -o json shows it.
type whyJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Stable    record.Offset `json:"last_stable_offset"`
	End       record.Offset `json:"high_watermark"`
	Blocked   int64         `json:"blocked"`
	// Holder is absent where nothing holds the partition.
	Holder *holderJSON `json:"holder,omitempty"`
	// Behind are further transactions that are open there.
	Behind []holderJSON `json:"behind,omitempty"`
	Error  string       `json:"error,omitempty"`
}

// holderJSON is an open transaction. What only a coordinator knows is absent where none knows it.
type holderJSON struct {
	ProducerID      record.ProducerID       `json:"producer_id"`
	Epoch           record.Epoch            `json:"epoch"`
	FirstOffset     *record.Offset          `json:"first_offset,omitempty"`
	LastWriteMS     *int64                  `json:"last_write_ms,omitempty"`
	TransactionalID string                  `json:"transactional_id,omitempty"`
	State           client.TransactionState `json:"state,omitempty"`
	Coordinator     int32                   `json:"coordinator,omitempty"`
	StartedMS       int64                   `json:"started_ms,omitempty"`
	TimeoutMS       int64                   `json:"timeout_ms,omitempty"`
	LeftMS          int64                   `json:"left_ms,omitempty"`
	ClientID        string                  `json:"client_id,omitempty"`
	Address         string                  `json:"address,omitempty"`
	Next            string                  `json:"next"`
	Command         string                  `json:"command,omitempty"`
}

func (p *program) why(ctx context.Context, c *client.Client, tps []record.TopicPartition) error {
	held, err := c.WhatHolds(ctx, tps...)
	if err != nil {
		return err
	}
	if p.json() {
		err = p.writeJSON(p.whysOf(held))
	} else {
		var b strings.Builder
		for i := range held {
			p.tell(&b, &held[i])
		}
		err = writeTo(p.stdout, b.String())
	}
	if i := slices.IndexFunc(held, func(h client.Held) bool { return h.Err != nil }); err == nil && i >= 0 {
		return held[i].Err
	}
	return err
}

func (p *program) whysOf(held []client.Held) []whyJSON {
	out := []whyJSON{}
	for i := range held {
		out = append(out, p.whyOf(&held[i]))
	}
	return out
}

func (p *program) whyOf(h *client.Held) whyJSON {
	out := whyJSON{Topic: h.Topic, Partition: h.Partition, Stable: h.Stable, End: h.End, Blocked: h.Blocked()}
	if h.Err != nil {
		out.Error = h.Err.Error()
		return out
	}
	for i, o := range h.Open {
		j := p.holderOf(h, o)
		if i == 0 {
			out.Holder = &j
		} else {
			out.Behind = append(out.Behind, j)
		}
	}
	return out
}

func (p *program) holderOf(h *client.Held, o client.OpenTransaction) holderJSON {
	first, last := o.FirstOffset, stampOf(o.LastWrite)
	j := holderJSON{ProducerID: o.ProducerID, Epoch: o.Epoch, FirstOffset: &first, LastWriteMS: &last}
	j.Next, j.Command = p.advice(h.TopicPartition, o)
	p.addTransaction(&j, o.Transaction)
	return j
}

// addTransaction adds what the coordinator knows; nil: nothing.
func (p *program) addTransaction(j *holderJSON, t *client.Transaction) {
	if t != nil {
		j.TransactionalID, j.State, j.Coordinator = t.TransactionalID, t.State, t.Coordinator
		j.StartedMS, j.TimeoutMS = stampOf(t.Started), t.Timeout.Milliseconds()
		j.LeftMS = max(0, t.Started.Add(t.Timeout).Sub(p.now()).Milliseconds())
		if e := ownerOf(*t); e != nil {
			j.ClientID, j.Address = e.ClientID, e.ClientAddress
		}
	}
}

// ownerOf is when the present producer took the id over; nil: it is not known any more.
func ownerOf(t client.Transaction) *client.TransactionEvent {
	for i := len(t.History) - 1; i >= 0; i-- {
		if t.History[i].Kind == client.EventInitialised {
			return &t.History[i]
		}
	}
	return nil
}

// advice is what to do about an open transaction, and the command that does it; empty: there is none.
func (p *program) advice(tp record.TopicPartition, o client.OpenTransaction) (next, command string) {
	t := o.Transaction
	switch {
	case t == nil:
		return "no coordinator has a transaction of this producer open, so that nothing ends it by itself; look at", fmt.Sprintf("brokerctl producer describe %s --id %d", word(tp.String()), o.ProducerID)
	case ending(t.State):
		return "wait: it is decided, and its markers are being written; if that lasts, see which partition has no leader with", "brokerctl cluster status"
	case t.Started.Add(t.Timeout).Before(p.now()):
		return "wait: its time is up, and its coordinator aborts it within seconds; or do it now with", abortCommand(o)
	}
	return "wait, if its producer still works; or abort it, which fences the producer, with", abortCommand(o)
}

func abortCommand(o client.OpenTransaction) string {
	return fmt.Sprintf("brokerctl txn abort --only %d/%d %s", o.ProducerID, o.Epoch, word(o.Transaction.TransactionalID))
}

// behindShown is how many transactions behind the first are named.
const behindShown = 5

// tell writes what holds one partition.
func (p *program) tell(b *strings.Builder, h *client.Held) {
	name := clipped(h.TopicPartition.String(), 40)
	switch {
	case h.Err != nil:
		why, _, _ := strings.Cut(h.Err.Error(), "\n")
		fmt.Fprintf(b, "%s cannot be asked: %s\n", name, clipped(strings.TrimPrefix(why, name+": "), 1000))
		return
	case len(h.Open) == 0 && h.Blocked() > 0:
		fmt.Fprintf(b, "%s: %s behind offset %d cannot be read, and nothing is open there: ask again\n", name, plural(h.Blocked(), "offset"), h.Stable)
		return
	case len(h.Open) == 0:
		fmt.Fprintf(b, "%s: nothing holds it; readers of committed data get to the end, %d\n", name, h.End)
		return
	}
	o := h.Open[0]
	fmt.Fprintf(b, "%s is held at offset %d by %s: %s cannot be read\n", name, h.Stable, p.called(o), plural(h.Blocked(), "offset"))
	f := facts{b}
	f.add("producer", "%d, epoch %d; last write here %s ago", o.ProducerID, o.Epoch, p.since(o.LastWrite))
	f.add("first offset", "%d", o.FirstOffset)
	p.tellTransaction(f, o.Transaction)
	f.next(p.advice(h.TopicPartition, o))
	for i, o := range h.Open[1:] {
		if i == behindShown {
			f.add("", "and %d more", len(h.Open)-1-behindShown)
			break
		}
		f.add([]string{"behind it", ""}[min(i, 1)], "from offset %d: %s", o.FirstOffset, p.called(o))
	}
}

// facts are the indented lines below a headline.
type facts struct{ b *strings.Builder }

func (f facts) add(name, format string, args ...any) {
	fmt.Fprintf(f.b, "  %-13s%s\n", name, fmt.Sprintf(format, args...))
}

// next is what to do, with the command that does it.
func (f facts) next(what, command string) {
	for i, line := range wrapped(strings.Fields(what), 80) {
		f.add([]string{"next", ""}[min(i, 1)], "%s", line)
	}
	fmt.Fprintf(f.b, "    %s\n", command)
}

// tellTransaction writes what its coordinator knows of an open transaction; nil: nobody knows it.
func (p *program) tellTransaction(f facts, t *client.Transaction) {
	if t == nil {
		return
	}
	if e := ownerOf(*t); e != nil {
		f.add("client", "%s at %s, since %s UTC", cmp.Or(clipped(e.ClientID, 32), "unnamed"), e.ClientAddress, shortStamp(stampOf(e.Time)))
	}
	f.add("coordinator", "broker %d", t.Coordinator)
	if ending(t.State) {
		f.add("state", "%s, decided %s ago", t.State, p.since(t.Updated))
		return
	}
	f.add("state", "%s, open for %s of at most %s", t.State, p.since(t.Started), short(t.Timeout))
	f.add("times out", "%s", p.untilTimeout(*t))
}

// called names an open transaction by its id, or by its producer.
func (p *program) called(o client.OpenTransaction) string {
	if o.Transaction == nil {
		return fmt.Sprintf("producer %d", o.ProducerID)
	}
	return "transaction " + clipped(o.Transaction.TransactionalID, 32)
}
