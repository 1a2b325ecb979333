package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// deleteTopics deletes topics, by name or by id, with all their records.
func (c *conn) deleteTopics(r *request, req *kmsg.DeleteTopicsRequest, resp *kmsg.DeleteTopicsResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	topics := req.Topics
	for _, name := range req.TopicNames {
		topics = append(topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	for i, q := range topics {
		at := kmsg.NewDeleteTopicsResponseTopic()
		at.Topic, at.TopicID = q.Topic, q.TopicID
		name, reason := c.topicToDelete(q)
		if i >= maxTopicsChanged {
			reason = frontdoor.ReasonInvalidRequest
		}
		if reason != "" {
			at.ErrorCode = c.refuse(r, reason)
			resp.Topics = append(resp.Topics, at)
			continue
		}
		if t, ok := c.c.Cluster.Image().Topic(name); ok {
			at.TopicID = t.ID
		}
		at.Topic = &name
		if err := c.c.Cluster.DeleteTopic(ctx, name); err != nil {
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.code, f.message
		}
		resp.Topics = append(resp.Topics, at)
	}
}

// topicToDelete gives the name that a request means, or the reason of its refusal.
func (c *conn) topicToDelete(q kmsg.DeleteTopicsRequestTopic) (name, reason string) {
	switch {
	case q.Topic != nil && q.TopicID != [16]byte{}, q.Topic == nil && q.TopicID == [16]byte{}:
		return "", frontdoor.ReasonInvalidRequest // exactly one of them names the topic
	case q.Topic != nil:
		name = *q.Topic
	default:
		t, ok := topicByID(c.c.Cluster.Image(), q.TopicID)
		if !ok {
			return "", "UNKNOWN_TOPIC_ID"
		}
		name = t.Name
	}
	if err := metadata.CheckNotInternal(name); err != nil {
		return "", string(err.Code)
	}
	return name, ""
}
