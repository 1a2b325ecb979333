// Command postgres keeps the balances of accounts in PostgreSQL, each order counted exactly once. A transaction of the log cannot
// span a database, so it is the other way round: the database keeps how far it has come, and changes balances and that position in one
// transaction of its own. What the group has committed in the log does not matter, and is there for people to look at.
//
// Three things make it exact:
//
//   - Results and position are stored together. Whatever dies, both are there or neither.
//   - Whoever gets a partition begins where the database says, not where the group has committed.
//   - The position only moves on from where its reader began. A worker that was taken for dead and wakes up has read from an old
//     position: its transaction changes nothing.
//
// A name for each order that the database refuses twice would do as well, and would cost a row for each order for ever.
package main

import (
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
)

func main() {
	var (
		bootstrap = flag.String("bootstrap", "localhost:9095,localhost:10095,localhost:11095", "gRPC addresses of some brokers")
		database  = flag.String("database", "postgres://oncelog@127.0.0.1:54321/postgres", "URL of the database")
		crash     = flag.String("crash", "", "die, as by kill -9, at a moment: read, booked or stored")
		after     = flag.Int("after", 1, "at which of these moments to die")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Split(*bootstrap, ","), *database, dieAt(*crash, *after)); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// dieAt ends the program at the nth moment of a name.
func dieAt(name string, n int) func(moment string) {
	return func(moment string) {
		if moment != name {
			return
		}
		if n--; n <= 0 {
			fmt.Fprintf(os.Stderr, "killed when %s\n", moment)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it does not return
		}
	}
}

const orders = "orders"

// run books orders until ctx ends. moment is told where it is: read, before the database hears of anything; booked, before its transaction is
// committed; stored, after.
func run(ctx context.Context, bootstrap []string, database string, moment func(string)) error {
	s, err := openSink(ctx, database)
	if err != nil {
		return err
	}
	defer s.close()
	c, err := client.New(client.Config{Bootstrap: bootstrap, ClientID: "postgres"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.Background()) }() // it leaves the group
	_, err = c.CreateTopic(ctx, client.TopicSpec{Name: orders, Partitions: 3, WaitReady: 10 * time.Second})
	if err != nil && !errors.Is(err, client.ErrTopicAlreadyExists) {
		return err
	}
	w := &worker{s: s, moment: moment}
	w.group, err = c.NewGroupConsumer(client.GroupConfig{
		GroupID: "postgres", Topics: []string{orders}, OnAssigned: w.assigned,
		ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted, MaxPollBytes: 4 << 10}, // small transactions, to be killed in many places
	})
	if err != nil {
		return err
	}
	return w.work(ctx)
}
