package api

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

const (
	// transactionVersion is what clients of this API speak: partitions join by being written to, and every end raises the
	// epoch (KIP-890).
	transactionVersion = 2
	// defaultTransactionTimeoutMS is Kafka's.
	defaultTransactionTimeoutMS = 60_000
	// maxTransactionsListed of one ListTransactions.
	maxTransactionsListed = 10_000
)

// InitProducerId hands out a producer id: a fresh one (I1), or that of a transactional id (I2). The name is the one that
// generated code demands.
func (s *service) InitProducerId(ctx context.Context, req *clientv1.InitProducerIdRequest) (*clientv1.InitProducerIdResponse, error) {
	by := s.rights(ctx)
	if req.TransactionalId == "" {
		if refusal := by.refuseProducer(); refusal != nil {
			return nil, s.failed(refusal)
		}
		id, err := s.c.Cluster.NextProducerID(ctx)
		if err != nil {
			return nil, s.failed(s.ofDomain(err))
		}
		return &clientv1.InitProducerIdResponse{ProducerId: int64(id)}, nil
	}
	has, refusal := suppliedProducer(req.ProducerId, req.ProducerEpoch)
	if refusal == nil {
		refusal = by.refuse(acl.Write, acl.TransactionalID, req.TransactionalId)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	timeout := req.TransactionTimeoutMs
	if timeout == 0 {
		timeout = defaultTransactionTimeoutMS
	}
	p, err := s.c.Transactions.InitProducer(ctx, coordinator.InitRequest{
		TransactionalID: req.TransactionalId, Producer: has, Timeout: time.Duration(timeout) * time.Millisecond, Client: caller(ctx),
	})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.InitProducerIdResponse{ProducerId: int64(p.ID), ProducerEpoch: int32(p.Epoch)}, nil
}

// FindCoordinator says which broker coordinates an id or a group.
func (s *service) FindCoordinator(ctx context.Context, req *clientv1.FindCoordinatorRequest) (*clientv1.FindCoordinatorResponse, error) {
	var kind coordinator.Kind
	var of acl.ResourceType
	var name string // what the caller calls the key
	switch req.Type {
	case clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION:
		kind, of, name = coordinator.KindTransactions, acl.TransactionalID, "the transactional id"
	case clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP:
		kind, of, name = coordinator.KindGroups, acl.Group, "the group's id"
	default:
		return nil, s.failed(refused(reasonInvalidRequest, "type", "1 to 2", "type is %d; want COORDINATOR_TYPE_GROUP (1) or COORDINATOR_TYPE_TRANSACTION (2)", req.Type))
	}
	refusal := checkNamed("key", name, req.Key)
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuse(acl.Describe, of, req.Key)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	broker, err := s.c.Coordinators.Find(ctx, kind, req.Key)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.FindCoordinatorResponse{BrokerId: broker, Address: s.address(broker)}, nil
}

// EndTransaction commits or aborts.
func (s *service) EndTransaction(ctx context.Context, req *clientv1.EndTransactionRequest) (*clientv1.EndTransactionResponse, error) {
	has, refusal := suppliedProducer(&req.ProducerId, &req.ProducerEpoch)
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuse(acl.Write, acl.TransactionalID, req.TransactionalId)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	p, err := s.c.Transactions.EndTransaction(ctx, coordinator.EndRequest{
		TransactionalID: req.TransactionalId, Producer: has, Commit: req.Commit, Version: transactionVersion, Client: caller(ctx),
	})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.EndTransactionResponse{ProducerId: int64(p.ID), ProducerEpoch: int32(p.Epoch)}, nil
}

// ListTransactions lists what this broker coordinates.
func (s *service) ListTransactions(ctx context.Context, req *clientv1.ListTransactionsRequest) (*clientv1.ListTransactionsResponse, error) {
	refusal := checkRange("producer_ids", int64(len(req.ProducerIds)), 0, maxProducers)
	if refusal == nil {
		refusal = checkRange("open_for_ms", req.OpenForMs, 0, math.MaxInt64/int64(time.Millisecond))
	}
	f := coordinator.TransactionFilter{OpenFor: time.Duration(req.OpenForMs) * time.Millisecond, Prefix: req.IdPrefix}
	for _, state := range req.States {
		if state < clientv1.TransactionState_TRANSACTION_STATE_EMPTY || state > clientv1.TransactionState_TRANSACTION_STATE_COMPLETE_ABORT {
			refusal = refused(reasonInvalidRequest, "states", "1 to 6", "states holds %d, which does not exist", state)
			break
		}
		f.States = append(f.States, txn.Status(state-1))
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	for _, id := range req.ProducerIds {
		f.ProducerIDs = append(f.ProducerIDs, record.ProducerID(id))
	}
	by := s.rights(ctx)
	f.Pass = func(t *txn.Transaction) bool { return by.sees(acl.Describe, acl.TransactionalID, t.ID) }
	list, truncated, err := s.c.Transactions.List(ctx, f, maxTransactionsListed)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	answer := &clientv1.ListTransactionsResponse{Truncated: truncated}
	for _, t := range list {
		p := s.protoTransaction(t)
		p.Topics, p.History = nil, nil
		answer.Transactions = append(answer.Transactions, p)
	}
	return answer, nil
}

// DescribeTransaction shows one id.
func (s *service) DescribeTransaction(ctx context.Context, req *clientv1.DescribeTransactionRequest) (*clientv1.DescribeTransactionResponse, error) {
	by := s.rights(ctx)
	if refusal := by.refuse(acl.Describe, acl.TransactionalID, req.TransactionalId); refusal != nil {
		return nil, s.failed(refusal)
	}
	t, err := s.c.Transactions.Describe(ctx, req.TransactionalId)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	p := s.protoTransaction(t)
	p.Topics = slices.DeleteFunc(p.Topics, func(t *clientv1.TransactionTopic) bool { return !by.sees(acl.Describe, acl.Topic, t.Topic) })
	for _, e := range p.History {
		if e.Topic != "" && !by.sees(acl.Describe, acl.Topic, e.Topic) {
			e.Topic = ""
		}
	}
	return &clientv1.DescribeTransactionResponse{Transaction: p}, nil
}

// AbortTransaction aborts against the producer: for operators, and for who could take the id from it as well.
func (s *service) AbortTransaction(ctx context.Context, req *clientv1.AbortTransactionRequest) (*clientv1.AbortTransactionResponse, error) {
	seen, refusal := suppliedProducer(req.ProducerId, req.ProducerEpoch)
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuseBoth(frontdoor.Action{Operation: acl.Write, Type: acl.TransactionalID, Name: req.TransactionalId}, frontdoor.OnCluster(acl.Alter))
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Transactions.Abort(ctx, req.TransactionalId, seen, caller(ctx)); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.AbortTransactionResponse{}, nil
}

// caller is the client as its connection and its user agent show it.
func caller(ctx context.Context) txn.Client {
	var c txn.Client
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		c.Address = p.Addr.String()
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if agent := md.Get("user-agent"); len(agent) == 1 {
			c.ID, _, _ = strings.Cut(agent[0], " grpc-go/")
		}
	}
	return c
}

// suppliedProducer reads a producer id and epoch: both, or none.
func suppliedProducer(id *int64, epoch *int32) (coordinator.Producer, *clientv1.Error) {
	switch {
	case id == nil && epoch == nil:
		return coordinator.NoProducer, nil
	case id == nil || epoch == nil:
		return coordinator.NoProducer, refused(reasonInvalidRequest, "producer_id, producer_epoch", "", "one of producer_id and producer_epoch is set; want both or none (I2)")
	}
	refusal := checkRange("producer_id", *id, 0, math.MaxInt64)
	if refusal == nil {
		refusal = checkRange("producer_epoch", int64(*epoch), 0, math.MaxInt16)
	}
	return coordinator.Producer{ID: record.ProducerID(*id), Epoch: record.Epoch(*epoch)}, refusal
}

// checkTransactionalID checks an id before it is carried to its coordinator, which checks it again.
func checkTransactionalID(id string) *clientv1.Error { return checkKey("transactional_id", id) }

func checkKey(field, key string) *clientv1.Error { return checkNamed(field, field, key) }

// checkNamed checks a key that people know by another name than the field's.
func checkNamed(field, name, key string) *clientv1.Error {
	switch {
	case key == "" || len(key) > txn.MaxIDLength:
		limit := "1 to " + strconv.Itoa(txn.MaxIDLength) + " bytes"
		return refused(reasonInvalidRequest, field, limit, "%s has %d bytes; %s are allowed", name, len(key), limit)
	case !utf8.ValidString(key):
		return refused(reasonInvalidRequest, field, "", "%s is not UTF-8", name)
	}
	return nil
}

func (s *service) protoTransaction(t *txn.Transaction) *clientv1.Transaction {
	p := &clientv1.Transaction{
		TransactionalId: t.ID, State: clientv1.TransactionState(t.Status + 1), ProducerId: int64(t.ProducerID), ProducerEpoch: int32(t.Epoch),
		LastEpoch: int32(t.LastEpoch), PreviousProducerId: int64(t.PreviousProducerID), NextProducerId: int64(t.NextProducerID),
		TimeoutMs: t.TimeoutMS, StartMs: t.StartMS, UpdatedMs: t.UpdatedMS, ClientVersion: int32(t.ClientVersion), CoordinatorId: s.c.Cluster.Self(),
	}
	p.Topics = protoTopics(t.Partitions)
	for i := range t.History {
		p.History = append(p.History, protoEvent(&t.History[i]))
	}
	return p
}

// protoTopics gathers sorted partitions by topic.
func protoTopics(list []record.TopicPartition) (topics []*clientv1.TransactionTopic) {
	for _, tp := range list {
		if n := len(topics); n == 0 || topics[n-1].Topic != tp.Topic {
			topics = append(topics, &clientv1.TransactionTopic{Topic: tp.Topic})
		}
		last := topics[len(topics)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
	return topics
}

func protoEvent(e *txn.Event) *clientv1.TransactionEvent {
	p := &clientv1.TransactionEvent{
		Kind: clientv1.TransactionEventKind(e.Kind), TimeMs: e.TimeMS, ProducerId: int64(e.ProducerID), ProducerEpoch: int32(e.Epoch),
		ClientId: e.Client.ID, ClientAddress: e.Client.Address, ExpectedSequence: -1, ReceivedSequence: -1,
	}
	if r := e.Refused; r != nil {
		p.Topic, p.Partition, p.Reason = r.Topic, r.Partition, valid(r.Code)
		p.ExpectedSequence, p.ReceivedSequence = int32(r.Expected), int32(r.Received)
	}
	return p
}
