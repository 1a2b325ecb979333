package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/partition"
)

// groupGlue is where groups meet the metadata (coordinator.Topics) and the coordinators of transactions (coordinator.Joiner).
type groupGlue struct{ p *parts }

func topicOf(t *metadata.Topic) coordinator.Topic {
	return coordinator.Topic{Name: t.Name, ID: group.TopicID(t.ID), Partitions: int32(len(t.Partitions))}
}

// Topic gives a topic as this broker knows it.
func (g groupGlue) Topic(name string) (coordinator.Topic, bool) {
	t, ok := g.p.cluster.Image().Topic(name)
	if !ok {
		return coordinator.Topic{}, false
	}
	return topicOf(t), true
}

// All gives all topics that this broker knows.
func (g groupGlue) All() []coordinator.Topic {
	var list []coordinator.Topic
	for _, t := range g.p.cluster.Image().Topics() {
		list = append(list, topicOf(t))
	}
	slices.SortFunc(list, func(a, b coordinator.Topic) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// WaitNewer waits for newer metadata.
func (g groupGlue) WaitNewer(ctx context.Context, version uint64) (uint64, error) {
	img, err := g.p.cluster.WaitNewer(ctx, version)
	if err != nil {
		return 0, err
	}
	return img.Version(), nil
}

// Confirm brings the metadata here up to what is agreed.
func (g groupGlue) Confirm(ctx context.Context) error {
	_, err := g.p.cluster.Confirm(ctx)
	return err
}

// JoinTransaction carries the question of a shard to the transaction's coordinator.
func (g groupGlue) JoinTransaction(ctx context.Context, j coordinator.Joining) error {
	err := txnGlue(g).Join(ctx, partition.Joining{
		TopicPartition: j.TopicPartition, TransactionalID: j.TransactionalID, ProducerID: j.Producer.ID, Epoch: j.Producer.Epoch, Version: j.Version,
	})
	if err == nil {
		return nil
	}
	told := &coordinator.Error{Code: coordinator.Code(err.Code), Message: err.Message, Outcome: err.Outcome, Cause: err.Cause}
	if e, ok := txn.EventFromProto(err.Event); ok {
		told.Event = &e
	}
	return told
}
