package main

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// ReassignPartitions moves at the second look: until then the replicas that are added are joining.
func (f *fakeCluster) ReassignPartitions(_ context.Context, req *clientv1.ReassignPartitionsRequest) (*clientv1.ReassignPartitionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[req.Topic]
	for _, p := range req.Partitions {
		for _, id := range p.BrokerIds {
			if brokerNames[id] == "" {
				return nil, refusal("INVALID_REPLICA_ASSIGNMENT", codes.InvalidArgument, fmt.Sprintf("partition %d is to be on broker %d, which is not registered", p.Partition, id), false)
			}
		}
		if !req.ValidateOnly {
			t.logs[p.Partition].target = p.BrokerIds
		}
	}
	for i := range t.logs {
		if n := int(req.ReplicationFactor); n > 0 && len(req.Partitions) == 0 && !req.ValidateOnly {
			t.logs[i].target = []int32{1, 2, 3}[:n]
		}
	}
	return &clientv1.ReassignPartitionsResponse{Topic: f.proto(req.Topic)}, nil
}

func (f *fakeCluster) CancelReassignments(_ context.Context, req *clientv1.CancelReassignmentsRequest) (*clientv1.CancelReassignmentsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.topics[req.Topic].logs {
		l.target = nil
	}
	return &clientv1.CancelReassignmentsResponse{Topic: f.proto(req.Topic)}, nil
}

func (f *fakeCluster) DrainBroker(_ context.Context, req *clientv1.DrainBrokerRequest) (*clientv1.DrainBrokerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining[req.BrokerId] = !req.Stop
	for _, t := range f.topics {
		for _, l := range t.logs {
			if !req.Stop && slices.Contains(l.held(), req.BrokerId) {
				l.target = slices.DeleteFunc(slices.Clone(l.held()), func(id int32) bool { return id == req.BrokerId })
			}
		}
	}
	return &clientv1.DrainBrokerResponse{}, nil
}

func (f *fakeCluster) UnregisterBroker(_ context.Context, req *clientv1.UnregisterBrokerRequest) (*clientv1.UnregisterBrokerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, t := range f.topics {
		for i, l := range t.logs {
			if slices.Contains(l.held(), req.BrokerId) {
				return nil, refusal("RESOURCE_IN_USE", codes.FailedPrecondition, fmt.Sprintf("broker %d holds a replica of %s/%d", req.BrokerId, name, i), false)
			}
		}
	}
	return &clientv1.UnregisterBrokerResponse{}, nil
}

// held are the brokers of a partition.
func (l *fakeLog) held() []int32 {
	if l.replicas == nil {
		return []int32{1, 2, 3}
	}
	return l.replicas
}

// move takes the next step of a partition on its way.
func (l *fakeLog) move(p *clientv1.Partition) {
	p.Replicas = l.held()
	if l.target == nil {
		return
	}
	p.Target = l.target
	for _, id := range l.target {
		if !slices.Contains(p.Replicas, id) {
			p.Joining = append(p.Joining, id)
		}
	}
	l.replicas, l.target = l.target, nil
}
