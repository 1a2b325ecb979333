package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// addPartitionsToTxn lets partitions join a transaction of version 1: those clients name their partitions before they write to them
// (T5-T7). Versions from 4 on are of brokers among themselves and not served.
func (c *conn) addPartitionsToTxn(r *request, req *kmsg.AddPartitionsToTxnRequest, resp *kmsg.AddPartitionsToTxnResponse) {
	code := func(record.TopicPartition) int16 { return 0 }
	if !c.may(r, acl.Write, acl.TransactionalID, req.TransactionalID) {
		code = func(record.TopicPartition) int16 { return c.denied(r, acl.TransactionalID) }
	} else if all, bad := c.partitionsToAdd(r, req); len(bad) > 0 { // T6: then nothing is added
		code = func(tp record.TopicPartition) int16 {
			if reason := bad[tp]; reason != "" {
				return c.refuse(r, reason)
			}
			return c.refuse(r, "OPERATION_NOT_ATTEMPTED")
		}
	} else if one := c.addToTxn(r, req, all); one != 0 {
		code = func(record.TopicPartition) int16 { return one }
	}
	for i := range req.Topics {
		to := kmsg.NewAddPartitionsToTxnResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			to.Partitions = append(to.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{Partition: p, ErrorCode: code(record.TopicPartition{Topic: to.Topic, Partition: p})})
		}
		resp.Topics = append(resp.Topics, to)
	}
}

// partitionsToAdd are those that a request names, with the reasons of the ones that cannot be added.
func (c *conn) partitionsToAdd(r *request, req *kmsg.AddPartitionsToTxnRequest) (all []record.TopicPartition, bad map[record.TopicPartition]string) {
	img, topics := c.c.Cluster.Image(), c.topics(r, acl.Write)
	bad = make(map[record.TopicPartition]string)
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			tp := record.TopicPartition{Topic: req.Topics[i].Topic, Partition: p}
			all = append(all, tp)
			switch {
			case !topics.Allow(tp.Topic):
				bad[tp] = frontdoor.ReasonTopicDenied
			case !exists(img, tp) || record.InternalTopic(tp.Topic):
				bad[tp] = frontdoor.ReasonUnknownTopic
			}
		}
	}
	return all, bad
}

// addToTxn adds partitions that exist, in as many steps as the coordinator's bound makes; 0: they are in the transaction.
func (c *conn) addToTxn(r *request, req *kmsg.AddPartitionsToTxnRequest, all []record.TopicPartition) int16 {
	ctx, cancel := context.WithTimeout(c.ctx, coordinatorTimeout)
	defer cancel()
	has := coordinator.Producer{ID: record.ProducerID(req.ProducerID), Epoch: record.Epoch(req.ProducerEpoch)}
	for first := true; first || len(all) > 0; first = false {
		part := all[:min(len(all), txn.MaxAdded)]
		all = all[len(part):]
		err := c.c.Transactions.AddPartitions(ctx, coordinator.AddRequest{TransactionalID: req.TransactionalID, Producer: has, Partitions: part, Version: 1})
		if err != nil {
			return c.failure(r, err).txnCode(req.Version < 2)
		}
	}
	return 0
}

// txnCode is the code of a failure of a transaction at a version: old clients know one code for a producer that is fenced.
func (f failure) txnCode(old bool) int16 {
	if old && f.Kind.Reason == "PRODUCER_FENCED" {
		return frontdoor.KindOf("INVALID_PRODUCER_EPOCH").Kafka
	}
	return f.coordinatorCode()
}
