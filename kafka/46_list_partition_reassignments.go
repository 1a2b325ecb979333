package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// listPartitionReassignments shows partitions whose replicas are on the move. A replica that has been replaced where it is, since it had
// lost its data, moves nowhere and is not shown.
func (c *conn) listPartitionReassignments(r *request, req *kmsg.ListPartitionReassignmentsRequest, resp *kmsg.ListPartitionReassignmentsResponse) {
	if !c.mayCluster(r, acl.Describe) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.Describe)
		return
	}
	img := c.c.Cluster.Image()
	show := func(t *metadata.Topic, wanted []int32) {
		to := kmsg.NewListPartitionReassignmentsResponseTopic()
		to.Topic = t.Name
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if !p.Changing() || wanted != nil && !slices.Contains(wanted, int32(i)) {
				continue
			}
			if at := reassignment(int32(i), p); len(at.AddingReplicas)+len(at.RemovingReplicas) > 0 {
				to.Partitions = append(to.Partitions, at)
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

// reassignment lists who joins and who leaves; replicas are those that hold the partition, the leaving ones among them.
func reassignment(number int32, p *metadata.Partition) kmsg.ListPartitionReassignmentsResponseTopicPartition {
	at := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
	at.Partition = number
	for _, replica := range p.Replicas {
		at.Replicas = append(at.Replicas, replica.Broker)
		switch {
		case replica.Joining && replica.Added:
			at.AddingReplicas = append(at.AddingReplicas, replica.Broker)
		case p.Target != nil && !slices.Contains(p.Target, replica.Broker):
			at.RemovingReplicas = append(at.RemovingReplicas, replica.Broker)
		}
	}
	for _, leaving := range p.Leaving {
		if !slices.Contains(at.Replicas, leaving.Broker) {
			at.Replicas = append(at.Replicas, leaving.Broker)
			at.RemovingReplicas = append(at.RemovingReplicas, leaving.Broker)
		}
	}
	return at
}
