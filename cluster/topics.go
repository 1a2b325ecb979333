package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	peerv1 "github.com/oncelog/oncelog/api/proto/peer/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// NewTopic asks for a topic.
type NewTopic struct {
	Name string
	// Partitions: 0 for 1. ReplicationFactor: 0 for 3, or 1 with fewer than three brokers.
	Partitions, ReplicationFactor int32
	// Placements, if set, name the brokers of each partition, the preferred leader first, instead of
	// Partitions and ReplicationFactor.
	Placements [][]int32
	// Configs have Kafka's names.
	Configs map[string]string
	// ValidateOnly checks and changes nothing.
	ValidateOnly bool
	// Internal: the broker itself wants it; only then can it have the name of a topic of the brokers.
	Internal bool
}

// TopicChange asks for a change of a topic.
type TopicChange struct {
	Name string
	// Partitions: 0 to leave their number.
	Partitions   int32
	Set          map[string]string
	Unset        []string
	ValidateOnly bool
}

// CreateTopic creates a topic and gives it as it is then. It may be called on any broker, as all changes
// may; when it returns, this broker's image holds the change unless the context has ended by then.
// Errors are *metadata.Error, when metadata refused it (did not happen), and *Error.
func (c *Cluster) CreateTopic(ctx context.Context, n NewTopic) (*metadata.Topic, error) {
	if n.Partitions < 0 {
		return nil, &metadata.Error{Code: metadata.InvalidPartitions, Field: "partitions", Message: fmt.Sprintf("%d partitions", n.Partitions), Limit: "1"}
	}
	if n.ReplicationFactor < 0 {
		return nil, &metadata.Error{Code: metadata.InvalidReplicationFactor, Field: "replication_factor", Message: fmt.Sprintf("replication factor %d", n.ReplicationFactor), Limit: "1, 3, 5"}
	}
	if err := metadata.CheckNotInternal(n.Name); err != nil && !n.Internal {
		return nil, err
	}
	var id metadata.TopicID
	if _, err := io.ReadFull(c.config.Rand, id[:]); err != nil {
		return nil, &Error{Code: NotController, Message: "no random topic id: " + err.Error(), Outcome: raftgroup.DidNotHappen}
	}
	var placements []*statev1.Placement
	for _, brokers := range n.Placements {
		placements = append(placements, &statev1.Placement{BrokerIds: brokers})
	}
	return c.topicChange(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_CreateTopic{CreateTopic: &peerv1.CreateTopic{
		TopicId: id[:], Name: n.Name, Partitions: uint32(n.Partitions), ReplicationFactor: uint32(n.ReplicationFactor),
		Placements: placements, Configs: configsToProto(n.Configs), ValidateOnly: n.ValidateOnly,
	}}})
}

// AlterTopic raises the number of partitions, or sets and unsets configs, or both; all or nothing.
func (c *Cluster) AlterTopic(ctx context.Context, n TopicChange) (*metadata.Topic, error) {
	if n.Partitions < 0 {
		return nil, &metadata.Error{Code: metadata.InvalidPartitions, Field: "partitions", Message: fmt.Sprintf("%d partitions", n.Partitions), Limit: "1"}
	}
	if err := metadata.CheckNotInternal(n.Name); err != nil {
		return nil, err
	}
	return c.topicChange(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_AlterTopic{AlterTopic: &peerv1.AlterTopic{
		Name: n.Name, Partitions: uint32(n.Partitions), SetConfigs: configsToProto(n.Set), UnsetConfigs: n.Unset, ValidateOnly: n.ValidateOnly,
	}}})
}

// DeleteTopic frees a topic's name; its replicas go afterwards.
func (c *Cluster) DeleteTopic(ctx context.Context, name string) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	t, ok := c.Image().Topic(name)
	for attempt := 0; ; attempt++ {
		if !ok {
			img, err := c.Confirm(ctx)
			if err != nil {
				return err
			}
			if t, ok = img.Topic(name); !ok {
				return unknownTopic(name)
			}
		}
		done, err := c.do(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_DeleteTopic{DeleteTopic: &peerv1.DeleteTopic{Name: name, TopicId: t.ID[:]}}})
		if errors.Is(err, &metadata.Error{Code: metadata.UnknownTopicOrPartition}) && attempt == 0 {
			ok = false // our image was old: the name may be another topic's by now
			continue
		}
		if err != nil {
			return err
		}
		c.seen(ctx, done.GetIndex())
		return nil
	}
}

func (c *Cluster) topicChange(ctx context.Context, req *peerv1.ForwardRequest) (*metadata.Topic, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	done, err := c.do(ctx, req)
	if err != nil {
		return nil, err
	}
	c.seen(ctx, done.GetIndex())
	t, err := c.Image().TopicFromProto(done.GetTopic())
	if err != nil {
		return nil, &Error{Code: RequestTimedOut, Message: "the controller's answer: " + err.Error(), Outcome: raftgroup.MayHaveHappened, Cause: err}
	}
	return t, nil
}

// seen waits until a change that was made is in this broker's image, as long as the context lasts: the
// change has been made in any case.
func (c *Cluster) seen(ctx context.Context, index uint64) { _ = c.machine.waitApplied(ctx, index) }

func configsToProto(m map[string]string) []*statev1.ConfigValue {
	var out []*statev1.ConfigValue
	for name, value := range m {
		out = append(out, &statev1.ConfigValue{Name: name, Value: value})
	}
	slices.SortFunc(out, func(a, b *statev1.ConfigValue) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// ReportCreated tells that replicas have their directories, and waits until that is agreed. Only then
// may they be opened.
func (c *Cluster) ReportCreated(ctx context.Context, refs []metadata.ReplicaRef) error {
	return c.reportReplicas(ctx, refs, func(r *statev1.ReportReplicas, part []*statev1.ReplicaRef) { r.Created = part })
}

// ReportDeleted tells that the directories of replicas are gone.
func (c *Cluster) ReportDeleted(ctx context.Context, refs []metadata.ReplicaRef) error {
	return c.reportReplicas(ctx, refs, func(r *statev1.ReportReplicas, part []*statev1.ReplicaRef) { r.Deleted = part })
}

func (c *Cluster) reportReplicas(ctx context.Context, refs []metadata.ReplicaRef, into func(*statev1.ReportReplicas, []*statev1.ReplicaRef)) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	for part := range slices.Chunk(refs, metadata.MaxReportedReplicas) {
		list := make([]*statev1.ReplicaRef, len(part))
		for i, ref := range part {
			list[i] = &statev1.ReplicaRef{GroupId: uint64(ref.Group), Incarnation: ref.Incarnation}
		}
		cmd := &statev1.ReportReplicas{BrokerId: c.config.Broker, NodeIncarnation: c.node.Load().incarnation}
		into(cmd, list)
		done, err := c.do(ctx, &peerv1.ForwardRequest{Request: &peerv1.ForwardRequest_ReportReplicas{ReportReplicas: &peerv1.ReportReplicas{Command: cmd}}})
		if err != nil {
			return err
		}
		c.seen(ctx, done.GetIndex())
	}
	return nil
}
