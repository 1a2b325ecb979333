package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// whyGroupJSON is a group as -o json shows it.
type whyGroupJSON struct {
	Group string `json:"group"`
	// Pending are transactions that hold offsets of the group.
	Pending    []pendingJSON `json:"pending"`
	Partitions []whyJSON     `json:"partitions"`
}

type pendingJSON struct {
	Offsets []string `json:"offsets"`
	holderJSON
}

// whyGroup tells about a group's own offsets, and about the partitions that it reads.
func (p *program) whyGroup(ctx context.Context, c *client.Client, id string) error {
	g, err := c.WhatHoldsGroup(ctx, id)
	if err != nil {
		return err
	}
	offsets, err := c.GroupOffsets(ctx, id, false)
	if err != nil {
		return err
	}
	var tps []record.TopicPartition
	for _, m := range g.Members {
		tps = append(tps, m.Assigned...)
	}
	for _, w := range g.Pending {
		tps = append(tps, w.Partitions...)
	}
	for _, o := range offsets {
		tps = append(tps, o.TopicPartition)
	}
	slices.SortFunc(tps, comparePartitions)
	if tps = slices.Compact(tps); len(tps) == 0 {
		p.sayf("group %s has neither offsets nor members", id)
	}
	held, err := c.WhatHolds(ctx, tps...)
	if err != nil {
		return err
	}
	if p.json() {
		out := whyGroupJSON{Group: id, Pending: []pendingJSON{}, Partitions: p.whysOf(held)}
		for _, w := range g.Pending {
			j := pendingJSON{Offsets: names(w.Partitions), holderJSON: holderJSON{ProducerID: w.ProducerID, Epoch: w.Epoch}}
			j.Next, j.Command = p.adviceOnOffsets(id, w)
			p.addTransaction(&j.holderJSON, w.Transaction)
			out.Pending = append(out.Pending, j)
		}
		return p.writeJSON(out)
	}
	var b strings.Builder
	p.tellPending(&b, &g)
	for i := range held {
		p.tell(&b, &held[i])
	}
	return writeTo(p.stdout, b.String())
}

// tellPending writes which transactions a group's offsets wait for.
func (p *program) tellPending(b *strings.Builder, g *client.Group) {
	for _, w := range g.Pending {
		of := fmt.Sprintf("a transaction of producer %d", w.ProducerID)
		if w.Transaction != nil {
			of = "transaction " + clipped(w.Transaction.TransactionalID, 32)
		}
		fmt.Fprintf(b, "group %s: %s not committed before the end of %s\n", clipped(g.ID, 32), plural(int64(len(w.Partitions)), "offset"), of)
		f := facts{b}
		for i, line := range wrapped(partitionLists(w.Partitions), 85) {
			f.add([]string{"offsets of", ""}[min(i, 1)], "%s", line)
		}
		f.add("producer", "%d, epoch %d", w.ProducerID, w.Epoch)
		p.tellTransaction(f, w.Transaction)
		f.next(p.adviceOnOffsets(g.ID, w))
	}
	switch more := g.Transactions - len(g.Pending); {
	case len(g.Pending) == 0:
		fmt.Fprintf(b, "group %s: no offset of its own waits for a transaction\n", clipped(g.ID, 32))
	case more > 0:
		fmt.Fprintf(b, "group %s: and %s more\n", clipped(g.ID, 32), plural(int64(more), "transaction"))
	}
}

// adviceOnOffsets is what to do about offsets that wait for a transaction, and the command that does it.
func (p *program) adviceOnOffsets(group string, w client.PendingOffsets) (next, command string) {
	if w.Transaction == nil {
		return "no coordinator has a transaction of this producer open, so that nothing ends it by itself; see what is known of it with", fmt.Sprintf("brokerctl producer history %d", w.ProducerID)
	}
	return p.advice(record.TopicPartition{}, client.OpenTransaction{ProducerID: w.ProducerID, Epoch: w.Epoch, Transaction: w.Transaction})
}

func comparePartitions(a, b record.TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
