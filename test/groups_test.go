package test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// worker is one process that belongs to a group. Each has a host of its own, so that it can die without a word.
type worker struct {
	s    *scenario
	host string
	cl   *client.Client
	g    *client.GroupConsumer
	// assigned, revoked and lost count what it was told.
	assigned, revoked, lost int
}

const testGroup = "billing"

// beginGroups begins with two topics of three partitions each, and sessions so short that a test can wait for their end.
func beginGroups(t *testing.T) *scenario {
	t.Helper()
	return beginGroupsWith(t, 1500*time.Millisecond)
}

// beginPatientGroups is for tests in which nobody is taken for dead: a busy machine must not do it either.
func beginPatientGroups(t *testing.T) *scenario {
	t.Helper()
	return beginGroupsWith(t, 20*time.Second)
}

func beginGroupsWith(t *testing.T, session time.Duration) *scenario {
	t.Helper()
	return beginTransactionsWith(t, func(c *broker.Config) {
		c.Groups.Shards = 4
		c.Groups.SessionTimeout = session
		c.Groups.HeartbeatInterval = 200 * time.Millisecond
		c.Groups.Settle = 20 * time.Millisecond
	})
}

// worker starts a process that is a member of the group.
func (s *scenario) worker(name string, change func(*client.GroupConfig)) *worker {
	s.t.Helper()
	w := &worker{s: s, host: name, cl: s.c.ClientOn(name, client.Config{})}
	cfg := client.GroupConfig{
		ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest, Isolation: client.ReadCommitted},
		GroupID:        testGroup, Topics: []string{topic},
		OnAssigned: func(_ context.Context, list []record.TopicPartition) { w.assigned += len(list) },
		OnRevoked:  func(_ context.Context, list []record.TopicPartition) { w.revoked += len(list) },
		OnLost:     func(list []record.TopicPartition) { w.lost += len(list) },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	w.g, err = w.cl.NewGroupConsumer(cfg)
	s.must("join", err)
	return w
}

// die is the end of the process: nothing it says is heard any more.
func (w *worker) die() { w.s.c.Network.Isolate(w.host, w.brokers()...) }

// wake makes the process heard again.
func (w *worker) wake() {
	for _, b := range w.brokers() {
		w.s.c.Network.Heal(w.host, b)
		w.s.c.Network.Heal(b, w.host)
	}
}

func (w *worker) brokers() []string {
	var hosts []string
	for _, id := range w.s.c.Brokers() {
		hosts = append(hosts, w.s.c.Host(id))
	}
	return hosts
}

// read polls once, for at most a while, and gives the values.
func (w *worker) read(d time.Duration) []string {
	w.s.t.Helper()
	ctx, cancel := context.WithTimeout(w.s.ctx, d)
	defer cancel()
	got, err := w.g.Poll(ctx)
	if err != nil && ctx.Err() == nil {
		w.s.t.Fatalf("%s polls: %v", w.host, err)
	}
	return w.s.values(got)
}

func (s *scenario) values(got []client.Fetched) []string {
	s.t.Helper()
	var values []string
	for i := range got {
		s.must("read", got[i].Err)
		for r, err := range got[i].Records() {
			s.must("read", err)
			values = append(values, string(r.Value))
		}
	}
	return values
}

// readN reads until it has n values, and gives them sorted.
func (w *worker) readN(n int) []string {
	w.s.t.Helper()
	var values []string
	w.s.until(fmt.Sprintf("%s reads %d values", w.host, n), func() bool {
		values = append(values, w.read(100*time.Millisecond)...)
		return len(values) >= n
	})
	slices.Sort(values)
	return values
}

// has polls all workers until each has its number of partitions.
func (s *scenario) share(numbers map[*worker]int) {
	s.t.Helper()
	s.until("share the partitions", func() bool {
		done := true
		for w, n := range numbers {
			if got := w.read(50 * time.Millisecond); len(got) > 0 {
				s.t.Fatalf("%s reads %v", w.host, got)
			}
			done = done && len(w.g.Assignment()) == n
		}
		return done
	})
}

// fill writes values to the partitions in turn.
func (s *scenario) fill(from, n int) []string {
	s.t.Helper()
	p := s.producer(client.ProducerConfig{})
	var values []string
	for i := range n {
		v := fmt.Sprintf("%04d", from+i)
		values = append(values, v)
		res := p.SendSync(s.ctx, client.Record{Topic: topic, Partition: client.ToPartition(int32(i % 3)), Value: []byte(v)})
		if res.Outcome != client.Written {
			s.t.Fatal(res)
		}
	}
	return values
}

func (s *scenario) wantValues(what string, got, want []string) {
	s.t.Helper()
	if !slices.Equal(got, want) {
		s.t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// Members share the partitions, and give them up to those who come (G16).
func TestGroupSharesPartitions(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.worker("one", nil)
	s.share(map[*worker]int{one: 3})
	two, three := s.worker("two", nil), s.worker("three", nil)
	s.share(map[*worker]int{one: 1, two: 1, three: 1})
	if one.lost == 0 && (one.assigned != 3 || one.revoked != 2) { // on a very busy machine it can be taken for dead
		t.Errorf("one was told of %d, %d, %d", one.assigned, one.revoked, one.lost)
	}
	s.must("leave", two.g.Close(s.ctx))
	three.die()
	s.share(map[*worker]int{one: 3})
	want := s.fill(0, 9)
	s.wantValues("after all", one.readN(9), want)
}

// At most once: offsets are committed before the work is done. What a worker has read when it dies is not done.
func TestAtMostOnceLosesWhatWasInHand(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 6)
	one.readN(6)
	s.must("commit", one.g.Commit(s.ctx))
	one.die() // before it has done anything
	two := s.worker("two", nil)
	s.share(map[*worker]int{two: 3})
	want := s.fill(6, 3)
	s.wantValues("the next one", two.readN(3), want)
}

// At least once: offsets are committed after the work is done. What was done and not committed is done again.
func TestAtLeastOnceRepeatsAfterACrashBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.worker("one", nil)
	first := s.fill(0, 6)
	s.wantValues("first", one.readN(6), first)
	s.must("commit", one.g.Commit(s.ctx))
	second := s.fill(6, 6)
	s.wantValues("second", one.readN(6), second) // and does its work
	one.die()
	two := s.worker("two", nil)
	s.wantValues("the next one", two.readN(6), second)
}

// A crash right after reading: another member takes over, and nothing is lost.
func TestCrashRightAfterReadingLosesNothing(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one, two := s.worker("one", nil), s.worker("two", nil)
	s.until("share", func() bool {
		one.read(50 * time.Millisecond)
		two.read(50 * time.Millisecond)
		return len(one.g.Assignment())+len(two.g.Assignment()) == 3 && len(one.g.Assignment()) > 0 && len(two.g.Assignment()) > 0
	})
	mine := one.g.Assignment()
	want := s.fill(0, 9)
	var inHand []string
	s.until("one reads", func() bool {
		inHand = append(inHand, one.read(100*time.Millisecond)...)
		return len(inHand) == 3*len(mine)
	})
	one.die()
	s.wantValues("the other one", two.readN(9), want)
}

// A member that was taken for dead and comes back cannot commit: its partitions are another one's (G20).
func TestZombieMemberCannotCommit(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 6)
	one.readN(6)
	one.die()
	two := s.worker("two", nil)
	two.readN(6)
	s.must("commit of the new one", two.g.Commit(s.ctx))
	one.wake()
	err := one.g.Commit(s.ctx)
	if reason := reasonOf(err); reason != "UNKNOWN_MEMBER_ID" && reason != "STALE_MEMBER_EPOCH" {
		t.Fatalf("the zombie's commit: %v", err)
	}
	s.until("it finds out", func() bool { one.read(50 * time.Millisecond); two.read(50 * time.Millisecond); return one.lost == 3 })
}

// Offsets survive their coordinator, and so does the membership (G11).
func TestGroupSurvivesItsCoordinator(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 3)
	one.readN(3)
	s.must("commit", one.g.Commit(s.ctx))
	d, err := s.cl.DescribeGroup(s.ctx, testGroup)
	s.must("describe", err)
	s.c.Kill(d.Coordinator)
	want := s.fill(3, 6)
	s.wantValues("goes on", one.readN(6), want)
	s.must("commit at the new coordinator", one.g.Commit(s.ctx))
	if one.lost != 0 || one.assigned != 3 {
		t.Errorf("assigned %d, lost %d: the member was forgotten", one.assigned, one.lost)
	}
	s.c.Restart(d.Coordinator)
	s.must("leave", one.g.Close(s.ctx))
	two := s.worker("two", nil)
	s.share(map[*worker]int{two: 3})
}

// Offsets in an aborted transaction are never seen, those in a committed one with it (G23).
func TestOffsetsInAbortedTransactionStayInvisible(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 3)
	one.readN(3)
	p := s.transactional("tx")
	committed := func() (list []record.Offset) {
		found, err := one.g.Committed(s.ctx, one.g.Assignment()...)
		s.must("committed", err)
		for _, f := range found {
			list = append(list, f.Offset)
		}
		return list
	}
	none := []record.Offset{record.NoOffset, record.NoOffset, record.NoOffset}
	s.must("begin", p.Begin())
	s.put(p, other, "a")
	s.must("offsets", p.SendOffsets(s.ctx, one.g.Member(), one.g.Positions()))
	if got := committed(); !slices.Equal(got, none) {
		t.Fatalf("while it is open: %v", got)
	}
	s.must("abort", p.Abort(s.ctx))
	s.must("begin", p.Begin())
	s.put(p, other, "b")
	if got := committed(); !slices.Equal(got, none) {
		t.Fatalf("after the abort: %v", got)
	}
	s.must("offsets", p.SendOffsets(s.ctx, one.g.Member(), one.g.Positions()))
	s.must("commit", p.Commit(s.ctx))
	s.until("see the offsets", func() bool { return slices.Equal(committed(), []record.Offset{1, 1, 1}) })
	s.awaitRead([]string{otherTopic + ":b"}, other)
}

// A member without its partitions cannot commit them in a transaction either: the producer is well, its member is a zombie (KIP-447).
func TestZombieMemberCannotCommitInTransaction(t *testing.T) {
	t.Parallel()
	s := beginGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 3)
	one.readN(3)
	by, at := one.g.Member(), one.g.Positions()
	one.die()
	two := s.worker("two", nil)
	two.readN(3)
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	s.put(p, other, "zombie")
	isAbortable(t, "offsets of a zombie", p.SendOffsets(s.ctx, by, at))
	s.must("abort", p.Abort(s.ctx))
	s.wantRead(client.ReadCommitted, nil, other)
}

// Whoever gets partitions whose offsets an open transaction may change waits for its end (G26): else it would do again what is committed in
// a moment.
func TestNextMemberWaitsForTheOpenTransaction(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 6)
	one.readN(6)
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	s.put(p, other, "a")
	s.must("offsets", p.SendOffsets(s.ctx, one.g.Member(), one.g.Positions()))
	s.must("leave", one.g.Close(s.ctx))
	two := s.worker("two", nil)
	s.until("the next one joins", func() bool {
		if got := two.read(50 * time.Millisecond); len(got) > 0 {
			t.Fatalf("it reads %v", got)
		}
		d, err := s.cl.DescribeGroup(s.ctx, testGroup)
		return err == nil && len(d.Members) == 1 && len(d.Members[0].Assigned) == 3
	})
	for range 5 {
		if got := two.read(50 * time.Millisecond); len(got) > 0 || len(two.g.Assignment()) > 0 {
			t.Fatalf("it does not wait for the end of the transaction: it has %v and reads %v", two.g.Assignment(), got)
		}
	}
	// The operator who asks why is told whose transaction that is.
	g, err := s.cl.WhatHoldsGroup(s.ctx, testGroup)
	s.must("ask what holds the group", err)
	switch {
	case len(g.Pending) != 1, len(g.Pending[0].Partitions) != 3, g.Pending[0].Transaction == nil:
		t.Fatalf("pending: %+v", g.Pending)
	case g.Pending[0].Transaction.TransactionalID != "tx", g.Pending[0].Transaction.State != client.TransactionOngoing,
		g.Pending[0].Transaction.History[0].ClientAddress == "", g.Pending[0].ProducerID != g.Pending[0].Transaction.ProducerID:
		t.Fatalf("the group waits for %+v", g.Pending[0].Transaction)
	}
	s.must("commit", p.Commit(s.ctx))
	s.until("nothing is pending", func() bool {
		g, err := s.cl.WhatHoldsGroup(s.ctx, testGroup)
		return err == nil && len(g.Pending) == 0
	})
	more := s.fill(6, 3)
	s.wantValues("after the end", two.readN(3), more)
}
