package brokertest

import (
	"context"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// TestClusterWritesAndReads: three brokers take a record and give it back, also after a restart.
func TestClusterWritesAndReads(t *testing.T) {
	c := Start(t, Options{})
	cl := c.Client()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateTopic(ctx, client.TopicSpec{Name: "smoke", Partitions: 1, ReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	if err := cl.WaitReady(ctx, "smoke"); err != nil {
		t.Fatal(err)
	}
	p, err := cl.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if res := p.SendSync(ctx, client.Record{Topic: "smoke", Value: []byte("hello")}); res.Outcome != client.Written || res.Offset != 0 {
		t.Fatal(res)
	}
	c.Stop(1)
	c.Restart(1)
	k, err := cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Assign(ctx, record.TopicPartition{Topic: "smoke"}); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := k.Poll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			for r, err := range f.Records() {
				if err != nil || string(r.Value) != "hello" {
					t.Fatalf("read %q, %v", r.Value, err)
				}
				return
			}
		}
	}
}
