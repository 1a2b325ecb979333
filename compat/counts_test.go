package compat

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// counts demands that a topic holds so many committed records, each once.
func counts(t *testing.T, ctx context.Context, c *brokerproc.Cluster, topic string, want int) {
	t.Helper()
	seen := map[string]int{}
	reader := franzClient(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer reader.Close()
	for total := 0; total < want; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%s: after %d of %d: %v", topic, total, want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; total++ })
	}
	for v, n := range seen {
		if n != 1 {
			t.Errorf("%s: %s is there %d times", topic, v, n)
		}
	}
	if len(seen) != want {
		t.Errorf("%s holds %d different records, want %d", topic, len(seen), want)
	}
}
