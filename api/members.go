package api

import (
	"context"
	"math"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// ReassignPartitions begins to move partitions.
func (s *service) ReassignPartitions(ctx context.Context, req *clientv1.ReassignPartitionsRequest) (*clientv1.ReassignPartitionsResponse, error) {
	refusal := checkTopicName(req.Topic)
	if refusal == nil && len(req.Partitions) == 0 && req.ReplicationFactor == 0 {
		refusal = refused(reasonInvalidRequest, "partitions, replication_factor", "", "neither partitions nor replication_factor is set: there is nothing to move")
	}
	if refusal == nil {
		refusal = s.refuseCluster(ctx, acl.Alter)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	var t *metadata.Topic
	var err error
	if len(req.Partitions) == 0 {
		t, err = s.c.Cluster.SetReplicationFactor(ctx, req.Topic, req.ReplicationFactor, req.ValidateOnly)
	} else {
		list := make([]Reassignment, len(req.Partitions))
		for i, p := range req.Partitions {
			list[i] = Reassignment{Partition: p.GetPartition(), Brokers: p.GetBrokerIds()}
		}
		t, err = s.c.Cluster.Reassign(ctx, req.Topic, list, req.ReplicationFactor, req.ValidateOnly)
	}
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.ReassignPartitionsResponse{Topic: s.protoTopic(t)}, nil
}

// CancelReassignments takes back what reassignments under way have added.
func (s *service) CancelReassignments(ctx context.Context, req *clientv1.CancelReassignmentsRequest) (*clientv1.CancelReassignmentsResponse, error) {
	refusal := checkTopicName(req.Topic)
	if refusal == nil {
		refusal = s.refuseCluster(ctx, acl.Alter)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	t, err := s.c.Cluster.CancelReassignments(ctx, req.Topic, req.Partitions)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.CancelReassignmentsResponse{Topic: s.protoTopic(t)}, nil
}

// DrainBroker makes a broker give its replicas to others, or stops that.
func (s *service) DrainBroker(ctx context.Context, req *clientv1.DrainBrokerRequest) (*clientv1.DrainBrokerResponse, error) {
	if refusal := s.refuseCluster(ctx, acl.Alter); refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Cluster.Drain(ctx, req.BrokerId, !req.Stop); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.DrainBrokerResponse{}, nil
}

// UnregisterBroker forgets a broker that holds no replica.
func (s *service) UnregisterBroker(ctx context.Context, req *clientv1.UnregisterBrokerRequest) (*clientv1.UnregisterBrokerResponse, error) {
	if refusal := s.refuseCluster(ctx, acl.Alter); refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Cluster.UnregisterBroker(ctx, req.BrokerId); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.UnregisterBrokerResponse{}, nil
}

// SetFeatureLevel lets the cluster use what all its brokers know.
func (s *service) SetFeatureLevel(ctx context.Context, req *clientv1.SetFeatureLevelRequest) (*clientv1.SetFeatureLevelResponse, error) {
	refusal := checkRange("level", int64(req.Level), 1, math.MaxUint16)
	if refusal == nil {
		refusal = s.refuseCluster(ctx, acl.Alter)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Cluster.SetFeatureLevel(ctx, uint16(req.Level)); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.SetFeatureLevelResponse{}, nil
}
