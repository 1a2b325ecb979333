package compat

import (
	"context"
	"fmt"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// segmentio's kafka-go: writers with every codec and readers in a group, on versions that it pins. Its writer is not idempotent, so
// nothing is killed here.
func TestKafkaGo(t *testing.T) {
	ran(t, "kafka-go", moduleVersion("github.com/segmentio/kafka-go"), "writers with every codec, readers in a group")
	t.Parallel()
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "plain", 3)
	want := 0
	for _, codec := range []kafkago.Compression{0, kafkago.Gzip, kafkago.Snappy, kafkago.Lz4, kafkago.Zstd} {
		w := &kafkago.Writer{Addr: kafkago.TCP(c.KafkaAddrs()...), Topic: "plain", Compression: codec, RequiredAcks: kafkago.RequireAll, BatchTimeout: 10 * time.Millisecond}
		var list []kafkago.Message
		for k := range 400 {
			list = append(list, kafkago.Message{Key: fmt.Appendf(nil, "%d", k), Value: fmt.Appendf(nil, "%v-%d", codec, k)})
		}
		if err := w.WriteMessages(ctx, list...); err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		want += len(list)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	counts(t, ctx, c, "plain", want)
	r := kafkago.NewReader(kafkago.ReaderConfig{Brokers: c.KafkaAddrs(), GroupID: "kafka-go", Topic: "plain", MaxWait: 200 * time.Millisecond, StartOffset: kafkago.FirstOffset})
	defer r.Close()
	seen := map[string]bool{}
	for len(seen) < want {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			t.Fatalf("after %d: %v", len(seen), err)
		}
		seen[string(m.Value)] = true
		if len(seen)%500 == 0 {
			if err := r.CommitMessages(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
	}
}
