package test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// misuse is a cluster with an open transaction and a group with a member, which nothing that is asked for may harm.
type misuse struct {
	*scenario
	// pid and epoch own "tx", whose transaction is open; idle owns "idle", which has none.
	pid, idle int64
	epoch     int32
	member    client.GroupMember
	// txns and groups are those who coordinate.
	txns   clientv1.TransactionServiceClient
	log    clientv1.LogServiceClient
	groups clientv1.GroupServiceClient
}

// refusal is a call and the code that it ends with.
type refusal struct {
	name, reason string
	call         func() error
}

// What clients ask of transactions and groups that cannot be is refused by name, certainly did nothing, and costs nothing: the transaction that
// is open meanwhile commits, with the group's offsets, and the group has what it had.
func TestBadTransactionAndGroupInput(t *testing.T) {
	t.Parallel()
	s := beginPatientGroups(t)
	one := s.worker("one", nil)
	s.fill(0, 3)
	one.readN(3)
	s.must("commit", one.g.Commit(s.ctx))
	before := one.g.Positions()
	open, idle := s.transactional("tx"), s.transactional("idle")
	_ = idle
	s.must("begin", open.Begin())
	s.put(open, other, "a")
	s.must("offsets", open.SendOffsets(s.ctx, one.g.Member(), before))

	m := &misuse{scenario: s, member: one.g.Member()}
	d := s.describe("tx")
	m.pid, m.epoch, m.idle = int64(d.ProducerID), int32(d.Epoch), int64(s.describe("idle").ProducerID)
	g, err := s.cl.DescribeGroup(s.ctx, testGroup)
	s.must("describe", err)
	m.groups = clientv1.NewGroupServiceClient(s.dial(g.Coordinator))
	m.txns = clientv1.NewTransactionServiceClient(s.dial(d.Coordinator))
	m.log = clientv1.NewLogServiceClient(s.dial(d.Coordinator))
	for _, bad := range append(m.badTransactions(), append(m.badBatches(), m.badGroups(one)...)...) {
		t.Run(bad.name, func(t *testing.T) {
			e, _, ok := clientv1.ErrorOf(bad.call())
			if !ok {
				t.Fatal("it is not refused")
			}
			wantRefused(t, e, bad.reason)
		})
	}

	if now := s.describe("tx"); now.State != client.TransactionOngoing || now.Epoch != d.Epoch || len(now.Partitions) != len(d.Partitions) {
		t.Fatalf("the transaction is %+v now, was %+v", now, d)
	}
	s.must("commit", open.Commit(s.ctx))
	s.awaitRead([]string{otherTopic + ":a"}, other)
	more := s.fill(3, 3)
	s.wantValues("after all that", one.readN(3), more)
	s.must("commit", one.g.Commit(s.ctx))
}

// badTransactions are requests to the transaction coordinator.
func (m *misuse) badTransactions() []refusal {
	init := func(id string, timeout time.Duration) func() error {
		return func() error {
			_, err := m.log.InitProducerId(m.ctx, &clientv1.InitProducerIdRequest{TransactionalId: id, TransactionTimeoutMs: int32(timeout.Milliseconds())})
			return err
		}
	}
	end := func(id string, pid int64, epoch int32, commit bool) func() error {
		return func() error {
			m.txns = clientv1.NewTransactionServiceClient(m.dial(m.coordinatorFor(id)))
			_, err := m.txns.EndTransaction(m.ctx, &clientv1.EndTransactionRequest{TransactionalId: id, ProducerId: pid, ProducerEpoch: epoch, Commit: commit})
			return err
		}
	}
	return []refusal{
		{"init: transactional id too long (I2)", "INVALID_REQUEST", init(strings.Repeat("x", 1025), time.Minute)},
		{"init: timeout below 0 (I3)", "INVALID_TRANSACTION_TIMEOUT", init("tx", -time.Millisecond)},
		{"init: timeout above the limit (I3)", "INVALID_TRANSACTION_TIMEOUT", init("tx", time.Hour)},
		{"init: a zombie's epoch (I12)", "PRODUCER_FENCED", func() error {
			_, err := m.log.InitProducerId(m.ctx, &clientv1.InitProducerIdRequest{TransactionalId: "tx", TransactionTimeoutMs: 1000,
				ProducerId: proto.Int64(m.pid + 1000), ProducerEpoch: proto.Int32(m.epoch)})
			return err
		}},
		{"end: no id (T19)", "INVALID_REQUEST", end("", m.pid, m.epoch, true)},
		{"end: unknown id (T19)", "INVALID_PRODUCER_ID_MAPPING", end("nobody", m.pid, m.epoch, true)},
		{"end: unknown producer (T19)", "INVALID_PRODUCER_ID_MAPPING", end("tx", m.pid+1000, m.epoch, true)},
		{"end: newer epoch (T19)", "PRODUCER_FENCED", end("tx", m.pid, m.epoch+1, true)},
		{"end: without a transaction (T22)", "INVALID_TXN_STATE", end("idle", m.idle, 0, true)},
		{"describe: unknown id (T35)", "TRANSACTIONAL_ID_NOT_FOUND", func() error {
			_, err := clientv1.NewTransactionServiceClient(m.dial(m.coordinatorFor("nobody"))).DescribeTransaction(m.ctx, &clientv1.DescribeTransactionRequest{TransactionalId: "nobody"})
			return err
		}},
		{"abort: not the producer that was seen (R5)", "INVALID_TXN_STATE", func() error {
			_, err := clientv1.NewTransactionServiceClient(m.dial(m.coordinatorFor("tx"))).AbortTransaction(m.ctx, &clientv1.AbortTransactionRequest{TransactionalId: "tx",
				ProducerId: proto.Int64(m.pid), ProducerEpoch: proto.Int32(m.epoch + 1)})
			return err
		}},
		{"abort: nothing is open (R5)", "INVALID_TXN_STATE", func() error {
			_, err := clientv1.NewTransactionServiceClient(m.dial(m.coordinatorFor("idle"))).AbortTransaction(m.ctx, &clientv1.AbortTransactionRequest{TransactionalId: "idle"})
			return err
		}},
	}
}

// coordinatorFor finds the coordinator of an id, which nobody need know; that of tx for one that cannot be.
func (m *misuse) coordinatorFor(id string) (broker int32) {
	if id == "" {
		id = "tx"
	}
	m.until("find the coordinator of "+id, func() bool {
		r, err := m.txns.FindCoordinator(m.ctx, &clientv1.FindCoordinatorRequest{Type: clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION, Key: id})
		broker = r.GetBrokerId()
		return err == nil
	})
	return broker
}

// badBatches are sent to the leader of a partition in which the transaction is open, and to that of one in which it is not.
func (m *misuse) badBatches() []refusal {
	batch := func(pid int64, epoch int32, seq record.Sequence, txn bool) record.Batch {
		b := record.NewBuilder(record.CodecNone)
		if err := b.Append(time.Now().UnixMilli(), nil, []byte("bad"), nil); err != nil {
			m.t.Fatal(err)
		}
		return b.Finish(record.ProducerID(pid), record.Epoch(epoch), seq, txn)
	}
	send := func(tp record.TopicPartition, id string, b record.Batch) func() error {
		return func() error {
			var answer *clientv1.ProduceResponse
			m.until("an answer of the leader", func() bool {
				var err error
				answer, err = m.ask(m.leaderOfPartition(tp), &clientv1.ProduceRequest{RequestId: 1, Topic: tp.Topic, Partition: tp.Partition,
					Acks: clientv1.Acks_ACKS_ALL, TimeoutMs: 2000, TransactionalId: id, Batch: b})
				return err == nil && !answer.GetError().GetRetriable()
			})
			return clientv1.ToStatus(answer.GetError(), codes.Unknown, 0).Err()
		}
	}
	fresh := record.TopicPartition{Topic: otherTopic, Partition: 1}
	return []refusal{
		{"plain batch in the transaction (P16)", "INVALID_TXN_STATE", send(other, "", batch(m.pid, m.epoch, 1, false))},
		{"batch of a transaction without its id (P31)", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", send(fresh, "", batch(m.pid, m.epoch, 0, true))},
		{"plain batch with an id (P31)", "INVALID_REQUEST", send(fresh, "tx", batch(m.pid, m.epoch, 1, false))},
		{"batch of a stranger (T5)", "INVALID_PRODUCER_ID_MAPPING", send(fresh, "tx", batch(m.pid+1000, 0, 0, true))},
		{"batch of an id that nobody knows (T5)", "INVALID_PRODUCER_ID_MAPPING", send(fresh, "nobody", batch(m.pid, m.epoch, 0, true))},
		{"batch of another epoch (T11)", "INVALID_PRODUCER_EPOCH", send(fresh, "tx", batch(m.pid, m.epoch+1, 0, true))},
	}
}

// badGroups are requests to the group coordinator. Those that refuse single offsets commit no other ones either.
func (m *misuse) badGroups(one *worker) []refusal {
	good := one.g.Assignment()[0]
	at := func(tp record.TopicPartition, metadata string) []*clientv1.OffsetToCommit {
		return []*clientv1.OffsetToCommit{{Topic: tp.Topic, Partition: tp.Partition, Offset: 99, Metadata: metadata}}
	}
	me := &clientv1.Committer{MemberId: m.member.MemberID, MemberEpoch: m.member.Epoch}
	committer := func(member string, epoch int32) *clientv1.Committer {
		return &clientv1.Committer{MemberId: member, MemberEpoch: epoch}
	}
	first := func(refused []*clientv1.RefusedOffset, err error) error {
		if err == nil && len(refused) == 1 {
			return clientv1.ToStatus(refused[0].GetError(), codes.Unknown, 0).Err()
		}
		return err
	}
	commit := func(by *clientv1.Committer, offsets []*clientv1.OffsetToCommit) func() error {
		return func() error {
			r, err := m.groups.CommitOffsets(m.ctx, &clientv1.CommitOffsetsRequest{GroupId: testGroup, Committer: by, Offsets: offsets})
			return first(r.GetRefused(), err)
		}
	}
	inside := func(group string, epoch int32, by *clientv1.Committer, offsets []*clientv1.OffsetToCommit) func() error {
		return func() error {
			r, err := m.groups.CommitOffsetsInTransaction(m.ctx, &clientv1.CommitOffsetsInTransactionRequest{TransactionalId: "tx", ProducerId: m.pid, ProducerEpoch: epoch,
				GroupId: group, Committer: by, Offsets: offsets})
			return first(r.GetRefused(), err)
		}
	}
	join := func(req *clientv1.JoinGroupRequest) func() error {
		return func() error {
			s, err := m.groups.JoinGroup(m.ctx)
			if err == nil {
				err = s.Send(req)
			}
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}
	sub := func(change func(*clientv1.Subscription)) *clientv1.Subscription {
		s := &clientv1.Subscription{Topics: []string{topic}}
		change(s)
		return s
	}
	nowhere := record.TopicPartition{Topic: "nowhere"}
	return []refusal{
		{"commit: nobody, while there are members (G19)", "UNKNOWN_MEMBER_ID", commit(nil, at(good, ""))},
		{"commit: unknown member (G19)", "UNKNOWN_MEMBER_ID", commit(committer("stranger", 1), at(good, ""))},
		{"commit: epoch of the future (G20)", "STALE_MEMBER_EPOCH", commit(committer(m.member.MemberID, m.member.Epoch+7), at(good, ""))},
		{"commit: unknown topic (G21)", "UNKNOWN_TOPIC_OR_PARTITION", commit(me, at(nowhere, ""))},
		{"commit: metadata too long (G21)", "OFFSET_METADATA_TOO_LARGE", commit(me, at(good, strings.Repeat("m", 4097)))},
		{"in the transaction: no group (G22)", "INVALID_GROUP_ID", inside("", m.epoch, nil, at(good, ""))},
		{"in the transaction: older epoch of the group (G22)", "STALE_MEMBER_EPOCH", inside(testGroup, m.epoch, committer(m.member.MemberID, m.member.Epoch+7), at(good, ""))},
		{"in the transaction: unknown member (G22)", "UNKNOWN_MEMBER_ID", inside(testGroup, m.epoch, committer("stranger", 1), at(good, ""))},
		{"in the transaction: unknown topic (G21)", "UNKNOWN_TOPIC_OR_PARTITION", inside(testGroup, m.epoch, me, at(nowhere, ""))},
		{"in the transaction: metadata too long (G21)", "OFFSET_METADATA_TOO_LARGE", inside(testGroup, m.epoch, me, at(good, strings.Repeat("m", 4097)))},
		{"join: no group (G2)", "INVALID_GROUP_ID", join(&clientv1.JoinGroupRequest{MemberId: "m", Subscription: sub(func(*clientv1.Subscription) {})})},
		{"join: no subscription (G15)", "INVALID_REQUEST", join(&clientv1.JoinGroupRequest{GroupId: testGroup, MemberId: "m"})},
		{"join: a pattern that is none (G15)", "INVALID_REGULAR_EXPRESSION", join(&clientv1.JoinGroupRequest{GroupId: testGroup, MemberId: "m",
			Subscription: sub(func(s *clientv1.Subscription) { s.Pattern = "(" })})},
		{"join: an assignor that is none (G15)", "UNSUPPORTED_ASSIGNOR", join(&clientv1.JoinGroupRequest{GroupId: testGroup, MemberId: "m",
			Subscription: sub(func(s *clientv1.Subscription) { s.Assignor = "random" })})},
		{"join: time to give back out of range", "INVALID_REQUEST", join(&clientv1.JoinGroupRequest{GroupId: testGroup, MemberId: "m",
			Subscription: sub(func(s *clientv1.Subscription) { s.RebalanceTimeoutMs = -1 })})},
		{"join: an epoch ahead of the group (G15)", "FENCED_MEMBER_EPOCH", join(&clientv1.JoinGroupRequest{GroupId: testGroup, MemberId: m.member.MemberID, MemberEpoch: m.member.Epoch + 7})},
		{"delete: a group with members (G30)", "NON_EMPTY_GROUP", func() error {
			_, err := m.groups.DeleteGroup(m.ctx, &clientv1.DeleteGroupRequest{GroupId: testGroup})
			return err
		}},
		{"delete: a group that is not there (G30)", "GROUP_ID_NOT_FOUND", func() error { return raw(m.cl.DeleteGroup(m.ctx, "nowhere")) }},
	}
}

// raw gives the gRPC error below a client's.
func raw(err error) error {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Unwrap()
	}
	return err
}
