package api

import (
	"context"
	"math"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// ListRaftGroups shows the Raft groups of this broker: that of the metadata, its replicas of partitions, and those of
// coordinators' shards, which are partitions of internal topics.
func (s *service) ListRaftGroups(ctx context.Context, req *clientv1.ListRaftGroupsRequest) (*clientv1.ListRaftGroupsResponse, error) {
	var refusal *clientv1.Error
	switch {
	case req.Topic != "" && record.InternalTopic(req.Topic):
		refusal = checkRange("partition", int64(req.GetPartition()), 0, math.MaxInt32)
	case req.Topic != "":
		_, refusal = checkPartition(req.Topic, req.GetPartition())
	case req.Partition != nil:
		refusal = refused(reasonInvalidRequest, "topic", "", "partition is set without topic")
	}
	by := s.rights(ctx)
	switch {
	case refusal != nil:
	case req.Topic == "":
		refusal = by.refuseCluster(acl.Describe)
	default:
		refusal = by.refuseBoth(frontdoor.OnCluster(acl.Describe), onTopic(acl.Describe, req.Topic))
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	answer := &clientv1.ListRaftGroupsResponse{}
	if req.Topic == "" {
		if status, ok := s.c.Cluster.MetadataGroup(); ok {
			g := protoGroup(status)
			g.Name = "metadata"
			g.LogStartOffset, g.HighWatermark, g.LastStableOffset = -1, -1, -1
			answer.Groups = append(answer.Groups, g)
		}
	}
	for _, g := range s.c.Replicas.Groups() {
		if req.Topic != "" && g.Spec.Topic != req.Topic || req.Partition != nil && g.Spec.Partition != *req.Partition {
			continue
		}
		answer.Groups = append(answer.Groups, protoReplica(g))
	}
	for _, g := range s.c.Coordinators.Groups() {
		if req.Topic != "" && g.Spec.Kind.Topic() != req.Topic || req.Partition != nil && g.Spec.Number != *req.Partition {
			continue
		}
		answer.Groups = append(answer.Groups, protoShard(g))
	}
	return answer, nil
}

func protoShard(g coordinator.GroupStatus) *clientv1.RaftGroup {
	p := protoGroup(g.Raft)
	p.GroupId, p.Name, p.Problem = uint64(g.Spec.Group), g.Spec.String(), valid(g.Problem)
	p.LogStartOffset, p.HighWatermark, p.LastStableOffset = -1, -1, -1
	if p.Role == "" {
		p.Role = "quarantined" // its group was never opened
	}
	return p
}

func protoCompaction(c *partition.CompactionStatus) *clientv1.Compaction {
	if c == nil {
		return nil
	}
	p := &clientv1.Compaction{AgreedOffset: int64(c.Agreed), HorizonOffset: int64(c.Horizon), CompactedOffset: int64(c.Compacted),
		CleanBytes: c.CleanBytes, DirtyBytes: c.DirtyBytes, DirtyRatio: c.DirtyRatio, Due: c.Due, Done: c.Done, Running: c.Running, ReadBytes: c.Read, TotalBytes: c.Total}
	if l := c.Last; l != nil {
		p.LastEndedMs, p.LastTookMs, p.LastReadBytes, p.LastWrittenBytes = l.Ended.UnixMilli(), l.Took.Milliseconds(), l.Read, l.Written
	}
	return p
}

func protoGroup(st raftgroup.Status) *clientv1.RaftGroup {
	return &clientv1.RaftGroup{
		GroupId: uint64(st.ID), Name: st.Name, Role: st.Role, Term: uint64(st.Term),
		CommitIndex: uint64(st.CommitIndex), AppliedIndex: uint64(st.AppliedIndex),
		LastIndex: uint64(st.LastIndex), FirstIndex: uint64(st.FirstIndex), SnapshotIndex: uint64(st.SnapshotIndex),
		Leader: string(st.Leader), Voters: serverIDs(st.Voters), Learners: serverIDs(st.Learners),
		Ready: st.Ready, Problem: valid(st.Problem),
	}
}

func protoReplica(g partition.GroupStatus) *clientv1.RaftGroup {
	p := protoGroup(g.Raft)
	p.GroupId, p.Name = uint64(g.Spec.Group), g.Spec.TopicPartition.String()
	p.LogStartOffset, p.HighWatermark, p.LastStableOffset = int64(g.LogStart), int64(g.HighWater), int64(g.Stable)
	p.LogBytes, p.Producers, p.Problem = g.LogBytes, uint32(g.Producers), valid(g.Problem)
	p.Compaction = protoCompaction(g.Compaction)
	if p.Role == "" {
		p.Role = "quarantined" // its group was never opened
	}
	return p
}

func serverIDs(ids []raftgroup.ServerID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// TransferLeadership asks the leader of a partition, which must be this broker, to hand over.
func (s *service) TransferLeadership(ctx context.Context, req *clientv1.TransferLeadershipRequest) (*clientv1.TransferLeadershipResponse, error) {
	tp, refusal := checkPartition(req.Topic, req.Partition)
	to := int32(-1)
	if req.ToBroker != nil {
		to = *req.ToBroker
	}
	if refusal == nil && to < -1 {
		refusal = refused(reasonInvalidRequest, "to_broker", "-1", "to_broker is %d, want a broker id, or -1 for any", to)
	}
	if refusal == nil {
		refusal = s.refuseCluster(ctx, acl.Alter)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Replicas.TransferLeadership(ctx, tp, to); err != nil {
		return nil, s.failed(s.ofPartition(tp, err))
	}
	return &clientv1.TransferLeadershipResponse{}, nil
}

// GetChecksums sums the records of this broker's replica of a partition, leader or not.
func (s *service) GetChecksums(ctx context.Context, req *clientv1.GetChecksumsRequest) (*clientv1.GetChecksumsResponse, error) {
	tp, refusal := checkPartition(req.Topic, req.Partition)
	upTo := int64(-1)
	if req.UpTo != nil {
		upTo = *req.UpTo
	}
	if refusal == nil && upTo < -1 {
		refusal = refused(reasonInvalidRequest, "up_to", "-1", "up_to is %d, want an offset, or -1 for all", upTo)
	}
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuse(acl.Read, acl.Topic, tp.Topic)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	sum, err := s.c.Replicas.Checksums(tp, record.Offset(upTo))
	if err != nil {
		return nil, s.failed(s.ofPartition(tp, err))
	}
	return &clientv1.GetChecksumsResponse{From: int64(sum.From), UpTo: int64(sum.UpTo), Crc32C: sum.CRC32C, Batches: sum.Batches}, nil
}

// DeleteRecords raises the log start of a partition that this broker leads (L25).
func (s *service) DeleteRecords(ctx context.Context, req *clientv1.DeleteRecordsRequest) (*clientv1.DeleteRecordsResponse, error) {
	tp, refusal := checkPartition(req.Topic, req.Partition)
	if refusal == nil && req.BeforeOffset == nil {
		refusal = refused(reasonInvalidRequest, "before_offset", "", "before_offset is not set: want an offset, or -1 for the high watermark")
	}
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuse(acl.Delete, acl.Topic, tp.Topic)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	start, err := s.c.Replicas.DeleteRecords(ctx, tp, record.Offset(*req.BeforeOffset))
	if err != nil {
		return nil, s.failed(s.ofPartition(tp, err))
	}
	return &clientv1.DeleteRecordsResponse{LogStartOffset: int64(start)}, nil
}
