package kafka

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// metadataTopic is the name that Kafka has for the log of the metadata.
const metadataTopic = "__cluster_metadata"

// describeQuorum shows the Raft group of the metadata as this broker's replica knows it: where its own log ends it knows, where those of
// the others do it does not (-1). Partitions are groups of their own, about which this request does not ask.
func (c *conn) describeQuorum(r *request, req *kmsg.DescribeQuorumRequest, resp *kmsg.DescribeQuorumResponse) {
	status, ok := c.c.Cluster.MetadataGroup()
	for i := range req.Topics {
		to := kmsg.NewDescribeQuorumResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			at := kmsg.NewDescribeQuorumResponseTopicPartition()
			at.Partition, at.LeaderID, at.LeaderEpoch, at.HighWatermark = p.Partition, -1, -1, -1
			switch {
			case to.Topic != metadataTopic || p.Partition != 0:
				at.ErrorCode = c.refuse(r, frontdoor.ReasonUnknownTopic)
			case !ok:
				at.ErrorCode = c.refuse(r, "LEADER_NOT_AVAILABLE")
			default:
				c.describeVoters(&at, &status)
			}
			to.Partitions = append(to.Partitions, at)
		}
		resp.Topics = append(resp.Topics, to)
	}
	// Java's client takes no names of listeners but those in capitals.
	for _, n := range c.nodes(c.c.Cluster.Image()) {
		resp.Nodes = append(resp.Nodes, kmsg.DescribeQuorumResponseNode{NodeID: n.id,
			Listeners: []kmsg.DescribeQuorumResponseNodeListener{{Name: strings.ToUpper(c.advertised), Host: n.host, Port: uint16(n.port)}}})
	}
}

func (c *conn) describeVoters(at *kmsg.DescribeQuorumResponseTopicPartition, status *raftgroup.Status) {
	at.LeaderID, at.LeaderEpoch, at.HighWatermark = c.c.Cluster.Controller(), int32(status.Term), int64(status.CommitIndex)
	states := func(ids []raftgroup.ServerID) (list []kmsg.DescribeQuorumResponseTopicPartitionReplicaState) {
		for _, id := range ids {
			broker, _, err := raftgroup.ParseServerID(id)
			if err != nil {
				continue
			}
			s := kmsg.DescribeQuorumResponseTopicPartitionReplicaState{ReplicaID: broker, LogEndOffset: -1, LastFetchTimestamp: -1, LastCaughtUpTimestamp: -1}
			if broker == c.c.Cluster.Self() {
				s.LogEndOffset = int64(status.LastIndex)
			}
			list = append(list, s)
		}
		return list
	}
	at.CurrentVoters, at.Observers = states(status.Voters), states(status.Learners)
}
