package kafka

import (
	"context"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
)

// consumerGroupHeartbeat is all that a member of a group of KIP-848 says, and what it is told (G14-G17). Differing from Kafka: the
// answer always has the whole assignment, and one that joins waits until there is one.
func (c *conn) consumerGroupHeartbeat(r *request, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	ask := coordinator.MemberRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Epoch: req.MemberEpoch,
		Subscription: coordinator.Subscription{Topics: req.SubscribedTopicNames, Pattern: req.SubscribedTopicRegex, Assignor: req.ServerAssignor, Rack: req.RackID},
		Client:       c.groupClient(r),
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
	if req.MemberEpoch < 0 {
		return // it has left
	}
	resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
	for _, t := range answer.Topics {
		resp.Assignment.Topics = append(resp.Assignment.Topics, kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{TopicID: t.ID, Partitions: t.Partitions})
	}
}

// groupClient is who asks, as a group's description shows it.
func (c *conn) groupClient(r *request) group.Client {
	by := c.client(r)
	return group.Client{ID: by.ID, Address: by.Address}
}
