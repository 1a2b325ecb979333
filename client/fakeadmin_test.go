package client

import (
	"context"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// hooked runs the script of a call, if there is one.
func (b *fakeBroker) hooked(call string) {
	b.host.wait()
	b.c.mu.Lock()
	hook := b.c.hooks[call]
	b.c.mu.Unlock()
	if hook != nil {
		hook(b)
	}
}

func failure(reason string, code codes.Code, retriable bool) error {
	return clientv1.ToStatus(&clientv1.Error{
		Reason: reason, Message: "scripted", Retriable: retriable, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN,
	}, code, 0).Err()
}

func (b *fakeBroker) CreateTopic(ctx context.Context, req *clientv1.CreateTopicRequest) (*clientv1.CreateTopicResponse, error) {
	b.hooked("create")
	if b.c.controller != 0 && b.c.controller != b.id {
		return nil, failure("NOT_CONTROLLER", codes.Unavailable, true)
	}
	b.c.mu.Lock()
	exists := b.c.topics[req.Name] != nil
	b.c.mu.Unlock()
	if exists {
		return nil, failure(ReasonTopicAlreadyExists, codes.AlreadyExists, false)
	}
	if !req.ValidateOnly {
		b.c.topic(req.Name, int(max(req.Partitions, 1)))
	}
	b.hooked("created")
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return &clientv1.CreateTopicResponse{Topic: b.describe(req.Name)}, nil
}

func (b *fakeBroker) AlterTopic(ctx context.Context, req *clientv1.AlterTopicRequest) (*clientv1.AlterTopicResponse, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	t := b.c.topics[req.Name]
	if t == nil {
		return nil, failure(ReasonUnknownTopicOrPartition, codes.NotFound, true)
	}
	for k, v := range req.SetConfigs {
		t.configs[k] = v
	}
	for _, k := range req.UnsetConfigs {
		delete(t.configs, k)
	}
	return &clientv1.AlterTopicResponse{Topic: b.describe(req.Name)}, nil
}

func (b *fakeBroker) DeleteTopic(ctx context.Context, req *clientv1.DeleteTopicRequest) (*clientv1.DeleteTopicResponse, error) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	delete(b.c.topics, req.Name)
	return &clientv1.DeleteTopicResponse{}, nil
}

func (b *fakeBroker) DescribeTopic(ctx context.Context, req *clientv1.DescribeTopicRequest) (*clientv1.DescribeTopicResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	t := b.c.topics[req.Name]
	if t == nil {
		return nil, failure(ReasonUnknownTopicOrPartition, codes.NotFound, true)
	}
	resp := &clientv1.DescribeTopicResponse{Topic: b.describe(req.Name)}
	for k, v := range t.configs {
		resp.Configs = append(resp.Configs, &clientv1.ConfigEntry{Name: k, Value: v, Explicit: true})
	}
	return resp, nil
}

func (b *fakeBroker) DescribeProducers(ctx context.Context, req *clientv1.DescribeProducersRequest) (*clientv1.DescribeProducersResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	p := b.c.find(req.Topic, req.Partition)
	if p.leader != b.id {
		return nil, clientv1.ToStatus(b.notLeader(p), codes.FailedPrecondition, 0).Err()
	}
	resp := &clientv1.DescribeProducersResponse{}
	for id, m := range p.log.producers {
		s := &clientv1.ProducerState{ProducerId: int64(id), ProducerEpoch: int32(m.epoch), LastSequence: int32(m.last), TxnStartOffset: -1}
		for _, w := range m.window {
			s.Batches = append(s.Batches, &clientv1.ProducerBatch{BaseSequence: int32(w.first), LastSequence: int32(w.last), BaseOffset: int64(w.base)})
		}
		resp.Producers = append(resp.Producers, s)
	}
	return resp, nil
}

func (b *fakeBroker) ListRaftGroups(ctx context.Context, req *clientv1.ListRaftGroupsRequest) (*clientv1.ListRaftGroupsResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.c.deny != nil {
		return nil, clientv1.ToStatus(b.c.deny, codes.PermissionDenied, 0).Err()
	}
	return &clientv1.ListRaftGroupsResponse{Groups: []*clientv1.RaftGroup{{GroupId: 1, Name: "metadata", Role: "follower", Term: uint64(b.id)}}}, nil
}

func (b *fakeBroker) TransferLeadership(ctx context.Context, req *clientv1.TransferLeadershipRequest) (*clientv1.TransferLeadershipResponse, error) {
	b.c.mu.Lock()
	p := b.c.find(req.Topic, req.Partition)
	if p.leader != b.id {
		defer b.c.mu.Unlock()
		return nil, clientv1.ToStatus(b.notLeader(p), codes.FailedPrecondition, 0).Err()
	}
	b.c.mu.Unlock()
	p.move(*req.ToBroker)
	return &clientv1.TransferLeadershipResponse{}, nil
}

func (b *fakeBroker) GetChecksums(ctx context.Context, req *clientv1.GetChecksumsRequest) (*clientv1.GetChecksumsResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	p := b.c.find(req.Topic, req.Partition)
	upTo := p.log.end
	if req.UpTo != nil {
		upTo = record.Offset(*req.UpTo)
	}
	return &clientv1.GetChecksumsResponse{UpTo: int64(upTo), Crc32C: 7, Batches: int64(len(p.batches))}, nil
}

func (b *fakeBroker) FindCoordinator(context.Context, *clientv1.FindCoordinatorRequest) (*clientv1.FindCoordinatorResponse, error) {
	b.hooked("find")
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.found++
	return &clientv1.FindCoordinatorResponse{BrokerId: b.c.coordinates, Address: b.c.brokers[b.c.coordinates].addr}, nil
}

func (b *fakeBroker) FetchOffsets(_ context.Context, req *clientv1.FetchOffsetsRequest) (*clientv1.FetchOffsetsResponse, error) {
	b.hooked("offsets")
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.c.coordinates != b.id {
		return nil, failure(ReasonNotCoordinator, codes.FailedPrecondition, true)
	}
	r := &clientv1.FetchOffsetsResponse{}
	for _, t := range req.GetTopics() {
		for _, p := range t.GetPartitions() {
			r.Offsets = append(r.Offsets, &clientv1.CommittedOffset{Topic: t.GetTopic(), Partition: p, Offset: 7})
		}
	}
	return r, nil
}
