package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// consumerGroupDescribe shows groups of KIP-848.
func (c *conn) consumerGroupDescribe(r *request, req *kmsg.ConsumerGroupDescribeRequest, resp *kmsg.ConsumerGroupDescribeResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	seen := c.topics(r, acl.Describe)
	answered := make(once[string])
	for i, id := range req.Groups {
		if !answered.first(id) {
			continue
		}
		at := kmsg.NewConsumerGroupDescribeResponseGroup()
		at.Group, at.AuthorizedOperations = id, noOperations
		if i < maxGroupsAsked && !c.may(r, acl.Describe, acl.Group, id) {
			at.ErrorCode, at.ErrorMessage = c.denial(r, acl.Describe, acl.Group, id)
			resp.Groups = append(resp.Groups, at)
			continue
		}
		d, err := group.Description{}, error(nil)
		if i < maxGroupsAsked && id != "" {
			d, err = c.c.Groups.Describe(ctx, id)
		}
		switch {
		case i >= maxGroupsAsked:
			reason, message := tooMany("groups", len(req.Groups), maxGroupsAsked)
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
		case id == "":
			message := "group_id is empty"
			at.ErrorCode, at.ErrorMessage = c.refuse(r, "INVALID_GROUP_ID"), &message
		case err != nil:
			f := c.failure(r, err)
			at.ErrorCode, at.ErrorMessage = f.coordinatorCode(), f.message
		case d.Kind != group.KindConsumer:
			message := "the group is not of the consumer protocol"
			at.ErrorCode, at.ErrorMessage = c.refuse(r, "GROUP_ID_NOT_FOUND"), &message
		default:
			if hidden := hiddenTopic(&d, &seen); hidden != "" {
				message := "the group reads a topic that the client may not describe"
				at.ErrorCode, at.ErrorMessage = c.denied(r, acl.Topic), &message
				break
			}
			describeConsumer(&at, &d)
			if req.IncludeAuthorizedOperations {
				at.AuthorizedOperations = c.operations(acl.Group, id)
			}
		}
		resp.Groups = append(resp.Groups, at)
	}
}

// hiddenTopic is one that members of the group are assigned and that the client may not describe; empty: there is none.
func hiddenTopic(d *group.Description, seen *frontdoor.Permits) string {
	hidden := func(id group.TopicID) bool {
		name, exists := d.Topics[id]
		return exists && !seen.Allow(name)
	}
	for _, m := range d.Members {
		for _, h := range m.Assigned {
			if hidden(h.TopicID) {
				return d.Topics[h.TopicID]
			}
		}
		for _, p := range m.Target {
			if hidden(p.TopicID) {
				return d.Topics[p.TopicID]
			}
		}
	}
	return ""
}

func describeConsumer(at *kmsg.ConsumerGroupDescribeResponseGroup, d *group.Description) {
	at.State, at.Epoch, at.AssignmentEpoch, at.AssignorName = string(d.Phase), d.Epoch, d.AssignmentEpoch, "uniform"
	for _, m := range d.Members {
		one := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		one.MemberID, one.MemberEpoch, one.ClientID, one.ClientHost = m.ID, m.Epoch, m.Client.ID, "/"+m.Client.Address
		one.SubscribedTopics, one.MemberType = m.Topics, 1
		if m.InstanceID != "" {
			one.InstanceID = &m.InstanceID
		}
		if m.Rack != "" {
			one.RackID = &m.Rack
		}
		if m.Pattern != "" {
			one.SubscribedTopicRegex = &m.Pattern
		}
		if m.Assignor != "" {
			at.AssignorName = m.Assignor
		}
		var has []group.Partition
		for _, h := range m.Assigned {
			has = append(has, h.Partition)
		}
		one.Assignment, one.TargetAssignment = assignmentOf(has, d.Topics), assignmentOf(m.Target, d.Topics)
		at.Members = append(at.Members, one)
	}
}

// assignmentOf groups partitions, which are sorted, by topic.
func assignmentOf(list []group.Partition, names map[group.TopicID]string) kmsg.Assignment {
	a := kmsg.NewAssignment()
	for _, p := range list {
		if n := len(a.TopicPartitions); n == 0 || a.TopicPartitions[n-1].TopicID != p.TopicID {
			a.TopicPartitions = append(a.TopicPartitions, kmsg.AssignmentTopicPartition{TopicID: p.TopicID, Topic: names[p.TopicID]})
		}
		last := &a.TopicPartitions[len(a.TopicPartitions)-1]
		last.Partitions = append(last.Partitions, p.Number)
	}
	return a
}
