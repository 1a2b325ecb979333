package api

import (
	"context"
	"errors"
	"time"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// CreateTopic creates a topic and, if asked, waits until it can be written to.
func (s *service) CreateTopic(ctx context.Context, req *clientv1.CreateTopicRequest) (*clientv1.CreateTopicResponse, error) {
	refusal := checkTopic(req.Name)
	if refusal == nil {
		refusal = checkRange("wait_ready_ms", int64(req.WaitReadyMs), 0, maxTimeoutMS)
	}
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuseBoth(frontdoor.OnCluster(acl.Create), onTopic(acl.Create, req.Name))
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	t, err := s.c.Cluster.CreateTopic(ctx, NewTopic{Name: req.Name, Partitions: req.Partitions,
		ReplicationFactor: req.ReplicationFactor, Configs: req.Configs, ValidateOnly: req.ValidateOnly})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	if req.WaitReadyMs > 0 && !req.ValidateOnly {
		if err := s.awaitReady(ctx, t.Name, time.Duration(req.WaitReadyMs)*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return &clientv1.CreateTopicResponse{Topic: s.protoTopic(t)}, nil
}

// awaitReady waits until every partition of a topic that was just created has a ready leader. When
// that fails the topic exists all the same, and the error says so.
func (s *service) awaitReady(ctx context.Context, topic string, most time.Duration) error {
	ctx, cancel := s.untilStop(ctx)
	defer cancel()
	ctx, cancelWait := context.WithTimeout(ctx, most)
	defer cancelWait()
	err := s.c.Cluster.TopicReady(ctx, topic)
	if err == nil {
		return nil
	}
	e := s.ofDomain(err)
	e.Outcome = clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED
	if errors.Is(err, context.DeadlineExceeded) {
		e.Message = "not every partition had a leader in time"
	}
	e.Message = "topic " + topic + " has been created, but: " + e.Message
	return s.failed(e)
}

// AlterTopic raises the number of partitions, or sets and unsets configs.
func (s *service) AlterTopic(ctx context.Context, req *clientv1.AlterTopicRequest) (*clientv1.AlterTopicResponse, error) {
	refusal := checkTopic(req.Name)
	if refusal == nil && req.Partitions == 0 && len(req.SetConfigs) == 0 && len(req.UnsetConfigs) == 0 {
		refusal = refused(reasonInvalidRequest, "partitions, set_configs, unset_configs", "", "none of partitions, set_configs and unset_configs is set: there is nothing to alter")
	}
	by := s.rights(ctx)
	if refusal == nil && req.Partitions != 0 {
		refusal = by.refuse(acl.Alter, acl.Topic, req.Name)
	}
	if refusal == nil && len(req.SetConfigs)+len(req.UnsetConfigs) > 0 {
		refusal = by.refuse(acl.AlterConfigs, acl.Topic, req.Name)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	t, err := s.c.Cluster.AlterTopic(ctx, TopicChange{Name: req.Name, Partitions: req.Partitions,
		Set: req.SetConfigs, Unset: req.UnsetConfigs, ValidateOnly: req.ValidateOnly})
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.AlterTopicResponse{Topic: s.protoTopic(t)}, nil
}

// DeleteTopic deletes a topic with all its records.
func (s *service) DeleteTopic(ctx context.Context, req *clientv1.DeleteTopicRequest) (*clientv1.DeleteTopicResponse, error) {
	refusal := checkTopic(req.Name)
	if refusal == nil {
		by := s.rights(ctx)
		refusal = by.refuseBoth(frontdoor.OnCluster(acl.Delete), onTopic(acl.Delete, req.Name))
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if err := s.c.Cluster.DeleteTopic(ctx, req.Name); err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return &clientv1.DeleteTopicResponse{}, nil
}

func onTopic(op acl.Operation, name string) frontdoor.Action {
	return frontdoor.Action{Operation: op, Type: acl.Topic, Name: name}
}

// DescribeTopic shows a topic and, to who may see them, the configs that hold for it.
func (s *service) DescribeTopic(ctx context.Context, req *clientv1.DescribeTopicRequest) (*clientv1.DescribeTopicResponse, error) {
	by := s.rights(ctx)
	refusal := checkTopicName(req.Name)
	if refusal == nil {
		refusal = by.refuse(acl.Describe, acl.Topic, req.Name)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	img := s.c.Cluster.Image()
	t, ok := img.Topic(req.Name)
	if !ok {
		return nil, s.failed(s.unknownPartition(record.TopicPartition{Topic: req.Name}))
	}
	answer := &clientv1.DescribeTopicResponse{Topic: s.protoTopic(t)}
	if !by.sees(acl.DescribeConfigs, acl.Topic, req.Name) {
		return answer, nil
	}
	for _, c := range img.ConfigsOf(t) {
		answer.Configs = append(answer.Configs, &clientv1.ConfigEntry{Name: c.Def.Name, Value: c.Value,
			Explicit: c.Source == metadata.FromTopic, Documentation: c.Def.Doc})
	}
	return answer, nil
}
