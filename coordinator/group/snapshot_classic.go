package group

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

func (c *classic) toProto() *statev1.ClassicGroupState {
	if c == nil {
		return nil
	}
	p := &statev1.ClassicGroupState{ProtocolType: c.protocolType, Protocol: c.protocol, Leader: c.leader, Assigned: c.assigned, BeganMs: c.beganMS, Left: c.left}
	for _, m := range c.sorted() {
		p.Members = append(p.Members, &statev1.ClassicMemberState{Member: ClassicMemberToProto(m), Assignment: m.Assignment})
	}
	return p
}

// restoreClassic reads what toProto gives into a group whose epoch is known.
func (s *State) restoreClassic(g *group, in *statev1.ClassicGroupState) error {
	if g.epoch == 0 || g.consumer != nil {
		return damaged("group %.100q: generation %d of the classic protocol", g.id, g.epoch)
	}
	// What is there must be what could be written.
	begin := &statev1.BeginGeneration{ProtocolType: in.GetProtocolType(), Protocol: in.GetProtocol(), Leader: in.GetLeader()}
	var assignments []*statev1.ClassicAssignment
	c := newClassic()
	c.protocolType, c.protocol, c.leader, c.assigned, c.beganMS = in.GetProtocolType(), in.GetProtocol(), in.GetLeader(), in.GetAssigned(), in.GetBeganMs()
	if c.left = in.GetLeft(); c.left && !c.assigned {
		return damaged("group %.100q: members have left before there was an assignment", g.id)
	}
	for _, m := range in.GetMembers() {
		if m.GetMember() == nil || m.GetMember().GetClient() != nil && clientOf(m.GetMember().GetClient()) == (Client{}) {
			return damaged("group %.100q: a member without anything", g.id)
		}
		if !c.assigned && len(m.GetAssignment()) > 0 {
			return damaged("group %.100q: an assignment before there is one", g.id)
		}
		begin.Members = append(begin.Members, m.GetMember())
		assignments = append(assignments, &statev1.ClassicAssignment{MemberId: m.GetMember().GetMemberId(), Assignment: m.GetAssignment()})
		member := classicMemberOf(m.GetMember())
		member.Assignment = m.GetAssignment()
		c.add(member)
	}
	if err := checkGeneration(begin); err != nil {
		return damaged("group %.100q: %v", g.id, err)
	}
	if err := checkAssignments(assignments); err != nil {
		return damaged("group %.100q: %v", g.id, err)
	}
	if c.assigned && len(c.members) == 0 {
		return damaged("group %.100q: nobody has an assignment", g.id)
	}
	c.topics, c.topicsKnown = c.subscribed()
	g.becomeClassic(s, c)
	return nil
}
