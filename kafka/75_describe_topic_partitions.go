package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxPartitionsDescribed bounds one page.
const maxPartitionsDescribed = 2000

// describeTopicPartitions is metadata by pages: topics by name, and from the cursor on.
func (c *conn) describeTopicPartitions(r *request, req *kmsg.DescribeTopicPartitionsRequest, resp *kmsg.DescribeTopicPartitionsResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, firstLeaderWait)
	defer cancel()
	img := c.c.Cluster.Image()
	room := maxPartitionsDescribed
	if limit := int(req.ResponsePartitionLimit); limit > 0 {
		room = min(room, limit)
	}
	var names []string
	for _, q := range req.Topics {
		names = append(names, q.Topic)
	}
	may := c.topics(r, acl.Describe)
	if len(names) == 0 {
		may = c.topicsSeen(r, acl.Describe)
		for _, t := range img.Topics() {
			if may.Allow(t.Name) {
				names = append(names, t.Name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	from := int32(0)
	if cursor := req.Cursor; cursor != nil {
		i, found := slices.BinarySearchFunc(names, cursor.Topic, strings.Compare)
		if names = names[i:]; found {
			from = max(cursor.Partition, 0)
		}
	}
	for _, name := range names {
		if room <= 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name}
			return
		}
		one, next := c.describePage(ctx, r, img, name, from, room, &may)
		resp.Topics = append(resp.Topics, one)
		if next >= 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: next}
			return
		}
		room -= max(len(one.Partitions), 1)
		from = 0
	}
}

// describePage shows up to room partitions of a topic; next is the first that is left out, -1: none.
func (c *conn) describePage(ctx context.Context, r *request, img *metadata.Image, name string, from int32, room int, may *frontdoor.Permits) (one kmsg.DescribeTopicPartitionsResponseTopic, next int32) {
	one = kmsg.NewDescribeTopicPartitionsResponseTopic()
	one.Topic, one.AuthorizedOperations = &name, noOperations
	if !may.Allow(name) {
		one.ErrorCode = c.denied(r, acl.Topic)
		return one, -1
	}
	one.AuthorizedOperations = c.operations(acl.Topic, name)
	t, ok := img.Topic(name)
	if !ok {
		one.ErrorCode = c.refuse(r, frontdoor.ReasonUnknownTopic)
		return one, -1
	}
	whole := c.describeTopic(ctx, t)
	one.TopicID, one.IsInternal = whole.TopicID, whole.IsInternal
	for _, p := range whole.Partitions {
		if p.Partition < from {
			continue
		}
		if len(one.Partitions) == room {
			return one, p.Partition
		}
		one.Partitions = append(one.Partitions, kmsg.DescribeTopicPartitionsResponseTopicPartition{
			ErrorCode: p.ErrorCode, Partition: p.Partition, LeaderID: p.Leader, LeaderEpoch: p.LeaderEpoch,
			Replicas: p.Replicas, ISR: p.ISR, OfflineReplicas: p.OfflineReplicas,
			EligibleLeaderReplicas: []int32{}, LastKnownELR: []int32{}, // Java's client does not expect null, which the schema allows
		})
	}
	return one, -1
}
