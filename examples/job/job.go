// Package job is what the examples have in common: the work, its topics, and a crash at the worst moment. What differs between the examples,
// and matters, is in their main.go: the order in which they read, write and commit.
package job

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// The topics: orders are read, each one becomes an entry of the ledger.
const (
	Orders = "orders"
	Ledger = "ledger"
)

// Job is one run of an example.
type Job struct {
	Client *client.Client
	// Context ends when the program is told to stop.
	Context context.Context
	// Group is the consumer group; its members share the orders.
	Group client.GroupConfig

	crashAt int
	entries int
}

// Start reads the flags, connects, and makes the topics if they are not there. The group has the example's name.
func Start(name string) *Job {
	bootstrap := flag.String("bootstrap", "localhost:9095,localhost:10095,localhost:11095", "gRPC addresses of some brokers")
	crash := flag.Int("crash", 0, "die, as by kill -9, at the worst moment after so many orders; 0: never")
	flag.Parse()
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c, err := client.New(client.Config{Bootstrap: strings.Split(*bootstrap, ","), ClientID: name})
	Must(err)
	for _, topic := range []string{Orders, Ledger} {
		_, err := c.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 3, WaitReady: 10 * time.Second})
		if !errors.Is(err, client.ErrTopicAlreadyExists) {
			Must(err)
		}
	}
	return &Job{Client: c, Context: ctx, crashAt: *crash, Group: client.GroupConfig{
		GroupID: name, Topics: []string{Orders}, ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted},
	}}
}

// Entry is the work: the ledger's entry for an order.
func (j *Job) Entry(order *record.Record) client.Record {
	j.entries++
	return client.Record{Topic: Ledger, Key: bytes.Clone(order.Key), Value: fmt.Appendf(nil, "booked: %s", order.Value)}
}

// WorstMoment is where a crash hurts most. Each example says where that is.
func (j *Job) WorstMoment() {
	if j.crashAt > 0 && j.entries >= j.crashAt {
		fmt.Fprintf(os.Stderr, "crashed after %d orders\n", j.entries)
		os.Exit(137)
	}
}

// Stopped says whether an error is only that the program was told to stop.
func (j *Job) Stopped(err error) bool { return err != nil && j.Context.Err() != nil }

// Must ends the program with an error.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
