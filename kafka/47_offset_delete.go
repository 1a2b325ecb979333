package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/record"
)

// offsetDelete deletes offsets of a group. Those of topics that its members read stay (G30).
func (c *conn) offsetDelete(r *request, req *kmsg.OffsetDeleteRequest, resp *kmsg.OffsetDeleteResponse) {
	if !c.may(r, acl.Delete, acl.Group, req.Group) {
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	if req.Group == "" {
		resp.ErrorCode = c.refuse(r, string(coordinator.CodeInvalidGroupID))
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, groupTimeout)
	defer cancel()
	img := c.c.Cluster.Image()
	unknown := make(map[record.TopicPartition]bool)
	may := c.topics(r, acl.Read)
	var topics []coordinator.WantedTopic
	for i := range req.Topics {
		t := coordinator.WantedTopic{Topic: req.Topics[i].Topic}
		if !may.Allow(t.Topic) {
			continue
		}
		for _, p := range req.Topics[i].Partitions {
			if tp := (record.TopicPartition{Topic: t.Topic, Partition: p.Partition}); !exists(img, tp) {
				unknown[tp] = true
				continue
			}
			t.Partitions = append(t.Partitions, p.Partition)
		}
		if len(t.Partitions) > 0 {
			topics = append(topics, t)
		}
	}
	subscribed, err := c.c.Groups.DeleteOffsets(ctx, req.Group, topics)
	if err != nil {
		resp.ErrorCode = c.failure(r, err).coordinatorCode()
		return
	}
	for i := range req.Topics {
		to := kmsg.NewOffsetDeleteResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			at := kmsg.OffsetDeleteResponseTopicPartition{Partition: p.Partition}
			switch {
			case !may.Allow(to.Topic):
				at.ErrorCode = c.denied(r, acl.Topic)
			case unknown[record.TopicPartition{Topic: to.Topic, Partition: p.Partition}]:
				at.ErrorCode = c.refuse(r, "UNKNOWN_TOPIC_OR_PARTITION")
			case slices.Contains(subscribed, to.Topic):
				at.ErrorCode = c.refuse(r, "GROUP_SUBSCRIBED_TO_TOPIC")
			}
			to.Partitions = append(to.Partitions, at)
		}
		resp.Topics = append(resp.Topics, to)
	}
}
