package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
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
		name, reason := "", frontdoor.ReasonInvalidRequest
		if i < maxTopicsChanged {
			name, reason = c.topicToDelete(r, q)
		}
		if reason != "" {
			at.ErrorCode = c.refuse(r, reason)
			if q.Topic == nil && reason == frontdoor.ReasonTopicDenied && c.sees(acl.Describe, acl.Topic, name) {
				at.Topic = &name
			}
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
func (c *conn) topicToDelete(r *request, q kmsg.DeleteTopicsRequestTopic) (name, reason string) {
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
	if !c.mayAny(r, frontdoor.OnCluster(acl.Delete), frontdoor.Action{Operation: acl.Delete, Type: acl.Topic, Name: name}) {
		if _, exists := c.c.Cluster.Image().Topic(name); !exists && c.sees(acl.Describe, acl.Topic, name) {
			return name, frontdoor.ReasonUnknownTopic
		}
		return name, frontdoor.ReasonTopicDenied
	}
	if err := metadata.CheckNotInternal(name); err != nil {
		return "", string(err.Code)
	}
	return name, ""
}
