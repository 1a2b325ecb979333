package api

import (
	"context"
	"slices"
	"strings"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/record"
)

// GetMetadata tells which brokers, topics, partitions and leaders there are, as far as this broker
// has heard. It asks nobody, so it answers without a quorum too. Topics that the caller may not see are left out, or are named with an error.
func (s *service) GetMetadata(ctx context.Context, req *clientv1.GetMetadataRequest) (*clientv1.GetMetadataResponse, error) {
	if refusal := checkRange("topics", int64(len(req.Topics)), 0, maxTopicsNamed); refusal != nil {
		return nil, s.failed(refusal)
	}
	by := s.rights(ctx)
	seen := s.topics(by, acl.Describe)
	img := s.c.Cluster.Image()
	answer := &clientv1.GetMetadataResponse{
		ClusterId:    img.ClusterID(),
		ControllerId: s.c.Cluster.Controller(),
		FeatureLevel: uint32(img.FeatureLevel()),
	}
	cluster := by.sees(acl.Describe, acl.Cluster, acl.ClusterName)
	for _, b := range img.Brokers() {
		p := s.protoBroker(b)
		if !cluster { // clients have no use for them
			p.PeerAddress, p.HttpAddress = "", ""
		}
		answer.Brokers = append(answer.Brokers, p)
	}
	if len(req.Topics) == 0 {
		if cluster {
			countReplicas(img, answer.Brokers)
			for i, b := range img.Brokers() {
				answer.Brokers[i].Listeners = s.protoListeners(b)
			}
		}
		for _, t := range img.Topics() {
			if by.sees(acl.Describe, acl.Topic, t.Name) {
				answer.Topics = append(answer.Topics, s.protoTopic(t))
			}
		}
	}
	answered := make(map[string]bool)
	for _, name := range req.Topics {
		if !answered[name] { // a few bytes would ask for megabytes again and again
			answered[name] = true
			answer.Topics = append(answer.Topics, s.namedTopic(&seen, img, name))
		}
	}
	return answer, nil
}

// namedTopic is a topic that was asked for, or why there is none.
func (s *service) namedTopic(seen *topicRights, img *metadata.Image, name string) *clientv1.Topic {
	if refusal := checkTopicName(name); refusal != nil {
		return &clientv1.Topic{Name: echo(name), Error: refusal}
	}
	if refusal := seen.refuse(name); refusal != nil {
		return &clientv1.Topic{Name: name, Error: refusal}
	}
	t, ok := img.Topic(name)
	if !ok {
		return &clientv1.Topic{Name: name, Error: s.unknownPartition(record.TopicPartition{Topic: name})}
	}
	return s.protoTopic(t)
}

// protoBroker shows a broker as clients of this listener may reach it.
func (s *service) protoBroker(b *metadata.Broker) *clientv1.Broker {
	p := &clientv1.Broker{BrokerId: b.ID, Rack: b.Rack, Version: b.Version, Alive: s.c.Cluster.Alive(b.ID), Draining: b.Draining}
	p.Address, _ = b.Address(s.listener)
	p.PeerAddress, _ = b.Address(metadata.PeerListener)
	if s.c.HTTPListener != "" {
		p.HttpAddress, _ = b.Address(s.c.HTTPListener)
	}
	return p
}

// protoListeners are all addresses that a broker advertises.
func (s *service) protoListeners(b *metadata.Broker) []*clientv1.Listener {
	var list []*clientv1.Listener
	for _, l := range b.Listeners {
		protocol := "grpc"
		switch {
		case l.Name == metadata.PeerListener:
			protocol = "peer"
		case l.Name == s.c.HTTPListener:
			protocol = "http"
		case strings.HasPrefix(l.Name, kafkaPrefix):
			protocol = "kafka"
		}
		list = append(list, &clientv1.Listener{Name: l.Name, Address: l.Address, Protocol: protocol})
	}
	slices.SortFunc(list, func(a, b *clientv1.Listener) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// kafkaPrefix begins the names of listeners for Kafka clients.
const kafkaPrefix = "kafka."

// countReplicas fills in what each broker holds, or shall hold, or has not given up yet.
func countReplicas(img *metadata.Image, brokers []*clientv1.Broker) {
	held := make(map[int32]int32)
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			for _, r := range t.Partitions[i].Replicas {
				held[r.Broker]++
			}
			for _, l := range t.Partitions[i].Leaving {
				held[l.Broker]++
			}
		}
	}
	for _, b := range brokers {
		b.Replicas = held[b.BrokerId]
	}
}

func (s *service) protoTopic(t *metadata.Topic) *clientv1.Topic {
	p := &clientv1.Topic{Name: t.Name, TopicId: t.ID.String(), Internal: record.InternalTopic(t.Name), Partitions: make([]*clientv1.Partition, len(t.Partitions))}
	for i := range t.Partitions {
		from := &t.Partitions[i]
		q := &clientv1.Partition{Partition: int32(i), Leader: -1, LeaderEpoch: -1, GroupId: uint64(from.Group),
			Replicas: make([]int32, len(from.Replicas))}
		for j, r := range from.Replicas {
			q.Replicas[j] = r.Broker
			if r.Joining {
				q.Joining = append(q.Joining, r.Broker)
			}
			if r.Lost {
				q.Lost = append(q.Lost, r.Broker)
			}
		}
		for _, l := range from.Leaving {
			q.Leaving = append(q.Leaving, l.Broker)
		}
		q.Target = from.Target
		if l, ok := s.c.Cluster.Leader(from.Group); ok {
			q.Leader, q.LeaderEpoch = l.Broker, l.Epoch
		}
		p.Partitions[i] = q
	}
	return p
}
