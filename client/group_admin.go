package client

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// GroupState is where a group is in its life.
type GroupState string

// The states, by Kafka's names.
const (
	GroupEmpty               GroupState = "Empty"
	GroupAssigning           GroupState = "Assigning"
	GroupReconciling         GroupState = "Reconciling"
	GroupStable              GroupState = "Stable"
	GroupPreparingRebalance  GroupState = "PreparingRebalance"
	GroupCompletingRebalance GroupState = "CompletingRebalance"
)

// GroupStates are all of them, in the order of the wire.
var GroupStates = []GroupState{GroupEmpty, GroupAssigning, GroupReconciling, GroupStable, GroupPreparingRebalance, GroupCompletingRebalance}

// Group is a consumer group.
type Group struct {
	ID    string
	State GroupState
	// Kind is Consumer, Classic, or Simple: nobody was ever a member.
	Kind string
	// Epoch is the group epoch or generation, AssignmentEpoch the group epoch that partitions were assigned for.
	Epoch, AssignmentEpoch int32
	// Members are there only after DescribeGroup.
	Members []GroupMemberInfo
	// Offsets counts committed offsets, Transactions the open transactions that hold some.
	Offsets, Transactions int
	// Pending are offsets in open transactions, the oldest transaction first; only DescribeGroup gives them, and at most 100.
	Pending []PendingOffsets
	// Coordinator is the broker that answers for it.
	Coordinator int32
}

// PendingOffsets are offsets of a group that count when the transaction of a producer is committed.
type PendingOffsets struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// Partitions are sorted; at most 1,000 are named.
	Partitions []record.TopicPartition
	// Transaction is what the coordinator of the transaction knows, with partitions and history; only WhatHoldsGroup asks. nil: no
	// coordinator has a transaction of that producer open or ending.
	Transaction *Transaction
}

// GroupMemberInfo is a member as its coordinator sees it.
type GroupMemberInfo struct {
	MemberID, InstanceID    string
	ClientID, ClientAddress string
	// Epoch is -2 for a static member that is away.
	Epoch           int32
	Topics          []string
	Pattern         string
	Assignor        string
	Rack            string
	MaxPollInterval time.Duration
	// Assigned is what it has, Target what it is to have, both sorted.
	Assigned, Target []record.TopicPartition
	Joined           time.Time
}

// GroupFilter says which groups are wanted; its zero value: all.
type GroupFilter struct {
	States []GroupState
	// Prefix of the id.
	Prefix string
}

// ListGroups asks every broker for the groups that it coordinates, and gives them sorted, without members. truncated says that a broker had
// more than it told. A broker that does not answer makes it fail: what it coordinates would be missing.
func (c *Client) ListGroups(ctx context.Context, f GroupFilter) (list []Group, truncated bool, err error) {
	req := &clientv1.ListGroupsRequest{IdPrefix: f.Prefix}
	for _, s := range f.States {
		i := slices.Index(GroupStates, s)
		if i < 0 {
			return nil, false, invalid("GroupFilter.States", "has %q, want one of %v", s, GroupStates)
		}
		req.States = append(req.States, clientv1.GroupState(i+1))
	}
	answers, err := fromEvery(ctx, c, func(ctx context.Context, cc *grpc.ClientConn) (*clientv1.ListGroupsResponse, error) {
		return clientv1.NewGroupServiceClient(cc).ListGroups(ctx, req)
	})
	if err != nil {
		return nil, false, err
	}
	for _, r := range answers {
		truncated = truncated || r.GetTruncated()
		for _, p := range r.GetGroups() {
			list = append(list, groupOf(p))
		}
	}
	slices.SortFunc(list, func(a, b Group) int { return strings.Compare(a.ID, b.ID) })
	return list, truncated, nil
}

// DescribeGroup gives all that is known of a group but its offsets. Errors: GROUP_ID_NOT_FOUND.
func (c *Client) DescribeGroup(ctx context.Context, id string) (Group, error) {
	var g Group
	err := c.atGroup(ctx, id, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewGroupServiceClient(cc).DescribeGroup(ctx, &clientv1.DescribeGroupRequest{GroupId: id})
		if err == nil {
			g = groupOf(r.GetGroup())
		}
		return err
	})
	return g, err
}

// DeleteGroup deletes a group and its offsets. Errors: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP while it has members.
func (c *Client) DeleteGroup(ctx context.Context, id string) error {
	return c.atGroup(ctx, id, func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := clientv1.NewGroupServiceClient(cc).DeleteGroup(ctx, &clientv1.DeleteGroupRequest{GroupId: id})
		return err
	})
}

// GroupOffsets gives what a group has committed, for all partitions or for some. stable: an offset that an open transaction may yet change is
// Unstable.
func (c *Client) GroupOffsets(ctx context.Context, id string, stable bool, tps ...record.TopicPartition) ([]CommittedOffset, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	return fetchOffsets(ctx, c.groupCoordinator(id), id, tps, stable)
}

// SetGroupOffsets commits offsets for a group that has no members. With members it is refused: UNKNOWN_MEMBER_ID.
func (c *Client) SetGroupOffsets(ctx context.Context, id string, offsets Offsets) error {
	return commitOffsets(ctx, c, c.groupCoordinator(id), GroupMember{GroupID: id, Epoch: -1}, offsets)
}

// DeleteGroupOffsets deletes what a group has committed for some partitions. It gives the topics whose offsets stay, since members are
// subscribed to them.
func (c *Client) DeleteGroupOffsets(ctx context.Context, id string, tps ...record.TopicPartition) (subscribed []string, err error) {
	err = c.atGroup(ctx, id, func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := clientv1.NewGroupServiceClient(cc).DeleteOffsets(ctx, &clientv1.DeleteOffsetsRequest{GroupId: id, Topics: topicPartitions(tps)})
		subscribed = r.GetSubscribed()
		return err
	})
	return subscribed, err
}

// maxGroupCoordinators bounds how many groups' coordinators a client remembers for what an administrator asks.
const maxGroupCoordinators = 1000

// groupCoordinator gives the coordinator of a group. It is remembered, so that who asks again and again, as a monitor does, has
// to find it once only.
func (c *Client) groupCoordinator(id string) *coordinator {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.groups[id]
	if k == nil {
		if len(c.groups) >= maxGroupCoordinators {
			clear(c.groups)
		}
		k = &coordinator{c: c, conns: c.conns, kind: clientv1.CoordinatorType_COORDINATOR_TYPE_GROUP, key: id}
		c.groups[id] = k
	}
	return k
}

// atGroup asks the coordinator of a group.
func (c *Client) atGroup(ctx context.Context, id string, call func(context.Context, *grpc.ClientConn) error) error {
	return c.groupCoordinator(id).administer(ctx, call)
}

func groupOf(p *clientv1.Group) Group {
	g := Group{
		ID: p.GetGroupId(), Kind: p.GetKind(), Epoch: p.GetEpoch(), AssignmentEpoch: p.GetAssignmentEpoch(),
		Offsets: int(p.GetOffsets()), Transactions: int(p.GetTransactions()), Coordinator: p.GetCoordinatorId(),
	}
	if i := int(p.GetState()) - 1; i >= 0 && i < len(GroupStates) {
		g.State = GroupStates[i]
	}
	for _, w := range p.GetPending() {
		g.Pending = append(g.Pending, PendingOffsets{ProducerID: record.ProducerID(w.GetProducerId()), Epoch: record.Epoch(w.GetProducerEpoch()), Partitions: topicsOf(w.GetTopics())})
	}
	for _, m := range p.GetMembers() {
		s := m.GetSubscription()
		g.Members = append(g.Members, GroupMemberInfo{
			MemberID: m.GetMemberId(), InstanceID: m.GetInstanceId(), ClientID: m.GetClientId(), ClientAddress: m.GetClientAddress(), Epoch: m.GetMemberEpoch(),
			Topics: s.GetTopics(), Pattern: s.GetPattern(), Assignor: s.GetAssignor(), Rack: s.GetRack(),
			MaxPollInterval: time.Duration(s.GetRebalanceTimeoutMs()) * time.Millisecond,
			Assigned:        partitionsOf(m.GetAssigned()), Target: partitionsOf(m.GetTarget()), Joined: time.UnixMilli(m.GetJoinedMs()),
		})
	}
	return g
}
