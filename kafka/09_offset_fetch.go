package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

const (
	// maxGroupsAsked of one request.
	maxGroupsAsked = 1000
	// maxOffsetsAsked are the partitions that one request names, of all its groups together.
	maxOffsetsAsked = 100_000
)

// offsetFetch gives committed offsets of one group or, from version 8 on, of many (G20, G26, G27). Where an error of a group stands
// depends on the version: on every partition in version 1, on top in 2 to 7, on the group afterwards.
func (c *conn) offsetFetch(r *request, req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
	ctx, cancel := context.WithTimeout(c.waiting, groupTimeout)
	defer cancel()
	if req.Version < 8 {
		c.fetchOfOne(ctx, r, req, resp)
		return
	}
	answered, partitions := make(once[string]), 0
	for i := range req.Groups {
		q := &req.Groups[i]
		if !answered.first(q.Group) {
			continue
		}
		for j := range q.Topics {
			partitions += len(q.Topics[j].Partitions)
		}
		if i >= maxGroupsAsked || partitions > maxOffsetsAsked { // each has an answer: one that is missing looks like one without offsets
			beyond := kmsg.NewOffsetFetchResponseGroup()
			beyond.Group, beyond.ErrorCode = q.Group, c.refuse(r, frontdoor.ReasonInvalidRequest)
			resp.Groups = append(resp.Groups, beyond)
			continue
		}
		ask := coordinator.FetchRequest{Group: q.Group, By: nobody, RequireStable: req.RequireStable}
		if req.Version >= 9 && (q.MemberID != nil || q.MemberEpoch >= 0) {
			ask.By = group.Committer{MemberID: textOf(q.MemberID), Epoch: q.MemberEpoch}
		}
		if q.Topics != nil {
			ask.Topics = []coordinator.WantedTopic{}
		}
		for j := range q.Topics {
			ask.Topics = append(ask.Topics, coordinator.WantedTopic{Topic: q.Topics[j].Topic, Partitions: q.Topics[j].Partitions})
		}
		to := kmsg.NewOffsetFetchResponseGroup()
		to.Group = q.Group
		found, denied, code := c.visibleOffsets(ctx, r, ask)
		to.ErrorCode = code
		for _, f := range found {
			if n := len(to.Topics); n == 0 || to.Topics[n-1].Topic != f.Topic {
				to.Topics = append(to.Topics, kmsg.OffsetFetchResponseGroupTopic{Topic: f.Topic})
			}
			t := &to.Topics[len(to.Topics)-1]
			t.Partitions = append(t.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition(c.fetchedOffset(r, f)))
		}
		for _, t := range denied {
			at := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				at.Partitions = append(at.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition(c.deniedOffset(r, p)))
			}
			to.Topics = append(to.Topics, at)
		}
		resp.Groups = append(resp.Groups, to)
	}
}

// visibleOffsets are those that the client may see of what it asks for; denied are the topics that it names and may not describe. A code is
// that of the whole group.
func (c *conn) visibleOffsets(ctx context.Context, r *request, ask coordinator.FetchRequest) (found []group.Fetched, denied []coordinator.WantedTopic, code int16) {
	if !c.may(r, acl.Describe, acl.Group, ask.Group) {
		return nil, nil, c.denied(r, acl.Group)
	}
	topics := c.topics(r, acl.Describe)
	if named := ask.Topics; named != nil {
		ask.Topics = make([]coordinator.WantedTopic, 0, len(named))
		for _, t := range named {
			if topics.Allow(t.Topic) {
				ask.Topics = append(ask.Topics, t)
			} else {
				denied = append(denied, t)
			}
		}
	}
	all, err := c.c.Groups.FetchOffsets(ctx, ask)
	if err != nil {
		return nil, nil, c.failure(r, err).coordinatorCode()
	}
	if ask.Topics != nil {
		return all, coordinator.Distinct(denied), 0
	}
	topics = c.topicsSeen(r, acl.Describe)
	for _, f := range all {
		if topics.Allow(f.Topic) {
			found = append(found, f)
		}
	}
	return found, nil, 0
}

// nobody asks for offsets and shows no epoch.
var nobody = group.Committer{Epoch: group.NoEpochShown}

func (c *conn) fetchOfOne(ctx context.Context, r *request, req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
	ask := coordinator.FetchRequest{Group: req.Group, By: nobody, RequireStable: req.RequireStable}
	if req.Topics != nil || req.Version < 2 {
		ask.Topics = []coordinator.WantedTopic{}
	}
	for i := range req.Topics {
		ask.Topics = append(ask.Topics, coordinator.WantedTopic{Topic: req.Topics[i].Topic, Partitions: req.Topics[i].Partitions})
	}
	found, denied, code := c.visibleOffsets(ctx, r, ask)
	if code != 0 {
		resp.ErrorCode = code
		for _, t := range coordinator.Distinct(ask.Topics) {
			for _, p := range t.Partitions {
				found = append(found, group.Fetched{Topic: t.Topic, Partition: p})
			}
		}
	}
	for _, f := range found {
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != f.Topic {
			resp.Topics = append(resp.Topics, kmsg.OffsetFetchResponseTopic{Topic: f.Topic})
		}
		t := &resp.Topics[len(resp.Topics)-1]
		p := kmsg.OffsetFetchResponseTopicPartition(c.fetchedOffset(r, f))
		if code != 0 {
			p.ErrorCode = code
		}
		t.Partitions = append(t.Partitions, p)
	}
	for _, t := range denied {
		at := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			at.Partitions = append(at.Partitions, kmsg.OffsetFetchResponseTopicPartition(c.deniedOffset(r, p)))
		}
		resp.Topics = append(resp.Topics, at)
	}
}

// offsetFound is one offset as both forms of the answer have it.
type offsetFound struct {
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	Metadata    *string
	ErrorCode   int16
	UnknownTags kmsg.Tags
}

// fetchedOffset is an offset, -1 where there is none, which is no error.
func (c *conn) fetchedOffset(r *request, f group.Fetched) offsetFound {
	p := offsetFound{Partition: f.Partition, Offset: -1, LeaderEpoch: -1, Metadata: new(string)}
	switch {
	case f.Unstable:
		p.ErrorCode = c.refuse(r, "UNSTABLE_OFFSET_COMMIT")
	case f.Found:
		p.Offset, p.LeaderEpoch, p.Metadata = int64(f.Offset.Offset), f.Offset.LeaderEpoch, &f.Offset.Metadata
	}
	return p
}

// deniedOffset is one of a topic that the client may not describe.
func (c *conn) deniedOffset(r *request, partition int32) offsetFound {
	return offsetFound{Partition: partition, Offset: -1, LeaderEpoch: -1, Metadata: new(string), ErrorCode: c.denied(r, acl.Topic)}
}
