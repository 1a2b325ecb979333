package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// consumeOptions are the flags of consume.
type consumeOptions struct {
	topic      string
	partitions []int32
	from       string
	count      int64
	follow     bool
	format     string
	isolation  string
	// control: show markers, and beside each record its producer and outcome.
	control bool
}

func (p *program) consumeCommand() *cobra.Command {
	var o consumeOptions
	cmd := &cobra.Command{
		Use:   "consume TOPIC[/PARTITION,...]",
		Short: "Read records",
		Long: `Read records and print their values, one a line, from the beginning to what is the end
when the command starts; with --follow, go on.

--from takes:
  beginning, end   the oldest record; behind the newest (with --follow).
                   earliest and latest, as Kafka calls them, will do
  1234             that offset
  -100             100 offsets before the end of each partition
  2026-11-22T10:00:00Z, or -15m   the first record at or after that time

--format takes, as kcat does:
  %t topic   %p partition   %o offset   %T timestamp in ms   %h headers
  %k key     %K its length (-1: null)   %s value             %S its length
  %i producer id (-1: none)   %e its epoch   %q sequence     %r outcome, see below
  %% a percent sign, \n \t \\ \0 as usual

--show-control prints markers of transactions too, and beside each record its producer,
epoch, sequence and the outcome of its transaction: committed, aborted, open, or plain
for a record outside of any. To know it, the command reads ahead to the marker.`,
		Example: `  brokerctl consume greetings
  brokerctl consume orders/0,1 --from -10 --format '%p/%o %k=%s\n'
  brokerctl consume logs --follow --from end
  brokerctl consume orders --from -1h -o json | jq .value
  brokerctl consume orders/0 --from -20 --show-control
  brokerctl consume orders --isolation read_committed`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, parts, err := parsePartitions(args[0])
			if err != nil {
				return err
			}
			o.topic, o.partitions = topic, parts
			if _, ok := isolations[o.isolation]; !ok {
				return usagef("flag --isolation: %q, want read_uncommitted or read_committed", o.isolation)
			}
			if o.count < 0 {
				return usagef("flag --count: %d is below 0", o.count)
			}
			return p.with(func(c *client.Client) error { return p.consume(cmd.Context(), c, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.from, "from", "f", "beginning", "where to begin, see above")
	f.Int64VarP(&o.count, "count", "n", 0, "stop after so many records; 0: no limit")
	f.BoolVarP(&o.follow, "follow", "F", false, "wait for more records at the end")
	f.StringVar(&o.format, "format", "", "how to print a record, see above (default \"%s\\n\")")
	f.StringVar(&o.isolation, "isolation", "read_uncommitted", "read_committed: only records of committed transactions, or of none")
	f.BoolVar(&o.control, "show-control", false, "also markers; and each record's producer, sequence and outcome")
	_ = cmd.RegisterFlagCompletionFunc("isolation", cobra.FixedCompletions([]string{"read_committed", "read_uncommitted"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}

// isolations are the values of --isolation.
var isolations = map[string]client.Isolation{"read_uncommitted": client.ReadUncommitted, "read_committed": client.ReadCommitted}

// parsePartitions reads TOPIC or TOPIC/0,2.
func parsePartitions(s string) (topic string, partitions []int32, err error) {
	topic, rest, some := strings.Cut(s, "/")
	if !some {
		return topic, nil, nil
	}
	for n := range strings.SplitSeq(rest, ",") {
		tp, err := parseTopicPartition(topic + "/" + n)
		if err != nil {
			return "", nil, err
		}
		partitions = append(partitions, tp.Partition)
	}
	return topic, partitions, nil
}

// consumed is one partition's way from where it begins to where it stops.
type consumed struct {
	from client.Position
	stop record.Offset // exclusive; meaningful without --follow
}

func (p *program) consume(ctx context.Context, c *client.Client, o *consumeOptions) error {
	print, outcomes, err := p.recordPrinter(o)
	if err != nil {
		return err
	}
	plan, err := o.plan(ctx, c)
	if err != nil {
		return err
	}
	k, err := consumerOf(ctx, c, client.ConsumerConfig{Isolation: isolations[o.isolation], ControlBatches: o.control}, plan)
	if err != nil {
		return err
	}
	if len(plan) == 0 {
		p.sayf("nothing to read: --follow waits for records")
		return nil
	}
	var ahead *scout
	if outcomes {
		if ahead, err = newScout(ctx, c, plan); err != nil {
			return err
		}
	}
	if o.control && !p.json() && o.format == "" {
		p.sayf(columns, "PARTITION/OFFSET", "PRODUCER/EPOCH", "SEQUENCE", "OUTCOME", "VALUE")
	}
	n, err := p.readAll(ctx, k, ahead, o, plan, print)
	if errors.Is(err, context.Canceled) && o.follow {
		err = nil // this is how one stops following
	}
	if err == nil && !p.json() {
		p.sayf("%s", plural(n, "record"))
	}
	return err
}

// consumerOf is a consumer at the beginning of what is to be read.
func consumerOf(ctx context.Context, c *client.Client, cfg client.ConsumerConfig, plan map[record.TopicPartition]consumed) (*client.Consumer, error) {
	cfg.Reset = client.ResetError
	k, err := c.NewConsumer(cfg)
	if err != nil {
		return nil, err
	}
	if err := k.Assign(ctx, slices.Collect(maps.Keys(plan))...); err != nil {
		return nil, err
	}
	for tp, way := range plan {
		if err := k.Seek(tp, way.from); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// plan says what to read. Without --follow, partitions with nothing to read are left out.
func (o *consumeOptions) plan(ctx context.Context, c *client.Client) (map[record.TopicPartition]consumed, error) {
	m, err := c.Metadata(ctx, o.topic)
	if err != nil {
		return nil, err
	}
	topic := m.Topics[0]
	if topic.Err != nil {
		return nil, topic.Err
	}
	if len(o.partitions) > 0 {
		chosen := make([]client.Partition, 0, len(o.partitions))
		for _, n := range o.partitions {
			if int(n) >= len(topic.Partitions) {
				return nil, &client.Error{Reason: client.ReasonUnknownTopicOrPartition, Outcome: client.NotWritten,
					Message: fmt.Sprintf("topic %s has partitions 0 to %d, not %d", o.topic, len(topic.Partitions)-1, n)}
			}
			chosen = append(chosen, client.Partition{Partition: n})
		}
		topic.Partitions = chosen
	}
	e, err := lookUpEnds(ctx, c, topic, isolations[o.isolation])
	if err != nil {
		return nil, err
	}
	plan := make(map[record.TopicPartition]consumed, len(topic.Partitions))
	var beyond *client.Error // the first partition that ends before --from
	for _, part := range topic.Partitions {
		start, end := e[part.Partition][0], e[part.Partition][1]
		if err := errors.Join(start.Err, end.Err); err != nil {
			return nil, err
		}
		from, at, err := parseFrom(o.from, start.Offset, end.Offset)
		if err != nil {
			return nil, err
		}
		tp := record.TopicPartition{Topic: o.topic, Partition: part.Partition}
		if o.follow || at < end.Offset {
			plan[tp] = consumed{from: from, stop: end.Offset}
		} else if at > end.Offset && beyond == nil {
			beyond = &client.Error{Reason: client.ReasonOffsetOutOfRange, Outcome: client.NotWritten, TopicPartition: tp,
				Message: fmt.Sprintf("there is no offset %d yet, the end is %d", at, end.Offset)}
		}
	}
	if len(plan) == 0 && beyond != nil {
		return nil, beyond
	}
	return plan, nil
}

// parseFrom reads --from. at is the offset, as far as it is known without a broker.
func parseFrom(s string, start, end record.Offset) (from client.Position, at record.Offset, err error) {
	switch s {
	case "beginning", "earliest":
		return client.Beginning(), start, nil
	case "end", "latest":
		return client.At(end), end, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 {
			at := max(start, end+record.Offset(n))
			return client.At(at), at, nil
		}
		return client.At(record.Offset(n)), record.Offset(n), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d < 0 {
		return client.Since(time.Now().Add(d)), start, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return client.Since(t), start, nil
		}
	}
	return client.Position{}, 0, usagef("flag --from: %q, want beginning, end, an offset, -N, a time such as 2026-11-22T10:00:00Z, or -15m", s)
}

// readAll prints records until every partition is at its stop, the count is reached, or ctx ends.
func (p *program) readAll(ctx context.Context, k *client.Consumer, ahead *scout, o *consumeOptions, plan map[record.TopicPartition]consumed,
	print func(shown) ([]byte, error)) (n int64, err error) {
	out := bufio.NewWriterSize(p.stdout, 64<<10)
	defer func() {
		if flushErr := out.Flush(); err == nil {
			err = flushErr
		}
	}()
	left := len(plan)
	reached := make(map[record.TopicPartition]bool)
	for left > 0 {
		// What holds nothing to show never comes out of Poll, but moves the position: look at that now
		// and then.
		pollCtx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		fs, err := k.Poll(pollCtx)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return n, err
		}
		for i := range fs {
			f := &fs[i]
			if f.Err != nil {
				return n, f.Err
			}
			batches := f.Batches()
			for r, err := range f.Records() {
				if err != nil {
					return n, err
				}
				if !o.follow && r.Offset >= plan[f.TopicPartition].stop {
					break
				}
				for batches[0].LastOffset() < r.Offset {
					batches = batches[1:]
				}
				s := shown{TopicPartition: f.TopicPartition, Record: r, batch: batches[0]}
				if ahead != nil {
					if s.outcome, err = ahead.outcome(ctx, f, s.batch); err != nil {
						return n, err
					}
				}
				line, err := print(s)
				if err != nil {
					return n, err
				}
				if _, err := out.Write(line); err != nil {
					return n, err
				}
				if n++; n == o.count {
					return n, nil
				}
			}
		}
		if o.follow {
			if err := out.Flush(); err != nil {
				return n, err
			}
			continue
		}
		for tp, way := range plan {
			if pos, ok, err := k.Position(tp); err == nil && ok && pos >= way.stop && !reached[tp] {
				reached[tp] = true
				left--
			}
		}
	}
	return n, nil
}
