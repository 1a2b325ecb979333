package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// firstLeaderWait bounds how long an answer waits for first leaders of partitions.
const firstLeaderWait = time.Second

// metadata tells which brokers, topics, partitions and leaders there are, as far as this broker has heard. It asks nobody, so it
// answers without a quorum too. Topics are not created by asking for them.
func (c *conn) metadata(r *request, req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	img := c.c.Cluster.Image()
	for _, n := range c.nodes(img) {
		resp.Brokers = append(resp.Brokers, kmsg.MetadataResponseBroker{NodeID: n.id, Host: n.host, Port: n.port, Rack: n.rack})
	}
	if id := img.ClusterID(); id != "" {
		resp.ClusterID = &id
	}
	resp.ControllerID = c.controller()
	resp.AuthorizedOperations = noOperations
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = c.clusterOperations(r)
	}
	defer c.topicOperations(req, resp)
	ctx, cancel := context.WithTimeout(c.waiting, firstLeaderWait)
	defer cancel()
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		seen := c.topicsSeen(r, acl.Describe)
		for _, t := range img.Topics() {
			if seen.Allow(t.Name) {
				resp.Topics = append(resp.Topics, c.describeTopic(ctx, t))
			}
		}
		return
	}
	if len(req.Topics) > frontdoor.MaxTopicsNamed {
		req.Topics = req.Topics[:frontdoor.MaxTopicsNamed] // the client asks again for what it misses
	}
	may := c.topics(r, acl.Describe)
	answered := make(once[askedKey])
	for _, q := range req.Topics {
		if answered.first(askedKey{topic: textOf(q.Topic), topicID: q.TopicID}) {
			resp.Topics = append(resp.Topics, c.namedTopic(ctx, r, img, q, &may))
		}
	}
}

// topicOperations says what the client may do to the topics of an answer, if it asks.
func (c *conn) topicOperations(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	if !req.IncludeTopicAuthorizedOperations {
		return
	}
	for i := range resp.Topics {
		if t := &resp.Topics[i]; t.ErrorCode == 0 && t.Topic != nil {
			t.AuthorizedOperations = c.operations(acl.Topic, *t.Topic)
		}
	}
}

// controller is the broker that admin requests are best sent to: the leader of the metadata, while clients can reach it. Any other
// would pass them on.
func (c *conn) controller() int32 {
	if id := c.c.Cluster.Controller(); id >= 0 {
		if _, ok := c.node(id); ok {
			return id
		}
	}
	return c.c.Cluster.Self()
}

// namedTopic is a topic that was asked for, or why there is none.
func (c *conn) namedTopic(ctx context.Context, r *request, img *metadata.Image, q kmsg.MetadataRequestTopic, may *frontdoor.Permits) kmsg.MetadataResponseTopic {
	none := kmsg.NewMetadataResponseTopic()
	none.Topic, none.TopicID, none.AuthorizedOperations = q.Topic, q.TopicID, noOperations
	if q.Topic == nil || q.TopicID != [16]byte{} {
		t, ok := topicByID(img, q.TopicID)
		switch {
		case ok && may.Allow(t.Name):
			return c.describeTopic(ctx, t)
		case ok: // ids are no secret, names are
			none.Topic, none.ErrorCode = nil, c.denied(r, acl.Topic)
			return none
		}
		none.ErrorCode = c.refuse(r, "UNKNOWN_TOPIC_ID")
		if q.Topic == nil && r.msg.GetVersion() < 12 {
			none.Topic = new(string)
		}
		return none
	}
	if !may.Allow(*q.Topic) {
		none.ErrorCode = c.denied(r, acl.Topic)
		return none
	}
	if err := metadata.CheckTopicName(*q.Topic); err != nil {
		none.ErrorCode = c.refuse(r, string(err.Code))
		return none
	}
	t, ok := img.Topic(*q.Topic)
	if !ok {
		none.ErrorCode = c.refuse(r, frontdoor.ReasonUnknownTopic)
		return none
	}
	return c.describeTopic(ctx, t)
}

// describeTopic shows a topic with the leaders heard of. A leader whose broker clients of this listener cannot reach is none to them.
// First leaders are waited for. In Kafka a topic has leaders from the moment it is there, and clients count on that: kafka-go takes a
// partition without a leader for one that cannot be written to, for seconds. Here an election may have been heard of by the broker that
// has created the topic, and not yet by the one that is asked.
func (c *conn) describeTopic(ctx context.Context, t *metadata.Topic) kmsg.MetadataResponseTopic {
	groups := make([]metadata.GroupID, len(t.Partitions))
	for i := range t.Partitions {
		groups[i] = t.Partitions[i].Group
	}
	c.c.Cluster.AwaitFirstLeaders(ctx, groups)
	d := kmsg.NewMetadataResponseTopic()
	d.Topic, d.TopicID, d.IsInternal, d.AuthorizedOperations = &t.Name, t.ID, record.InternalTopic(t.Name), noOperations
	d.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		from, to := &t.Partitions[i], &d.Partitions[i]
		*to = kmsg.NewMetadataResponseTopicPartition()
		to.Partition, to.Leader, to.LeaderEpoch = int32(i), -1, -1
		to.ISR, to.Replicas = []int32{}, []int32{}
		for _, replica := range from.Replicas {
			to.Replicas = append(to.Replicas, replica.Broker)
			if !c.c.Cluster.Alive(replica.Broker) {
				to.OfflineReplicas = append(to.OfflineReplicas, replica.Broker)
			} else if !replica.Joining {
				to.ISR = append(to.ISR, replica.Broker)
			}
		}
		l, ok := c.c.Cluster.Leader(from.Group)
		if ok {
			_, ok = c.node(l.Broker)
		}
		if !ok {
			to.ErrorCode = frontdoor.KindOf("LEADER_NOT_AVAILABLE").Kafka
			continue
		}
		to.Leader, to.LeaderEpoch = l.Broker, l.Epoch
	}
	return d
}
