package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// alterPartitionReassignments begins to move partitions to other brokers, or takes a move back. Differing from Kafka: the replication
// factor is the topic's, so that it changes with all partitions or with none. The partitions of a topic are tried as one change, and
// one by one only if that is refused.
func (c *conn) alterPartitionReassignments(r *request, req *kmsg.AlterPartitionAssignmentsRequest, resp *kmsg.AlterPartitionAssignmentsResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	if !c.mayCluster(r, acl.Alter) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.Alter)
		return
	}
	left := frontdoor.MaxPartitions
	for i := range req.Topics {
		q := &req.Topics[i]
		to := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		to.Topic = q.Topic
		if left -= len(q.Partitions); left < 0 || i >= maxTopicsChanged {
			resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
			message := fmt.Sprintf("more than %d topics or %d partitions in one request", maxTopicsChanged, frontdoor.MaxPartitions)
			resp.ErrorMessage, resp.Topics = &message, nil
			return
		}
	}
	for i := range req.Topics {
		resp.Topics = append(resp.Topics, c.reassignTopic(ctx, r, &req.Topics[i]))
	}
}

// reassignTopic does what is asked for one topic.
func (c *conn) reassignTopic(ctx context.Context, r *request, q *kmsg.AlterPartitionAssignmentsRequestTopic) kmsg.AlterPartitionAssignmentsResponseTopic {
	to := kmsg.NewAlterPartitionAssignmentsResponseTopic()
	to.Topic, to.Partitions = q.Topic, make([]kmsg.AlterPartitionAssignmentsResponseTopicPartition, len(q.Partitions))
	t, ok := c.c.Cluster.Image().Topic(q.Topic)
	var moves []Reassignment
	var cancelled []int32
	at := make(map[int32]*kmsg.AlterPartitionAssignmentsResponseTopicPartition)
	for i, p := range q.Partitions {
		to.Partitions[i].Partition = p.Partition
		twice := at[p.Partition] != nil
		reason, message := "", ""
		switch {
		case !ok || p.Partition < 0 || int(p.Partition) >= len(t.Partitions):
			reason, message = frontdoor.ReasonUnknownTopic, "there is no such partition"
		case twice:
			reason, message = frontdoor.ReasonInvalidRequest, "the partition is named twice"
		case p.Replicas == nil && t.Partitions[p.Partition].Target == nil:
			reason, message = string(metadata.NoReassignmentInProgress), "the partition is not being moved"
		case p.Replicas == nil:
			cancelled = append(cancelled, p.Partition)
		default:
			moves = append(moves, Reassignment{Partition: p.Partition, Brokers: p.Replicas})
		}
		if at[p.Partition] = &to.Partitions[i]; reason != "" {
			to.Partitions[i].ErrorCode, to.Partitions[i].ErrorMessage = c.refuse(r, reason), &message
		}
	}
	report := func(number int32, err error) {
		if err != nil {
			f := c.failure(r, err)
			at[number].ErrorCode, at[number].ErrorMessage = f.code, f.message
		}
	}
	factor := newFactor(t, moves)
	allOrEach(moves, factor == 0, func(list []Reassignment) error {
		_, err := c.c.Cluster.Reassign(ctx, q.Topic, list, factor)
		return err
	}, func(m Reassignment, err error) { report(m.Partition, err) })
	allOrEach(cancelled, true, func(list []int32) error {
		_, err := c.c.Cluster.CancelReassignments(ctx, q.Topic, list)
		return err
	}, report)
	return to
}

// newFactor is the replication factor that a topic shall have from now on: that of all its partitions, if they have the same and not the
// one of before; 0: as it is.
func newFactor(t *metadata.Topic, moves []Reassignment) int32 {
	if t == nil || len(moves) == 0 || len(moves) != len(t.Partitions) {
		return 0
	}
	n := len(moves[0].Brokers)
	for _, m := range moves {
		if len(m.Brokers) != n {
			return 0
		}
	}
	if n == t.Replication {
		return 0
	}
	return int32(n)
}

// allOrEach does something with all elements at once and, where that is refused, with each alone, if they can be done alone.
func allOrEach[E any](list []E, alone bool, do func([]E) error, report func(E, error)) {
	if len(list) == 0 {
		return
	}
	err := do(list)
	if err != nil && alone && len(list) > 1 && frontdoor.Refused(err) {
		for _, e := range list {
			report(e, do([]E{e}))
		}
		return
	}
	for _, e := range list {
		report(e, err)
	}
}
