package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
	committed  bool
}

func (p *program) consumeCommand() *cobra.Command {
	var o consumeOptions
	cmd := &cobra.Command{
		Use:   "consume TOPIC[/PARTITION,...]",
		Short: "Read records",
		Long: `Read records and print their values, one a line, from the beginning to what is the end
when the command starts; with --follow, go on.

--from takes:
  beginning, end   the oldest record; behind the newest (with --follow)
  1234             that offset
  -100             100 offsets before the end of each partition
  2026-11-22T10:00:00Z, or -15m   the first record at or after that time

--format takes, as kcat does:
  %t topic   %p partition   %o offset   %T timestamp in ms   %h headers
  %k key     %K its length (-1: null)   %s value             %S its length
  %% a percent sign, \n \t \\ \0 as usual`,
		Example: `  brokerctl consume greetings
  brokerctl consume orders/0,1 --from -10 --format '%p/%o %k=%s\n'
  brokerctl consume logs --follow --from end
  brokerctl consume orders --from -1h -o json | jq .value`,
		Args:              exactly("TOPIC"),
		ValidArgsFunction: p.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, parts, err := parsePartitions(args[0])
			if err != nil {
				return err
			}
			o.topic, o.partitions = topic, parts
			return p.with(func(c *client.Client) error { return p.consume(cmd.Context(), c, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.from, "from", "f", "beginning", "where to begin, see above")
	f.Int64VarP(&o.count, "count", "n", 0, "stop after so many records; 0: no limit")
	f.BoolVarP(&o.follow, "follow", "F", false, "wait for more records at the end")
	f.StringVar(&o.format, "format", `%s\n`, "how to print a record, see above")
	f.BoolVar(&o.committed, "committed", false, "only records of committed transactions, or of none")
	return cmd
}

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

func (o *consumeOptions) isolation() client.Isolation {
	if o.committed {
		return client.ReadCommitted
	}
	return client.ReadUncommitted
}

// consumed is one partition's way from where it begins to where it stops.
type consumed struct {
	from client.Position
	stop record.Offset // exclusive; meaningful without --follow
}

func (p *program) consume(ctx context.Context, c *client.Client, o *consumeOptions) error {
	print, err := p.recordPrinter(o.format)
	if err != nil {
		return err
	}
	plan, err := o.plan(ctx, c)
	if err != nil {
		return err
	}
	k, err := c.NewConsumer(client.ConsumerConfig{Reset: client.ResetError, Isolation: o.isolation()})
	if err != nil {
		return err
	}
	tps := make([]record.TopicPartition, 0, len(plan))
	for tp := range plan {
		tps = append(tps, tp)
	}
	if err := k.Assign(ctx, tps...); err != nil {
		return err
	}
	for tp, way := range plan {
		if err := k.Seek(tp, way.from); err != nil {
			return err
		}
	}
	if len(plan) == 0 {
		p.sayf("nothing to read: --follow waits for records")
		return nil
	}
	n, err := p.readAll(ctx, k, o, plan, print)
	if errors.Is(err, context.Canceled) && o.follow {
		err = nil // this is how one stops following
	}
	if err == nil && !p.json() {
		p.sayf("%s", plural(n, "record"))
	}
	return err
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
	e, err := lookUpEnds(ctx, c, topic, o.isolation())
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
	case "beginning":
		return client.Beginning(), start, nil
	case "end":
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
func (p *program) readAll(ctx context.Context, k *client.Consumer, o *consumeOptions, plan map[record.TopicPartition]consumed,
	print func(record.TopicPartition, *record.Record) ([]byte, error)) (n int64, err error) {
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
			for r, err := range f.Records() {
				if err != nil {
					return n, err
				}
				if !o.follow && r.Offset >= plan[f.TopicPartition].stop {
					break
				}
				line, err := print(f.TopicPartition, r)
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

// recordJSON is one record as -o json shows it, one a line. Keys and values that are not text are
// in base64, in fields of their own.
type recordJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Offset    record.Offset `json:"offset"`
	Timestamp int64         `json:"timestamp_ms"`
	Key       *string       `json:"key"`
	KeyBase64 string        `json:"key_base64,omitempty"`
	Value     *string       `json:"value"`
	ValueB64  string        `json:"value_base64,omitempty"`
	Headers   []headerJSON  `json:"headers,omitempty"`
}

type headerJSON struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Base64 string  `json:"value_base64,omitempty"`
}

// text gives bytes as a string, or in base64 where they are none.
func text(b []byte) (*string, string) {
	if b == nil {
		return nil, ""
	}
	if !utf8.Valid(b) {
		return nil, base64.StdEncoding.EncodeToString(b)
	}
	s := string(b)
	return &s, ""
}

// recordPrinter gives the function that prints a record.
func (p *program) recordPrinter(format string) (func(record.TopicPartition, *record.Record) ([]byte, error), error) {
	if !p.json() {
		return parseFormat(format)
	}
	return func(tp record.TopicPartition, r *record.Record) ([]byte, error) {
		out := recordJSON{Topic: tp.Topic, Partition: tp.Partition, Offset: r.Offset, Timestamp: r.Timestamp}
		out.Key, out.KeyBase64 = text(r.Key)
		out.Value, out.ValueB64 = text(r.Value)
		for _, h := range r.Headers {
			hj := headerJSON{Name: h.Key}
			hj.Value, hj.Base64 = text(h.Value)
			out.Headers = append(out.Headers, hj)
		}
		b, err := json.Marshal(out)
		return append(b, '\n'), err
	}, nil
}

// parseFormat makes a printer of a --format.
func parseFormat(format string) (func(record.TopicPartition, *record.Record) ([]byte, error), error) {
	type piece func(b []byte, tp record.TopicPartition, r *record.Record) []byte
	var pieces []piece
	literal := func(s string) {
		pieces = append(pieces, func(b []byte, _ record.TopicPartition, _ *record.Record) []byte { return append(b, s...) })
	}
	verbs := map[byte]piece{
		't': func(b []byte, tp record.TopicPartition, _ *record.Record) []byte { return append(b, tp.Topic...) },
		'p': func(b []byte, tp record.TopicPartition, _ *record.Record) []byte {
			return strconv.AppendInt(b, int64(tp.Partition), 10)
		},
		'o': func(b []byte, _ record.TopicPartition, r *record.Record) []byte {
			return strconv.AppendInt(b, int64(r.Offset), 10)
		},
		'T': func(b []byte, _ record.TopicPartition, r *record.Record) []byte {
			return strconv.AppendInt(b, r.Timestamp, 10)
		},
		'k': func(b []byte, _ record.TopicPartition, r *record.Record) []byte { return append(b, r.Key...) },
		's': func(b []byte, _ record.TopicPartition, r *record.Record) []byte { return append(b, r.Value...) },
		'K': func(b []byte, _ record.TopicPartition, r *record.Record) []byte { return appendLength(b, r.Key) },
		'S': func(b []byte, _ record.TopicPartition, r *record.Record) []byte { return appendLength(b, r.Value) },
		'h': func(b []byte, _ record.TopicPartition, r *record.Record) []byte {
			for i, h := range r.Headers {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(append(append(b, h.Key...), '='), h.Value...)
			}
			return b
		},
		'%': func(b []byte, _ record.TopicPartition, _ *record.Record) []byte { return append(b, '%') },
	}
	escapes := map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '0': "\x00", '\\': "\\"}
	for i := 0; i < len(format); i++ {
		c := format[i]
		if c != '%' && c != '\\' {
			literal(string(c))
			continue
		}
		i++
		if i == len(format) {
			return nil, usagef("flag --format: ends with %q; %q stands for itself doubled", c, c)
		}
		if verb := verbs[format[i]]; c == '%' && verb != nil {
			pieces = append(pieces, verb)
		} else if s, ok := escapes[format[i]]; c == '\\' && ok {
			literal(s)
		} else {
			return nil, usagef("flag --format: %q is unknown (see %q)", string(c)+format[i:i+1], "brokerctl consume --help")
		}
	}
	var buf []byte
	return func(tp record.TopicPartition, r *record.Record) ([]byte, error) {
		buf = buf[:0]
		for _, f := range pieces {
			buf = f(buf, tp, r)
		}
		return buf, nil
	}, nil
}

func appendLength(b, v []byte) []byte {
	if v == nil {
		return append(b, "-1"...)
	}
	return strconv.AppendInt(b, int64(len(v)), 10)
}
