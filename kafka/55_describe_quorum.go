package kafka

import (
	"encoding/binary"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// metadataTopic is the name that Kafka has for the log of the metadata.
const metadataTopic = "__cluster_metadata"

// describeQuorum shows the Raft group of the metadata as its leader knows it: how far each replica is, and when it was heard last. A broker
// that does not lead it asks the one that does. Partitions are groups of their own, about which this request does not ask. Where Kafka
// counts records, this counts entries of the Raft log.
func (c *conn) describeQuorum(r *request, req *kmsg.DescribeQuorumRequest, resp *kmsg.DescribeQuorumResponse) {
	if !c.mayCluster(r, acl.Describe) {
		resp.ErrorCode, resp.ErrorMessage = c.clusterDenial(r, acl.Describe)
		return
	}
	ask := sync.OnceValues(func() (cluster.Quorum, error) { return c.c.Cluster.Quorum(c.ctx) })
	for i := range req.Topics {
		to := kmsg.NewDescribeQuorumResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			at := kmsg.NewDescribeQuorumResponseTopicPartition()
			at.Partition, at.LeaderID, at.LeaderEpoch, at.HighWatermark = p.Partition, -1, -1, -1
			if to.Topic != metadataTopic || p.Partition != 0 {
				at.ErrorCode = c.refuse(r, frontdoor.ReasonUnknownTopic)
			} else if q, err := ask(); err != nil {
				f := c.failure(r, err)
				at.ErrorCode, at.ErrorMessage = f.code, f.message
			} else {
				describeMembers(&at, &q)
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

func describeMembers(at *kmsg.DescribeQuorumResponseTopicPartition, q *cluster.Quorum) {
	at.LeaderID, at.LeaderEpoch, at.HighWatermark = q.Leader, int32(q.Term), int64(q.Commit)+1
	for _, m := range q.Members {
		broker, incarnation, err := raftgroup.ParseServerID(m.ID)
		if err != nil {
			continue
		}
		s := kmsg.DescribeQuorumResponseTopicPartitionReplicaState{ReplicaID: broker, ReplicaDirectoryID: directoryOf(incarnation),
			LogEndOffset: -1, LastFetchTimestamp: -1, LastCaughtUpTimestamp: -1}
		if m.LastIndex > 0 {
			s.LogEndOffset = int64(m.LastIndex) + 1
		}
		if !m.Heard.IsZero() {
			s.LastFetchTimestamp = m.Heard.UnixMilli()
		}
		if !m.Level.IsZero() {
			s.LastCaughtUpTimestamp = m.Level.UnixMilli()
		}
		if m.Voter {
			at.CurrentVoters = append(at.CurrentVoters, s)
		} else {
			at.Observers = append(at.Observers, s)
		}
	}
}

// directoryOf is the incarnation of a replica in the place where Kafka has the id of its directory: both change when the disk was lost.
func directoryOf(incarnation uint64) (id [16]byte) {
	binary.BigEndian.PutUint64(id[8:], incarnation)
	return id
}
