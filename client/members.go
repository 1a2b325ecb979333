package client

import (
	"context"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
)

// Reassignment is where partitions of a topic shall be.
type Reassignment struct {
	Topic string
	// Partitions names the brokers of each partition that shall move, the preferred leader first. Empty with
	// a replication factor: the cluster chooses, and what exists stays where it is.
	Partitions map[int32][]int32
	// ReplicationFactor is the topic's from now on: 1, 3 or 5. 0: as it is.
	ReplicationFactor int32
	ValidateOnly      bool
}

// Reassign begins to move partitions to other brokers. It returns when that is agreed: the partitions of
// Metadata show how far it is, and writers go on meanwhile. Doing it again does no harm; another one before
// it is done changes where it goes. Errors: INVALID_REPLICA_ASSIGNMENT, INVALID_REPLICATION_FACTOR,
// UNKNOWN_TOPIC_OR_PARTITION, POLICY_VIOLATION. Outcomes are as for CreateTopic.
func (c *Client) Reassign(ctx context.Context, r Reassignment) (Topic, error) {
	req := &clientv1.ReassignPartitionsRequest{Topic: r.Topic, ReplicationFactor: r.ReplicationFactor, ValidateOnly: r.ValidateOnly}
	for p, brokers := range r.Partitions {
		req.Partitions = append(req.Partitions, &clientv1.PartitionAssignment{Partition: p, BrokerIds: brokers})
	}
	var out Topic
	err := c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		resp, err := admin.ReassignPartitions(ctx, req)
		out = topicOf(resp.GetTopic())
		return err
	})
	return out, err
}

// CancelReassignments takes back the replicas that reassignments under way have added; without partitions,
// all of the topic.
func (c *Client) CancelReassignments(ctx context.Context, topic string, partitions ...int32) (Topic, error) {
	var out Topic
	err := c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		resp, err := admin.CancelReassignments(ctx, &clientv1.CancelReassignmentsRequest{Topic: topic, Partitions: partitions})
		out = topicOf(resp.GetTopic())
		return err
	})
	return out, err
}

// DrainBroker makes a broker, which may be dead, give its replicas to others, and keeps new ones off it; or
// stops that. It returns when that is agreed: the broker's Replicas in Metadata show how far it is.
func (c *Client) DrainBroker(ctx context.Context, broker int32, drain bool) error {
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.DrainBroker(ctx, &clientv1.DrainBrokerRequest{BrokerId: broker, Stop: !drain})
		return err
	})
}

// UnregisterBroker makes the cluster forget a broker that holds no replica. Its data directory must not
// come back. Errors: RESOURCE_IN_USE (it holds replicas: drain it first), BROKER_ID_NOT_REGISTERED.
func (c *Client) UnregisterBroker(ctx context.Context, broker int32) error {
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.UnregisterBroker(ctx, &clientv1.UnregisterBrokerRequest{BrokerId: broker})
		return err
	})
}

// SetFeatureLevel lets the cluster use what all its brokers know. The level cannot be lowered; older brokers are
// refused from then on.
func (c *Client) SetFeatureLevel(ctx context.Context, level uint32) error {
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.SetFeatureLevel(ctx, &clientv1.SetFeatureLevelRequest{Level: level})
		return err
	})
}
