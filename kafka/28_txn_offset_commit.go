package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// txnOffsetCommit commits offsets that count when the producer's transaction is committed (G22-G24). From version 5 on the group's
// shard joins the transaction by this (T13).
func (c *conn) txnOffsetCommit(r *request, req *kmsg.TxnOffsetCommitRequest, resp *kmsg.TxnOffsetCommitResponse) {
	ctx, cancel := context.WithTimeout(c.ctx, groupTimeout)
	defer cancel()
	commit := coordinator.TransactionalCommit{
		TransactionalID: req.TransactionalID, Producer: coordinator.Producer{ID: record.ProducerID(req.ProducerID), Epoch: record.Epoch(req.ProducerEpoch)},
		Group: req.Group, By: nobody, Version: 1,
	}
	if req.Version >= 3 {
		commit.By = group.Committer{MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Epoch: req.Generation}
	}
	if req.Version >= 5 {
		commit.Version = 2
	}
	whole := acl.ResourceType(0)
	switch {
	case !c.may(r, acl.Write, acl.TransactionalID, req.TransactionalID):
		whole = acl.TransactionalID
	case !c.may(r, acl.Read, acl.Group, req.Group):
		whole = acl.Group
	}
	if whole != 0 {
		answerTxnCommit(req, resp, func(record.TopicPartition) int16 { return c.denied(r, whole) })
		return
	}
	topics := c.topics(r, acl.Read)
	for i := range req.Topics {
		if !topics.Allow(req.Topics[i].Topic) {
			continue
		}
		for _, p := range req.Topics[i].Partitions {
			o := coordinator.OffsetToCommit{TopicPartition: record.TopicPartition{Topic: req.Topics[i].Topic, Partition: p.Partition},
				Offset: record.Offset(p.Offset), LeaderEpoch: -1, Metadata: textOf(p.Metadata)}
			if req.Version >= 2 {
				o.LeaderEpoch = p.LeaderEpoch
			}
			commit.Offsets = append(commit.Offsets, o)
		}
	}
	var refused []coordinator.RefusedOffset
	var err error
	if len(commit.Offsets) > 0 || len(req.Topics) == 0 {
		refused, err = c.c.Groups.CommitInTransaction(ctx, commit)
	}
	codes := c.commitCodes(r, refused, err, func(f failure) int16 { return f.txnCommitCode(req.Version) })
	answerTxnCommit(req, resp, c.unlessDenied(r, &topics, codes))
}

func answerTxnCommit(req *kmsg.TxnOffsetCommitRequest, resp *kmsg.TxnOffsetCommitResponse, codes func(record.TopicPartition) int16) {
	for i := range req.Topics {
		to := kmsg.NewTxnOffsetCommitResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			to.Partitions = append(to.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition,
				ErrorCode: codes(record.TopicPartition{Topic: to.Topic, Partition: p.Partition})})
		}
		resp.Topics = append(resp.Topics, to)
	}
}

// txnCommitCode is the code of a failed commit at a version (T11, G22). What a client does not know at its version is fatal to it, and
// would end the application (G32).
func (f failure) txnCommitCode(version int16) int16 {
	as := func(reason string) int16 { return frontdoor.KindOf(reason).Kafka }
	switch reason := f.Kind.Reason; {
	case version < 6 && (reason == "STALE_MEMBER_EPOCH" || reason == "GROUP_ID_NOT_FOUND"):
		return as("ILLEGAL_GENERATION")
	case version < 4 && reason == "TRANSACTION_ABORTABLE":
		return as("INVALID_TXN_STATE")
	case reason == "POLICY_VIOLATION": // the shard is full: the transaction cannot go on, and the next one may
		if version < 4 {
			return as("ILLEGAL_GENERATION")
		}
		return as("TRANSACTION_ABORTABLE")
	case version < 2 && reason == "COORDINATOR_LOAD_IN_PROGRESS":
		return as("COORDINATOR_NOT_AVAILABLE")
	}
	return f.coordinatorCode()
}
