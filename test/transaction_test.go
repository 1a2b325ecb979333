package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// The other topic of a story with two.
const otherTopic = "ledger"

var other = record.TopicPartition{Topic: otherTopic}

// beginTransactions begins with two topics of three partitions each.
func beginTransactions(t *testing.T) *scenario {
	t.Helper()
	return beginTransactionsWith(t, func(*broker.Config) {})
}

func beginTransactionsWith(t *testing.T, change func(*broker.Config)) *scenario {
	t.Helper()
	s := &scenario{t: t, c: brokertest.Start(t, brokertest.Options{Configure: func(c *broker.Config) {
		c.Transactions.Shards = 4
		c.Transactions.TimeoutCheck = 50 * time.Millisecond
		change(c)
	}})}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	s.cl = s.c.Client()
	for _, name := range []string{topic, otherTopic} {
		if _, err := s.cl.CreateTopic(s.ctx, client.TopicSpec{Name: name, Partitions: 3, ReplicationFactor: 3}); err != nil {
			t.Fatal(err)
		}
		if err := s.cl.WaitReady(s.ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// transactional makes an initialised producer.
func (s *scenario) transactional(id string) *client.TransactionalProducer {
	s.t.Helper()
	return s.transactionalWith(client.TransactionalConfig{TransactionalID: id})
}

func (s *scenario) transactionalWith(cfg client.TransactionalConfig) *client.TransactionalProducer {
	s.t.Helper()
	p, err := s.cl.NewTransactionalProducer(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.InitTransactions(s.ctx); err != nil {
		s.t.Fatalf("init %s: %v", cfg.TransactionalID, err)
	}
	return p
}

func (s *scenario) must(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

// put writes a value to a partition in the open transaction.
func (s *scenario) put(p *client.TransactionalProducer, tp record.TopicPartition, value string) {
	s.t.Helper()
	res := p.SendSync(s.ctx, client.Record{Topic: tp.Topic, Partition: client.ToPartition(tp.Partition), Value: []byte(value)})
	if res.Outcome != client.Written {
		s.t.Fatalf("send %q: %v", value, res)
	}
}

// readUpTo reads partitions from the beginning up to the end that the isolation level shows now. Each value stands
// with its partition's topic: "orders:a".
func (s *scenario) readUpTo(isolation client.Isolation, tps ...record.TopicPartition) []string {
	s.t.Helper()
	at := map[record.TopicPartition]client.Position{}
	for _, tp := range tps {
		at[tp] = client.End()
	}
	var ends map[record.TopicPartition]client.ListedOffset
	s.until("find the ends", func() bool {
		var err error
		ends, err = s.cl.ListOffsets(s.ctx, isolation, at)
		if err != nil {
			return false
		}
		for _, e := range ends {
			if e.Err != nil {
				return false
			}
		}
		return true
	})
	k, err := s.cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: isolation})
	s.must("consumer", err)
	defer func() { _ = k.Close(s.ctx) }()
	s.must("assign", k.Assign(s.ctx, tps...))
	next := map[record.TopicPartition]record.Offset{}
	var values []string
	behind := func() bool {
		return slices.ContainsFunc(tps, func(tp record.TopicPartition) bool { return next[tp] < ends[tp].Offset })
	}
	for behind() {
		fetched, err := k.Poll(s.ctx)
		s.must(fmt.Sprintf("read at %v of %v", next, ends), err)
		for i := range fetched {
			f := &fetched[i]
			s.must("read", f.Err)
			next[f.TopicPartition] = f.Next
			for r, err := range f.Records() {
				s.must("read", err)
				values = append(values, f.Topic+":"+string(r.Value))
			}
		}
	}
	slices.Sort(values)
	return values
}

func (s *scenario) wantRead(isolation client.Isolation, want []string, tps ...record.TopicPartition) {
	s.t.Helper()
	if got := s.readUpTo(isolation, tps...); !slices.Equal(got, want) {
		s.t.Fatalf("read %v, want %v", got, want)
	}
}

// awaitRead waits until readers of committed data see all of it: the markers go out after the commit was answered (T23).
func (s *scenario) awaitRead(want []string, tps ...record.TopicPartition) {
	s.t.Helper()
	s.until(fmt.Sprintf("read %v", want), func() bool { return slices.Equal(s.readUpTo(client.ReadCommitted, tps...), want) })
}

func reasonOf(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return fmt.Sprint(err)
}

// isFatal and isAbortable insist on the kind of an error.
func isFatal(t *testing.T, what string, err error) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || !e.Fatal || e.Abortable {
		t.Fatalf("%s: %v, want a fatal error", what, err)
	}
	return e
}

func isAbortable(t *testing.T, what string, err error) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || !e.Abortable || e.Fatal || e.Outcome != client.NotWritten {
		t.Fatalf("%s: %v, want an abortable error", what, err)
	}
	return e
}

// Two topics are written in one transaction: readers of committed data see all of it or nothing.
func TestTwoTopicsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	for round := range 5 {
		s.must("begin", p.Begin())
		s.put(p, only, fmt.Sprint("a", round))
		s.put(p, other, fmt.Sprint("b", round))
		seen := s.readUpTo(client.ReadCommitted, only, other)
		if len(seen) != 2*round {
			t.Fatalf("round %d shows %v before its commit", round, seen)
		}
		s.must("commit", p.Commit(s.ctx))
		s.until("see both", func() bool {
			seen := s.readUpTo(client.ReadCommitted, only, other)
			return slices.Contains(seen, fmt.Sprintf("%s:a%d", topic, round)) && slices.Contains(seen, fmt.Sprintf("%s:b%d", otherTopic, round))
		})
	}
}

// An abort hides everything from readers of committed data, and from nobody else.
func TestAbortHidesEverything(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	plain := s.producer(client.ProducerConfig{})
	s.must("begin", p.Begin())
	s.put(p, only, "gone")
	s.put(p, other, "gone too")
	s.write(plain, "plain")
	s.must("abort", p.Abort(s.ctx))
	s.must("begin", p.Begin())
	s.put(p, only, "kept")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{topic + ":kept", topic + ":plain"}, only, other)
	s.wantRead(client.ReadUncommitted, []string{otherTopic + ":gone too", topic + ":gone", topic + ":kept", topic + ":plain"}, only, other)
}

// A reader of committed data stops at an open transaction, also before what others wrote behind it, and goes on by itself
// when it ends. Any other reader does not wait.
func TestReaderStopsAtOpenTransaction(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	plain := s.producer(client.ProducerConfig{})
	s.write(plain, "before")
	s.must("begin", p.Begin())
	s.put(p, only, "inside")
	s.write(plain, "behind")
	k, err := s.cl.NewConsumer(client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted})
	s.must("consumer", err)
	defer func() { _ = k.Close(s.ctx) }()
	s.must("assign", k.Assign(s.ctx, only))
	next := func(ctx context.Context) (values []string) {
		for len(values) == 0 && ctx.Err() == nil {
			fetched, err := k.Poll(ctx)
			if err != nil {
				return nil
			}
			for i := range fetched {
				for r, err := range fetched[i].Records() {
					s.must("read", err)
					values = append(values, string(r.Value))
				}
			}
		}
		return values
	}
	if got := next(s.ctx); !slices.Equal(got, []string{"before"}) {
		t.Fatalf("read %v first", got)
	}
	short, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	if got := next(short); got != nil {
		t.Fatalf("read %v inside the open transaction", got)
	}
	s.wantRead(client.ReadUncommitted, []string{topic + ":before", topic + ":behind", topic + ":inside"}, only)
	s.must("commit", p.Commit(s.ctx))
	var rest []string
	for len(rest) < 2 {
		rest = append(rest, next(s.ctx)...)
	}
	if !slices.Equal(rest, []string{"inside", "behind"}) {
		t.Fatalf("read %v afterwards", rest)
	}
}

// Each marker takes an offset that no reader is shown (L2).
func TestMarkersTakeOffsets(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	for i := range 3 {
		s.must("begin", p.Begin())
		res := p.SendSync(s.ctx, rec(fmt.Sprint(i)))
		if res.Outcome != client.Written || res.Offset != record.Offset(2*i) {
			t.Fatalf("record %d: %v", i, res)
		}
		s.must("end", map[bool]func(context.Context) error{true: p.Commit, false: p.Abort}[i != 1](s.ctx))
	}
	s.awaitRead([]string{topic + ":0", topic + ":2"}, only)
	at, err := s.cl.ListOffsets(s.ctx, client.ReadCommitted, map[record.TopicPartition]client.Position{only: client.End()})
	if err != nil || at[only].Offset != 6 {
		t.Errorf("the end is %+v, %v", at[only], err)
	}
}

// A second instance takes the id over: what the first one has open is aborted, and the first one is refused when it writes,
// commits or aborts. It hears who fenced it.
func TestSecondInstanceFencesTheFirst(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"write", "commit", "abort"} {
		t.Run(call, func(t *testing.T) {
			s := beginTransactions(t)
			first := s.transactional("tx")
			s.must("begin", first.Begin())
			s.put(first, only, "zombie")
			second := s.transactional("tx")
			s.must("begin", second.Begin())
			s.put(second, only, "heir")
			switch call {
			case "write":
				res := first.SendSync(s.ctx, rec("late"))
				if res.Outcome != client.NotWritten || reasonOf(res.Err) != client.ReasonInvalidProducerEpoch {
					t.Errorf("late write: %v", res)
				}
				// The partition has asked the coordinator, and passes on who is to blame.
				e := isAbortable(t, "commit after a failed write", first.Commit(s.ctx))
				if e.Event == nil || e.Event.Kind != client.EventInitialised || e.Event.ClientID != "oncelog-go" || !strings.Contains(res.Err.Error(), "initialised: producer") {
					t.Errorf("late write: %v, event %+v", res.Err, e.Event)
				}
				isFatal(t, "abort", first.Abort(s.ctx))
			case "commit":
				e := isFatal(t, "commit", first.Commit(s.ctx))
				if e.Reason != client.ReasonProducerFenced || e.Outcome != client.NotWritten || e.Event == nil || e.Event.Kind != client.EventInitialised || e.Event.ClientID != "oncelog-go" {
					t.Errorf("commit: %v, event %+v", e, e.Event)
				}
			case "abort":
				isFatal(t, "abort", first.Abort(s.ctx))
			}
			isFatal(t, "begin", first.Begin())
			s.must("commit of the second", second.Commit(s.ctx))
			s.awaitRead([]string{topic + ":heir"}, only)
		})
	}
}

// So is one that has nothing open when it is replaced: it cannot get into a transaction of the second's.
func TestInstanceAtRestIsFenced(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	first := s.transactional("tx")
	s.must("begin", first.Begin())
	s.put(first, only, "before")
	s.must("commit", first.Commit(s.ctx))
	second := s.transactional("tx")
	s.must("begin", second.Begin())
	s.put(second, only, "heir")
	s.must("begin, which asks nobody", first.Begin())
	if res := first.SendSync(s.ctx, rec("late")); res.Outcome != client.NotWritten || reasonOf(res.Err) != client.ReasonInvalidProducerEpoch {
		t.Errorf("late write: %v", res)
	}
	isFatal(t, "abort", first.Abort(s.ctx))
	s.must("commit of the second", second.Commit(s.ctx))
	s.awaitRead([]string{topic + ":before", topic + ":heir"}, only)
}

// Both of a producer's batches are refused on a partition where it has not written lately, too: the marker is there (P22).
func TestInitAbortsTheOpenTransaction(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	first := s.transactional("tx")
	s.must("begin", first.Begin())
	s.put(first, only, "gone")
	s.put(first, other, "gone")
	_ = s.transactional("tx")
	s.awaitRead(nil, only, other) // nothing is open, and nothing is shown
	s.wantRead(client.ReadUncommitted, []string{otherTopic + ":gone", topic + ":gone"}, only, other)
}

// A transaction that is open for too long is aborted; its producer hears so, and can go on.
func TestTransactionTimesOut(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactionalWith(client.TransactionalConfig{TransactionalID: "tx", TransactionTimeout: 700 * time.Millisecond})
	s.must("begin", p.Begin())
	s.put(p, only, "slow")
	s.until("abort by the coordinator", func() bool { return s.describe("tx").State == client.TransactionCompleteAbort })
	e := isAbortable(t, "commit", p.Commit(s.ctx))
	if e.Event == nil || e.Event.Kind != client.EventTimedOut {
		t.Errorf("commit: %v, event %+v", e, e.Event)
	}
	s.must("abort", p.Abort(s.ctx))
	s.must("begin", p.Begin())
	s.put(p, only, "quick")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{topic + ":quick"}, only)
}

// Whoever waits inside a transaction for somebody who reads committed data waits for itself: the transaction's timeout ends
// it, and says so.
func TestWaitingForOnesOwnReaderEndsByTimeout(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactionalWith(client.TransactionalConfig{TransactionalID: "tx", TransactionTimeout: 700 * time.Millisecond})
	s.must("begin", p.Begin())
	s.put(p, only, "question")
	// The reader who would answer sees the question only after the commit, which waits for the answer.
	begin := time.Now()
	s.until("the reader to see something", func() bool {
		at, err := s.cl.ListOffsets(s.ctx, client.ReadCommitted, map[record.TopicPartition]client.Position{only: client.End()})
		return err == nil && at[only].Err == nil && at[only].Offset > 0
	})
	if waited := time.Since(begin); waited < 300*time.Millisecond {
		t.Errorf("the reader saw something after %v", waited)
	}
	s.wantRead(client.ReadCommitted, nil, only) // the abort
	if e := isAbortable(t, "commit", p.Commit(s.ctx)); e.Event == nil || e.Event.Kind != client.EventTimedOut || !strings.Contains(e.Error(), "timed out") {
		t.Errorf("commit: %v", e)
	}
}

// A coordinator dies after the decision and before the last marker. Its successor finishes, whoever reads sees the whole
// transaction, and the producer goes on.
func TestCoordinatorDiesBeforeTheLastMarker(t *testing.T) {
	t.Parallel()
	for _, commit := range []bool{true, false} {
		t.Run(map[bool]string{true: "commit", false: "abort"}[commit], func(t *testing.T) {
			s := beginTransactions(t)
			// The leader of one partition is not the coordinator, and is cut off: no marker gets there.
			deaf, id, p := s.apart(only)
			s.must("begin", p.Begin())
			s.put(p, only, "a")
			s.put(p, other, "b")
			coordinator := s.coordinatorOf(id)
			s.c.Isolate(deaf, true)
			end, want := p.Commit, []string{otherTopic + ":b", topic + ":a"}
			if !commit {
				end, want = p.Abort, nil
			}
			s.must("end", end(s.ctx))
			s.c.Kill(coordinator)
			s.c.Network.HealAll()
			s.awaitRead(want, only, other)
			s.c.StartAgain(coordinator)
			s.must("begin", p.Begin())
			s.put(p, only, "next")
			s.must("commit", p.Commit(s.ctx))
			s.awaitRead(append(want, topic+":next"), only, other)
			s.c.WaitReady(coordinator)
			if got := s.describe(id); got.State != client.TransactionCompleteCommit {
				t.Errorf("%+v", got)
			}
		})
	}
}

// The leader of a partition dies inside a transaction: what it had acknowledged is there after the commit, once.
func TestLeaderDiesInsideTransaction(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	s.put(p, only, "before")
	s.put(p, other, "elsewhere")
	dead := s.leaderOfPartition(only)
	s.c.Kill(dead)
	s.put(p, only, "after")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{otherTopic + ":elsewhere", topic + ":after", topic + ":before"}, only, other)
	s.c.StartAgain(dead)
	s.c.WaitReady(dead)
	s.must("begin", p.Begin())
	s.put(p, only, "more")
	s.must("abort", p.Abort(s.ctx))
	s.awaitRead([]string{otherTopic + ":elsewhere", topic + ":after", topic + ":before"}, only, other)
}

// apart finds a transactional id that the leader of a partition does not coordinate.
func (s *scenario) apart(tp record.TopicPartition) (leader int32, id string, p *client.TransactionalProducer) {
	s.t.Helper()
	for i := range 20 {
		id := fmt.Sprint("tx-", i)
		p := s.transactional(id)
		if leader := s.leaderOfPartition(tp); s.coordinatorOf(id) != leader {
			return leader, id, p
		}
	}
	// One broker coordinates everything, as happens when it was the quickest: the partition goes elsewhere.
	id = "tx-0"
	s.until("the partition's leader is not the coordinator", func() bool {
		coordinator := s.coordinatorOf(id)
		if leader = s.leaderOfPartition(tp); leader != coordinator {
			return true
		}
		_ = s.cl.TransferLeadership(s.ctx, tp, coordinator%3+1)
		return false
	})
	return leader, id, s.transactional(id)
}

func (s *scenario) coordinatorOf(id string) int32 { return s.describe(id).Coordinator }

func (s *scenario) describe(id string) client.Transaction {
	s.t.Helper()
	var got client.Transaction
	s.until("describe "+id, func() bool {
		var err error
		got, err = s.cl.DescribeTransaction(s.ctx, id)
		return err == nil
	})
	return got
}

func (s *scenario) leaderOfPartition(tp record.TopicPartition) int32 {
	s.t.Helper()
	leader := int32(-1)
	s.until("find a leader", func() bool {
		m, err := s.cl.Metadata(s.ctx, tp.Topic)
		if err == nil && len(m.Topics) == 1 && len(m.Topics[0].Partitions) > int(tp.Partition) {
			leader = m.Topics[0].Partitions[tp.Partition].Leader
		}
		return leader > 0
	})
	return leader
}
