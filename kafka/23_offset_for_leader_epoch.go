package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// offsetForLeaderEpoch says where epochs of leaders ended (L21, KIP-320).
func (c *conn) offsetForLeaderEpoch(r *request, req *kmsg.OffsetForLeaderEpochRequest, resp *kmsg.OffsetForLeaderEpochResponse) {
	var topics frontdoor.Permits
	if !c.sees(acl.ClusterAction, acl.Cluster, acl.ClusterName) {
		topics = c.topics(r, acl.Describe)
	}
	resp.Topics = make([]kmsg.OffsetForLeaderEpochResponseTopic, len(req.Topics))
	for i := range req.Topics {
		from, to := &req.Topics[i], &resp.Topics[i]
		to.Topic = from.Topic
		to.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(from.Partitions))
		for j, q := range from.Partitions {
			at := &to.Partitions[j]
			*at = kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			at.Partition, at.LeaderEpoch, at.EndOffset = q.Partition, -1, -1
			if !topics.Allow(from.Topic) {
				at.ErrorCode = c.denied(r, acl.Topic)
				continue
			}
			tp := record.TopicPartition{Topic: from.Topic, Partition: q.Partition}
			epoch, end, err := c.c.Log.EpochEnd(c.waiting, tp, q.CurrentLeaderEpoch, q.LeaderEpoch)
			if err != nil {
				at.ErrorCode = c.partitionFailure(r, tp, err).code
				continue
			}
			if q.LeaderEpoch >= 0 { // nothing is known of no epoch
				at.LeaderEpoch, at.EndOffset = epoch, int64(end)
			}
		}
	}
}
