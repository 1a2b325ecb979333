package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// logDir is what the one log directory of a broker is called. Its path is nobody's business.
const logDir = "data"

// describeLogDirs shows how much each replica on this broker takes, and how much room their disk has; -1: it does not tell.
func (c *conn) describeLogDirs(r *request, req *kmsg.DescribeLogDirsRequest, resp *kmsg.DescribeLogDirsResponse) {
	if !c.mayCluster(r, acl.Describe) {
		resp.ErrorCode = c.denied(r, acl.Cluster) // told from version 3 on; before there is nothing to see
		return
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir, dir.TotalBytes, dir.UsableBytes = logDir, -1, -1
	if c.c.Disk != nil {
		if free, total := c.c.Disk(); total > 0 {
			dir.TotalBytes, dir.UsableBytes = total, free
		}
	}
	wanted := make(map[string][]int32)
	for _, t := range req.Topics {
		wanted[t.Topic] = append(wanted[t.Topic], t.Partitions...)
	}
	at := make(map[string]int)
	for _, g := range c.c.Replicas.Groups() {
		tp := g.Spec.TopicPartition
		if req.Topics != nil && !slices.Contains(wanted[tp.Topic], tp.Partition) {
			continue
		}
		i, ok := at[tp.Topic]
		if !ok {
			i = len(dir.Topics)
			at[tp.Topic] = i
			dir.Topics = append(dir.Topics, kmsg.DescribeLogDirsResponseDirTopic{Topic: tp.Topic})
		}
		dir.Topics[i].Partitions = append(dir.Topics[i].Partitions, kmsg.DescribeLogDirsResponseDirTopicPartition{Partition: tp.Partition, Size: g.LogBytes})
	}
	resp.Dirs = []kmsg.DescribeLogDirsResponseDir{dir}
}
