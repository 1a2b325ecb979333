package group

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

func (c *consumer) toProto() *statev1.ConsumerGroupState {
	if c == nil {
		return nil
	}
	p := &statev1.ConsumerGroupState{AssignmentEpoch: c.assignmentEpoch, Topics: topicsToProto(c.topics), Matched: c.matched}
	for _, m := range c.sorted() {
		p.Members = append(p.Members, m.toProto())
	}
	return p
}

// sorted lists the members by id.
func (c *consumer) sorted() []*Member {
	return slices.SortedFunc(maps.Values(c.members), func(a, b *Member) int { return strings.Compare(a.ID, b.ID) })
}

func topicsToProto(topics map[TopicID]string) []*statev1.AssignedTopic {
	var list []*statev1.AssignedTopic
	for id, name := range topics {
		list = append(list, &statev1.AssignedTopic{TopicId: id[:], Topic: name})
	}
	slices.SortFunc(list, func(a, b *statev1.AssignedTopic) int { return bytes.Compare(a.TopicId, b.TopicId) })
	return list
}

func (m *Member) toProto() *statev1.ConsumerMemberState {
	return &statev1.ConsumerMemberState{
		MemberId: m.ID, InstanceId: m.InstanceID, Subscription: SubscriptionToProto(m.Subscription), Client: ClientToProto(m.Client),
		MemberEpoch: m.Epoch, PreviousEpoch: m.PreviousEpoch, Status: statev1.ConsumerMemberStatus(m.Status),
		Assigned: heldToProto(m.Assigned), Revoking: heldToProto(m.Revoking), Target: PartitionsToProto(m.Target),
		Version: m.Version, JoinedMs: m.JoinedMS,
	}
}

// SubscriptionToProto encodes a subscription.
func SubscriptionToProto(s Subscription) *statev1.ConsumerSubscription {
	return &statev1.ConsumerSubscription{
		Topics: s.Topics, Pattern: s.Pattern, Assignor: s.Assignor, RebalanceTimeoutMs: s.RebalanceTimeoutMS, Rack: s.Rack,
	}
}

// ClientToProto encodes a client; nil for one that is not known.
func ClientToProto(c Client) *statev1.ClientRef {
	if c == (Client{}) {
		return nil
	}
	return &statev1.ClientRef{ClientId: c.ID, Address: c.Address}
}

func heldToProto(list []Held) []*statev1.HeldPartitions {
	var topics []*statev1.HeldPartitions
	for _, h := range list {
		if n := len(topics); n == 0 || TopicID(topics[n-1].TopicId) != h.TopicID {
			topics = append(topics, &statev1.HeldPartitions{TopicId: slices.Clone(h.TopicID[:])})
		}
		last := topics[len(topics)-1]
		last.Partitions, last.Epochs = append(last.Partitions, h.Number), append(last.Epochs, h.Epoch)
	}
	return topics
}

// PartitionsToProto groups partitions by topic. The list must be sorted.
func PartitionsToProto(list []Partition) []*statev1.TopicIdPartitions {
	var topics []*statev1.TopicIdPartitions
	for _, p := range list {
		if n := len(topics); n == 0 || TopicID(topics[n-1].TopicId) != p.TopicID {
			topics = append(topics, &statev1.TopicIdPartitions{TopicId: slices.Clone(p.TopicID[:])})
		}
		last := topics[len(topics)-1]
		last.Partitions = append(last.Partitions, p.Number)
	}
	return topics
}

// restoreConsumer reads what toProto gives into a group whose epoch is known.
func (s *State) restoreConsumer(g *group, in *statev1.ConsumerGroupState) error {
	if in.GetAssignmentEpoch() < 0 || in.GetAssignmentEpoch() > g.epoch {
		return damaged("group %.100q: assignment epoch %d, group epoch %d", g.id, in.GetAssignmentEpoch(), g.epoch)
	}
	g.becomeConsumer(s)
	c := g.consumer
	c.assignmentEpoch, c.matched = in.GetAssignmentEpoch(), in.GetMatched()
	// An assignment of these topics that gives each member its target must be one that could be written.
	check := &statev1.AssignPartitions{Topics: in.GetTopics(), Matched: in.GetMatched()}
	for _, t := range in.GetTopics() {
		if len(t.GetTopicId()) != len(TopicID{}) {
			return damaged("group %.100q: topic id of %d bytes", g.id, len(t.GetTopicId()))
		}
		c.topics[TopicID(t.GetTopicId())] = t.GetTopic()
	}
	s.bytes += topicsBytes(c.topics)
	previous := ""
	for _, m := range in.GetMembers() {
		if m.GetMemberId() <= previous {
			return damaged("group %.100q: members are not sorted", g.id)
		}
		previous = m.GetMemberId()
		if err := s.restoreMember(c, m); err != nil {
			return err
		}
		check.Members = append(check.Members, c.targetOf(m, check.Topics))
	}
	if err := checkAssign(check); err != nil {
		return damaged("group %.100q: %v", g.id, err)
	}
	return nil
}

func (c *consumer) targetOf(m *statev1.ConsumerMemberState, topics []*statev1.AssignedTopic) *statev1.MemberTarget {
	t := &statev1.MemberTarget{MemberId: m.GetMemberId()}
	for _, in := range m.GetTarget() {
		at, _ := slices.BinarySearchFunc(topics, in.GetTopicId(), func(t *statev1.AssignedTopic, id []byte) int { return bytes.Compare(t.GetTopicId(), id) })
		t.Topics = append(t.Topics, &statev1.TargetPartitions{Topic: uint32(at), Partitions: in.GetPartitions()})
	}
	return t
}

func (s *State) restoreMember(c *consumer, in *statev1.ConsumerMemberState) error {
	bad := func(what string) error { return damaged("member %.100q: %s", in.GetMemberId(), what) }
	m := &Member{
		ID: in.GetMemberId(), InstanceID: in.GetInstanceId(), Subscription: subscriptionOf(in.GetSubscription()), Client: clientOf(in.GetClient()),
		Epoch: in.GetMemberEpoch(), PreviousEpoch: in.GetPreviousEpoch(), Status: Status(in.GetStatus()), Version: in.GetVersion(), JoinedMS: in.GetJoinedMs(),
	}
	err := errors.Join(checkMember(m.ID), checkID("instance id", m.InstanceID), checkClient(in.GetClient()), checkSubscription(in.GetSubscription()), checkOwned(in.GetTarget()))
	switch {
	case err != nil:
		return bad(err.Error())
	case in.GetSubscription() == nil || m.Version == 0 || in.GetClient() != nil && m.Client == Client{}:
		return bad("its subscription, version or client")
	case in.GetStatus() < 1 || int(in.GetStatus()) >= len(statusNames):
		return bad("its status")
	case m.Epoch < LeaveStaticEpoch || m.Epoch == LeaveEpoch || m.Epoch > c.assignmentEpoch || m.PreviousEpoch < LeaveStaticEpoch || m.PreviousEpoch > c.assignmentEpoch:
		return bad("its epochs")
	case m.Epoch == LeaveStaticEpoch && m.InstanceID == "":
		return bad("away without an instance id")
	case m.InstanceID != "" && c.instances[m.InstanceID] != "":
		return bad("its instance id is another's")
	}
	m.Target = partitionsOf(in.GetTarget())
	var ok, okToo bool
	m.Assigned, ok = c.heldFromProto(in.GetAssigned())
	m.Revoking, okToo = c.heldFromProto(in.GetRevoking())
	if !ok || !okToo || (len(m.Revoking) > 0) != (m.Status == Revoking) {
		return bad("its partitions")
	}
	for _, list := range [][]Held{m.Assigned, m.Revoking} {
		for i, h := range list {
			if _, taken := c.owners[h.Partition]; taken || i > 0 && compareHeld(list[i-1], h) >= 0 {
				return bad("a partition that is another's, or is out of order")
			}
		}
	}
	if slices.ContainsFunc(m.Revoking, func(h Held) bool { _, both := findHeld(m.Assigned, h.Partition); return both }) {
		return bad("a partition that it has and has to give back")
	}
	for _, p := range m.Target {
		if _, known := c.topics[p.TopicID]; !known {
			return bad("a target of no known topic")
		}
	}
	s.addMember(c, m)
	return nil
}

func (c *consumer) heldFromProto(topics []*statev1.HeldPartitions) (list []Held, ok bool) {
	previous := []byte(nil)
	for _, t := range topics {
		if len(t.GetTopicId()) != len(TopicID{}) || bytes.Compare(previous, t.GetTopicId()) >= 0 && previous != nil ||
			len(t.GetEpochs()) != len(t.GetPartitions()) || checkNumbers(t.GetPartitions()) != nil {
			return nil, false
		}
		previous = t.GetTopicId()
		id := TopicID(t.GetTopicId())
		if _, known := c.topics[id]; !known {
			return nil, false
		}
		for i, n := range t.GetPartitions() {
			if e := t.GetEpochs()[i]; e < 1 || e > c.assignmentEpoch {
				return nil, false
			}
			list = append(list, Held{Partition{id, n}, t.GetEpochs()[i]})
		}
	}
	return list, true
}
