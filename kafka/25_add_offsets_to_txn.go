package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/record"
)

// addOffsetsToTxn lets the shard of a group join a transaction of version 1, as addPartitionsToTxn does for partitions (T15). The group's
// name may be empty; committing to it is refused later.
func (c *conn) addOffsetsToTxn(r *request, req *kmsg.AddOffsetsToTxnRequest, resp *kmsg.AddOffsetsToTxnResponse) {
	switch {
	case !c.may(r, acl.Write, acl.TransactionalID, req.TransactionalID):
		resp.ErrorCode = c.denied(r, acl.TransactionalID)
		return
	case !c.may(r, acl.Read, acl.Group, req.Group):
		resp.ErrorCode = c.denied(r, acl.Group)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, coordinatorTimeout)
	defer cancel()
	// Looking for the coordinator makes the shards, if there are none yet.
	t, ok := c.c.Cluster.Image().Topic(record.GroupsTopic)
	if !ok {
		_, err := c.c.Coordinators.Find(ctx, coordinator.KindGroups, req.Group)
		if t, ok = c.c.Cluster.Image().Topic(record.GroupsTopic); !ok {
			if err != nil {
				c.failure(r, err)
			}
			resp.ErrorCode = c.refuse(r, "COORDINATOR_NOT_AVAILABLE")
			return
		}
	}
	shard := record.TopicPartition{Topic: record.GroupsTopic, Partition: coordinator.ShardOf(req.Group, len(t.Partitions))}
	err := c.c.Transactions.AddPartitions(ctx, coordinator.AddRequest{
		TransactionalID: req.TransactionalID, Producer: coordinator.Producer{ID: record.ProducerID(req.ProducerID), Epoch: record.Epoch(req.ProducerEpoch)},
		Partitions: []record.TopicPartition{shard}, Version: 1,
	})
	if err != nil {
		resp.ErrorCode = c.failure(r, err).txnCode(req.Version < 2)
	}
}
