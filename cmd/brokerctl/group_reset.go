package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) groupReset() *cobra.Command {
	var to string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "reset GROUP TOPIC[/PARTITION,...] --to POSITION",
		Short: "Set where a group goes on",
		Long: `Set the committed offsets of a group. It is refused while the group has members: stop
them first, or they would go on where they are.

--to takes:
  beginning, end   the oldest record; behind the newest (earliest and latest will do)
  1234             that offset, within each partition's range
  -100             100 offsets before the end of each partition
  2026-11-22T10:00:00Z, or -15m   the first record at or after that time`,
		Example: `  brokerctl group reset billing orders --to beginning --dry-run
  brokerctl group reset billing orders/0,3 --to -1h`,
		Args:              exactly("GROUP", "TOPIC"),
		ValidArgsFunction: p.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("flag --to is missing: where shall the group go on?")
			}
			topic, partitions, err := parsePartitions(args[1])
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				return p.reset(cmd.Context(), c, args[0], topic, partitions, to, dryRun)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "where to go on, see above (required)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be set, and set nothing")
	return cmd
}

// resetJSON is a partition whose offset is set, as -o json shows it.
type resetJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	From      record.Offset `json:"from"`
	To        record.Offset `json:"to"`
}

func (p *program) reset(ctx context.Context, c *client.Client, id, topic string, partitions []int32, to string, dryRun bool) error {
	if err := withoutMembers(ctx, c, id); err != nil {
		return err
	}
	targets, err := resetTargets(ctx, c, topic, partitions, to)
	if err != nil {
		return err
	}
	var tps []record.TopicPartition
	for tp := range targets {
		tps = append(tps, tp)
	}
	now, err := c.GroupOffsets(ctx, id, false, tps...)
	if err != nil {
		return err
	}
	lines := []resetJSON{}
	t := newTable("PARTITION", ">FROM", ">TO")
	slices.SortFunc(now, func(a, b client.CommittedOffset) int { return cmp.Compare(a.Partition, b.Partition) })
	for _, o := range now {
		lines = append(lines, resetJSON{o.Topic, o.Partition, o.Offset, targets[o.TopicPartition]})
		t.row(o.TopicPartition, dash(o.Offset), targets[o.TopicPartition])
	}
	if !dryRun {
		if err := c.SetGroupOffsets(ctx, id, targets); err != nil {
			return changing(err)
		}
	} else {
		p.sayf("nothing is set, since this is a dry run")
	}
	return p.show(lines, t)
}

// withoutMembers refuses a group that has members. The broker does so too; this says more.
func withoutMembers(ctx context.Context, c *client.Client, id string) error {
	g, err := c.DescribeGroup(ctx, id)
	var e *client.Error
	switch {
	case errors.As(err, &e) && e.Reason == "GROUP_ID_NOT_FOUND":
		return nil // it begins with these offsets
	case err != nil:
		return err
	case len(g.Members) > 0:
		return &client.Error{Reason: "NON_EMPTY_GROUP", Outcome: client.NotWritten,
			Message: fmt.Sprintf("group %s has %s, the first at %s: stop them first", id, plural(int64(len(g.Members)), "member"), g.Members[0].ClientAddress)}
	}
	return nil
}

// resetTargets finds the offset of each partition.
func resetTargets(ctx context.Context, c *client.Client, topic string, partitions []int32, to string) (client.Offsets, error) {
	m, err := c.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	t := m.Topics[0]
	if t.Err != nil {
		return nil, t.Err
	}
	for _, n := range partitions {
		if int(n) >= len(t.Partitions) {
			return nil, &client.Error{Reason: client.ReasonUnknownTopicOrPartition, Outcome: client.NotWritten,
				Message: fmt.Sprintf("topic %s has partitions 0 to %d, not %d", topic, len(t.Partitions)-1, n)}
		}
	}
	if partitions != nil {
		t.Partitions = slices.DeleteFunc(t.Partitions, func(p client.Partition) bool { return !slices.Contains(partitions, p.Partition) })
	}
	e, err := lookUpEnds(ctx, c, t, client.ReadUncommitted)
	if err != nil {
		return nil, err
	}
	targets, byTime := make(client.Offsets), make(map[record.TopicPartition]client.Position)
	for _, part := range t.Partitions {
		start, end := e[part.Partition][0], e[part.Partition][1]
		if err := errors.Join(start.Err, end.Err); err != nil {
			return nil, err
		}
		from, at, err := parseFrom(to, start.Offset, end.Offset)
		if err != nil {
			return nil, usagef("flag --to: %q, want beginning, end, an offset, -N, a time such as 2026-11-22T10:00:00Z, or -15m", to)
		}
		tp := record.TopicPartition{Topic: topic, Partition: part.Partition}
		targets[tp] = min(max(at, start.Offset), end.Offset)
		if from != client.At(at) && from != client.Beginning() {
			byTime[tp] = from
		}
	}
	if len(byTime) == 0 {
		return targets, nil
	}
	found, err := c.ListOffsets(ctx, client.ReadUncommitted, byTime)
	if err != nil {
		return nil, err
	}
	for tp, f := range found {
		switch {
		case f.Err != nil:
			return nil, f.Err
		case f.Offset < 0: // nothing is as young
			targets[tp] = e[tp.Partition][1].Offset
		default:
			targets[tp] = f.Offset
		}
	}
	return targets, nil
}
