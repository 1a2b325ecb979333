package kafka

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// The types of election that are asked for, and how they may fail.
const (
	electPreferred = 0
	electUnclean   = 1

	reasonNotNeeded    = "ELECTION_NOT_NEEDED"
	reasonNoPreferred  = "PREFERRED_LEADER_NOT_AVAILABLE"
	reasonNoneEligible = "ELIGIBLE_LEADERS_NOT_AVAILABLE"
)

// electLeaders lets partitions be led by the first of their replicas again. Any broker can be asked: whoever leads a partition hands it
// over. Differing from Kafka: nobody can be made leader who may lack what was acknowledged, so that an unclean election is refused
// where it would be needed.
func (c *conn) electLeaders(r *request, req *kmsg.ElectLeadersRequest, resp *kmsg.ElectLeadersResponse) {
	ctx, cancel := c.adminContext(req.TimeoutMillis)
	defer cancel()
	if !c.mayCluster(r, acl.Alter) {
		c.refuseElections(r, req, resp)
		return
	}
	if req.ElectionType != electPreferred && req.ElectionType != electUnclean {
		resp.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
		return
	}
	img := c.c.Cluster.Image()
	topics, all := req.Topics, req.Topics == nil
	if all {
		topics = everyPartition(img)
	}
	resp.Topics = make([]kmsg.ElectLeadersResponseTopic, len(topics))
	var elections sync.WaitGroup
	slots := make(chan struct{}, parallelLookUps)
	left := frontdoor.MaxPartitions
	for i := range topics {
		to := &resp.Topics[i]
		to.Topic, to.Partitions = topics[i].Topic, make([]kmsg.ElectLeadersResponseTopicPartition, len(topics[i].Partitions))
		for j, number := range topics[i].Partitions {
			at := &to.Partitions[j]
			at.Partition = number
			if left--; left < 0 {
				at.ErrorCode = c.refuse(r, frontdoor.ReasonInvalidRequest)
				continue
			}
			slots <- struct{}{}
			elections.Go(func() {
				defer func() { <-slots }()
				defer c.survive(r, func() { at.ErrorCode = c.refuse(r, frontdoor.ReasonUnknown) })
				c.elect(ctx, r, img, req.ElectionType, record.TopicPartition{Topic: to.Topic, Partition: number}, at)
			})
		}
	}
	elections.Wait()
	if all {
		dropNotNeeded(resp)
	}
}

// refuseElections tells a client that it may not: once, and for each partition, since the first versions have no other place.
func (c *conn) refuseElections(r *request, req *kmsg.ElectLeadersRequest, resp *kmsg.ElectLeadersResponse) {
	code, message := c.clusterDenial(r, acl.Alter)
	resp.ErrorCode = code
	for _, q := range req.Topics {
		to := kmsg.ElectLeadersResponseTopic{Topic: q.Topic}
		for _, p := range q.Partitions {
			to.Partitions = append(to.Partitions, kmsg.ElectLeadersResponseTopicPartition{Partition: p, ErrorCode: code, ErrorMessage: message})
		}
		resp.Topics = append(resp.Topics, to)
	}
}

// elect hands one partition to its preferred leader.
func (c *conn) elect(ctx context.Context, r *request, img *metadata.Image, kind int8, tp record.TopicPartition, at *kmsg.ElectLeadersResponseTopicPartition) {
	refuse := func(reason, format string, args ...any) {
		message := fmt.Sprintf(format, args...)
		at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
	}
	if !exists(img, tp) {
		refuse(frontdoor.ReasonUnknownTopic, "there is no partition %s", tp)
		return
	}
	t, _ := img.Topic(tp.Topic)
	p := &t.Partitions[tp.Partition]
	leader, led := c.c.Cluster.Leader(p.Group)
	preferred := p.Replicas[0].Broker
	switch {
	case led && (kind == electUnclean || leader.Broker == preferred):
		refuse(reasonNotNeeded, "broker %d leads %s", leader.Broker, tp)
	case kind == electUnclean:
		refuse(reasonNoneEligible, "%s has no leader, and only a majority of its replicas can elect one: none is chosen that may lack acknowledged records", tp)
	case !led:
		refuse(reasonNoPreferred, "%s has no leader, which could hand over; its replicas are electing one", tp)
	case !c.c.Cluster.Alive(preferred):
		refuse(reasonNoPreferred, "broker %d, the preferred leader of %s, was not heard from lately", preferred, tp)
	case record.InternalTopic(tp.Topic):
		refuse(reasonNoPreferred, "the leaders of the brokers' own topics are not chosen by clients")
	default:
		if err := c.c.Cluster.HandOver(ctx, tp, leader.Broker, preferred); err != nil {
			f := c.partitionFailure(r, tp, err)
			at.ErrorCode, at.ErrorMessage = f.code, f.message
		}
	}
}

// everyPartition names all partitions of clients' topics.
func everyPartition(img *metadata.Image) []kmsg.ElectLeadersRequestTopic {
	var list []kmsg.ElectLeadersRequestTopic
	for _, t := range img.Topics() {
		if record.InternalTopic(t.Name) {
			continue
		}
		q := kmsg.ElectLeadersRequestTopic{Topic: t.Name}
		for i := range t.Partitions {
			q.Partitions = append(q.Partitions, int32(i))
		}
		list = append(list, q)
	}
	return list
}

// dropNotNeeded leaves out the partitions for which nothing was to be done, as Kafka does where all were meant.
func dropNotNeeded(resp *kmsg.ElectLeadersResponse) {
	notNeeded := frontdoor.KindOf(reasonNotNeeded).Kafka
	var topics []kmsg.ElectLeadersResponseTopic
	for _, t := range resp.Topics {
		var partitions []kmsg.ElectLeadersResponseTopicPartition
		for _, p := range t.Partitions {
			if p.ErrorCode != notNeeded {
				partitions = append(partitions, p)
			}
		}
		if t.Partitions = partitions; len(partitions) > 0 {
			topics = append(topics, t)
		}
	}
	resp.Topics = topics
}
