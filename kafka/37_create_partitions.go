package kafka

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// createPartitions raises the number of partitions of topics. Differing from Kafka: where their replicas go is the cluster's choice,
// and an assignment is refused.
func (c *conn) createPartitions(r *request, req *kmsg.CreatePartitionsRequest, resp *kmsg.CreatePartitionsResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	var made []string
	for i, q := range req.Topics {
		at := kmsg.NewCreatePartitionsResponseTopic()
		at.Topic = q.Topic
		reason, message := c.refusePartitions(q)
		switch {
		case i >= maxTopicsChanged:
			reason, message = tooMany("topics", len(req.Topics), maxTopicsChanged)
		case !c.may(r, acl.Alter, acl.Topic, q.Topic):
			reason, message = frontdoor.ReasonTopicDenied, frontdoor.DenialText(c.caller, acl.Alter, acl.Topic, q.Topic)
		}
		if reason != "" {
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
			resp.Topics = append(resp.Topics, at)
			continue
		}
		_, err := c.c.Cluster.AlterTopic(ctx, TopicChange{Name: q.Topic, Partitions: q.Count, ValidateOnly: req.ValidateOnly})
		if err != nil {
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.code, f.message
		} else {
			made = append(made, q.Topic)
		}
		resp.Topics = append(resp.Topics, at)
	}
	if !req.ValidateOnly {
		c.awaitReady(ctx, made)
	}
}

func (c *conn) refusePartitions(q kmsg.CreatePartitionsRequestTopic) (reason, message string) {
	switch {
	case len(q.Assignment) > 0:
		return string(metadata.InvalidReplicaAssignment), "assignments is set; the cluster places new partitions itself, leave it out"
	case q.Count <= 0:
		return string(metadata.InvalidPartitions), fmt.Sprintf("count is %d; want more partitions than there are", q.Count)
	}
	return "", ""
}
