package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

const (
	// maxTopicsChanged of one request.
	maxTopicsChanged = 1000
	// readyWait bounds how long an answer waits for leaders of what it has made.
	readyWait = 5 * time.Second
	// leastAdminTimeout is what a request of administration gets that names a shorter time or none.
	leastAdminTimeout = time.Second
)

// adminContext bounds a request of administration by the timeout that it names.
func (c *conn) adminContext(timeoutMS int32) (context.Context, context.CancelFunc) {
	d := time.Duration(min(timeoutMS, frontdoor.MaxTimeoutMS)) * time.Millisecond
	return context.WithTimeout(c.ctx, max(d, leastAdminTimeout))
}

// createTopics creates topics and waits for a moment until they can be written to; clients that come earlier are told to come again.
func (c *conn) createTopics(r *request, req *kmsg.CreateTopicsRequest, resp *kmsg.CreateTopicsResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	named, answered := make(map[string]int), make(once[string])
	for i := range req.Topics {
		named[req.Topics[i].Topic]++
	}
	var made []string
	for i := range req.Topics {
		q := &req.Topics[i]
		at := kmsg.NewCreateTopicsResponseTopic()
		at.Topic, at.NumPartitions, at.ReplicationFactor = q.Topic, -1, -1
		if !answered.first(q.Topic) {
			continue
		}
		n, reason, message := newTopicOf(q)
		switch {
		case named[q.Topic] > 1:
			reason, message = frontdoor.ReasonInvalidRequest, "the topic is named more than once"
		case i >= maxTopicsChanged:
			reason, message = tooMany("topics", len(req.Topics), maxTopicsChanged)
		case !c.mayAny(r, frontdoor.OnCluster(acl.Create), frontdoor.Action{Operation: acl.Create, Type: acl.Topic, Name: q.Topic}):
			reason, message = frontdoor.ReasonTopicDenied, frontdoor.DenialText(c.caller, acl.Create, acl.Topic, q.Topic)
		}
		if reason != "" {
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
			resp.Topics = append(resp.Topics, at)
			continue
		}
		n.ValidateOnly = req.ValidateOnly
		t, err := c.c.Cluster.CreateTopic(ctx, n)
		if err != nil {
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.code, f.message
			resp.Topics = append(resp.Topics, at)
			continue
		}
		c.created(&at, t)
		resp.Topics = append(resp.Topics, at)
		made = append(made, t.Name)
	}
	if !req.ValidateOnly {
		c.awaitReady(ctx, made)
	}
}

// newTopicOf reads what is asked for; a reason refuses it.
func newTopicOf(q *kmsg.CreateTopicsRequestTopic) (n NewTopic, reason, message string) {
	n = NewTopic{Name: q.Topic, Configs: make(map[string]string)}
	switch {
	case len(q.ReplicaAssignment) > 0 && (q.NumPartitions != -1 || q.ReplicationFactor != -1):
		return n, frontdoor.ReasonInvalidRequest, "a replica assignment goes with -1 partitions and replication factor -1"
	case q.NumPartitions == 0 || q.NumPartitions < -1:
		return n, string(metadata.InvalidPartitions), fmt.Sprintf("num_partitions is %d; want 1 or more, or -1 for the default", q.NumPartitions)
	case q.ReplicationFactor == 0 || q.ReplicationFactor < -1:
		return n, string(metadata.InvalidReplicationFactor), fmt.Sprintf("replication_factor is %d; want 1 or more, or -1 for the default", q.ReplicationFactor)
	}
	n.Partitions, n.ReplicationFactor = max(q.NumPartitions, 0), max(int32(q.ReplicationFactor), 0)
	n.Placements = make([][]int32, len(q.ReplicaAssignment))
	for _, a := range q.ReplicaAssignment {
		if a.Partition < 0 || int(a.Partition) >= len(n.Placements) || n.Placements[a.Partition] != nil || len(a.Replicas) == 0 {
			return n, string(metadata.InvalidReplicaAssignment), "the assignment must name each partition once, from 0 on, with its brokers"
		}
		n.Placements[a.Partition] = a.Replicas
	}
	for _, config := range q.Configs {
		if config.Value == nil {
			return n, string(metadata.InvalidConfig), "config " + config.Name + " has no value"
		}
		if _, twice := n.Configs[config.Name]; twice {
			return n, frontdoor.ReasonInvalidRequest, "config " + config.Name + " is given twice"
		}
		n.Configs[config.Name] = *config.Value
	}
	return n, "", ""
}

// created says what a topic that was created is like, to who may see its configs.
func (c *conn) created(at *kmsg.CreateTopicsResponseTopic, t *metadata.Topic) {
	at.TopicID = t.ID
	if !c.sees(acl.DescribeConfigs, acl.Topic, t.Name) {
		at.ConfigErrorCode = frontdoor.KindOf(frontdoor.ReasonTopicDenied).Kafka
		return
	}
	at.NumPartitions, at.ReplicationFactor = int32(len(t.Partitions)), int16(t.Replication)
	for _, held := range c.c.Cluster.Image().ConfigsOf(t) {
		config := kmsg.NewCreateTopicsResponseTopicConfig()
		config.Name, config.Value, config.Source = held.Def.Name, &held.Value, int8(configSource(held.Source))
		at.Configs = append(at.Configs, config)
	}
}

// awaitReady waits, not for long, until topics have leaders. They exist in any case.
func (c *conn) awaitReady(ctx context.Context, topics []string) {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	defer context.AfterFunc(c.waiting, cancel)()
	for _, t := range topics {
		if c.c.Cluster.TopicReady(ctx, t) != nil {
			return
		}
	}
}
