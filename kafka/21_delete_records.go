package kafka

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// deleteRecords raises the log start of partitions that this broker leads (L25).
func (c *conn) deleteRecords(r *request, req *kmsg.DeleteRecordsRequest, resp *kmsg.DeleteRecordsResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	var all sync.WaitGroup
	slots := make(chan struct{}, parallelLookUps)
	left := frontdoor.MaxPartitions
	topics := c.topics(r, acl.Delete)
	for i := range req.Topics {
		from, to := &req.Topics[i], &resp.Topics[i]
		to.Topic = from.Topic
		to.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(from.Partitions))
		for j, q := range from.Partitions {
			at := &to.Partitions[j]
			at.Partition, at.LowWatermark = q.Partition, -1
			left--
			switch {
			case left < 0:
				at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
				continue
			case !topics.Allow(to.Topic):
				at.ErrorCode = c.denied(r, acl.Topic)
				continue
			case record.InternalTopic(to.Topic):
				at.ErrorCode = c.refuse(r, "INVALID_TOPIC_EXCEPTION")
				continue
			}
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				defer c.survive(r, func() { at.ErrorCode = c.refuse(r, frontdoor.ReasonUnknown) })
				tp := record.TopicPartition{Topic: to.Topic, Partition: q.Partition}
				start, err := c.c.Replicas.DeleteRecords(ctx, tp, record.Offset(q.Offset))
				if err != nil {
					at.ErrorCode = c.partitionFailure(r, tp, err).code
					return
				}
				at.LowWatermark = int64(start)
			})
		}
	}
	all.Wait()
}
