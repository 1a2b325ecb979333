package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// fakeTransactions is a coordinator of functions, and finds coordinators.
type fakeTransactions struct {
	init     func(coordinator.InitRequest) (coordinator.Producer, error)
	end      func(coordinator.EndRequest) (coordinator.Producer, error)
	list     func(coordinator.TransactionFilter) ([]*txn.Transaction, bool, error)
	describe func(string) (*txn.Transaction, error)
	abort    func(string, coordinator.Producer, txn.Client) error
	find     func(coordinator.Kind, string) (int32, error)
	shards   []coordinator.GroupStatus
}

var errNotAsked = errors.New("nobody should ask for this")

func (f *fakeTransactions) InitProducer(_ context.Context, r coordinator.InitRequest) (coordinator.Producer, error) {
	if f.init == nil {
		return coordinator.NoProducer, errNotAsked
	}
	return f.init(r)
}

func (f *fakeTransactions) EndTransaction(_ context.Context, r coordinator.EndRequest) (coordinator.Producer, error) {
	if f.end == nil {
		return coordinator.NoProducer, errNotAsked
	}
	return f.end(r)
}

func (f *fakeTransactions) List(_ context.Context, filter coordinator.TransactionFilter, _ int) ([]*txn.Transaction, bool, error) {
	if f.list == nil {
		return nil, false, errNotAsked
	}
	return f.list(filter)
}

func (f *fakeTransactions) Describe(_ context.Context, id string) (*txn.Transaction, error) {
	if f.describe == nil {
		return nil, errNotAsked
	}
	return f.describe(id)
}

func (f *fakeTransactions) Abort(_ context.Context, id string, p coordinator.Producer, by txn.Client) error {
	if f.abort == nil {
		return errNotAsked
	}
	return f.abort(id, p, by)
}

func (f *fakeTransactions) Groups() []coordinator.GroupStatus { return f.shards }

func (f *fakeTransactions) Find(_ context.Context, k coordinator.Kind, name string) (int32, error) {
	if f.find == nil {
		return -1, errNotAsked
	}
	return f.find(k, name)
}

func (r *rig) txns() clientv1.TransactionServiceClient {
	return clientv1.NewTransactionServiceClient(r.conn)
}

func ptr[T any](v T) *T { return &v }

func TestInitWithTransactionalID(t *testing.T) {
	r := newRig(t, nil)
	var got coordinator.InitRequest
	r.transactions.init = func(q coordinator.InitRequest) (coordinator.Producer, error) {
		got = q
		return coordinator.Producer{ID: 7, Epoch: 3}, nil
	}
	for _, c := range []struct {
		req  *clientv1.InitProducerIdRequest
		want coordinator.InitRequest
	}{
		{&clientv1.InitProducerIdRequest{TransactionalId: "tx"}, coordinator.InitRequest{TransactionalID: "tx", Producer: coordinator.NoProducer, Timeout: time.Minute}},
		{&clientv1.InitProducerIdRequest{TransactionalId: "tx", TransactionTimeoutMs: 5, ProducerId: ptr[int64](7), ProducerEpoch: ptr[int32](2)},
			coordinator.InitRequest{TransactionalID: "tx", Producer: coordinator.Producer{ID: 7, Epoch: 2}, Timeout: 5 * time.Millisecond}},
	} {
		a, err := r.client.InitProducerId(r.ctx(), c.req)
		if err != nil || a.ProducerId != 7 || a.ProducerEpoch != 3 {
			t.Fatal(a, err)
		}
		if got.Client.Address == "" {
			t.Error("the coordinator does not hear where the client is")
		}
		got.Client = txn.Client{}
		if got != c.want {
			t.Errorf("asked for %+v, want %+v", got, c.want)
		}
	}
}

// A client is known by the name that it gave in its user agent.
func TestCallerIsNamed(t *testing.T) {
	r := newRig(t, nil)
	conn := r.dial(r.listener, grpc.WithUserAgent("billing-7"))
	var by txn.Client
	r.transactions.abort = func(_ string, _ coordinator.Producer, c txn.Client) error { by = c; return nil }
	if _, err := clientv1.NewTransactionServiceClient(conn).AbortTransaction(r.ctx(), &clientv1.AbortTransactionRequest{TransactionalId: "tx"}); err != nil {
		t.Fatal(err)
	}
	if by.ID != "billing-7" {
		t.Errorf("caller %+v", by)
	}
}

func TestEndTransaction(t *testing.T) {
	r := newRig(t, nil)
	r.transactions.end = func(q coordinator.EndRequest) (coordinator.Producer, error) {
		q.Client = txn.Client{}
		if want := (coordinator.EndRequest{TransactionalID: "tx", Producer: coordinator.Producer{ID: 7, Epoch: 3}, Commit: true, Version: 2}); q != want {
			t.Errorf("asked for %+v", q)
		}
		return coordinator.Producer{ID: 7, Epoch: 4}, nil
	}
	a, err := r.txns().EndTransaction(r.ctx(), &clientv1.EndTransactionRequest{TransactionalId: "tx", ProducerId: 7, ProducerEpoch: 3, Commit: true})
	if err != nil || a.ProducerId != 7 || a.ProducerEpoch != 4 {
		t.Fatal(a, err)
	}
}

// A producer that is fenced hears by whom, and one that asked the wrong broker hears which is the right one.
func TestCoordinatorErrorsAreExplained(t *testing.T) {
	r := newRig(t, nil)
	other := int32(2)
	for _, c := range []struct {
		err  *coordinator.Error
		code codes.Code
	}{
		{&coordinator.Error{Code: coordinator.CodeProducerFenced, Message: "m", Outcome: raftgroup.DidNotHappen,
			Event: &txn.Event{Kind: txn.Initialised, TimeMS: 99, ProducerID: 7, Epoch: 5, Client: txn.Client{ID: "other", Address: "10.0.0.2:1"}}}, codes.FailedPrecondition},
		{&coordinator.Error{Code: coordinator.CodeNotCoordinator, Message: "m", Outcome: raftgroup.MayHaveHappened, Coordinator: &other}, codes.FailedPrecondition},
		{&coordinator.Error{Code: coordinator.CodeInvalidTimeout, Message: "m", Field: "transaction_timeout_ms", Limit: "1 to 900000"}, codes.InvalidArgument},
		{&coordinator.Error{Code: coordinator.CodeConcurrentTransactions, Message: "m"}, codes.Aborted},
		{&coordinator.Error{Code: coordinator.CodeInvalidTxnState, Message: "m", Event: &txn.Event{Kind: txn.BatchRefused, ProducerID: 7,
			Refused: &txn.RefusedBatch{TopicPartition: record.TopicPartition{Topic: "t", Partition: 2}, Code: "X", Expected: 5, Received: 6}}}, codes.FailedPrecondition},
	} {
		r.transactions.end = func(coordinator.EndRequest) (coordinator.Producer, error) { return coordinator.NoProducer, c.err }
		_, err := r.txns().EndTransaction(r.ctx(), &clientv1.EndTransactionRequest{TransactionalId: "tx"})
		e, _, ok := clientv1.ErrorOf(err)
		if !ok || status.Code(err) != c.code || e.Reason != string(c.err.Code) || (e.Outcome == clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED) != (c.err.Outcome == raftgroup.MayHaveHappened) {
			t.Fatalf("%v gives %v", c.err, err)
		}
		switch {
		case c.err.Event != nil:
			if !proto.Equal(e.Event, protoEvent(c.err.Event)) {
				t.Errorf("event %v", e.Event)
			}
		case c.err.Coordinator != nil:
			if e.Leader.GetBrokerId() != 2 || e.Leader.GetAddress() == "" {
				t.Errorf("leader %v", e.Leader)
			}
		case c.err.Field != "":
			if e.Metadata["field"] != c.err.Field || e.Metadata["limit"] != c.err.Limit {
				t.Errorf("metadata %v", e.Metadata)
			}
		}
	}
}

func TestFindCoordinator(t *testing.T) {
	r := newRig(t, nil)
	r.transactions.find = func(k coordinator.Kind, name string) (int32, error) {
		if name != "tx" {
			return -1, &coordinator.Error{Code: coordinator.CodeNotAvailable, Message: "none yet"}
		}
		return map[coordinator.Kind]int32{coordinator.KindTransactions: 1, coordinator.KindGroups: 2}[k], nil
	}
	for kind, want := range map[clientv1.CoordinatorType]int32{clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION: 1, clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP: 2} {
		if a, err := r.txns().FindCoordinator(r.ctx(), &clientv1.FindCoordinatorRequest{Type: kind, Key: "tx"}); err != nil || a.BrokerId != want || a.Address == "" {
			t.Errorf("%v: %v, %v", kind, a, err)
		}
	}
	_, err := r.txns().FindCoordinator(r.ctx(), &clientv1.FindCoordinatorRequest{Type: clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, Key: "new"})
	if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != "COORDINATOR_NOT_AVAILABLE" || !e.GetRetriable() {
		t.Error(err)
	}
}

func TestListAndDescribeTransactions(t *testing.T) {
	r := newRig(t, nil)
	full := &txn.Transaction{ID: "tx", ProducerID: 7, Epoch: 3, LastEpoch: 2, PreviousProducerID: -1, NextProducerID: -1, TimeoutMS: 5, Status: txn.Ongoing,
		ClientVersion: 2, StartMS: 10, UpdatedMS: 11, History: []txn.Event{{Kind: txn.TimedOut, TimeMS: 9, ProducerID: 7, Epoch: 2}},
		Partitions: []record.TopicPartition{{Topic: "a", Partition: 1}, {Topic: "a", Partition: 4}, {Topic: "b", Partition: 0}}}
	var filter coordinator.TransactionFilter
	r.transactions.list = func(f coordinator.TransactionFilter) ([]*txn.Transaction, bool, error) {
		filter = f
		return []*txn.Transaction{full}, true, nil
	}
	r.transactions.describe = func(string) (*txn.Transaction, error) { return full, nil }
	list, err := r.txns().ListTransactions(r.ctx(), &clientv1.ListTransactionsRequest{ProducerIds: []int64{7}, OpenForMs: 3, IdPrefix: "t",
		States: []clientv1.TransactionState{clientv1.TransactionState_TRANSACTION_STATE_ONGOING}})
	if err != nil || !list.Truncated || len(list.Transactions) != 1 || len(list.Transactions[0].Topics)+len(list.Transactions[0].History) != 0 {
		t.Fatal(list, err)
	}
	if filter.OpenFor != 3*time.Millisecond || filter.Prefix != "t" || !slices.Equal(filter.States, []txn.Status{txn.Ongoing}) || !slices.Equal(filter.ProducerIDs, []record.ProducerID{7}) {
		t.Errorf("filter %+v", filter)
	}
	a, err := r.txns().DescribeTransaction(r.ctx(), &clientv1.DescribeTransactionRequest{TransactionalId: "tx"})
	if err != nil {
		t.Fatal(err)
	}
	want := &clientv1.Transaction{TransactionalId: "tx", State: clientv1.TransactionState_TRANSACTION_STATE_ONGOING, ProducerId: 7, ProducerEpoch: 3, LastEpoch: 2,
		PreviousProducerId: -1, NextProducerId: -1, TimeoutMs: 5, StartMs: 10, UpdatedMs: 11, ClientVersion: 2, CoordinatorId: 1,
		Topics:  []*clientv1.TransactionTopic{{Topic: "a", Partitions: []int32{1, 4}}, {Topic: "b", Partitions: []int32{0}}},
		History: []*clientv1.TransactionEvent{{Kind: clientv1.TransactionEventKind_TRANSACTION_EVENT_KIND_TIMED_OUT, TimeMs: 9, ProducerId: 7, ProducerEpoch: 2, ExpectedSequence: -1, ReceivedSequence: -1}}}
	if !proto.Equal(a.Transaction, want) {
		t.Errorf("got  %v\nwant %v", a.Transaction, want)
	}
}

// Bad input is refused by name before a coordinator is asked; what only the coordinator checks, it checks.
func TestTransactionInput(t *testing.T) {
	r := newRig(t, nil)
	long := strings.Repeat("x", 1025)
	for what, c := range map[string]struct {
		call  func() error
		field string
	}{
		"init: half a producer": {func() error {
			_, err := r.client.InitProducerId(r.ctx(), &clientv1.InitProducerIdRequest{TransactionalId: "tx", ProducerId: ptr[int64](5)})
			return err
		}, "producer_id, producer_epoch"},
		"init: epoch": {func() error {
			_, err := r.client.InitProducerId(r.ctx(), &clientv1.InitProducerIdRequest{TransactionalId: "tx", ProducerId: ptr[int64](5), ProducerEpoch: ptr[int32](32768)})
			return err
		}, "producer_epoch"},
		"end: producer": {func() error {
			_, err := r.txns().EndTransaction(r.ctx(), &clientv1.EndTransactionRequest{TransactionalId: "tx", ProducerId: -1})
			return err
		}, "producer_id"},
		"find: type": {func() error {
			_, err := r.txns().FindCoordinator(r.ctx(), &clientv1.FindCoordinatorRequest{Key: "tx"})
			return err
		}, "type"},
		"find: key": {func() error {
			_, err := r.txns().FindCoordinator(r.ctx(), &clientv1.FindCoordinatorRequest{Type: clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, Key: long})
			return err
		}, "key"},
		"list: state": {func() error {
			_, err := r.txns().ListTransactions(r.ctx(), &clientv1.ListTransactionsRequest{States: []clientv1.TransactionState{7}})
			return err
		}, "states"},
		"list: time": {func() error {
			_, err := r.txns().ListTransactions(r.ctx(), &clientv1.ListTransactionsRequest{OpenForMs: -1})
			return err
		}, "open_for_ms"},
		"abort: half a producer": {func() error {
			_, err := r.txns().AbortTransaction(r.ctx(), &clientv1.AbortTransactionRequest{TransactionalId: "tx", ProducerEpoch: ptr[int32](1)})
			return err
		}, "producer_id, producer_epoch"},
	} {
		e, _, ok := clientv1.ErrorOf(c.call())
		if !ok || e.Reason != "INVALID_REQUEST" || e.Metadata["field"] != c.field || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			t.Errorf("%s: %v", what, e)
		}
	}
}

// A batch of a transaction reaches the log with its id and the version this API speaks, also when it came as records.
func TestProduceInTransaction(t *testing.T) {
	r := newRig(t, nil)
	s := r.produce()
	b := record.NewBuilder(record.CodecNone)
	if err := b.Append(1000, nil, []byte("v"), nil); err != nil {
		t.Fatal(err)
	}
	batch := &clientv1.ProduceRequest{RequestId: 1, Topic: "t", TransactionalId: "tx", Batch: b.Finish(7, 3, 0, true)}
	records := &clientv1.ProduceRequest{RequestId: 2, Topic: "t", TransactionalId: "tx", Records: &clientv1.Records{
		Records: []*clientv1.Record{{Value: []byte("v")}}, ProducerId: ptr[int64](7), ProducerEpoch: ptr[int32](3), BaseSequence: ptr[int32](1)}}
	for _, req := range []*clientv1.ProduceRequest{batch, records} {
		s.send(req)
		if a := s.recv(); a.Error != nil {
			t.Fatal(a.Error)
		}
		p := r.log.lastProduced()
		if p.TransactionalID != "tx" || p.Version != 2 || !p.Batch.Attributes().Transactional() || p.Batch.ProducerID() != 7 {
			t.Errorf("the log gets %q version %d, transactional %t", p.TransactionalID, p.Version, p.Batch.Attributes().Transactional())
		}
	}
}

// lastProduced is the request that came last.
func (l *fakeLog) lastProduced() partition.ProduceRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests[len(l.requests)-1]
}
