package group

import (
	"fmt"
	"maps"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// consumer is a group of KIP-848, with the group's epoch in group. It belongs to its group and is copied with it.
type consumer struct {
	// assignmentEpoch is the group epoch that the members' targets were computed for. As long as it is below the group's, new ones
	// are to come.
	assignmentEpoch int32
	members         map[string]*Member
	// instances has the member for each instance id.
	instances map[string]string
	// owners has the member for each partition that one has, or has not given back yet.
	owners map[Partition]string
	// topics names all that members' partitions are of.
	topics map[TopicID]string
	// matched are the topics that members' patterns matched when the targets were computed, sorted. Never written to.
	matched []string
}

// nobody is a group without members. It is never written to.
var nobody = newConsumer()

func newConsumer() *consumer {
	return &consumer{members: make(map[string]*Member), instances: make(map[string]string), owners: make(map[Partition]string), topics: make(map[TopicID]string)}
}

func (c *consumer) clone() *consumer {
	if c == nil {
		return nil
	}
	n := *c
	n.members, n.instances, n.owners, n.topics = maps.Clone(c.members), maps.Clone(c.instances), maps.Clone(c.owners), maps.Clone(c.topics)
	return &n
}

func (c *consumer) bytes() int64 {
	if c == nil {
		return 0
	}
	n := topicsBytes(c.topics)
	for _, m := range c.members {
		n += m.bytes()
	}
	return n
}

func topicsBytes(topics map[TopicID]string) int64 {
	n := int64(0)
	for _, name := range topics {
		n += assignedTopicBytes + int64(len(name))
	}
	return n
}

// consumers is the group as one of KIP-848, for reading only.
func (g *group) consumers() *consumer {
	if g == nil || g.consumer == nil {
		return nobody
	}
	return g.consumer
}

// becomeConsumer turns an empty group into one of KIP-848. Its epoch goes on.
func (g *group) becomeConsumer(s *State) {
	if g.consumer == nil {
		s.bytes -= g.classic.bytes()
		g.consumer, g.classic = newConsumer(), nil
	}
}

// addMember puts a member in, with all that it has. That somebody else has any of it cannot be.
func (s *State) addMember(c *consumer, m *Member) {
	for _, list := range [][]Held{m.Assigned, m.Revoking} {
		for _, h := range list {
			if other, taken := c.owners[h.Partition]; taken {
				panic(fmt.Sprintf("group: partition %d of topic %x goes to %s and is held by %s", h.Number, h.TopicID, m.ID, other))
			}
			c.owners[h.Partition] = m.ID
		}
	}
	if m.InstanceID != "" {
		c.instances[m.InstanceID] = m.ID
	}
	c.members[m.ID] = m
	s.bytes += m.bytes()
}

// removeMember takes a member out, and sets free what it has.
func (s *State) removeMember(c *consumer, m *Member) {
	for _, list := range [][]Held{m.Assigned, m.Revoking} {
		for _, h := range list {
			delete(c.owners, h.Partition)
		}
	}
	if m.InstanceID != "" {
		delete(c.instances, m.InstanceID)
	}
	delete(c.members, m.ID)
	s.bytes -= m.bytes()
}

// assign sets the targets of all members. They are computed from the members and subscriptions at a group epoch; if that has
// moved on, nothing happens. If it has not, and there are targets for it already, the topics have changed, and the epoch rises with
// the new ones.
func (s *State) assign(id string, c *statev1.AssignPartitions, at stamp) Result {
	g := s.groups[id]
	if g == nil || g.consumer == nil || g.epoch != c.GetGroupEpoch() {
		return refuse(id, Stale)
	}
	targets := targetsOf(c)
	known := func(member string) bool { return g.consumer.members[member] != nil }
	if len(targets) != len(g.consumer.members) || slices.ContainsFunc(slices.Collect(maps.Keys(targets)), func(m string) bool { return !known(m) }) {
		return refuse(id, Stale) // a static member has been replaced, which does not move the epoch
	}
	if g.consumer.assignmentEpoch == g.epoch && g.consumer.hasTargets(targets, c.GetMatched()) {
		return refuse(id, OK)
	}
	topics := g.consumer.topicsWith(c)
	if code := s.roomForTargets(g.consumer, targets, topics); code != OK {
		return refuse(id, code)
	}
	if at.dry {
		return changed(id)
	}
	g = s.edit(id)
	if g.consumer.assignmentEpoch == g.epoch {
		g.epoch++
	}
	s.bytes += topicsBytes(topics) - topicsBytes(g.consumer.topics)
	g.consumer.assignmentEpoch, g.consumer.topics, g.consumer.matched = g.epoch, topics, slices.Clone(c.GetMatched())
	for member, target := range targets {
		next := *g.consumer.members[member]
		s.bytes -= next.bytes()
		next.Target = target
		s.bytes += next.bytes()
		g.consumer.members[member] = &next
	}
	return changed(id)
}

func targetsOf(c *statev1.AssignPartitions) map[string][]Partition {
	targets := make(map[string][]Partition, len(c.GetMembers()))
	for _, m := range c.GetMembers() {
		var list []Partition
		for _, t := range m.GetTopics() {
			for _, n := range t.GetPartitions() {
				list = append(list, Partition{TopicID(c.GetTopics()[t.GetTopic()].GetTopicId()), n})
			}
		}
		targets[m.GetMemberId()] = list // sorted, as topics are sorted by id
	}
	return targets
}

func (c *consumer) hasTargets(targets map[string][]Partition, matched []string) bool {
	for id, m := range c.members {
		if !slices.Equal(m.Target, targets[id]) {
			return false
		}
	}
	return slices.Equal(c.matched, matched)
}

// topicsWith are the topics of an assignment and of what members still have.
func (c *consumer) topicsWith(a *statev1.AssignPartitions) map[TopicID]string {
	topics := make(map[TopicID]string)
	for p := range c.owners {
		topics[p.TopicID] = c.topics[p.TopicID]
	}
	for _, t := range a.GetTopics() {
		topics[TopicID(t.GetTopicId())] = t.GetTopic()
	}
	return topics
}

func (s *State) roomForTargets(c *consumer, targets map[string][]Partition, topics map[TopicID]string) Code {
	bytes := topicsBytes(topics) - topicsBytes(c.topics)
	for id, m := range c.members {
		bytes += targetPartitionBytes * int64(len(targets[id])-len(m.Target))
	}
	if bytes > 0 && s.bytes+bytes > s.limits.MaxBytes {
		return TooManyBytes
	}
	return OK
}
