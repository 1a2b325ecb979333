package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
)

// listPartitionReassignments shows partitions whose replicas are on the move.
func (c *conn) listPartitionReassignments(_ *request, req *kmsg.ListPartitionReassignmentsRequest, resp *kmsg.ListPartitionReassignmentsResponse) {
	img := c.c.Cluster.Image()
	show := func(t *metadata.Topic, wanted []int32) {
		to := kmsg.NewListPartitionReassignmentsResponseTopic()
		to.Topic = t.Name
		for i := range t.Partitions {
			if p := &t.Partitions[i]; p.Changing() && (wanted == nil || slices.Contains(wanted, int32(i))) {
				to.Partitions = append(to.Partitions, reassignment(int32(i), p))
			}
		}
		if len(to.Partitions) > 0 {
			resp.Topics = append(resp.Topics, to)
		}
	}
	if req.Topics == nil {
		for _, t := range img.Topics() {
			show(t, nil)
		}
		return
	}
	for i := range req.Topics {
		if t, ok := img.Topic(req.Topics[i].Topic); ok {
			show(t, append([]int32{}, req.Topics[i].Partitions...))
		}
	}
}

// reassignment lists who joins and who leaves.
func reassignment(number int32, p *metadata.Partition) kmsg.ListPartitionReassignmentsResponseTopicPartition {
	at := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
	at.Partition = number
	for _, replica := range p.Replicas {
		at.Replicas = append(at.Replicas, replica.Broker)
		switch {
		case replica.Joining:
			at.AddingReplicas = append(at.AddingReplicas, replica.Broker)
		case p.Target != nil && !slices.Contains(p.Target, replica.Broker):
			at.RemovingReplicas = append(at.RemovingReplicas, replica.Broker)
		}
	}
	return at
}
