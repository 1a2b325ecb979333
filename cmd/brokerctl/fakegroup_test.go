package main

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// fakeGroup is a group with an offset for the first two partitions of orders.
type fakeGroup struct {
	id      string
	offsets map[record.TopicPartition]int64
	members []*clientv1.GroupMember
	pending []*clientv1.PendingOffsets
}

func newFakeGroup(id string) *fakeGroup {
	return &fakeGroup{id: id, offsets: map[record.TopicPartition]int64{{Topic: "orders", Partition: 0}: 1, {Topic: "orders", Partition: 1}: 0}}
}

// fakePending are offsets in a transaction that is open, in one that is ending, and in one that nobody coordinates.
func fakePending() []*clientv1.PendingOffsets {
	return []*clientv1.PendingOffsets{
		{ProducerId: 4001, ProducerEpoch: 2, Topics: []*clientv1.TransactionTopic{{Topic: "orders", Partitions: []int32{0, 1}}}},
		{ProducerId: 4003, ProducerEpoch: 0, Topics: []*clientv1.TransactionTopic{{Topic: "orders", Partitions: []int32{2}}}},
		{ProducerId: 4777, ProducerEpoch: 1, Topics: []*clientv1.TransactionTopic{{Topic: "orders", Partitions: []int32{3}}}},
	}
}

func fakeMembers() []*clientv1.GroupMember {
	orders := func(n ...int32) []*clientv1.AssignedTopic {
		return []*clientv1.AssignedTopic{{Topic: "orders", Partitions: n}}
	}
	sub := &clientv1.Subscription{Topics: []string{"orders"}, RebalanceTimeoutMs: 300_000}
	return []*clientv1.GroupMember{
		{MemberId: "7QZT3V5XK2J4ABCDEFGHIJKLMN", ClientId: "billing", ClientAddress: "10.0.0.7:51234", MemberEpoch: 3, Subscription: sub, Assigned: orders(0, 1, 2), Target: orders(0, 1)},
		{MemberId: "m2", InstanceId: "billing-1", ClientId: "billing", ClientAddress: "10.0.0.8:51234", MemberEpoch: -2, Subscription: sub, Target: orders(2)},
	}
}

func (f *fakeCluster) FindCoordinator(context.Context, *clientv1.FindCoordinatorRequest) (*clientv1.FindCoordinatorResponse, error) {
	return &clientv1.FindCoordinatorResponse{BrokerId: 2, Address: brokerNames[2]}, nil
}

func (g *fakeGroup) proto() *clientv1.Group {
	p := &clientv1.Group{GroupId: g.id, Kind: "Consumer", State: clientv1.GroupState_GROUP_STATE_EMPTY, Epoch: 4, AssignmentEpoch: 4, Offsets: int32(len(g.offsets)), CoordinatorId: 2}
	p.Pending, p.Transactions = g.pending, int32(len(g.pending))
	if len(g.members) > 0 {
		p.State, p.Members = clientv1.GroupState_GROUP_STATE_RECONCILING, g.members
	}
	return p
}

func (f *fakeCluster) ListGroups(context.Context, *clientv1.ListGroupsRequest) (*clientv1.ListGroupsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++ // every broker is asked; one of them has the groups
	r := &clientv1.ListGroupsResponse{}
	if f.made%3 == 0 {
		for _, id := range slices.Sorted(maps.Keys(f.groups)) {
			r.Groups = append(r.Groups, f.groups[id].proto())
		}
	}
	return r, nil
}

func noGroup(id string) error {
	return refusal("GROUP_ID_NOT_FOUND", codes.NotFound, "there is no group "+id, false)
}

func (f *fakeCluster) DescribeGroup(_ context.Context, req *clientv1.DescribeGroupRequest) (*clientv1.DescribeGroupResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.groups[req.GroupId]; g != nil {
		return &clientv1.DescribeGroupResponse{Group: g.proto()}, nil
	}
	return nil, noGroup(req.GroupId)
}

func (f *fakeCluster) DeleteGroup(_ context.Context, req *clientv1.DeleteGroupRequest) (*clientv1.DeleteGroupResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[req.GroupId]
	switch {
	case g == nil:
		return nil, noGroup(req.GroupId)
	case len(g.members) > 0:
		return nil, refusal("NON_EMPTY_GROUP", codes.FailedPrecondition, "group "+req.GroupId+" has members", false)
	}
	delete(f.groups, req.GroupId)
	return &clientv1.DeleteGroupResponse{}, nil
}

func (f *fakeCluster) DeleteOffsets(_ context.Context, req *clientv1.DeleteOffsetsRequest) (*clientv1.DeleteOffsetsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[req.GroupId]
	if len(g.members) > 0 {
		return &clientv1.DeleteOffsetsResponse{Subscribed: []string{"orders"}}, nil
	}
	for _, t := range req.Topics {
		for _, n := range t.Partitions {
			delete(g.offsets, record.TopicPartition{Topic: t.Topic, Partition: n})
		}
	}
	return &clientv1.DeleteOffsetsResponse{}, nil
}

func (f *fakeCluster) CommitOffsets(_ context.Context, req *clientv1.CommitOffsetsRequest) (*clientv1.CommitOffsetsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.groups[req.GroupId] == nil {
		f.groups[req.GroupId] = &fakeGroup{id: req.GroupId, offsets: map[record.TopicPartition]int64{}}
	}
	for _, o := range req.Offsets {
		f.groups[req.GroupId].offsets[record.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
	}
	return &clientv1.CommitOffsetsResponse{}, nil
}

func (f *fakeCluster) FetchOffsets(_ context.Context, req *clientv1.FetchOffsetsRequest) (*clientv1.FetchOffsetsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &clientv1.FetchOffsetsResponse{}
	g := f.groups[req.GroupId]
	if req.Topics == nil && g != nil {
		for tp, o := range g.offsets {
			r.Offsets = append(r.Offsets, &clientv1.CommittedOffset{Topic: tp.Topic, Partition: tp.Partition, Offset: o, LeaderEpoch: -1})
		}
	}
	for _, t := range req.Topics {
		for _, n := range t.Partitions {
			o := &clientv1.CommittedOffset{Topic: t.Topic, Partition: n, Offset: -1, LeaderEpoch: -1}
			if g != nil {
				if at, ok := g.offsets[record.TopicPartition{Topic: t.Topic, Partition: n}]; ok {
					o.Offset = at
				}
			}
			r.Offsets = append(r.Offsets, o)
		}
	}
	return r, nil
}
