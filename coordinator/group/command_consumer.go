package group

import (
	"errors"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

func checkHeartbeat(c *statev1.ConsumerHeartbeat) error {
	if err := errors.Join(checkMember(c.GetMemberId()), checkID("instance id", c.GetInstanceId()), checkClient(c.GetClient()),
		checkOwned(c.GetOwned().GetTopics()), checkSubscription(c.GetSubscription())); err != nil {
		return err
	}
	switch epoch := c.GetMemberEpoch(); {
	case epoch < LeaveStaticEpoch:
		return invalid("member epoch %d", epoch)
	case epoch == LeaveStaticEpoch && c.GetInstanceId() == "":
		return invalid("a member without an instance id that leaves for a while")
	case epoch == JoinEpoch && (c.GetSubscription() == nil || c.GetOwned() == nil || len(c.GetOwned().GetTopics()) > 0):
		return invalid("a member that joins without a subscription, or with partitions")
	}
	return nil
}

func checkMember(id string) error {
	if id == "" {
		return invalid("no member id")
	}
	return checkID("member id", id)
}

func checkClient(c *statev1.ClientRef) error {
	return errors.Join(checkText("client id", c.GetClientId()), checkText("address", c.GetAddress()))
}

func checkText(what, text string) error {
	if len(text) > MaxTextLength {
		return invalid("%s of %d bytes, at most %d are allowed", what, len(text), MaxTextLength)
	}
	return nil
}

func checkSubscription(c *statev1.ConsumerSubscription) error {
	switch {
	case c == nil:
		return nil
	case len(c.GetTopics()) == 0 && c.GetPattern() == "":
		return invalid("a subscription to nothing")
	case len(c.GetTopics()) > MaxSubscribed || len(c.GetPattern()) > MaxPatternLength:
		return invalid("a subscription to %d topics and a pattern of %d bytes", len(c.GetTopics()), len(c.GetPattern()))
	case c.GetRebalanceTimeoutMs() <= 0:
		return invalid("a rebalance timeout of %d ms", c.GetRebalanceTimeoutMs())
	}
	return errors.Join(checkTopics(c.GetTopics()), checkText("assignor", c.GetAssignor()), checkText("rack", c.GetRack()))
}

// checkTopics demands names in order, each once.
func checkTopics(names []string) error {
	for i, name := range names {
		if err := checkTopic(name); err != nil {
			return err
		}
		if i > 0 && names[i-1] >= name {
			return invalid("topics are not sorted")
		}
	}
	return nil
}

// checkOwned demands topic ids and partitions in order, each once.
func checkOwned(topics []*statev1.TopicIdPartitions) error {
	n := 0
	for i, t := range topics {
		if len(t.GetTopicId()) != len(TopicID{}) || i > 0 && string(topics[i-1].GetTopicId()) >= string(t.GetTopicId()) {
			return invalid("topic ids are not sorted")
		}
		if err := checkNumbers(t.GetPartitions()); err != nil {
			return err
		}
		n += len(t.GetPartitions())
	}
	if n > MaxAssigned {
		return invalid("%d partitions, at most %d are allowed", n, MaxAssigned)
	}
	return nil
}

func checkNumbers(list []int32) error {
	if len(list) == 0 || list[0] < 0 {
		return invalid("no partitions, or a negative one")
	}
	for i, n := range list {
		if i > 0 && list[i-1] >= n {
			return invalid("partitions are not sorted")
		}
	}
	return nil
}

func checkFence(c *statev1.FenceMembers) error {
	for i, m := range c.GetMembers() {
		if err := checkMember(m.GetMemberId()); err != nil {
			return err
		}
		if i > 0 && c.GetMembers()[i-1].GetMemberId() >= m.GetMemberId() {
			return invalid("members are not sorted")
		}
	}
	return nil
}

// checkAssign demands that every partition goes to one member.
func checkAssign(c *statev1.AssignPartitions) error {
	for i, t := range c.GetTopics() {
		if len(t.GetTopicId()) != len(TopicID{}) || i > 0 && string(c.GetTopics()[i-1].GetTopicId()) >= string(t.GetTopicId()) {
			return invalid("topic ids are not sorted")
		}
		if err := checkTopic(t.GetTopic()); err != nil {
			return err
		}
	}
	given := make(map[Partition]bool)
	for i, m := range c.GetMembers() {
		if err := checkMember(m.GetMemberId()); err != nil {
			return err
		}
		if i > 0 && c.GetMembers()[i-1].GetMemberId() >= m.GetMemberId() {
			return invalid("members are not sorted")
		}
		if err := checkTarget(c, m, given); err != nil {
			return err
		}
	}
	if len(given) > MaxAssigned {
		return invalid("%d partitions, at most %d are allowed", len(given), MaxAssigned)
	}
	return checkTopics(c.GetMatched())
}

func checkTarget(c *statev1.AssignPartitions, m *statev1.MemberTarget, given map[Partition]bool) error {
	for i, t := range m.GetTopics() {
		if int(t.GetTopic()) >= len(c.GetTopics()) || i > 0 && m.GetTopics()[i-1].GetTopic() >= t.GetTopic() {
			return invalid("topics of a target are not sorted")
		}
		if err := checkNumbers(t.GetPartitions()); err != nil {
			return err
		}
		for _, n := range t.GetPartitions() {
			p := Partition{TopicID(c.GetTopics()[t.GetTopic()].GetTopicId()), n}
			if given[p] {
				return invalid("partition %d of %s goes to two members", n, c.GetTopics()[t.GetTopic()].GetTopic())
			}
			given[p] = true
		}
	}
	return nil
}
