package group

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// beginGeneration makes the members that joined those of the next generation (G5). In Kafka the join phase leaves nothing in the log and
// the generation is written with its assignments; here it is written when it begins. So no generation is ever begun twice
// with other members, and a commit in a transaction that shows it is judged by what is applied (G22).
func (s *State) beginGeneration(id string, c *statev1.BeginGeneration, at stamp) Result {
	g := s.groups[id]
	switch {
	case g != nil && len(g.consumers().members) > 0:
		return refuse(id, InconsistentGroupProtocol) // KIP-848 was quicker (G18)
	case g == nil && c.GetPrevious() != 0 || g != nil && g.epoch != c.GetPrevious():
		return refuse(id, Stale)
	case len(c.GetMembers()) == 0 && g.classics().protocolType == "":
		return refuse(id, Stale) // nobody was ever a member
	}
	next := newClassic()
	next.protocolType, next.protocol, next.leader, next.beganMS = c.GetProtocolType(), c.GetProtocol(), c.GetLeader(), at.now
	for _, m := range c.GetMembers() {
		next.add(classicMemberOf(m))
	}
	next.topics, next.topicsKnown = next.subscribed()
	if code := s.roomForClassic(id, next); code != OK {
		return refuse(id, code)
	}
	if !at.dry {
		g = s.edit(id)
		g.becomeClassic(s, next)
		g.epoch++
	}
	return changed(id)
}

func (c *classic) add(m *ClassicMember) {
	c.members[m.ID] = m
	if m.InstanceID != "" {
		c.instances[m.InstanceID] = m.ID
	}
}

// becomeClassic gives a group other members, or its first of this protocol. Its epoch goes on (G18).
func (g *group) becomeClassic(s *State, next *classic) {
	s.bytes += next.bytes() - g.classic.bytes() - g.consumer.bytes()
	g.classic, g.consumer = next, nil
}

// roomForClassic says whether other members, and what they wrote, fit.
func (s *State) roomForClassic(id string, next *classic) Code {
	g := s.groups[id]
	bytes := next.bytes()
	if g == nil {
		if len(s.groups) >= s.limits.MaxGroups {
			return TooManyGroups
		}
		bytes += groupBytes + int64(len(id))
	} else {
		bytes -= g.classic.bytes() + g.consumer.bytes()
	}
	switch {
	case len(next.members) > s.limits.MaxMembers && len(next.members) > len(g.classics().members):
		return GroupMaxSizeReached
	case bytes > 0 && s.bytes+bytes > s.limits.MaxBytes:
		return TooManyBytes
	}
	return OK
}

// assignGeneration gives each member what the generation's leader has assigned to it; whoever is missing gets nothing
// (G7).
func (s *State) assignGeneration(id string, c *statev1.AssignGeneration, at stamp) Result {
	g := s.groups[id]
	if old := g.classics(); len(old.members) == 0 || g.epoch != c.GetGeneration() || old.assigned {
		return refuse(id, Stale)
	}
	next := g.classic.clone()
	next.assigned = true
	for _, a := range c.GetAssignments() {
		if m := next.members[a.GetMemberId()]; m != nil {
			given := *m
			given.Assignment = a.GetAssignment()
			next.members[m.ID] = &given
		}
	}
	return s.changeClassic(id, next, at)
}

// replaceMember puts a member in the place of the one that had its instance id. It gets the same assignment, and the old one
// is fenced (G12, G13).
func (s *State) replaceMember(id string, c *statev1.ReplaceClassicMember, at stamp) Result {
	g := s.groups[id]
	old := g.classics().members[c.GetOldId()]
	in := classicMemberOf(c.GetMember())
	if old == nil || g.epoch != c.GetGeneration() || old.InstanceID != in.InstanceID || g.classic.members[in.ID] != nil {
		return refuse(id, Stale)
	}
	next := g.classic.clone()
	delete(next.members, old.ID)
	in.Assignment = old.Assignment
	next.add(in)
	if next.leader == old.ID {
		next.leader = in.ID
	}
	next.topics, next.topicsKnown = next.subscribed()
	return s.changeClassic(id, next, at)
}

// leaveGeneration takes members out of an assigned generation (G9). In Kafka the coordinator alone remembers who has left, until the next
// generation begins: one that comes after it waits for them for a whole session.
func (s *State) leaveGeneration(id string, c *statev1.LeaveGeneration, at stamp) Result {
	g := s.groups[id]
	old := g.classics()
	if g == nil || g.epoch != c.GetGeneration() || !old.assigned {
		return refuse(id, Stale)
	}
	next := old.clone()
	next.left = true
	for _, gone := range c.GetMemberIds() {
		if m := next.members[gone]; m != nil {
			delete(next.members, gone)
			delete(next.instances, m.InstanceID)
		}
	}
	if n := len(next.members); n == 0 || n == len(old.members) {
		return refuse(id, Stale)
	}
	if next.members[next.leader] == nil {
		next.leader = next.sorted()[0].ID
	}
	next.topics, next.topicsKnown = next.subscribed()
	return s.changeClassic(id, next, at)
}

// changeClassic sets what a generation has become, if it fits.
func (s *State) changeClassic(id string, next *classic, at stamp) Result {
	if code := s.roomForClassic(id, next); code != OK {
		return refuse(id, code)
	}
	if !at.dry {
		s.edit(id).becomeClassic(s, next)
	}
	return changed(id)
}

// subscribed finds the topics that all members of a group of consumers are subscribed to, if each says it in a way that can be read
// (G10).
func (c *classic) subscribed() (topics []string, known bool) {
	if c.protocolType != ConsumerProtocolType {
		return nil, false
	}
	for _, m := range c.members {
		list, ok := ConsumerTopics(m.Metadata)
		if !ok {
			return nil, false
		}
		topics = append(topics, list...)
	}
	slices.Sort(topics)
	return slices.Compact(topics), true
}
