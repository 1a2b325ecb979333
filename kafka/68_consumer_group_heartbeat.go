package kafka

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// toldKey names a member.
type toldKey struct{ group, member string }

// maxTold bounds the members that one connection speaks for and is not told what they know.
const maxTold = 16

// consumerGroupHeartbeat is all that a member of a group of KIP-848 says, and what it is told (G14-G17): its assignment only if it joins,
// says all of what it wants, or if it has changed. Differing from Kafka, one that joins waits until there is one.
func (c *conn) consumerGroupHeartbeat(r *request, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) {
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		resp.ErrorCode, resp.ErrorMessage = c.denial(r, acl.Read, acl.Group, req.Group)
		return
	}
	topics := c.topics(r, acl.Describe)
	for _, t := range req.SubscribedTopicNames {
		if !topics.Allow(t) {
			resp.ErrorCode, resp.ErrorMessage = c.denial(r, acl.Describe, acl.Topic, t)
			return
		}
	}
	if message := wrongHeartbeat(req); message != "" {
		resp.ErrorCode, resp.ErrorMessage = c.refuse(r, frontdoor.ReasonInvalidRequest), &message
		return
	}
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	ask := coordinator.MemberRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Epoch: req.MemberEpoch,
		Subscription: coordinator.Subscription{Topics: req.SubscribedTopicNames, Pattern: req.SubscribedTopicRegex, MayBeEmpty: true,
			Assignor: req.ServerAssignor, Rack: req.RackID},
		Client: c.groupClient(r),
	}
	if c.c.Guard.Enforces() {
		caller, guard := c.caller, c.c.Guard
		ask.Sees = func(topic string) bool { return guard.Sees(caller, acl.Describe, acl.Topic, topic) }
	}
	if req.RebalanceTimeoutMillis > 0 {
		ask.Subscription.RebalanceTimeout = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	}
	if req.Topics != nil {
		ask.Owned = []group.Partition{}
	}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			ask.Owned = append(ask.Owned, group.Partition{TopicID: t.TopicID, Number: p})
		}
	}
	answer, err := c.c.Groups.Heartbeat(ctx, ask)
	if err != nil {
		f := c.failure(r, err)
		resp.ErrorCode, resp.ErrorMessage = f.coordinatorCode(), f.message
		return
	}
	resp.MemberID, resp.MemberEpoch = &answer.MemberID, answer.Epoch
	resp.HeartbeatIntervalMillis = int32(min(answer.Interval.Milliseconds(), math.MaxInt32))
	if req.MemberEpoch < 0 || !c.tell(req, answer) {
		return
	}
	resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
	for _, t := range answer.Topics {
		resp.Assignment.Topics = append(resp.Assignment.Topics, kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{TopicID: t.ID, Partitions: t.Partitions})
	}
}

// wrongHeartbeat says what no client may send; empty: nothing. From version 1 on members name themselves. One that joins has nothing.
func wrongHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) string {
	empty := func(s *string) bool { return s != nil && *s == "" }
	switch {
	case req.Group == "":
		return "group_id is empty"
	case req.MemberID == "" && (req.Version >= 1 || req.MemberEpoch != group.JoinEpoch):
		return "member_id is empty"
	case empty(req.InstanceID):
		return "instance_id is empty"
	case empty(req.RackID):
		return "rack_id is empty"
	case req.MemberEpoch == group.JoinEpoch && (req.Topics == nil || len(req.Topics) > 0):
		return "topic_partitions of a member that joins must be an empty list"
	case req.MemberEpoch == group.JoinEpoch && req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil: // an empty list would do
		return "a member that joins has neither subscribed_topic_names nor a subscribed_topic_regex"
	}
	return ""
}

// tell notes what a member is assigned; false: it knows.
func (c *conn) tell(req *kmsg.ConsumerGroupHeartbeatRequest, answer coordinator.HeartbeatAnswer) bool {
	key := toldKey{req.Group, answer.MemberID}
	last, known := c.told[key]
	if len(c.told) >= maxTold && !known {
		clear(c.told)
	}
	if c.told == nil {
		c.told = make(map[toldKey]coordinator.Assigned)
	}
	c.told[key] = answer.Assigned
	whole := req.MemberEpoch == group.JoinEpoch || req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil || req.RebalanceTimeoutMillis > 0
	return whole || !known || !slices.EqualFunc(last.Topics, answer.Topics, func(a, b coordinator.AssignedTopic) bool {
		return a.ID == b.ID && slices.Equal(a.Partitions, b.Partitions)
	})
}

// groupClient is who asks, as a group's description shows it.
func (c *conn) groupClient(r *request) group.Client {
	by := c.client(r)
	return group.Client{ID: by.ID, Address: by.Address}
}
