package api

import (
	"cmp"
	"context"
	"math"
	"slices"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// maxGroupsListed of one ListGroups.
const maxGroupsListed = 10_000

// groupStates are the phases in the order of the wire.
var groupStates = []group.Phase{
	"", group.PhaseEmpty, group.PhaseAssigning, group.PhaseReconciling, group.PhaseStable, group.PhasePreparingRebalance, group.PhaseCompletingRebalance,
}

// CommitOffsets says how far a group has come.
func (s *service) CommitOffsets(ctx context.Context, req *clientv1.CommitOffsetsRequest) (*clientv1.CommitOffsetsResponse, error) {
	by, refusal := committerOf(req.Committer)
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	offsets, refusal := offsetsOf(req.Offsets)
	who := s.rights(ctx)
	if refusal == nil {
		refusal = who.refuse(acl.Read, acl.Group, req.GroupId)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	offsets, denied := s.readable(who, offsets)
	if len(offsets) == 0 && len(denied) > 0 {
		return &clientv1.CommitOffsetsResponse{Refused: denied}, nil
	}
	refusals, err := s.c.Groups.CommitOffsets(ctx, coordinator.CommitRequest{Group: req.GroupId, By: by, Offsets: offsets})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.CommitOffsetsResponse{Refused: append(protoRefusals(refusals), denied...)}, nil
}

// CommitOffsetsInTransaction commits offsets with a transaction.
func (s *service) CommitOffsetsInTransaction(ctx context.Context, req *clientv1.CommitOffsetsInTransactionRequest) (*clientv1.CommitOffsetsInTransactionResponse, error) {
	has, refusal := suppliedProducer(&req.ProducerId, &req.ProducerEpoch)
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	by, refusal := committerOf(req.Committer)
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	offsets, refusal := offsetsOf(req.Offsets)
	who := s.rights(ctx)
	if refusal == nil {
		refusal = who.refuse(acl.Write, acl.TransactionalID, req.TransactionalId)
	}
	if refusal == nil {
		refusal = who.refuse(acl.Read, acl.Group, req.GroupId)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	offsets, denied := s.readable(who, offsets)
	if len(offsets) == 0 && len(denied) > 0 {
		return &clientv1.CommitOffsetsInTransactionResponse{Refused: denied}, nil
	}
	refusals, err := s.c.Groups.CommitInTransaction(ctx, coordinator.TransactionalCommit{
		TransactionalID: req.TransactionalId, Producer: has, Group: req.GroupId, By: by, Offsets: offsets, Version: transactionVersion,
	})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.CommitOffsetsInTransactionResponse{Refused: append(protoRefusals(refusals), denied...)}, nil
}

// readable are the offsets of topics that who commits may read, and denied the others.
func (s *service) readable(who rights, offsets []coordinator.OffsetToCommit) (_ []coordinator.OffsetToCommit, denied []*clientv1.RefusedOffset) {
	read := s.topics(who, acl.Read)
	offsets = slices.DeleteFunc(offsets, func(o coordinator.OffsetToCommit) bool {
		refusal := read.refuse(o.Topic)
		if refusal != nil {
			denied = append(denied, &clientv1.RefusedOffset{Topic: echo(o.Topic), Partition: o.Partition, Error: refusal})
		}
		return refusal != nil
	})
	return offsets, denied
}

// committerOf reads who commits; nil: nobody in particular.
func committerOf(p *clientv1.Committer) (group.Committer, *clientv1.Error) {
	if p == nil {
		return group.Committer{Epoch: group.NoEpochShown}, nil
	}
	if p.MemberId == "" {
		return group.Committer{}, refused(reasonInvalidRequest, "committer.member_id", "", "the committer has no member id; leave it out if nobody in particular commits")
	}
	return group.Committer{MemberID: p.MemberId, InstanceID: p.InstanceId, Epoch: p.MemberEpoch}, checkRange("committer.member_epoch", int64(p.MemberEpoch), 0, math.MaxInt32)
}

func offsetsOf(list []*clientv1.OffsetToCommit) ([]coordinator.OffsetToCommit, *clientv1.Error) {
	if refusal := checkRange("offsets", int64(len(list)), 0, group.MaxCommitted); refusal != nil {
		return nil, refusal
	}
	offsets := make([]coordinator.OffsetToCommit, len(list))
	for i, o := range list {
		refusal := checkRange("offset", o.Offset, 0, math.MaxInt64)
		var topic partition.TopicID
		if refusal == nil {
			topic, refusal = topicIDOf(o.TopicId)
		}
		if refusal != nil {
			return nil, refusal
		}
		offsets[i] = coordinator.OffsetToCommit{
			TopicPartition: record.TopicPartition{Topic: o.Topic, Partition: o.Partition}, TopicID: group.TopicID(topic), Offset: record.Offset(o.Offset), LeaderEpoch: -1, Metadata: o.Metadata,
		}
		if o.LeaderEpoch != nil {
			offsets[i].LeaderEpoch = *o.LeaderEpoch
		}
	}
	return offsets, nil
}

func protoRefusals(list []coordinator.RefusedOffset) []*clientv1.RefusedOffset {
	out := make([]*clientv1.RefusedOffset, len(list))
	for i, r := range list {
		out[i] = &clientv1.RefusedOffset{Topic: echo(r.Topic), Partition: r.Partition, Error: refused(string(r.Code), r.Field, r.Limit, "%s", r.Message)}
	}
	return out
}

// FetchOffsets gives committed offsets: all of those asked for, or of all that there are those of topics that the caller may see.
func (s *service) FetchOffsets(ctx context.Context, req *clientv1.FetchOffsetsRequest) (*clientv1.FetchOffsetsResponse, error) {
	by, refusal := committerOf(req.Committer)
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	who := s.rights(ctx)
	if refusal := who.refuse(acl.Describe, acl.Group, req.GroupId); refusal != nil {
		return nil, s.failed(refusal)
	}
	if refusal := s.refuseTopics(who, acl.Describe, req.Topics); refusal != nil {
		return nil, s.failed(refusal)
	}
	found, err := s.c.Groups.FetchOffsets(ctx, coordinator.FetchRequest{Group: req.GroupId, By: by, Topics: wantedOf(req.Topics), RequireStable: req.RequireStable})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	answer := &clientv1.FetchOffsetsResponse{}
	for _, f := range found {
		if !who.sees(acl.Describe, acl.Topic, f.Topic) {
			continue
		}
		p := &clientv1.CommittedOffset{Topic: echo(f.Topic), Partition: f.Partition, Offset: -1, LeaderEpoch: -1, Unstable: f.Unstable}
		if f.Found {
			p.Offset, p.LeaderEpoch, p.Metadata, p.CommittedMs = int64(f.Offset.Offset), f.Offset.LeaderEpoch, valid(f.Offset.Metadata), f.Offset.CommittedMS
		}
		answer.Offsets = append(answer.Offsets, p)
	}
	return answer, nil
}

// refuseTopics says why the caller may not do something to one of the topics.
func (s *service) refuseTopics(who rights, op acl.Operation, list []*clientv1.TopicPartitions) *clientv1.Error {
	may := s.topics(who, op)
	for _, t := range list {
		if refusal := may.refuse(t.Topic); refusal != nil {
			return refusal
		}
	}
	return nil
}

// wantedOf reads partitions; nil: all.
func wantedOf(list []*clientv1.TopicPartitions) []coordinator.WantedTopic {
	var wanted []coordinator.WantedTopic
	for _, t := range list {
		wanted = append(wanted, coordinator.WantedTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	return wanted
}

// ListGroups lists what this broker coordinates.
func (s *service) ListGroups(ctx context.Context, req *clientv1.ListGroupsRequest) (*clientv1.ListGroupsResponse, error) {
	f := coordinator.GroupFilter{Prefix: req.IdPrefix}
	for _, state := range req.States {
		if state <= 0 || int(state) >= len(groupStates) {
			return nil, s.failed(refused(reasonInvalidRequest, "states", "1 to 6", "states holds %d, which does not exist", state))
		}
		f.Phases = append(f.Phases, groupStates[state])
	}
	who := s.rights(ctx)
	all := who.sees(acl.Describe, acl.Cluster, acl.ClusterName)
	f.Pass = func(d group.Description) bool { return all || who.sees(acl.Describe, acl.Group, d.ID) }
	list, truncated, err := s.c.Groups.List(ctx, f, maxGroupsListed)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	answer := &clientv1.ListGroupsResponse{Truncated: truncated}
	for i := range list {
		answer.Groups = append(answer.Groups, s.protoConsumerGroup(&list[i]))
	}
	return answer, nil
}

// DescribeGroup shows one group.
func (s *service) DescribeGroup(ctx context.Context, req *clientv1.DescribeGroupRequest) (*clientv1.DescribeGroupResponse, error) {
	who := s.rights(ctx)
	if refusal := who.refuse(acl.Describe, acl.Group, req.GroupId); refusal != nil {
		return nil, s.failed(refusal)
	}
	d, err := s.c.Groups.Describe(ctx, req.GroupId)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	seen := s.topics(who, acl.Describe)
	for _, topic := range d.Topics {
		if refusal := seen.refuse(topic); refusal != nil {
			return nil, s.failed(refusal)
		}
	}
	p := s.protoConsumerGroup(&d)
	for _, w := range p.Pending {
		w.Topics = slices.DeleteFunc(w.Topics, func(t *clientv1.TransactionTopic) bool { return !who.sees(acl.Describe, acl.Topic, t.Topic) })
	}
	return &clientv1.DescribeGroupResponse{Group: p}, nil
}

// DeleteGroup deletes a group that has no members.
func (s *service) DeleteGroup(ctx context.Context, req *clientv1.DeleteGroupRequest) (*clientv1.DeleteGroupResponse, error) {
	who := s.rights(ctx)
	if refusal := who.refuse(acl.Delete, acl.Group, req.GroupId); refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Groups.Delete(ctx, req.GroupId); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.DeleteGroupResponse{}, nil
}

// DeleteOffsets deletes offsets.
func (s *service) DeleteOffsets(ctx context.Context, req *clientv1.DeleteOffsetsRequest) (*clientv1.DeleteOffsetsResponse, error) {
	who := s.rights(ctx)
	refusal := who.refuse(acl.Delete, acl.Group, req.GroupId)
	if refusal == nil {
		refusal = s.refuseTopics(who, acl.Read, req.Topics)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	subscribed, err := s.c.Groups.DeleteOffsets(ctx, req.GroupId, wantedOf(req.Topics))
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.DeleteOffsetsResponse{Subscribed: subscribed}, nil
}

func (s *service) protoConsumerGroup(d *group.Description) *clientv1.Group {
	p := &clientv1.Group{
		GroupId: valid(d.ID), Kind: string(d.Kind), Epoch: d.Epoch, AssignmentEpoch: d.AssignmentEpoch,
		Offsets: int32(d.Offsets), Transactions: int32(d.Transactions), CoordinatorId: s.c.Cluster.Self(),
	}
	for i, phase := range groupStates {
		if phase == d.Phase {
			p.State = clientv1.GroupState(i)
		}
	}
	for _, w := range d.Pending {
		p.Pending = append(p.Pending, &clientv1.PendingOffsets{ProducerId: int64(w.ProducerID), ProducerEpoch: int32(w.Epoch), Topics: protoTopics(w.Partitions)})
	}
	for _, m := range d.Members {
		p.Members = append(p.Members, &clientv1.GroupMember{
			MemberId: valid(m.ID), InstanceId: valid(m.InstanceID), ClientId: valid(m.Client.ID), ClientAddress: valid(m.Client.Address), MemberEpoch: m.Epoch,
			Subscription: &clientv1.Subscription{Topics: m.Topics, Pattern: valid(m.Pattern), Assignor: m.Assignor, RebalanceTimeoutMs: m.RebalanceTimeoutMS, Rack: valid(m.Rack)},
			Assigned:     protoHeld(d, m.Assigned), Target: protoTarget(d, m.Target), JoinedMs: m.JoinedMS,
		})
	}
	for _, m := range d.Classic {
		p.Members = append(p.Members, &clientv1.GroupMember{
			MemberId: valid(m.ID), InstanceId: valid(m.InstanceID), ClientId: valid(m.Client.ID), ClientAddress: valid(m.Client.Address), MemberEpoch: d.Epoch,
			Subscription: protoClassicSubscription(d, m), Assigned: protoClassicAssigned(d, m), Target: protoClassicAssigned(d, m),
		})
	}
	return p
}

// protoClassicSubscription is what a member of the classic protocol wants, as far as its metadata can be read (G10).
func protoClassicSubscription(d *group.Description, m *group.ClassicMember) *clientv1.Subscription {
	out := &clientv1.Subscription{RebalanceTimeoutMs: m.RebalanceTimeoutMS, Assignor: valid(d.Protocol)}
	if d.ProtocolType != group.ConsumerProtocolType {
		return out
	}
	topics, _ := group.ConsumerTopics(m.Metadata)
	for _, name := range topics {
		out.Topics = append(out.Topics, valid(name))
	}
	return out
}

// protoClassicAssigned is what it has. Its assignment names topics and not their ids.
func protoClassicAssigned(d *group.Description, m *group.ClassicMember) []*clientv1.AssignedTopic {
	if d.ProtocolType != group.ConsumerProtocolType {
		return nil
	}
	list, _ := group.ConsumerAssignment(m.Assignment)
	slices.SortFunc(list, func(a, b group.ConsumerPartitions) int { return cmp.Compare(a.Topic, b.Topic) })
	var out []*clientv1.AssignedTopic
	for _, t := range list {
		slices.Sort(t.Partitions)
		out = append(out, &clientv1.AssignedTopic{Topic: valid(t.Topic), Partitions: t.Partitions})
	}
	return out
}

func protoHeld(d *group.Description, held []group.Held) []*clientv1.AssignedTopic {
	list := make([]group.Partition, len(held))
	for i, h := range held {
		list[i] = h.Partition
	}
	return protoTarget(d, list)
}

func protoTarget(d *group.Description, list []group.Partition) []*clientv1.AssignedTopic {
	var out []*clientv1.AssignedTopic
	var last group.TopicID
	for _, p := range list { // sorted by topic id
		if len(out) == 0 || last != p.TopicID {
			last = p.TopicID
			out = append(out, &clientv1.AssignedTopic{Topic: d.Topics[p.TopicID], TopicId: metadata.TopicID(p.TopicID).String()})
		}
		t := out[len(out)-1]
		t.Partitions = append(t.Partitions, p.Number)
	}
	return out
}
