package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/oncelog/oncelog/broker"
)

// banner is what brokerd dev says once it serves.
type banner struct {
	configs   []broker.Config
	data      string
	temporary bool
	took      time.Duration
}

func writeBanner(w io.Writer, b banner) {
	brokers := fmt.Sprintf("%d brokers are", len(b.configs))
	if len(b.configs) == 1 {
		brokers = "1 broker is"
	}
	kept := "kept at exit"
	if b.temporary {
		kept = "removed at exit"
	}
	fmt.Fprintf(w, "oncelog: %s ready after %s. Data: %s (%s)\n\n", brokers, b.took.Round(time.Millisecond), b.data, kept)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  broker\tKafka\tgRPC\tpeers\tmetrics and health")
	for _, cfg := range b.configs {
		fmt.Fprintf(table, "  %d\t%s\t%s\t%s\thttp://%s/metrics\n",
			cfg.BrokerID, cfg.Kafka[broker.DefaultListener].Listen, cfg.GRPC[broker.DefaultListener].Listen, cfg.Peer.Listen, cfg.HTTP.Listen)
	}
	_ = table.Flush() // Nobody reads the terminal: nothing to do about it.
	first := b.configs[0]
	fmt.Fprintf(w, `
Try next, in another terminal:
  export BROKERCTL_BOOTSTRAP=%s
  brokerctl topic create greetings --partitions 3      (or: go run ./cmd/brokerctl ...)
  printf 'one\ntwo\n' | brokerctl produce greetings
  brokerctl consume greetings
  brokerctl cluster status
  brokerd healthcheck --address %s
Ctrl-C stops the cluster.
`, first.GRPC[broker.DefaultListener].Listen, first.HTTP.Listen)
}
