package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/history"
	"github.com/oncelog/oncelog/record"
)

// tailer reads all partitions of a topic from where they start, and takes down what it gets.
type tailer struct {
	k     *client.Consumer
	notes *history.Consumer
	from  offsets
}

type offsets map[record.TopicPartition]record.Offset

// newTailer begins to read. It asks where the logs start until it is told or ctx ends.
func newTailer(ctx context.Context, cl *client.Client, topic string, isolation client.Isolation, h *history.Recorder) (*tailer, error) {
	from, err := lookUp(ctx, cl, topic, isolation, client.Beginning())
	if err != nil {
		return nil, err
	}
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetError, Isolation: isolation})
	if err != nil {
		return nil, err
	}
	t := &tailer{k: k, notes: h.NewConsumer(isolation == client.ReadUncommitted), from: from}
	if err := k.AssignTopic(ctx, topic, client.Beginning()); err != nil {
		t.close(ctx)
		return nil, err
	}
	for tp, at := range from {
		if err := k.Seek(tp, client.At(at)); err != nil {
			t.close(ctx)
			return nil, err
		}
		t.notes.Assign(tp, at)
	}
	return t, nil
}

func (t *tailer) close(ctx context.Context) { _ = t.k.Close(ctx) } // never fails

// poll takes down the next records and gives the position after them for each partition.
func (t *tailer) poll(ctx context.Context) (offsets, error) {
	fetched, err := t.k.Poll(ctx)
	if err != nil {
		return nil, err
	}
	next := make(offsets)
	for i := range fetched {
		f := &fetched[i]
		if f.Err != nil {
			return nil, f.Err
		}
		var got []history.Got
		for rec, err := range f.Records() {
			if err != nil {
				return nil, err
			}
			got = append(got, history.Got{Offset: rec.Offset, Payload: rec.Value})
		}
		t.notes.Poll(f.TopicPartition, got, f.Next)
		next[f.TopicPartition] = f.Next
	}
	return next, nil
}

// ReadAlong reads while it is written, until ctx ends. The error says why it ended before.
func ReadAlong(ctx context.Context, cl *client.Client, topic string, isolation client.Isolation, h *history.Recorder) error {
	t, err := newTailer(ctx, cl, topic, isolation, h)
	for err == nil {
		_, err = t.poll(ctx)
	}
	if t != nil {
		t.close(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ReadBack reads the committed data of a topic from its start to its end as of the call. Nothing may be
// sent to it any more.
func ReadBack(ctx context.Context, cl *client.Client, topic string, h *history.Recorder) error {
	high, err := lookUp(ctx, cl, topic, client.ReadUncommitted, client.End())
	if err != nil {
		return err
	}
	ends, err := lookUp(ctx, cl, topic, client.ReadCommitted, client.End())
	if err != nil {
		return err
	}
	t, err := newTailer(ctx, cl, topic, client.ReadCommitted, h)
	if err != nil {
		return err
	}
	defer t.close(ctx)
	left := make(offsets)
	for tp, end := range ends {
		if end > t.from[tp] {
			left[tp] = end
		}
	}
	for len(left) > 0 {
		next, err := t.poll(ctx)
		if err != nil {
			return fmt.Errorf("read back, %d partitions left: %w", len(left), err)
		}
		for tp, at := range next {
			if at >= left[tp] {
				delete(left, tp)
			}
		}
	}
	for tp, end := range ends {
		t.notes.Final(tp, t.from[tp], end, max(end, high[tp]))
	}
	return nil
}

// lookUp finds a position in all partitions of a topic. A leader may just be moving: it asks again until
// ctx ends.
func lookUp(ctx context.Context, cl *client.Client, topic string, isolation client.Isolation, pos client.Position) (offsets, error) {
	for {
		found, err := lookUpNow(ctx, cl, topic, isolation, pos)
		if err == nil || !waitUntil(ctx, time.Now().Add(100*time.Millisecond), nil) {
			return found, err
		}
	}
}

func lookUpNow(ctx context.Context, cl *client.Client, topic string, isolation client.Isolation, pos client.Position) (offsets, error) {
	m, err := cl.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	at := make(map[record.TopicPartition]client.Position)
	for _, t := range m.Topics {
		if t.Err != nil {
			return nil, t.Err
		}
		for _, p := range t.Partitions {
			at[record.TopicPartition{Topic: t.Name, Partition: p.Partition}] = pos
		}
	}
	listed, err := cl.ListOffsets(ctx, isolation, at)
	if err != nil {
		return nil, err
	}
	out := make(offsets)
	for tp, l := range listed {
		if l.Err != nil {
			return nil, fmt.Errorf("look up %s: %w", tp, l.Err)
		}
		out[tp] = l.Offset
	}
	return out, nil
}

// Checksums takes down what each replica of a topic holds up to where the log ends as of the call. It
// asks until all replicas are there, or ctx ends.
func Checksums(ctx context.Context, cl *client.Client, topic string, replicas int, h *history.Recorder) error {
	ends, err := lookUp(ctx, cl, topic, client.ReadUncommitted, client.End())
	if err != nil {
		return err
	}
	for tp, end := range ends {
		for {
			sums, err := checksums(ctx, cl, tp, end, replicas)
			if err == nil {
				for _, s := range sums {
					h.Checksum(s.Broker, tp, s.From, s.UpTo, s.CRC32C)
				}
				break
			}
			if !waitUntil(ctx, time.Now().Add(100*time.Millisecond), nil) {
				return err
			}
		}
	}
	return nil
}

// checksums are those of all replicas over the same range; else the error says which one is missing.
func checksums(ctx context.Context, cl *client.Client, tp record.TopicPartition, end record.Offset, replicas int) ([]client.Checksum, error) {
	sums, failed, err := cl.Checksums(ctx, tp, end)
	switch {
	case err != nil:
		return nil, err
	case len(failed) > 0:
		return nil, fmt.Errorf("%s: %v", tp, failed)
	case len(sums) != replicas:
		return nil, fmt.Errorf("%s: %d replicas answered, want %d", tp, len(sums), replicas)
	}
	for _, s := range sums {
		if s.UpTo != end || s.From != sums[0].From {
			return nil, fmt.Errorf("%s: not all replicas are at offset %d: %+v", tp, end, sums)
		}
	}
	return sums, nil
}

// CompareReplicas says where replicas hold different records at equal offsets; nil: they agree.
func CompareReplicas(ctx context.Context, cl *client.Client, topic string, replicas int) error {
	h := history.NewRecorder()
	if err := Checksums(ctx, cl, topic, replicas, h); err != nil {
		return err
	}
	report, err := history.Check(h.Source(), history.Options{})
	if err == nil && report.Counts[history.ReplicasDiffer] > 0 {
		err = fmt.Errorf("%s", report)
	}
	return err
}
