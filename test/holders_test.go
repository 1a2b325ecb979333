package test

import (
	"errors"
	"testing"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// whatHolds asks as brokerctl txn why does.
func (s *scenario) whatHolds(tp record.TopicPartition) (h client.Held) {
	s.t.Helper()
	s.until("ask what holds "+tp.String(), func() bool {
		held, err := s.cl.WhatHolds(s.ctx, tp)
		if err != nil || held[0].Err != nil {
			return false
		}
		h = held[0]
		return true
	})
	return h
}

// heldBy waits until a partition is held by the transaction of an id. The abort of another one is answered before its markers
// are written (T23).
func (s *scenario) heldBy(tp record.TopicPartition, id string) client.OpenTransaction {
	s.t.Helper()
	var h client.Held
	s.until(id+" holds "+tp.String(), func() bool {
		h = s.whatHolds(tp)
		return len(h.Open) > 0 && h.Open[0].Transaction != nil && h.Open[0].Transaction.TransactionalID == id
	})
	return h.Open[0]
}

// A transaction whose producer does not go on holds readers of committed data back. The operator is told which one it is
// and aborts it; then the next one holds them, and when that ends, nothing does (L5, T35).
func TestOperatorEndsWhatHoldsReaders(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	plain := s.producer(client.ProducerConfig{})
	s.write(plain, "before")
	if h := s.whatHolds(only); len(h.Open) != 0 || h.Stable != h.End || h.End != 1 {
		t.Fatalf("held without a transaction: %+v", h)
	}

	stuck, next := s.transactional("stuck"), s.transactional("next")
	s.must("begin", stuck.Begin())
	s.put(stuck, only, "lost")
	s.put(stuck, other, "lost too")
	s.write(plain, "behind")
	s.must("begin", next.Begin())
	s.put(next, only, "late")
	s.wantRead(client.ReadCommitted, []string{topic + ":before"}, only)

	o := s.heldBy(only, "stuck")
	seen := o.Transaction
	switch {
	case o.FirstOffset != 1, o.ProducerID != seen.ProducerID, o.Epoch != seen.Epoch, o.LastWrite.IsZero():
		t.Fatalf("held by %+v", o)
	case seen.State != client.TransactionOngoing, seen.Started.IsZero(), seen.Timeout <= 0, seen.Coordinator != s.coordinatorOf("stuck"):
		t.Fatalf("its coordinator says %+v", seen)
	case len(seen.Partitions) != 2, len(seen.History) != 1, seen.History[0].ClientAddress == "":
		t.Fatalf("its partitions and history are %v and %v", seen.Partitions, seen.History)
	}
	if h := s.whatHolds(only); h.Stable != 1 || h.Blocked() != 3 || len(h.Open) != 2 || h.Open[1].Transaction == nil || h.Open[1].Transaction.TransactionalID != "next" {
		t.Fatalf("held: %+v", h)
	}

	s.must("abort", s.cl.AbortTransaction(s.ctx, *seen))
	s.heldBy(only, "next")
	s.wantRead(client.ReadCommitted, []string{topic + ":before", topic + ":behind"}, only)
	if err := stuck.Commit(s.ctx); err == nil {
		t.Fatal("a transaction that the operator has aborted was committed")
	}
	s.must("commit", next.Commit(s.ctx))
	s.awaitRead([]string{topic + ":before", topic + ":behind", topic + ":late"}, only, other)
	for _, tp := range []record.TopicPartition{only, other} {
		if h := s.whatHolds(tp); len(h.Open) != 0 || h.Stable != h.End {
			t.Fatalf("held in the end: %+v", h)
		}
	}
}

// A transaction that ends before the operator's abort is not touched by it, and neither is the next one of the same id
// (R5): the operator is told so.
func TestOperatorAbortsWhatEndsMeanwhile(t *testing.T) {
	t.Parallel()
	s := beginTransactions(t)
	p := s.transactional("tx")
	s.must("begin", p.Begin())
	s.put(p, only, "first")
	seen := *s.heldBy(only, "tx").Transaction
	s.must("commit", p.Commit(s.ctx))
	refused := func(when string) {
		t.Helper()
		err := s.cl.AbortTransaction(s.ctx, seen)
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != client.ReasonInvalidTxnState || e.Outcome != client.NotWritten {
			t.Fatalf("abort %s: %v", when, err)
		}
	}
	refused("after the end")
	s.must("begin", p.Begin())
	s.put(p, only, "second")
	refused("in the next transaction")
	s.must("commit", p.Commit(s.ctx))
	s.awaitRead([]string{topic + ":first", topic + ":second"}, only)
}
