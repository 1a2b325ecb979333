package main

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// fakeNow is the time of day for everybody.
var fakeNow = time.UnixMilli(1795398578332)

// ago is ms since 1970 of a time before fakeNow.
func ago(d time.Duration) int64 { return fakeNow.Add(-d).UnixMilli() }

// fakeTxns are a transaction that is open, one that is being committed, one whose time is up, and two that are over.
func fakeTxns() map[string]*clientv1.Transaction {
	txns := map[string]*clientv1.Transaction{}
	add := func(id string, pid int64, epoch int32, state clientv1.TransactionState, age time.Duration) *clientv1.Transaction {
		txns[id] = &clientv1.Transaction{
			TransactionalId: id, State: state, ProducerId: pid, ProducerEpoch: epoch, LastEpoch: epoch - 1, PreviousProducerId: -1, NextProducerId: -1,
			TimeoutMs: 900_000, StartMs: ago(age), UpdatedMs: ago(age), ClientVersion: 2, CoordinatorId: 2,
			Topics: []*clientv1.TransactionTopic{{Topic: "orders", Partitions: []int32{0, 2}}, {Topic: "ledger", Partitions: []int32{7}}},
			History: []*clientv1.TransactionEvent{{Kind: 1, TimeMs: ago(age + time.Hour), ProducerId: pid, ProducerEpoch: epoch - 1,
				ClientId: "billing", ClientAddress: "10.0.0.7:51234", ExpectedSequence: -1, ReceivedSequence: -1}},
		}
		return txns[id]
	}
	open := add("billing-1", 4001, 2, clientv1.TransactionState_TRANSACTION_STATE_ONGOING, 250*time.Second)
	open.History = append(open.History, &clientv1.TransactionEvent{Kind: 5, TimeMs: ago(time.Minute), ProducerId: 4001, ProducerEpoch: 2,
		Topic: "orders", Partition: 2, Reason: "OUT_OF_ORDER_SEQUENCE_NUMBER", ExpectedSequence: 5, ReceivedSequence: 9})
	add("copy job", 4003, 0, clientv1.TransactionState_TRANSACTION_STATE_PREPARE_COMMIT, 3*time.Second)
	add("late", 1000200, 32766, clientv1.TransactionState_TRANSACTION_STATE_ONGOING, 16*time.Minute)
	add("done", 4002, 1, clientv1.TransactionState_TRANSACTION_STATE_COMPLETE_COMMIT, 26*time.Hour).Topics = nil
	add("fresh", 4009, 0, clientv1.TransactionState_TRANSACTION_STATE_EMPTY, 0).StartMs = -1
	return txns
}

// openIn makes producers have transactions open in the first partitions of a topic: 0 two, 1 one that is ending, 2 one that
// nobody coordinates.
func (t *fakeTopic) openIn() {
	at := func(pid int64, epoch int32, start int64) *clientv1.ProducerState {
		return &clientv1.ProducerState{ProducerId: pid, ProducerEpoch: epoch, LastSequence: 3, LastTimestampMs: ago(3 * time.Minute), CoordinatorEpoch: -1, TxnStartOffset: start}
	}
	t.logs[0].states = []*clientv1.ProducerState{at(1000200, 32766, 2), at(4001, 2, 1), at(4002, 1, -1)}
	t.logs[1].states = []*clientv1.ProducerState{at(4003, 0, 0)}
	t.logs[2].states = []*clientv1.ProducerState{at(4777, 1, 0)}
}

// journal fills a log: 0-1 are committed, 2 is aborted, 3 belongs to no transaction and 4 to no producer, 7 is open.
func (l *fakeLog) journal(t *testing.T) {
	data := func(pid record.ProducerID, epoch record.Epoch, seq record.Sequence, txn bool, values ...string) record.Batch {
		b := record.NewBuilder(record.CodecNone)
		for _, v := range values {
			if err := b.Append(fakeNow.UnixMilli(), nil, []byte(v), nil); err != nil {
				t.Fatal(err)
			}
		}
		return b.Finish(pid, epoch, seq, txn)
	}
	marker := func(pid record.ProducerID, epoch record.Epoch, commit bool) record.Batch {
		return record.ControlBatch(record.Marker{ProducerID: pid, Epoch: epoch, CoordinatorEpoch: 3, Commit: commit, Timestamp: fakeNow.UnixMilli()})
	}
	for _, b := range []record.Batch{
		data(4001, 2, 2147483647, true, "paid", "booked"), data(4003, 0, 0, true, "wrong"), data(77, 0, 5, false, "note"),
		data(record.NoProducerID, record.NoEpoch, record.NoSequence, false, "old"),
		marker(4001, 3, true), marker(4003, 1, false), data(4001, 3, 0, true, "pending"),
	} {
		b.SetBaseOffset(record.Offset(l.end))
		l.end += int64(b.LastOffsetDelta()) + 1
		l.batches = append(l.batches, b)
	}
	l.aborted = []*clientv1.AbortedTransaction{{ProducerId: 4003, FirstOffset: 2}}
	l.states = []*clientv1.ProducerState{{ProducerId: 4001, ProducerEpoch: 3, TxnStartOffset: 7, LastTimestampMs: fakeNow.UnixMilli()}}
}

// stable is the last stable offset.
func (l *fakeLog) stable() int64 {
	at := l.end
	for _, s := range l.states {
		if s.TxnStartOffset >= 0 {
			at = min(at, s.TxnStartOffset)
		}
	}
	return at
}

// ListTransactions is asked once for each broker; one of them has all.
func (f *fakeCluster) ListTransactions(_ context.Context, req *clientv1.ListTransactionsRequest) (*clientv1.ListTransactionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &clientv1.ListTransactionsResponse{}
	if f.listed++; f.listed%3 != 0 {
		return r, nil
	}
	for _, id := range slices.Sorted(maps.Keys(f.txns)) {
		t := f.txns[id]
		if (len(req.States) == 0 || slices.Contains(req.States, t.State)) && (len(req.ProducerIds) == 0 || slices.Contains(req.ProducerIds, t.ProducerId)) {
			r.Transactions = append(r.Transactions, t)
		}
	}
	return r, nil
}

func (f *fakeCluster) DescribeTransaction(_ context.Context, req *clientv1.DescribeTransactionRequest) (*clientv1.DescribeTransactionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.txns[req.TransactionalId]
	if t == nil {
		return nil, refusal("TRANSACTIONAL_ID_NOT_FOUND", codes.NotFound, "transactional id \""+req.TransactionalId+"\" is unknown", false)
	}
	return &clientv1.DescribeTransactionResponse{Transaction: t}, nil
}

func (f *fakeCluster) AbortTransaction(_ context.Context, req *clientv1.AbortTransactionRequest) (*clientv1.AbortTransactionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.txns[req.TransactionalId]
	t.LastEpoch, t.ProducerEpoch, t.Topics = t.ProducerEpoch, t.ProducerEpoch+1, nil
	if f.hasty == t.TransactionalId {
		t.State = clientv1.TransactionState_TRANSACTION_STATE_COMPLETE_COMMIT
		return nil, refusal("INVALID_TXN_STATE", codes.FailedPrecondition, "transactional id \"billing-1\" is at producer 4001 epoch 3 now, not at 4001 epoch 2: look again", false)
	}
	t.State = clientv1.TransactionState_TRANSACTION_STATE_COMPLETE_ABORT
	for _, topic := range f.topics {
		for _, l := range topic.logs {
			l.states = slices.DeleteFunc(l.states, func(s *clientv1.ProducerState) bool { return s.ProducerId == t.ProducerId })
		}
	}
	return &clientv1.AbortTransactionResponse{}, nil
}
