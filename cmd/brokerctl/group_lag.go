package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) groupLag() *cobra.Command {
	var count bool
	cmd := &cobra.Command{
		Use:   "lag GROUP",
		Short: "Show how far a group has come, and what keeps it back",
		Long: `Show for each partition of a group what it has committed, what there is to be read, and
what cannot be read yet.

READABLE is how many records a reader of committed data gets from the committed offset on,
up to the last stable offset. Markers and aborted records take offsets and are not
counted: to know, the command reads what is there, up to 10,000 offsets of a partition and
for 3 seconds in all. Where there is more, it says <=N, which counts all offsets; --count
reads everything.
BLOCKED is from the last stable offset to the end: written already, but behind a
transaction that is open. HELD BY is the producer that holds it, or its transactional
id; "brokerctl txn why --group GROUP" says more about it, and what to do.`,
		Example: `  brokerctl group lag billing
  brokerctl group lag billing --count
  brokerctl group lag billing -o json | jq '[.[].readable] | add'`,
		Args:              exactly("GROUP"),
		ValidArgsFunction: p.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				lines, err := p.lag(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if err := countReadable(cmd.Context(), c, lines, count); err != nil {
					return err
				}
				if len(lines) == 0 {
					p.sayf("group %s has committed nothing", args[0])
				}
				return p.show(lines, lagTable(lines))
			})
		},
	}
	cmd.Flags().BoolVar(&count, "count", false, "count all that is readable, however much it is")
	return cmd
}

// lagJSON is a partition of a group as -o json shows it. Offsets and counts that are not known are -1.
type lagJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Committed record.Offset `json:"committed"`
	Stable    record.Offset `json:"last_stable_offset"`
	End       record.Offset `json:"high_watermark"`
	Readable  int64         `json:"readable"`
	// AtMost: markers and aborted records are among the readable, since there were too many to look.
	AtMost   bool   `json:"readable_at_most,omitempty"`
	Blocked  int64  `json:"blocked"`
	HeldBy   string `json:"held_by,omitempty"`
	Unstable bool   `json:"unstable,omitempty"`
	Member   string `json:"member,omitempty"`
	Error    string `json:"error,omitempty"`
}

// lag collects what brokers know. A partition that cannot be asked about has an error.
func (p *program) lag(ctx context.Context, c *client.Client, id string) ([]lagJSON, error) {
	g, err := c.DescribeGroup(ctx, id)
	if err != nil {
		return nil, err
	}
	offsets, err := c.GroupOffsets(ctx, id, false)
	if err != nil {
		return nil, err
	}
	pending, err := c.GroupOffsets(ctx, id, true)
	if err != nil {
		return nil, err
	}
	lines := lagLines(g, offsets, pending)
	at := make(map[record.TopicPartition]client.Position)
	for _, l := range lines {
		at[record.TopicPartition{Topic: l.Topic, Partition: l.Partition}] = client.End()
	}
	ends, err := c.ListOffsets(ctx, client.ReadUncommitted, at)
	if err != nil {
		return nil, err
	}
	stable, err := c.ListOffsets(ctx, client.ReadCommitted, at)
	if err != nil {
		return nil, err
	}
	for i := range lines {
		l := &lines[i]
		tp := record.TopicPartition{Topic: l.Topic, Partition: l.Partition}
		if err := errors.Join(ends[tp].Err, stable[tp].Err); err != nil {
			l.Error = err.Error()
			continue
		}
		l.End, l.Stable = ends[tp].Offset, stable[tp].Offset
		l.Blocked = max(0, int64(l.End-l.Stable))
		if l.Committed >= 0 {
			l.Readable = max(0, int64(l.Stable-l.Committed))
		}
	}
	addHolders(ctx, c, lines)
	return lines, nil
}

// lagLines has a line for each partition that the group has an offset of, or a member.
func lagLines(g client.Group, offsets, pending []client.CommittedOffset) []lagJSON {
	member := make(map[record.TopicPartition]string)
	for _, m := range g.Members {
		for _, tp := range m.Assigned {
			member[tp] = cmp.Or(m.InstanceID, m.MemberID)
		}
	}
	var lines []lagJSON
	add := func(tp record.TopicPartition, committed record.Offset) {
		unstable := slices.ContainsFunc(pending, func(o client.CommittedOffset) bool { return o.TopicPartition == tp && o.Unstable })
		lines = append(lines, lagJSON{Topic: tp.Topic, Partition: tp.Partition, Committed: committed, Stable: -1, End: -1, Readable: -1, Blocked: -1,
			Member: member[tp], Unstable: unstable})
		delete(member, tp)
	}
	for _, o := range offsets {
		add(o.TopicPartition, o.Offset)
	}
	for tp := range member {
		add(tp, record.NoOffset)
	}
	slices.SortFunc(lines, func(a, b lagJSON) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return lines
}

// addHolders names what holds the partitions in which something is blocked. Where nobody can say, it stays empty.
func addHolders(ctx context.Context, c *client.Client, lines []lagJSON) {
	var tps []record.TopicPartition
	at := make(map[record.TopicPartition]*lagJSON)
	for i := range lines {
		if l := &lines[i]; l.Blocked > 0 {
			tp := record.TopicPartition{Topic: l.Topic, Partition: l.Partition}
			tps, at[tp] = append(tps, tp), l
		}
	}
	held, err := c.WhatHolds(ctx, tps...)
	if err != nil {
		return
	}
	for _, h := range held {
		switch {
		case len(h.Open) == 0:
		case h.Open[0].Transaction != nil:
			at[h.TopicPartition].HeldBy = h.Open[0].Transaction.TransactionalID
		default:
			at[h.TopicPartition].HeldBy = fmt.Sprintf("producer %d", h.Open[0].ProducerID)
		}
	}
}

// What is counted unless all is to be.
const (
	countedOffsets = 10_000
	countedFor     = 3 * time.Second
)

// counting is a partition on the way from its committed offset to the last stable one.
type counting struct {
	line *lagJSON
	n    int64
}

// countReadable replaces distances between offsets by the number of records that a reader of committed data gets. What is too far, or
// not read in time, stays an upper bound, unless all is to be counted.
func countReadable(ctx context.Context, c *client.Client, lines []lagJSON, all bool) error {
	k, err := c.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	if err != nil {
		return err
	}
	defer func() { _ = k.Close(closedContext()) }() // it only reads
	open := make(map[record.TopicPartition]*counting)
	for i := range lines {
		l := &lines[i]
		if l.AtMost = l.Readable > 0; l.AtMost && (all || l.Readable <= countedOffsets) {
			open[record.TopicPartition{Topic: l.Topic, Partition: l.Partition}] = &counting{line: l}
		}
	}
	if err := k.Assign(ctx, slices.Collect(maps.Keys(open))...); err != nil {
		return err
	}
	for tp, at := range open {
		if err := k.Seek(tp, client.At(at.line.Committed)); err != nil {
			return err
		}
	}
	bounded := ctx
	if !all {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, countedFor)
		defer cancel()
	}
	for len(open) > 0 {
		got, err := k.Poll(bounded)
		switch {
		case err != nil && ctx.Err() == nil && bounded.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		for i := range got {
			if err := countFetched(&got[i], open); err != nil {
				return err
			}
		}
	}
	return nil
}

// countFetched counts whole batches by their headers, and looks into those that only partly count.
func countFetched(f *client.Fetched, open map[record.TopicPartition]*counting) error {
	at := open[f.TopicPartition]
	switch {
	case at == nil:
		return nil
	case f.Err != nil:
		return f.Err
	}
	for _, b := range f.Batches() {
		if b.BaseOffset() >= at.line.Committed && b.LastOffset() < at.line.Stable {
			at.n += int64(b.Count())
			continue
		}
		records, err := b.Records(0)
		if err != nil {
			return err
		}
		for records.Next() {
			if o := records.Record().Offset; o >= at.line.Committed && o < at.line.Stable {
				at.n++
			}
		}
		if err := records.Err(); err != nil {
			return err
		}
		records.Close()
	}
	if f.Next >= at.line.Stable {
		at.line.Readable, at.line.AtMost = at.n, false
		delete(open, f.TopicPartition)
	}
	return nil
}

func lagTable(lines []lagJSON) *table {
	t := newTable("PARTITION", ">COMMITTED", ">READABLE", ">BLOCKED", "HELD BY", "MEMBER")
	for _, l := range lines {
		committed := dash(l.Committed)
		if l.Unstable {
			committed += "?"
		}
		held := cmp.Or(clipped(l.HeldBy, 24), "-")
		if l.Error != "" {
			held = clipped(l.Error, 40)
		}
		readable := dash(l.Readable)
		if l.AtMost {
			readable = "<=" + readable
		}
		t.row(fmt.Sprintf("%s/%d", clipped(l.Topic, 24), l.Partition), committed, readable, dash(l.Blocked), held, cmp.Or(clipped(l.Member, 16), "-"))
	}
	return t
}
