package compat

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// counts demands that a topic holds so many committed records, or one of so many, each once, and gives how many. It reads to the end: what is there
// twice may stand behind everything else. Whatever is last in a partition, a record or a marker, is shown to it.
func counts(t *testing.T, ctx context.Context, c *brokerproc.Cluster, topic string, want ...int) int {
	t.Helper()
	reader := franzClient(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer reader.Close()
	left := endsOf(t, ctx, reader, topic)
	seen := map[string]int{}
	for len(left) > 0 {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%s: %d different records, partitions %v not read to their ends: %v", topic, len(seen), left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				seen[string(r.Value)]++
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	for v, n := range seen {
		if n != 1 {
			t.Errorf("%s: %.60s is there %d times", topic, v, n)
		}
	}
	if !slices.Contains(want, len(seen)) {
		t.Errorf("%s holds %d different records, want %d", topic, len(seen), want)
	}
	return len(seen)
}

// endsOf gives the end of each partition that holds something.
func endsOf(t *testing.T, ctx context.Context, cl *kgo.Client, topic string) map[int32]int64 {
	t.Helper()
	for {
		listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
		if err == nil {
			err = listed.Error()
		}
		if err == nil {
			ends := make(map[int32]int64)
			listed.Each(func(o kadm.ListedOffset) {
				if o.Offset > 0 {
					ends[o.Partition] = o.Offset
				}
			})
			return ends
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: no ends: %v", topic, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// underWay waits until a job has written to a topic what it begins with.
func underWay(t *testing.T, ctx context.Context, cl *kgo.Client, topic string, least int64) {
	t.Helper()
	for {
		sum := int64(0)
		for _, end := range endsOf(t, ctx, cl, topic) {
			sum += end
		}
		if sum >= least {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: the job has written %d records, want %d", topic, sum, least)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
