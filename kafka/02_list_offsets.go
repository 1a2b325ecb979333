package kafka

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// parallelLookUps is how many partitions of one request are asked at once: each may wait for a quorum round.
const parallelLookUps = 16

// Special timestamps that only this protocol has (L16). Without tiers, the earliest local offset is the earliest, and nothing is in
// another tier.
const (
	timestampEarliestLocal = -4
	timestampLatestTiered  = -5
)

// leastTimestamp is the lowest special timestamp of a version (L16).
func leastTimestamp(version int16) int64 {
	switch {
	case version >= 9:
		return timestampLatestTiered
	case version == 8:
		return timestampEarliestLocal
	case version == 7:
		return partition.TimestampMax
	}
	return partition.TimestampEarliest
}

// listOffsets finds offsets by time, and the ends of partitions (L16-L20).
func (c *conn) listOffsets(r *request, req *kmsg.ListOffsetsRequest, resp *kmsg.ListOffsetsResponse) {
	times := make(map[record.TopicPartition]int)
	for i := range req.Topics {
		for _, q := range req.Topics[i].Partitions {
			times[record.TopicPartition{Topic: req.Topics[i].Topic, Partition: q.Partition}]++
		}
	}
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))
	var all sync.WaitGroup
	slots := make(chan struct{}, parallelLookUps)
	topics := c.topics(r, acl.Describe)
	for i := range req.Topics {
		from, to := &req.Topics[i], &resp.Topics[i]
		to.Topic = from.Topic
		to.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(from.Partitions))
		for j, q := range from.Partitions {
			at := &to.Partitions[j]
			*at = kmsg.NewListOffsetsResponseTopicPartition()
			at.Partition, at.Offset, at.Timestamp, at.LeaderEpoch = q.Partition, -1, -1, -1
			tp := record.TopicPartition{Topic: from.Topic, Partition: q.Partition}
			switch {
			case !topics.Allow(from.Topic):
				at.ErrorCode = c.denied(r, acl.Topic)
				continue
			case times[tp] > 1:
				at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest) // L18
				continue
			case len(times) > frontdoor.MaxPartitions:
				at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
				continue
			case q.Timestamp < leastTimestamp(req.Version):
				at.ErrorCode = c.refuse(r, frontdoor.ReasonUnsupported)
				continue
			}
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				defer c.survive(r, func() { at.ErrorCode = c.refuse(r, frontdoor.ReasonUnknown) })
				c.listOne(r, at, tp, q, req.IsolationLevel == 1)
			})
		}
	}
	all.Wait()
}

// listOne answers for one partition.
func (c *conn) listOne(r *request, at *kmsg.ListOffsetsResponseTopicPartition, tp record.TopicPartition, q kmsg.ListOffsetsRequestTopicPartition, committed bool) {
	current := int32(-1)
	if r.msg.GetVersion() >= 4 {
		current = q.CurrentLeaderEpoch
	}
	if err := c.c.Log.CheckEpoch(tp, current); err != nil {
		at.ErrorCode = c.partitionFailure(r, tp, err).code
		return
	}
	switch q.Timestamp {
	case timestampLatestTiered:
		return
	case timestampEarliestLocal:
		q.Timestamp = partition.TimestampEarliest
	}
	found, err := c.c.Log.ListOffsets(c.waiting, tp, q.Timestamp, committed)
	if err != nil {
		at.ErrorCode = c.partitionFailure(r, tp, err).code
		return
	}
	at.Offset, at.Timestamp, at.LeaderEpoch = int64(found.Offset), found.Timestamp, found.LeaderEpoch
}
