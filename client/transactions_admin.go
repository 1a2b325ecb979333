package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// TransactionState is where a transactional id is in its life.
type TransactionState string

// The states, by Kafka's names.
const (
	TransactionEmpty          TransactionState = "Empty"
	TransactionOngoing        TransactionState = "Ongoing"
	TransactionPrepareCommit  TransactionState = "PrepareCommit"
	TransactionPrepareAbort   TransactionState = "PrepareAbort"
	TransactionCompleteCommit TransactionState = "CompleteCommit"
	TransactionCompleteAbort  TransactionState = "CompleteAbort"
)

// TransactionStates are all of them, in the order of the wire.
var TransactionStates = []TransactionState{TransactionEmpty, TransactionOngoing, TransactionPrepareCommit, TransactionPrepareAbort, TransactionCompleteCommit, TransactionCompleteAbort}

// Transaction is a transactional id and its latest transaction.
type Transaction struct {
	TransactionalID string
	State           TransactionState
	ProducerID      record.ProducerID
	Epoch           record.Epoch
	// LastEpoch is the one before, record.NoEpoch: none that counts.
	LastEpoch record.Epoch
	// PreviousProducerID and NextProducerID are record.NoProducerID where there is none.
	PreviousProducerID, NextProducerID record.ProducerID
	Timeout                            time.Duration
	// Started is when it began; zero: none has. Updated is the latest change.
	Started, Updated time.Time
	// ClientVersion is the transaction version of the client that wrote last, 0: none.
	ClientVersion int
	// Partitions are in the transaction, sorted.
	Partitions []record.TopicPartition
	// History is oldest first.
	History []TransactionEvent
	// Coordinator is the broker that answers for it.
	Coordinator int32
}

// TransactionEventKind says what happened to a transactional id.
type TransactionEventKind string

// The kinds of events.
const (
	EventInitialised       TransactionEventKind = "initialised"
	EventFenced            TransactionEventKind = "fenced"
	EventTimedOut          TransactionEventKind = "timed out"
	EventAbortedByOperator TransactionEventKind = "aborted by operator"
	EventBatchRefused      TransactionEventKind = "batch refused"
)

var eventKinds = []TransactionEventKind{"", EventInitialised, EventFenced, EventTimedOut, EventAbortedByOperator, EventBatchRefused}

// TransactionEvent is something that happened to a transactional id.
type TransactionEvent struct {
	Kind TransactionEventKind
	Time time.Time
	// ProducerID and Epoch are the new ones with EventInitialised, else those that were hit.
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// ClientID and ClientAddress caused it; empty: the coordinator.
	ClientID, ClientAddress string
	// With EventBatchRefused: which partition refused, why, and the sequences, record.NoSequence where they were not
	// the reason.
	TopicPartition     record.TopicPartition
	Reason             string
	Expected, Received record.Sequence
}

// String tells it in one line.
func (e TransactionEvent) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s: producer %d epoch %d", e.Time.UTC().Format(time.RFC3339), e.Kind, e.ProducerID, e.Epoch)
	if e.ClientID != "" || e.ClientAddress != "" {
		fmt.Fprintf(&b, " by client %q at %s", e.ClientID, e.ClientAddress)
	}
	if e.Kind == EventBatchRefused {
		fmt.Fprintf(&b, " by %v: %s", e.TopicPartition, e.Reason)
		if e.Received != record.NoSequence {
			fmt.Fprintf(&b, ", expected sequence %d, got %d", e.Expected, e.Received)
		}
	}
	return b.String()
}

// TransactionFilter says which transactional ids are wanted; its zero value: all.
type TransactionFilter struct {
	States      []TransactionState
	ProducerIDs []record.ProducerID
	// OpenFor: only transactions that have been open, or ending, for at least as long.
	OpenFor time.Duration
	// Prefix of the id.
	Prefix string
}

// ListTransactions asks every broker for the transactional ids that it coordinates, and gives them sorted, without partitions
// and history. truncated says that a broker had more than it told. A broker that does not answer makes it fail: what it coordinates
// would be missing.
func (c *Client) ListTransactions(ctx context.Context, f TransactionFilter) (list []Transaction, truncated bool, err error) {
	req := &clientv1.ListTransactionsRequest{OpenForMs: f.OpenFor.Milliseconds(), IdPrefix: f.Prefix}
	for _, s := range f.States {
		i := slices.Index(TransactionStates, s)
		if i < 0 {
			return nil, false, invalid("TransactionFilter.States", "has %q, want one of %v", s, TransactionStates)
		}
		req.States = append(req.States, clientv1.TransactionState(i+1))
	}
	for _, id := range f.ProducerIDs {
		req.ProducerIds = append(req.ProducerIds, int64(id))
	}
	answers, err := fromEvery(ctx, c, func(ctx context.Context, cc *grpc.ClientConn) (*clientv1.ListTransactionsResponse, error) {
		return clientv1.NewTransactionServiceClient(cc).ListTransactions(ctx, req)
	})
	if err != nil {
		return nil, false, err
	}
	for _, r := range answers {
		truncated = truncated || r.GetTruncated()
		for _, t := range r.GetTransactions() {
			list = append(list, transactionOf(t))
		}
	}
	slices.SortFunc(list, func(a, b Transaction) int { return strings.Compare(a.TransactionalID, b.TransactionalID) })
	return list, truncated, nil
}

// DescribeTransaction gives all that is known of a transactional id. Errors: TRANSACTIONAL_ID_NOT_FOUND.
func (c *Client) DescribeTransaction(ctx context.Context, id string) (Transaction, error) {
	var t Transaction
	err := c.atCoordinator(ctx, id, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewTransactionServiceClient(cc).DescribeTransaction(ctx, &clientv1.DescribeTransactionRequest{TransactionalId: id})
		if err == nil {
			t = transactionOf(r.GetTransaction())
		}
		return err
	})
	return t, err
}

// AbortTransaction aborts the open transaction of an id against its producer, which is fenced. seen is the transaction as it
// was looked at: if another one has begun since, or it has ended, the error is INVALID_TXN_STATE and nothing happens.
func (c *Client) AbortTransaction(ctx context.Context, seen Transaction) error {
	pid, epoch := int64(seen.ProducerID), int32(seen.Epoch)
	return c.atCoordinator(ctx, seen.TransactionalID, func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := clientv1.NewTransactionServiceClient(cc).AbortTransaction(ctx, &clientv1.AbortTransactionRequest{
			TransactionalId: seen.TransactionalID, ProducerId: &pid, ProducerEpoch: &epoch})
		return err
	})
}

// atCoordinator asks the coordinator of a transactional id.
func (c *Client) atCoordinator(ctx context.Context, id string, call func(context.Context, *grpc.ClientConn) error) error {
	k := &coordinator{c: c, conns: c.conns, kind: clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION, key: id}
	return k.administer(ctx, call)
}

func transactionOf(p *clientv1.Transaction) Transaction {
	t := Transaction{
		TransactionalID: p.GetTransactionalId(), ProducerID: record.ProducerID(p.GetProducerId()), Epoch: record.Epoch(p.GetProducerEpoch()),
		LastEpoch: record.Epoch(p.GetLastEpoch()), PreviousProducerID: record.ProducerID(p.GetPreviousProducerId()),
		NextProducerID: record.ProducerID(p.GetNextProducerId()), Timeout: time.Duration(p.GetTimeoutMs()) * time.Millisecond,
		Started: timeOf(p.GetStartMs()), Updated: timeOf(p.GetUpdatedMs()), ClientVersion: int(p.GetClientVersion()), Coordinator: p.GetCoordinatorId(),
	}
	if i := int(p.GetState()) - 1; i >= 0 && i < len(TransactionStates) {
		t.State = TransactionStates[i]
	}
	t.Partitions = topicsOf(p.GetTopics())
	for _, e := range p.GetHistory() {
		t.History = append(t.History, eventOf(e))
	}
	return t
}

func topicsOf(list []*clientv1.TransactionTopic) (tps []record.TopicPartition) {
	for _, topic := range list {
		for _, n := range topic.GetPartitions() {
			tps = append(tps, record.TopicPartition{Topic: topic.GetTopic(), Partition: n})
		}
	}
	return tps
}

func eventOf(p *clientv1.TransactionEvent) TransactionEvent {
	e := TransactionEvent{
		Time: timeOf(p.GetTimeMs()), ProducerID: record.ProducerID(p.GetProducerId()), Epoch: record.Epoch(p.GetProducerEpoch()),
		ClientID: p.GetClientId(), ClientAddress: p.GetClientAddress(), Reason: p.GetReason(),
		TopicPartition: record.TopicPartition{Topic: p.GetTopic(), Partition: p.GetPartition()},
		Expected:       record.Sequence(p.GetExpectedSequence()), Received: record.Sequence(p.GetReceivedSequence()),
	}
	if i := int(p.GetKind()); i > 0 && i < len(eventKinds) {
		e.Kind = eventKinds[i]
	}
	return e
}

// timeOf is zero for a time that there is not.
func timeOf(ms int64) time.Time {
	if ms < 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
