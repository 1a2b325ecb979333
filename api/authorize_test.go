package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// right is what a call needs.
type right struct {
	op   acl.Operation
	t    acl.ResourceType
	name string
}

func (r right) rule(p acl.Permission) acl.Rule {
	return acl.Rule{Type: r.t, Name: r.name, Pattern: acl.Literal, Principal: "User:" + frontdoor.Anonymous, Host: acl.AnyHost, Operation: r.op, Permission: p}
}

func rulesOf(p acl.Permission, rights ...right) (rules []acl.Rule) {
	for _, r := range rights {
		rules = append(rules, r.rule(p))
	}
	return rules
}

// everything is allowed to the caller.
func everything() []acl.Rule {
	return rulesOf(acl.Allow, right{acl.All, acl.Topic, "*"}, right{acl.All, acl.Group, "*"}, right{acl.All, acl.TransactionalID, "*"}, right{acl.All, acl.Cluster, acl.ClusterName})
}

// inAnswer is an error that stands in an answer.
func inAnswer(e *clientv1.Error) error {
	if e == nil {
		return nil
	}
	return clientv1.ToStatus(e, frontdoor.KindOf(e.Reason).GRPC, 0).Err()
}

// errLeftOut: what was asked for is not in the answer, without a word.
var errLeftOut = errors.New("left out")

func unlessEmpty[T any](list []T, err error) error {
	if err == nil && len(list) == 0 {
		return errLeftOut
	}
	return err
}

func only[T any](_ T, err error) error { return err }

// guarded is a call and what it needs: all of any one of several lists of rights.
type guardedCall struct {
	method string
	what   string
	needs  [][]right
	// quiet: who may not is told nothing.
	quiet bool
	call  func(ctx context.Context, r *rig) error
}

func one(rights ...right) [][]right { return [][]right{rights} }

var (
	onCluster = func(op acl.Operation) right { return right{op, acl.Cluster, acl.ClusterName} }
	onT       = func(op acl.Operation) right { return right{op, acl.Topic, "t"} }
	onG       = func(op acl.Operation) right { return right{op, acl.Group, "g"} }
	onX       = func(op acl.Operation) right { return right{op, acl.TransactionalID, "x"} }
)

// guardedCalls are all calls of all services; what may be asked without any right has no needs.
func guardedCalls() []guardedCall {
	return slices.Concat(recordCalls(), transactionCalls(), groupCalls(), topicCalls(), clusterCalls())
}

func recordCalls() []guardedCall {
	produce := func(id string) func(context.Context, *rig) error {
		return func(ctx context.Context, r *rig) error {
			s, err := r.client.Produce(ctx)
			if err != nil {
				return err
			}
			req := request(1, "t", "v")
			if req.TransactionalId = id; id != "" {
				req.Batch = nil
				req.Records = &clientv1.Records{Records: []*clientv1.Record{{}}, ProducerId: ptr[int64](1), ProducerEpoch: ptr[int32](0), BaseSequence: ptr[int32](0)}
			}
			if err := s.Send(req); err != nil {
				return err
			}
			a, err := s.Recv()
			if err != nil {
				return err
			}
			if a.Error != nil && a.LogStartOffset != -1 {
				return fmt.Errorf("the log's start %d is told", a.LogStartOffset)
			}
			return inAnswer(a.Error)
		}
	}
	return []guardedCall{
		{clientv1.LogService_Produce_FullMethodName, "", one(onT(acl.Write)), false, produce("")},
		{clientv1.LogService_Produce_FullMethodName, "in a transaction", one(onT(acl.Write), onX(acl.Write)), false, produce("x")},
		{clientv1.LogService_Fetch_FullMethodName, "", one(onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			a, err := r.client.Fetch(ctx, &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}})
			if err != nil {
				return err
			}
			return inAnswer(a.Partitions[0].Error)
		}},
		{clientv1.LogService_ListOffsets_FullMethodName, "", one(onT(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			a, err := r.client.ListOffsets(ctx, &clientv1.ListOffsetsRequest{Partitions: []*clientv1.ListOffsetsPartition{{Topic: "t", TimestampMs: -1}}})
			if err != nil {
				return err
			}
			return inAnswer(a.Partitions[0].Error)
		}},
		{clientv1.LogService_DescribeProducers_FullMethodName, "", one(onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			return only(r.client.DescribeProducers(ctx, &clientv1.DescribeProducersRequest{Topic: "t"}))
		}},
		{clientv1.LogService_InitProducerId_FullMethodName, "", [][]right{{right{acl.Write, acl.Topic, "*"}}, {onCluster(acl.IdempotentWrite)}}, false, func(ctx context.Context, r *rig) error {
			return only(r.client.InitProducerId(ctx, &clientv1.InitProducerIdRequest{}))
		}},
		{clientv1.LogService_InitProducerId_FullMethodName, "of a transactional id", one(onX(acl.Write)), false, func(ctx context.Context, r *rig) error {
			return only(r.client.InitProducerId(ctx, &clientv1.InitProducerIdRequest{TransactionalId: "x"}))
		}},
	}
}

func transactionCalls() []guardedCall {
	find := func(t clientv1.CoordinatorType, key string) func(context.Context, *rig) error {
		return func(ctx context.Context, r *rig) error {
			return only(r.txns().FindCoordinator(ctx, &clientv1.FindCoordinatorRequest{Type: t, Key: key}))
		}
	}
	return []guardedCall{
		{clientv1.TransactionService_FindCoordinator_FullMethodName, "of a group", one(onG(acl.Describe)), false, find(clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, "g")},
		{clientv1.TransactionService_FindCoordinator_FullMethodName, "of an id", one(onX(acl.Describe)), false, find(clientv1.CoordinatorType_COORDINATOR_TYPE_TRANSACTION, "x")},
		{clientv1.TransactionService_EndTransaction_FullMethodName, "", one(onX(acl.Write)), false, func(ctx context.Context, r *rig) error {
			return only(r.txns().EndTransaction(ctx, &clientv1.EndTransactionRequest{TransactionalId: "x"}))
		}},
		{clientv1.TransactionService_ListTransactions_FullMethodName, "", one(onX(acl.Describe)), true, func(ctx context.Context, r *rig) error {
			a, err := r.txns().ListTransactions(ctx, &clientv1.ListTransactionsRequest{})
			return unlessEmpty(a.GetTransactions(), err)
		}},
		{clientv1.TransactionService_DescribeTransaction_FullMethodName, "", one(onX(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.txns().DescribeTransaction(ctx, &clientv1.DescribeTransactionRequest{TransactionalId: "x"}))
		}},
		{clientv1.TransactionService_DescribeTransaction_FullMethodName, "its partitions", one(onX(acl.Describe), onT(acl.Describe)), true, func(ctx context.Context, r *rig) error {
			a, err := r.txns().DescribeTransaction(ctx, &clientv1.DescribeTransactionRequest{TransactionalId: "x"})
			return unlessEmpty(a.GetTransaction().GetTopics(), err)
		}},
		{clientv1.TransactionService_AbortTransaction_FullMethodName, "", [][]right{{onX(acl.Write)}, {onCluster(acl.Alter)}}, false, func(ctx context.Context, r *rig) error {
			return only(r.txns().AbortTransaction(ctx, &clientv1.AbortTransactionRequest{TransactionalId: "x"}))
		}},
	}
}

func groupCalls() []guardedCall {
	join := func(topics ...string) func(context.Context, *rig) error {
		return func(ctx context.Context, r *rig) error {
			s, err := r.group().JoinGroup(ctx)
			if err == nil {
				err = s.Send(&clientv1.JoinGroupRequest{GroupId: "g", Subscription: &clientv1.Subscription{Topics: topics}})
			}
			if err != nil {
				return err
			}
			return only(s.Recv())
		}
	}
	offsets := []*clientv1.OffsetToCommit{{Topic: "t"}}
	named := []*clientv1.TopicPartitions{{Topic: "t", Partitions: []int32{0}}}
	first := func(list []*clientv1.RefusedOffset, err error) error {
		if err != nil || len(list) == 0 {
			return err
		}
		return inAnswer(list[0].Error)
	}
	return []guardedCall{
		{clientv1.GroupService_JoinGroup_FullMethodName, "", one(onG(acl.Read)), false, join()},
		{clientv1.GroupService_JoinGroup_FullMethodName, "with topics", one(onG(acl.Read), onT(acl.Describe)), false, join("t")},
		{clientv1.GroupService_CommitOffsets_FullMethodName, "", one(onG(acl.Read), onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			a, err := r.group().CommitOffsets(ctx, &clientv1.CommitOffsetsRequest{GroupId: "g", Offsets: offsets})
			return first(a.GetRefused(), err)
		}},
		{clientv1.GroupService_CommitOffsetsInTransaction_FullMethodName, "", one(onX(acl.Write), onG(acl.Read), onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			a, err := r.group().CommitOffsetsInTransaction(ctx, &clientv1.CommitOffsetsInTransactionRequest{TransactionalId: "x", GroupId: "g", Offsets: offsets})
			return first(a.GetRefused(), err)
		}},
		{clientv1.GroupService_FetchOffsets_FullMethodName, "by name", one(onG(acl.Describe), onT(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.group().FetchOffsets(ctx, &clientv1.FetchOffsetsRequest{GroupId: "g", Topics: named}))
		}},
		{clientv1.GroupService_FetchOffsets_FullMethodName, "all", one(onG(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.group().FetchOffsets(ctx, &clientv1.FetchOffsetsRequest{GroupId: "g"}))
		}},
		{clientv1.GroupService_FetchOffsets_FullMethodName, "those found", one(onG(acl.Describe), onT(acl.Describe)), true, func(ctx context.Context, r *rig) error {
			a, err := r.group().FetchOffsets(ctx, &clientv1.FetchOffsetsRequest{GroupId: "g"})
			return unlessEmpty(a.GetOffsets(), err)
		}},
		{clientv1.GroupService_ListGroups_FullMethodName, "", [][]right{{onG(acl.Describe)}, {onCluster(acl.Describe)}}, true, func(ctx context.Context, r *rig) error {
			a, err := r.group().ListGroups(ctx, &clientv1.ListGroupsRequest{})
			return unlessEmpty(a.GetGroups(), err)
		}},
		{clientv1.GroupService_DescribeGroup_FullMethodName, "", one(onG(acl.Describe), onT(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.group().DescribeGroup(ctx, &clientv1.DescribeGroupRequest{GroupId: "g"}))
		}},
		{clientv1.GroupService_DeleteGroup_FullMethodName, "", one(onG(acl.Delete)), false, func(ctx context.Context, r *rig) error {
			return only(r.group().DeleteGroup(ctx, &clientv1.DeleteGroupRequest{GroupId: "g"}))
		}},
		{clientv1.GroupService_DeleteOffsets_FullMethodName, "", one(onG(acl.Delete), onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			return only(r.group().DeleteOffsets(ctx, &clientv1.DeleteOffsetsRequest{GroupId: "g", Topics: named}))
		}},
		{clientv1.AuthService_Authenticate_FullMethodName, "", nil, false, func(ctx context.Context, r *rig) error {
			s, err := clientv1.NewAuthServiceClient(r.conn).Authenticate(ctx)
			if err != nil {
				return err
			}
			return only(s.Recv())
		}},
	}
}

func topicCalls() []guardedCall {
	metadataOf := func(ctx context.Context, r *rig, names ...string) ([]*clientv1.Topic, error) {
		a, err := r.admin.GetMetadata(ctx, &clientv1.GetMetadataRequest{Topics: names})
		return a.GetTopics(), err
	}
	alter := func(req *clientv1.AlterTopicRequest) func(context.Context, *rig) error {
		req.Name = "t"
		return func(ctx context.Context, r *rig) error { return only(r.admin.AlterTopic(ctx, req)) }
	}
	return []guardedCall{
		{clientv1.AdminService_GetMetadata_FullMethodName, "all topics", one(onT(acl.Describe)), true, func(ctx context.Context, r *rig) error {
			topics, err := metadataOf(ctx, r)
			return unlessEmpty(slices.DeleteFunc(topics, func(t *clientv1.Topic) bool { return t.Name != "t" }), err)
		}},
		{clientv1.AdminService_GetMetadata_FullMethodName, "by name", one(onT(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			topics, err := metadataOf(ctx, r, "t")
			if err != nil {
				return err
			}
			return inAnswer(topics[0].Error)
		}},
		{clientv1.AdminService_GetMetadata_FullMethodName, "of brokers", one(onCluster(acl.Describe)), true, func(ctx context.Context, r *rig) error {
			a, err := r.admin.GetMetadata(ctx, &clientv1.GetMetadataRequest{})
			if err == nil && (len(a.Brokers[0].Listeners) > 0) != (a.Brokers[0].PeerAddress != "") {
				return errors.New("half of what is hidden is told")
			}
			return unlessEmpty(a.GetBrokers()[0].GetListeners(), err)
		}},
		{clientv1.AdminService_CreateTopic_FullMethodName, "", [][]right{{onCluster(acl.Create)}, {onT(acl.Create)}}, false, func(ctx context.Context, r *rig) error {
			return only(r.admin.CreateTopic(ctx, &clientv1.CreateTopicRequest{Name: "t"}))
		}},
		{clientv1.AdminService_AlterTopic_FullMethodName, "partitions", one(onT(acl.Alter)), false, alter(&clientv1.AlterTopicRequest{Partitions: 3})},
		{clientv1.AdminService_AlterTopic_FullMethodName, "configs", one(onT(acl.AlterConfigs)), false, alter(&clientv1.AlterTopicRequest{SetConfigs: map[string]string{"a": "b"}})},
		{clientv1.AdminService_AlterTopic_FullMethodName, "both", one(onT(acl.Alter), onT(acl.AlterConfigs)), false, alter(&clientv1.AlterTopicRequest{Partitions: 3, UnsetConfigs: []string{"a"}})},
		{clientv1.AdminService_DeleteTopic_FullMethodName, "", [][]right{{onCluster(acl.Delete)}, {onT(acl.Delete)}}, false, func(ctx context.Context, r *rig) error {
			return only(r.admin.DeleteTopic(ctx, &clientv1.DeleteTopicRequest{Name: "t"}))
		}},
		{clientv1.AdminService_DescribeTopic_FullMethodName, "", one(onT(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.admin.DescribeTopic(ctx, &clientv1.DescribeTopicRequest{Name: "t"}))
		}},
		{clientv1.AdminService_DescribeTopic_FullMethodName, "its configs", one(onT(acl.Describe), onT(acl.DescribeConfigs)), true, func(ctx context.Context, r *rig) error {
			a, err := r.admin.DescribeTopic(ctx, &clientv1.DescribeTopicRequest{Name: "t"})
			return unlessEmpty(a.GetConfigs(), err)
		}},
		{clientv1.AdminService_DeleteRecords_FullMethodName, "", one(onT(acl.Delete)), false, func(ctx context.Context, r *rig) error {
			return only(r.admin.DeleteRecords(ctx, &clientv1.DeleteRecordsRequest{Topic: "t", BeforeOffset: ptr[int64](1)}))
		}},
		{clientv1.AdminService_GetChecksums_FullMethodName, "", one(onT(acl.Read)), false, func(ctx context.Context, r *rig) error {
			return only(r.admin.GetChecksums(ctx, &clientv1.GetChecksumsRequest{Topic: "t"}))
		}},
		{clientv1.AdminService_ListRaftGroups_FullMethodName, "", one(onCluster(acl.Describe)), false, func(ctx context.Context, r *rig) error {
			return only(r.admin.ListRaftGroups(ctx, &clientv1.ListRaftGroupsRequest{}))
		}},
		{clientv1.AdminService_ListRaftGroups_FullMethodName, "of a topic", [][]right{{onCluster(acl.Describe)}, {onT(acl.Describe)}}, false, func(ctx context.Context, r *rig) error {
			return only(r.admin.ListRaftGroups(ctx, &clientv1.ListRaftGroupsRequest{Topic: "t"}))
		}},
	}
}

func clusterCalls() []guardedCall {
	alter := func(method string, call func(context.Context, clientv1.AdminServiceClient) error) guardedCall {
		return guardedCall{method, "", one(onCluster(acl.Alter)), false, func(ctx context.Context, r *rig) error { return call(ctx, r.admin) }}
	}
	describe := func(method string, call func(context.Context, clientv1.AdminServiceClient) error) guardedCall {
		return guardedCall{method, "", one(onCluster(acl.Describe)), false, func(ctx context.Context, r *rig) error { return call(ctx, r.admin) }}
	}
	return []guardedCall{
		describe(clientv1.AdminService_DescribeBroker_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.DescribeBroker(ctx, &clientv1.DescribeBrokerRequest{}))
		}),
		alter(clientv1.AdminService_TransferLeadership_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.TransferLeadership(ctx, &clientv1.TransferLeadershipRequest{Topic: "t"}))
		}),
		alter(clientv1.AdminService_ReassignPartitions_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.ReassignPartitions(ctx, &clientv1.ReassignPartitionsRequest{Topic: "t", ReplicationFactor: 1}))
		}),
		alter(clientv1.AdminService_CancelReassignments_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.CancelReassignments(ctx, &clientv1.CancelReassignmentsRequest{Topic: "t"}))
		}),
		alter(clientv1.AdminService_DrainBroker_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.DrainBroker(ctx, &clientv1.DrainBrokerRequest{BrokerId: 1}))
		}),
		alter(clientv1.AdminService_UnregisterBroker_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.UnregisterBroker(ctx, &clientv1.UnregisterBrokerRequest{BrokerId: 1}))
		}),
		alter(clientv1.AdminService_SetFeatureLevel_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.SetFeatureLevel(ctx, &clientv1.SetFeatureLevelRequest{Level: 2}))
		}),
		alter(clientv1.AdminService_AlterUsers_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.AlterUsers(ctx, &clientv1.AlterUsersRequest{Set: []*clientv1.UserCredential{{User: "a"}}}))
		}),
		describe(clientv1.AdminService_ListUsers_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.ListUsers(ctx, &clientv1.ListUsersRequest{}))
		}),
		alter(clientv1.AdminService_CreateAcls_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.CreateAcls(ctx, &clientv1.CreateAclsRequest{Rules: []*clientv1.AclRule{protoRule(onT(acl.Read).rule(acl.Allow))}}))
		}),
		describe(clientv1.AdminService_ListAcls_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.ListAcls(ctx, &clientv1.ListAclsRequest{}))
		}),
		alter(clientv1.AdminService_DeleteAcls_FullMethodName, func(ctx context.Context, c clientv1.AdminServiceClient) error {
			return only(c.DeleteAcls(ctx, &clientv1.DeleteAclsRequest{Filters: []*clientv1.AclRule{{}}}))
		}),
	}
}

// guardedRig enforces rules; what is behind it knows a topic t, a group g and a transactional id x.
func guardedRig(t *testing.T, change func(*frontdoor.GuardConfig)) *rig {
	var cluster *fakeCluster
	r := newRig(t, func(c *Config) {
		cluster = c.Cluster.(*fakeCluster)
		g := frontdoor.GuardConfig{Image: cluster.Image, Enforce: true}
		if change != nil {
			change(&g)
		}
		c.Guard = frontdoor.NewGuard(g)
	})
	topic := func() (*metadata.Topic, error) { found, _ := cluster.img.Topic("t"); return found, nil }
	r.log.onFetch = func(_ context.Context, req partition.FetchRequest) (found []partition.FetchedPartition) {
		for _, p := range req.Partitions {
			found = append(found, partition.FetchedPartition{TopicPartition: p.TopicPartition})
		}
		return found
	}
	r.log.listOffsets = func(context.Context, record.TopicPartition, int64, bool) (partition.ListedOffset, error) {
		return partition.ListedOffset{}, nil
	}
	r.log.describeProducers = func(record.TopicPartition, []record.ProducerID, int) ([]producer.Description, bool, error) {
		return nil, false, nil
	}
	cluster.nextID = func(context.Context) (record.ProducerID, error) { return 1, nil }
	cluster.create = func(NewTopic) (*metadata.Topic, error) { return topic() }
	cluster.alter = func(TopicChange) (*metadata.Topic, error) { return topic() }
	cluster.remove = func(string) error { return nil }
	cluster.members = func(string) (*metadata.Topic, error) { return topic() }
	r.replicas.transfer = func(record.TopicPartition, int32) error { return nil }
	r.replicas.checksums = func(record.TopicPartition, record.Offset) (partition.Checksum, error) {
		return partition.Checksum{}, nil
	}
	x := &txn.Transaction{ID: "x", Partitions: []record.TopicPartition{{Topic: "t"}}}
	r.transactions.init = func(coordinator.InitRequest) (coordinator.Producer, error) { return coordinator.Producer{}, nil }
	r.transactions.end = func(coordinator.EndRequest) (coordinator.Producer, error) { return coordinator.Producer{}, nil }
	r.transactions.list = func(f coordinator.TransactionFilter) ([]*txn.Transaction, bool, error) {
		return slices.DeleteFunc([]*txn.Transaction{x}, func(t *txn.Transaction) bool { return !f.Pass(t) }), false, nil
	}
	r.transactions.describe = func(string) (*txn.Transaction, error) { return x, nil }
	r.transactions.abort = func(string, coordinator.Producer, txn.Client) error { return nil }
	r.transactions.find = func(coordinator.Kind, string) (int32, error) { return 1, nil }
	g := group.Description{ID: "g", Topics: map[group.TopicID]string{{}: "t"}}
	r.groups.open = func(coordinator.MemberRequest) (*coordinator.Membership, error) {
		return nil, &coordinator.Error{Code: "NOT_COORDINATOR", Message: "this is far enough"}
	}
	r.groups.commit = func(coordinator.CommitRequest) ([]coordinator.RefusedOffset, error) { return nil, nil }
	r.groups.commitInTxn = func(coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error) { return nil, nil }
	r.groups.fetch = func(coordinator.FetchRequest) ([]group.Fetched, error) { return []group.Fetched{{Topic: "t"}}, nil }
	r.groups.list = func(f coordinator.GroupFilter) ([]group.Description, bool, error) {
		return slices.DeleteFunc([]group.Description{g}, func(d group.Description) bool { return !f.Pass(d) }), false, nil
	}
	r.groups.describe = func(string) (group.Description, error) { return g, nil }
	r.groups.delete = func(string) error { return nil }
	r.groups.deleteSome = func(string, []coordinator.WantedTopic) ([]string, error) { return nil, nil }
	return r
}

// isDenial says whether an error is of a missing right, and which.
func isDenial(err error) (right, bool) {
	e, _, ok := clientv1.ErrorOf(err)
	if !ok || status.Code(err) != codes.PermissionDenied {
		return right{}, false
	}
	for op := acl.All; op <= acl.TwoPhaseCommit; op++ {
		for _, t := range []acl.ResourceType{acl.Topic, acl.Group, acl.Cluster, acl.TransactionalID} {
			if op.String() == e.Metadata["operation"] && t.String() == e.Metadata["resource_type"] && e.Reason == frontdoor.Denied(t) {
				return right{op, t, e.Metadata["resource"]}, e.Metadata["principal"] == "User:ANONYMOUS" && !e.Retriable &&
					e.Outcome == clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN && strings.Contains(e.Message, "brokerctl acl create --principal User:ANONYMOUS --operation "+op.String())
			}
		}
	}
	return right{}, false
}

// Each call needs what the Kafka API of the same meaning needs: with just that it is done, and with everything but one of it, it is not.
func TestEachCallNeedsItsRights(t *testing.T) {
	t.Parallel()
	calls := guardedCalls()
	var have []string
	for _, c := range calls {
		have = append(have, c.method)
	}
	services := clientv1.File_client_v1_client_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			if name := fmt.Sprintf("/%s/%s", services.Get(i).FullName(), methods.Get(j).Name()); !slices.Contains(have, name) {
				t.Errorf("%s has no row here: what does it need?", name)
			}
		}
	}
	for _, c := range calls {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(c.method, "/oncelog.client.v1.")+" "+c.what, "/", "."), func(t *testing.T) {
			t.Parallel()
			r := guardedRig(t, nil)
			call := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				return c.call(ctx, r)
			}
			if c.needs == nil {
				r.cluster.rule()
				if err := call(); status.Code(err) == codes.PermissionDenied {
					t.Errorf("without any right: %v", err)
				}
			}
			for _, needs := range c.needs {
				r.cluster.rule(rulesOf(acl.Allow, needs...)...)
				if err := call(); status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Internal || errors.Is(err, errLeftOut) {
					t.Errorf("with %v: %v", needs, err)
				}
				for i, lacks := range needs {
					rules := append(everything(), lacks.rule(acl.Deny))
					for _, other := range c.needs { // nor by another way
						if len(c.needs) > 1 {
							rules = append(rules, other[0].rule(acl.Deny))
						}
					}
					r.cluster.rule(rules...)
					c.mustBeDenied(t, "without "+fmt.Sprint(lacks), lacks, call())
					r.cluster.rule(rulesOf(acl.Allow, slices.Delete(slices.Clone(needs), i, i+1)...)...)
					c.mustBeDenied(t, "with all but "+fmt.Sprint(lacks), lacks, call())
				}
			}
			if r.metric(r.server.metrics.panics) != 0 {
				t.Error("it panicked")
			}
		})
	}
}

func (c guardedCall) mustBeDenied(t *testing.T, what string, lacks right, err error) {
	t.Helper()
	if c.quiet && (errors.Is(err, errLeftOut) || status.Code(err) == codes.PermissionDenied) {
		return
	}
	named, ok := isDenial(err)
	if len(c.needs) > 1 { // either is named
		lacks = named
	}
	if !ok || named != lacks {
		t.Errorf("%s: %v", what, err)
	}
}

// Where nothing is decided, asking costs nothing.
func TestRightsThatNobodyDecidesAreFree(t *testing.T) {
	s := &service{Server: &Server{}}
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		by := s.rights(ctx)
		read := s.topics(by, acl.Read)
		if by.refuse(acl.Write, acl.Topic, "t") != nil || read.refuse("t") != nil || !by.sees(acl.Describe, acl.Group, "g") ||
			by.refuseBoth(frontdoor.OnCluster(acl.Create), onTopic(acl.Create, "t")) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A right that is taken away counts from the next request of a stream on, and for a fetch that waits.
func TestARightThatIsTakenAwayStopsWhatRuns(t *testing.T) {
	t.Parallel()
	r := guardedRig(t, nil)
	r.cluster.rule(everything()...)
	s := r.produce()
	for i, allowed := range []bool{true, false, true} {
		if allowed {
			r.cluster.rule(everything()...)
		} else {
			r.cluster.rule(rulesOf(acl.Allow, onT(acl.Read))...)
		}
		s.send(request(uint64(i), "t", "v"))
		if a := s.recv(); (a.Error == nil) != allowed {
			t.Errorf("request %d: %v", i, a.Error)
		}
	}
	s.end()

	r.log.onFetch = func(_ context.Context, req partition.FetchRequest) []partition.FetchedPartition {
		r.cluster.rule() // while it waits
		return []partition.FetchedPartition{{TopicPartition: req.Partitions[0].TopicPartition, Batches: [][]byte{batchOf("v")}}}
	}
	a, err := r.client.Fetch(r.ctx(), &clientv1.FetchRequest{Partitions: []*clientv1.FetchPartition{{Topic: "t"}}})
	if err != nil || a.Partitions[0].Error.GetReason() != frontdoor.ReasonTopicDenied || len(a.Partitions[0].Batches) > 0 {
		t.Errorf("a fetch that waited: %v, %v", a, err)
	}
}
