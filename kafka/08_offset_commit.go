package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// groupTimeout bounds a request to a coordinator of groups that waits for nobody else.
const groupTimeout = 30 * time.Second

// offsetCommit commits offsets outside of transactions (G19-G21).
func (c *conn) offsetCommit(r *request, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse) {
	ctx, cancel := context.WithTimeout(c.ctx, groupTimeout)
	defer cancel()
	commit := coordinator.CommitRequest{Group: req.Group, By: group.Committer{MemberID: req.MemberID, InstanceID: textOf(req.InstanceID), Epoch: req.Generation},
		BeforeKIP848: req.Version < 9}
	if req.Version <= 4 && req.RetentionTimeMillis > 0 {
		commit.Retention = time.Duration(min(req.RetentionTimeMillis, int64(1<<62/time.Millisecond))) * time.Millisecond
	}
	if !c.may(r, acl.Read, acl.Group, req.Group) {
		c.answerCommit(req, resp, func(record.TopicPartition) int16 { return c.denied(r, acl.Group) })
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
			if req.Version >= 6 {
				o.LeaderEpoch = p.LeaderEpoch
			}
			commit.Offsets = append(commit.Offsets, o)
		}
	}
	var refused []coordinator.RefusedOffset
	var err error
	if len(commit.Offsets) > 0 || len(req.Topics) == 0 {
		refused, err = c.c.Groups.CommitOffsets(ctx, commit)
	}
	codes := c.commitCodes(r, refused, err, func(f failure) int16 { return f.commitCode(req.Version) })
	c.answerCommit(req, resp, c.unlessDenied(r, &topics, codes))
}

// unlessDenied gives the code of each partition of a commit: another where the client may not read the topic.
func (c *conn) unlessDenied(r *request, topics *frontdoor.Permits, codes func(record.TopicPartition) int16) func(record.TopicPartition) int16 {
	return func(tp record.TopicPartition) int16 {
		if !topics.Allow(tp.Topic) {
			return c.denied(r, acl.Topic)
		}
		return codes(tp)
	}
}

func (c *conn) answerCommit(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, codes func(record.TopicPartition) int16) {
	for i := range req.Topics {
		to := kmsg.NewOffsetCommitResponseTopic()
		to.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			to.Partitions = append(to.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition,
				ErrorCode: codes(record.TopicPartition{Topic: to.Topic, Partition: p.Partition})})
		}
		resp.Topics = append(resp.Topics, to)
	}
}

// commitCodes gives the code of each partition of a commit, of which all or some have failed.
func (c *conn) commitCodes(r *request, refused []coordinator.RefusedOffset, err error, code func(failure) int16) func(record.TopicPartition) int16 {
	if err != nil {
		one := code(c.failure(r, err))
		return func(record.TopicPartition) int16 { return one }
	}
	codes := make(map[record.TopicPartition]int16, len(refused))
	for _, f := range refused {
		codes[f.TopicPartition] = c.refuse(r, string(f.Code))
	}
	return func(tp record.TopicPartition) int16 { return codes[tp] }
}

// commitCode is the code of a failed commit at a version (G19, G20).
func (f failure) commitCode(version int16) int16 {
	switch reason := f.Kind.Reason; {
	case reason == "GROUP_ID_NOT_FOUND" && version < 9:
		return frontdoor.KindOf("ILLEGAL_GENERATION").Kafka
	case reason == "STALE_MEMBER_EPOCH" && version < 9:
		return frontdoor.KindOf(frontdoor.ReasonUnsupported).Kafka
	}
	return f.coordinatorCode()
}
