package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

func (p *program) txnCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "txn",
		Aliases: []string{"transaction", "transactions"},
		Short:   "Show transactions, say what holds readers back, abort",
		Example: `  # Why do readers of committed data not go on?
  brokerctl txn why orders

  # What has been open for long?
  brokerctl txn list --open-for 1m`,
	})
	cmd.AddCommand(p.txnList(), p.txnDescribe(), p.txnWhy(), p.txnAbort())
	return cmd
}

// transactionJSON is a transactional id as -o json shows it. Times are in ms since 1970, -1 for none; producer ids and
// epochs that there are not are -1.
type transactionJSON struct {
	ID            string                  `json:"id"`
	State         client.TransactionState `json:"state"`
	ProducerID    record.ProducerID       `json:"producer_id"`
	Epoch         record.Epoch            `json:"epoch"`
	LastEpoch     record.Epoch            `json:"last_epoch"`
	Previous      record.ProducerID       `json:"previous_producer_id"`
	Next          record.ProducerID       `json:"next_producer_id"`
	TimeoutMS     int64                   `json:"timeout_ms"`
	StartedMS     int64                   `json:"started_ms"`
	UpdatedMS     int64                   `json:"updated_ms"`
	ClientVersion int                     `json:"client_version"`
	Coordinator   int32                   `json:"coordinator"`
	Partitions    []string                `json:"partitions,omitempty"`
	History       []transactionEventJSON  `json:"history,omitempty"`
}

type transactionEventJSON struct {
	Kind       client.TransactionEventKind `json:"kind"`
	TimeMS     int64                       `json:"time_ms"`
	ProducerID record.ProducerID           `json:"producer_id"`
	Epoch      record.Epoch                `json:"epoch"`
	ClientID   string                      `json:"client_id,omitempty"`
	Address    string                      `json:"address,omitempty"`
	Partition  string                      `json:"partition,omitempty"`
	Reason     string                      `json:"reason,omitempty"`
	// Expected and Received are absent where sequences were not the reason.
	Expected *record.Sequence `json:"expected_sequence,omitempty"`
	Received *record.Sequence `json:"received_sequence,omitempty"`
}

func describedTransaction(t client.Transaction) transactionJSON {
	out := transactionJSON{ID: t.TransactionalID, State: t.State, ProducerID: t.ProducerID, Epoch: t.Epoch, LastEpoch: t.LastEpoch,
		Previous: t.PreviousProducerID, Next: t.NextProducerID, TimeoutMS: t.Timeout.Milliseconds(), StartedMS: stampOf(t.Started),
		UpdatedMS: stampOf(t.Updated), ClientVersion: t.ClientVersion, Coordinator: t.Coordinator, Partitions: names(t.Partitions)}
	for _, e := range t.History {
		out.History = append(out.History, eventJSON(e))
	}
	return out
}

func eventJSON(e client.TransactionEvent) transactionEventJSON {
	j := transactionEventJSON{Kind: e.Kind, TimeMS: stampOf(e.Time), ProducerID: e.ProducerID, Epoch: e.Epoch, ClientID: e.ClientID, Address: e.ClientAddress}
	if e.Kind == client.EventBatchRefused {
		j.Partition, j.Reason = e.TopicPartition.String(), e.Reason
		if e.Received != record.NoSequence {
			j.Expected, j.Received = &e.Expected, &e.Received
		}
	}
	return j
}

// stampOf is ms since 1970, -1 for no time.
func stampOf(t time.Time) int64 {
	if t.IsZero() {
		return -1
	}
	return t.UnixMilli()
}

// unfinished says whether a transaction is open, or its markers are on their way.
func unfinished(s client.TransactionState) bool { return s == client.TransactionOngoing || ending(s) }

// ending says whether a transaction is decided and its markers are on their way.
func ending(s client.TransactionState) bool {
	return s == client.TransactionPrepareCommit || s == client.TransactionPrepareAbort
}

func (p *program) txnList() *cobra.Command {
	var f client.TransactionFilter
	var states []string
	var ids []int64
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List transactional ids and their latest transactions",
		Long: `List the transactional ids that brokers know, with the state of each one's latest
transaction. OPEN FOR is how long it has been open, or ending, by this machine's clock;
longer than TIMEOUT, its coordinator aborts it.

States: Empty (none since a producer took the id over), Ongoing, PrepareCommit and
PrepareAbort (decided, markers are being written), CompleteCommit, CompleteAbort.`,
		Example: `  brokerctl txn list
  brokerctl txn list --state Ongoing --open-for 5m
  brokerctl txn list --producer 4001
  brokerctl txn list --prefix billing- -o json | jq -r '.[].id'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range states {
				i := slices.IndexFunc(client.TransactionStates, func(known client.TransactionState) bool { return strings.EqualFold(string(known), s) })
				if i < 0 {
					return usagef("flag --state: %q is unknown: use one of %s", s, commaed(client.TransactionStates))
				}
				f.States = append(f.States, client.TransactionStates[i])
			}
			if f.OpenFor < 0 {
				return usagef("flag --open-for: %v is below 0", f.OpenFor)
			}
			for _, id := range ids {
				f.ProducerIDs = append(f.ProducerIDs, record.ProducerID(id))
			}
			return p.with(func(c *client.Client) error {
				list, truncated, err := c.ListTransactions(cmd.Context(), f)
				if err != nil {
					return err
				}
				if truncated {
					p.sayf("there are more than brokers tell at once: choose some with --prefix, --state or --open-for")
				}
				if len(list) == 0 {
					p.sayf("there are no such transactional ids: one begins when a producer with it is initialised")
				}
				out := []transactionJSON{}
				for _, t := range list {
					out = append(out, describedTransaction(t))
				}
				return p.show(out, p.transactionTable(list))
			})
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only in these states")
	cmd.Flags().DurationVar(&f.OpenFor, "open-for", 0, "only transactions that have been open, or ending, for so long")
	cmd.Flags().StringVar(&f.Prefix, "prefix", "", "only ids that begin so")
	cmd.Flags().Int64SliceVar(&ids, "producer", nil, "only ids with these producer ids")
	_ = cmd.RegisterFlagCompletionFunc("state", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, s := range client.TransactionStates {
			names = append(names, string(s))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}) // the flag is there
	return cmd
}

func (p *program) transactionTable(list []client.Transaction) *table {
	t := newTable("TRANSACTIONAL ID", "STATE", ">PRODUCER", ">EPOCH", ">OPEN FOR", ">TIMEOUT", ">COORDINATOR")
	for _, x := range list {
		open := "-"
		if unfinished(x.State) {
			open = p.since(x.Started)
		}
		t.row(clipped(x.TransactionalID, 32), x.State, x.ProducerID, x.Epoch, open, short(x.Timeout), x.Coordinator)
	}
	return t
}

// since is how long ago that was, "-" for never.
func (p *program) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(max(0, p.now().Sub(t)))
}

// short writes a duration with at most two units: 350ms, 12s, 4m10s, 3h, 5d2h.
func short(d time.Duration) string {
	for _, u := range []struct {
		unit, next time.Duration
		s, t       string
	}{{24 * time.Hour, time.Hour, "d", "h"}, {time.Hour, time.Minute, "h", "m"}, {time.Minute, time.Second, "m", "s"}} {
		if d < u.unit {
			continue
		}
		if rest := d % u.unit / u.next; rest > 0 {
			return fmt.Sprintf("%d%s%d%s", d/u.unit, u.s, rest, u.t)
		}
		return fmt.Sprintf("%d%s", d/u.unit, u.s)
	}
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func (p *program) txnDescribe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe ID",
		Short: "Show a transactional id, its transaction and its history",
		Long: `Show what the coordinator of a transactional id knows: its producer, the state of its
latest transaction and the partitions in it, and what happened to the id: who took it
over, who was fenced by whom, what timed out, what was aborted or refused.`,
		Example: `  brokerctl txn describe billing-1
  brokerctl txn describe billing-1 -o json | jq .history`,
		Args:              exactly("ID"),
		ValidArgsFunction: p.completeTransactions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				t, err := c.DescribeTransaction(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return p.showTransaction(t)
			})
		},
	}
}

func (p *program) showTransaction(t client.Transaction) error {
	if p.json() {
		return p.writeJSON(describedTransaction(t))
	}
	var b strings.Builder
	fact := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	fact("id", "%s", t.TransactionalID)
	fact("state", "%s since %s UTC, %s ago", t.State, shortStamp(stampOf(t.Updated)), p.since(t.Updated))
	fact("producer", "%d, epoch %d", t.ProducerID, t.Epoch)
	fact("coordinator", "broker %d", t.Coordinator)
	fact("timeout", "%s", short(t.Timeout))
	if unfinished(t.State) {
		fact("open for", "%s", p.since(t.Started))
	}
	if t.State == client.TransactionOngoing {
		fact("times out", "%s", p.untilTimeout(t))
	}
	for i, line := range wrapped(partitionLists(t.Partitions), 100-13) {
		fact([]string{"partitions", ""}[min(i, 1)], "%s", line)
	}
	if len(t.History) > 0 {
		b.WriteString("\n")
	}
	if err := writeTo(p.stdout, b.String()); err != nil || len(t.History) == 0 {
		return err
	}
	return eventTable(t.History).write(p.stdout)
}

func eventTable(history []client.TransactionEvent) *table {
	events := newTable("TIME (UTC)", "WHAT", ">PRODUCER", ">EPOCH", "BY")
	for _, e := range history {
		events.row(shortStamp(stampOf(e.Time)), e.Kind, e.ProducerID, e.Epoch, clipped(causeOf(e), 44))
	}
	return events
}

// causeOf says who, or what, an event comes from.
func causeOf(e client.TransactionEvent) string {
	switch {
	case e.Kind == client.EventBatchRefused && e.Received != record.NoSequence:
		return fmt.Sprintf("%v: sequence %d for %d, %s", e.TopicPartition, e.Received, e.Expected, e.Reason)
	case e.Kind == client.EventBatchRefused:
		return fmt.Sprintf("%v: %s", e.TopicPartition, e.Reason)
	case e.ClientID == "" && e.ClientAddress == "":
		return "its coordinator"
	}
	return fmt.Sprintf("%s at %s", cmp.Or(e.ClientID, "a client"), e.ClientAddress)
}

// untilTimeout says when the coordinator aborts a transaction that is open.
func (p *program) untilTimeout(t client.Transaction) string {
	if left := t.Started.Add(t.Timeout).Sub(p.now()); left > 0 {
		return fmt.Sprintf("in %s, if nobody ends it before", short(left))
	}
	return "its time is up: its coordinator aborts it within seconds"
}

// partitionLists is a word for each topic: orders/0,2.
func partitionLists(tps []record.TopicPartition) []string {
	if len(tps) == 0 {
		return nil
	}
	return strings.Split(shortPartitions(tps), " ")
}

// wrapped puts words into lines of at most width columns; a longer word has a line of its own, cut.
func wrapped(words []string, width int) (lines []string) {
	for _, w := range words {
		w = clipped(w, width)
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(w) <= width {
			lines[n-1] += " " + w
		} else {
			lines = append(lines, w)
		}
	}
	return lines
}

func (p *program) txnAbort() *cobra.Command {
	var only string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "abort ID",
		Short: "Abort the open transaction of a transactional id",
		Long: `Abort the open transaction of a transactional id against its producer. What it wrote
stays invisible to readers of committed data, who go on behind it. The producer is
fenced: its next write or commit is refused, and it has to be started anew, or begin
anew. Nothing that was committed is lost.

The coordinator decides: if the transaction ends first, nothing happens and the command
says so. --only guards against hitting the next transaction of the same id; "brokerctl
txn why" prints it. Without --no-wait the command waits until all markers are written.`,
		Example: `  brokerctl txn abort billing-1
  brokerctl txn abort --only 4001/2 billing-1`,
		Args:              exactly("ID"),
		ValidArgsFunction: p.completeTransactions,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, epoch, err := parseProducer(only)
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				t, err := c.DescribeTransaction(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if only != "" && (t.ProducerID != id || t.Epoch != epoch) {
					return fmt.Errorf("nothing is aborted: %s is at producer %d/%d now, not at %s: that transaction is over, and the id is %s; brokerctl txn describe %s shows it",
						args[0], t.ProducerID, t.Epoch, only, t.State, word(args[0]))
				}
				return p.abort(cmd.Context(), c, t, noWait)
			})
		},
	}
	cmd.Flags().StringVar(&only, "only", "", "PRODUCER/EPOCH: only if that producer's transaction is still open")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when it is decided, before all markers are written")
	return cmd
}

// parseProducer reads PRODUCER/EPOCH, or nothing.
func parseProducer(s string) (record.ProducerID, record.Epoch, error) {
	if s == "" {
		return record.NoProducerID, record.NoEpoch, nil
	}
	left, right, _ := strings.Cut(s, "/")
	id, err := strconv.ParseInt(left, 10, 64)
	epoch, err2 := strconv.ParseInt(right, 10, 16)
	if err != nil || err2 != nil || id < 0 || epoch < 0 {
		return 0, 0, usagef("flag --only: %q, want PRODUCER/EPOCH, such as 4001/2", s)
	}
	return record.ProducerID(id), record.Epoch(epoch), nil
}

// abort aborts a transaction as it was seen.
func (p *program) abort(ctx context.Context, c *client.Client, seen client.Transaction, noWait bool) error {
	id := seen.TransactionalID
	switch {
	case ending(seen.State):
		return fmt.Errorf("nothing is aborted: the transaction of %s is decided (%s), its markers are being written", id, seen.State)
	case seen.State != client.TransactionOngoing:
		return fmt.Errorf("nothing is aborted: no transaction of %s is open, it is %s", id, seen.State)
	}
	if err := c.AbortTransaction(ctx, seen); err != nil {
		var e *client.Error
		if errors.As(err, &e) && e.Outcome == client.NotWritten && (e.Reason == client.ReasonInvalidTxnState || e.Reason == client.ReasonConcurrentTransactions) {
			if now, lookErr := c.DescribeTransaction(ctx, id); lookErr == nil {
				return changing(fmt.Errorf("nothing is aborted: the transaction of %s that was open has ended meanwhile, and it is %s now: %w", id, now.State, err))
			}
		}
		return changing(fmt.Errorf("%w; brokerctl txn describe %s shows what it is now", err, word(id)))
	}
	p.sayf("the transaction of %s is aborted, its producer %d/%d is fenced", id, seen.ProducerID, seen.Epoch)
	now, err := c.DescribeTransaction(ctx, id)
	for err == nil && !noWait && now.State == client.TransactionPrepareAbort {
		if !wait(ctx, moveLook) {
			return fmt.Errorf("not waiting any more: %w; its markers are still being written", context.Cause(ctx))
		}
		now, err = c.DescribeTransaction(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("it is aborted, but how far its markers are is not known: %w", err)
	}
	if p.json() {
		return p.writeJSON(describedTransaction(now))
	}
	return p.transactionTable([]client.Transaction{now}).write(p.stdout)
}

// word is an argument as a shell takes it.
func word(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:@%+,", r))
	}) < 0 && s[0] != '-' {
		return s
	}
	quoted := "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	if strings.HasPrefix(s, "-") {
		return "-- " + quoted
	}
	return quoted
}
