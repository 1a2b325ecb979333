package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// describeProducers shows what partitions that this broker leads remember of their producers (T35).
func (c *conn) describeProducers(r *request, req *kmsg.DescribeProducersRequest, resp *kmsg.DescribeProducersResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, coordinatorTimeout)
	defer cancel()
	left := frontdoor.MaxPartitions
	topics, asked := c.topics(r, acl.Read), make(once[record.TopicPartition])
	for i := range req.Topics {
		to := kmsg.NewDescribeProducersResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			at := kmsg.NewDescribeProducersResponseTopicPartition()
			at.Partition = p
			if left--; left < 0 || !asked.first(record.TopicPartition{Topic: to.Topic, Partition: p}) {
				at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
			} else if !topics.Allow(to.Topic) {
				at.ErrorCode, at.ErrorMessage = c.denial(r, acl.Read, acl.Topic, to.Topic)
			} else {
				c.describeProducersOf(ctx, r, &at, record.TopicPartition{Topic: to.Topic, Partition: p})
			}
			to.Partitions = append(to.Partitions, at)
		}
		resp.Topics = append(resp.Topics, to)
	}
}

func (c *conn) describeProducersOf(ctx context.Context, r *request, at *kmsg.DescribeProducersResponseTopicPartition, tp record.TopicPartition) {
	found, _, err := c.c.Log.DescribeProducers(ctx, tp, nil, frontdoor.MaxProducers)
	if err != nil {
		f := c.partitionFailure(r, tp, err)
		at.ErrorCode, at.ErrorMessage = f.code, f.message
		return
	}
	for _, d := range found {
		p := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		p.ProducerID, p.ProducerEpoch, p.LastSequence = int64(d.ProducerID), int32(d.Epoch), int32(d.LastSequence)
		p.LastTimestamp, p.CoordinatorEpoch, p.CurrentTxnStartOffset = d.LastTimestamp, d.CoordinatorEpoch, int64(d.OpenFrom)
		at.ActiveProducers = append(at.ActiveProducers, p)
	}
}
