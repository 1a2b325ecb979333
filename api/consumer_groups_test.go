package api

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/record"
)

// fakeGroups answers with what a test has set; all else it has never heard of.
type fakeGroups struct {
	open        func(coordinator.MemberRequest) (*coordinator.Membership, error)
	commit      func(coordinator.CommitRequest) ([]coordinator.RefusedOffset, error)
	commitInTxn func(coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error)
	fetch       func(coordinator.FetchRequest) ([]group.Fetched, error)
	list        func(coordinator.GroupFilter) ([]group.Description, bool, error)
	describe    func(string) (group.Description, error)
	delete      func(string) error
	deleteSome  func(string, []coordinator.WantedTopic) ([]string, error)
}

func (f *fakeGroups) HeartbeatInterval() time.Duration { return 5 * time.Second }

func (f *fakeGroups) SessionTimeout() time.Duration { return 45 * time.Second }

func (f *fakeGroups) OpenMembership(_ context.Context, r coordinator.MemberRequest) (*coordinator.Membership, error) {
	return f.open(r)
}

func (f *fakeGroups) CommitOffsets(_ context.Context, r coordinator.CommitRequest) ([]coordinator.RefusedOffset, error) {
	return f.commit(r)
}

func (f *fakeGroups) CommitInTransaction(_ context.Context, r coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error) {
	return f.commitInTxn(r)
}

func (f *fakeGroups) FetchOffsets(_ context.Context, r coordinator.FetchRequest) ([]group.Fetched, error) {
	return f.fetch(r)
}

func (f *fakeGroups) List(_ context.Context, filter coordinator.GroupFilter, _ int) ([]group.Description, bool, error) {
	return f.list(filter)
}

func (f *fakeGroups) Describe(_ context.Context, id string) (group.Description, error) {
	return f.describe(id)
}

func (f *fakeGroups) Delete(_ context.Context, id string) error { return f.delete(id) }

func (f *fakeGroups) DeleteOffsets(_ context.Context, id string, topics []coordinator.WantedTopic) ([]string, error) {
	return f.deleteSome(id, topics)
}

func (r *rig) group() clientv1.GroupServiceClient { return clientv1.NewGroupServiceClient(r.conn) }

// What is committed reaches the coordinator as it was said, and its refusals come back one by one (G21).
func TestCommitOffsets(t *testing.T) {
	r := newRig(t, nil)
	var got coordinator.CommitRequest
	var inTxn coordinator.TransactionalCommit
	refusal := []coordinator.RefusedOffset{{TopicPartition: record.TopicPartition{Topic: "x", Partition: 1}, Code: coordinator.CodeUnknownTopicOrPartition, Message: "m"}}
	r.groups.commit = func(c coordinator.CommitRequest) ([]coordinator.RefusedOffset, error) {
		got = c
		return refusal, nil
	}
	r.groups.commitInTxn = func(c coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error) {
		inTxn = c
		return refusal, nil
	}
	offsets := []*clientv1.OffsetToCommit{{Topic: "t", Partition: 1, Offset: 9, LeaderEpoch: ptr[int32](4), Metadata: "meta"}, {Topic: "t", Partition: 2, Offset: 0}}
	by := &clientv1.Committer{MemberId: "m", InstanceId: "i", MemberEpoch: 3}
	a, err := r.group().CommitOffsets(r.ctx(), &clientv1.CommitOffsetsRequest{GroupId: "g", Committer: by, Offsets: offsets})
	if err != nil || len(a.Refused) != 1 || a.Refused[0].Partition != 1 || a.Refused[0].Error.Reason != "UNKNOWN_TOPIC_OR_PARTITION" {
		t.Fatal(a, err)
	}
	want := []coordinator.OffsetToCommit{
		{TopicPartition: record.TopicPartition{Topic: "t", Partition: 1}, Offset: 9, LeaderEpoch: 4, Metadata: "meta"},
		{TopicPartition: record.TopicPartition{Topic: "t", Partition: 2}, LeaderEpoch: -1},
	}
	if got.Group != "g" || got.By != (group.Committer{MemberID: "m", InstanceID: "i", Epoch: 3}) || !slices.Equal(got.Offsets, want) {
		t.Errorf("%+v", got)
	}
	if _, err := r.group().CommitOffsets(r.ctx(), &clientv1.CommitOffsetsRequest{GroupId: "g"}); err != nil || got.By != (group.Committer{Epoch: -1}) {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = r.group().CommitOffsetsInTransaction(r.ctx(), &clientv1.CommitOffsetsInTransactionRequest{
		TransactionalId: "tx", ProducerId: 5, ProducerEpoch: 2, GroupId: "g", Committer: by, Offsets: offsets})
	if err != nil || inTxn.TransactionalID != "tx" || inTxn.Producer != (coordinator.Producer{ID: 5, Epoch: 2}) || inTxn.Version != 2 || !slices.Equal(inTxn.Offsets, want) {
		t.Errorf("%+v, %v", inTxn, err)
	}
}

// Offsets, groups and members as clients see them.
func TestShowGroups(t *testing.T) {
	r := newRig(t, nil)
	r.groups.fetch = func(f coordinator.FetchRequest) ([]group.Fetched, error) {
		if f.Topics != nil {
			t.Errorf("asked for %v", f.Topics)
		}
		return []group.Fetched{{Topic: "t", Partition: 1, Found: true, Offset: group.Offset{Offset: 7, LeaderEpoch: 2, Metadata: "m", CommittedMS: 5}}, {Topic: "t", Partition: 2, Unstable: true}}, nil
	}
	found, err := r.group().FetchOffsets(r.ctx(), &clientv1.FetchOffsetsRequest{GroupId: "g"})
	want := []*clientv1.CommittedOffset{{Topic: "t", Partition: 1, Offset: 7, LeaderEpoch: 2, Metadata: "m", CommittedMs: 5}, {Topic: "t", Partition: 2, Offset: -1, LeaderEpoch: -1, Unstable: true}}
	if err != nil || !slices.EqualFunc(found.Offsets, want, func(a, b *clientv1.CommittedOffset) bool { return proto.Equal(a, b) }) {
		t.Fatal(found, err)
	}
	id := group.TopicID{0xab}
	d := group.Description{ID: "g", Kind: group.KindConsumer, Phase: group.PhaseStable, Epoch: 3, AssignmentEpoch: 3, Offsets: 2, Topics: map[group.TopicID]string{id: "t"},
		Members: []*group.Member{{ID: "m", Epoch: 3, Assigned: []group.Held{{Partition: group.Partition{TopicID: id, Number: 4}, Epoch: 2}}}}}
	var filter coordinator.GroupFilter
	r.groups.list = func(f coordinator.GroupFilter) ([]group.Description, bool, error) {
		filter = f
		return []group.Description{d}, true, nil
	}
	r.groups.describe = func(string) (group.Description, error) { return d, nil }
	list, err := r.group().ListGroups(r.ctx(), &clientv1.ListGroupsRequest{States: []clientv1.GroupState{clientv1.GroupState_GROUP_STATE_STABLE}, IdPrefix: "g"})
	if err != nil || !list.Truncated || len(list.Groups) != 1 || !slices.Equal(filter.Phases, []group.Phase{group.PhaseStable}) || filter.Prefix != "g" {
		t.Fatal(list, filter, err)
	}
	a, err := r.group().DescribeGroup(r.ctx(), &clientv1.DescribeGroupRequest{GroupId: "g"})
	if err != nil || a.Group.State != clientv1.GroupState_GROUP_STATE_STABLE || len(a.Group.Members) != 1 {
		t.Fatal(a, err)
	}
	if got := a.Group.Members[0].Assigned; len(got) != 1 || got[0].Topic != "t" || got[0].TopicId != "ab"+strings.Repeat("0", 30) || !slices.Equal(got[0].Partitions, []int32{4}) {
		t.Errorf("assigned %v", got)
	}
	if list.Groups[0].Epoch != 3 || list.Groups[0].Kind != "Consumer" {
		t.Errorf("%v", list.Groups[0])
	}
}

// G10: of members of the classic protocol that are consumers it is told what they read, as far as that can be read.
func TestDescribeClassicGroup(t *testing.T) {
	r := newRig(t, nil)
	d := group.Description{ID: "g", Kind: group.KindClassic, Phase: group.PhaseStable, Epoch: 3, ProtocolType: "consumer", Protocol: "range", Classic: []*group.ClassicMember{
		{ID: "m", InstanceID: "i", Client: group.Client{ID: "app", Address: "there"}, RebalanceTimeoutMS: 5,
			Metadata: []byte("\x00\x03\x00\x00\x00\x02\x00\x01t\x00\x01u"), Assignment: []byte("\x00\x01\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x01")},
		{ID: "n", Metadata: []byte("?"), Assignment: []byte("?")},
	}}
	r.groups.describe = func(string) (group.Description, error) { return d, nil }
	a, err := r.group().DescribeGroup(r.ctx(), &clientv1.DescribeGroupRequest{GroupId: "g"})
	if err != nil {
		t.Fatal(err)
	}
	has := []*clientv1.AssignedTopic{{Topic: "t", Partitions: []int32{1, 4}}}
	want := []*clientv1.GroupMember{
		{MemberId: "m", InstanceId: "i", ClientId: "app", ClientAddress: "there", MemberEpoch: 3, Assigned: has, Target: has,
			Subscription: &clientv1.Subscription{Topics: []string{"t", "u"}, RebalanceTimeoutMs: 5, Assignor: "range"}},
		{MemberId: "n", MemberEpoch: 3, Subscription: &clientv1.Subscription{Assignor: "range"}},
	}
	if a.Group.Kind != "Classic" || !slices.EqualFunc(a.Group.Members, want, func(a, b *clientv1.GroupMember) bool { return proto.Equal(a, b) }) {
		t.Errorf("%v", a.Group)
	}
	d.ProtocolType = "connect"
	if a, err = r.group().DescribeGroup(r.ctx(), &clientv1.DescribeGroupRequest{GroupId: "g"}); err != nil || len(a.Group.Members) != 2 || len(a.Group.Members[0].Assigned) > 0 {
		t.Errorf("%v, %v", a, err)
	}
}

// Bad input is refused by name before a coordinator is asked; what only the coordinator checks, it checks.
func TestGroupInput(t *testing.T) {
	r := newRig(t, nil)
	join := func(first *clientv1.JoinGroupRequest) func() error {
		return func() error {
			s, err := r.group().JoinGroup(r.ctx())
			if err == nil {
				err = s.Send(first)
			}
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}
	for what, c := range map[string]struct {
		call  func() error
		field string
	}{
		"commit: nobody": {func() error {
			_, err := r.group().CommitOffsets(r.ctx(), &clientv1.CommitOffsetsRequest{GroupId: "g", Committer: &clientv1.Committer{}})
			return err
		}, "committer.member_id"},
		"commit: epoch": {func() error {
			_, err := r.group().CommitOffsets(r.ctx(), &clientv1.CommitOffsetsRequest{GroupId: "g", Committer: &clientv1.Committer{MemberId: "m", MemberEpoch: -2}})
			return err
		}, "committer.member_epoch"},
		"commit: offset": {func() error {
			_, err := r.group().CommitOffsets(r.ctx(), &clientv1.CommitOffsetsRequest{GroupId: "g", Offsets: []*clientv1.OffsetToCommit{{Topic: "t", Offset: -1}}})
			return err
		}, "offset"},
		"in a transaction: producer": {func() error {
			_, err := r.group().CommitOffsetsInTransaction(r.ctx(), &clientv1.CommitOffsetsInTransactionRequest{GroupId: "g", ProducerId: -1})
			return err
		}, "producer_id"},
		"list: state": {func() error {
			_, err := r.group().ListGroups(r.ctx(), &clientv1.ListGroupsRequest{States: []clientv1.GroupState{9}})
			return err
		}, "states"},
		"join: leaves": {join(&clientv1.JoinGroupRequest{GroupId: "g", MemberId: "m", Leave: true}), "leave, away"},
		"join: topic":  {join(&clientv1.JoinGroupRequest{GroupId: "g", MemberId: "m", Owned: &clientv1.Owned{Topics: []*clientv1.AssignedTopic{{TopicId: "x"}}}}), "owned"},
	} {
		e, _, ok := clientv1.ErrorOf(c.call())
		if !ok || e.Reason != "INVALID_REQUEST" || e.Metadata["field"] != c.field || e.Outcome != clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN {
			t.Errorf("%s: %v", what, e)
		}
	}
	r.groups.open = func(m coordinator.MemberRequest) (*coordinator.Membership, error) {
		return nil, &coordinator.Error{Code: coordinator.CodeFencedMemberEpoch, Message: "no"}
	}
	if e, _, _ := clientv1.ErrorOf(join(&clientv1.JoinGroupRequest{GroupId: "g", MemberId: "m", MemberEpoch: 4})()); e.GetReason() != "FENCED_MEMBER_EPOCH" || e.GetRetriable() {
		t.Errorf("%v", e)
	}
}

// What a group has in open transactions is told of topics that the caller may see, as DescribeTransaction does.
func TestPendingOffsetsOfHiddenTopics(t *testing.T) {
	r := guardedRig(t, nil)
	r.cluster.rule(rulesOf(acl.Allow, onG(acl.Describe), onT(acl.Describe))...)
	d := group.Description{ID: "g", Pending: []group.Pending{{ProducerID: 7, Partitions: []record.TopicPartition{{Topic: "hidden"}, {Topic: "t"}}}}}
	r.groups.describe = func(string) (group.Description, error) { return d, nil }
	a, err := r.group().DescribeGroup(r.ctx(), &clientv1.DescribeGroupRequest{GroupId: "g"})
	if err != nil || len(a.Group.Pending) != 1 || len(a.Group.Pending[0].Topics) != 1 || a.Group.Pending[0].Topics[0].Topic != "t" {
		t.Errorf("%v, %v", a, err)
	}
}
