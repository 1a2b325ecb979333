package apachekafka

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Three brokers come up, take a record and give it back, and go on when one is killed.
func TestCluster(t *testing.T) {
	if _, err := Classpath(DefaultVersion); err != nil {
		if os.Getenv("COMPAT_REQUIRED") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := New(ctx, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.KafkaAddrs()...), kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"before", "after"} {
		if i == 1 {
			if err := c.Broker(1).Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.ProduceSync(ctx, kgo.StringRecord(want)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if got := cl.PollFetches(ctx).Records(); len(got) != 1 || string(got[0].Value) != want {
			t.Errorf("read %v, want %q", got, want)
		}
	}
}
