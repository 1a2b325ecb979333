package group

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// step is what becomes of a group by what one member says.
type step struct {
	code Code
	// member is as it is from now on; nil: it has left.
	member *Member
	// was is what the member was before, under another id perhaps; nil: it is new.
	was *Member
	// moved: members or subscriptions are others now, and so is the group epoch.
	moved bool
}

// heartbeat is all that a member of a group of KIP-848 says: that it joins, is there, has given partitions back, wants
// something else, leaves (G14 to G17).
func (s *State) heartbeat(id string, c *statev1.ConsumerHeartbeat, at stamp) Result {
	g := s.groups[id]
	var st step
	switch epoch := c.GetMemberEpoch(); {
	case epoch != JoinEpoch && (g == nil || g.consumer == nil):
		return refuse(id, GroupIDNotFound)
	case epoch == JoinEpoch && g != nil && g.consumer == nil && !g.empty():
		return refuse(id, GroupIDNotFound) // it is one of the classic protocol (G18)
	case epoch < JoinEpoch:
		st = g.consumer.leave(c)
	default:
		st = s.alive(g, c, at)
	}
	if st.code == OK && st.member != nil && (st.was == nil || st.moved) {
		st.code = s.roomForMember(id, st)
	}
	if st.code != OK {
		return refuse(id, st.code)
	}
	if st.member != nil && st.was != nil && st.member.same(st.was) {
		r := refuse(id, OK)
		r.Member = st.was
		return r
	}
	r := changed(id)
	r.Member = st.member
	if !at.dry {
		r.Member = s.makeStep(id, st, at)
	}
	return r
}

// alive is for members that join or stay. Who joins waits at JoinEpoch until there are targets for the group as it is with it: epochs below are
// those that somebody else may have shown by its id, who was fenced and does not know.
func (s *State) alive(g *group, hb *statev1.ConsumerHeartbeat, at stamp) step {
	c := g.consumers()
	var st step
	if hb.GetMemberEpoch() == JoinEpoch {
		st = c.join(hb, at)
	} else {
		st = c.stay(hb)
	}
	if st.code != OK {
		return st
	}
	next := *st.member
	if sub := hb.GetSubscription(); sub != nil {
		next.Subscription = subscriptionOf(sub)
	}
	if hb.GetMemberEpoch() == JoinEpoch {
		next.InstanceID = hb.GetInstanceId()
		next.Client = clientOf(hb.GetClient())
	}
	st.moved = st.was == nil || !next.assignedAlike(&st.was.Subscription)
	if st.member = &next; next.Epoch != JoinEpoch || !st.moved && c.assignmentEpoch == g.epoch {
		st.member = c.reconcile(&next, ownedOf(hb.GetOwned()))
	}
	return st
}

// join is for members that join, again perhaps: what they say always counts, whatever is known of them (KAFKA-19233). Nobody else may
// use an instance id before its member has left, if only for a while.
func (c *consumer) join(hb *statev1.ConsumerHeartbeat, at stamp) step {
	id, instance := hb.GetMemberId(), hb.GetInstanceId()
	known := c.members[id]
	if holder, ok := c.instances[instance]; ok && instance != "" && holder != id {
		was := c.members[holder]
		if was.Epoch != LeaveStaticEpoch || known != nil {
			return step{code: UnreleasedInstanceID}
		}
		next := *was
		next.ID, next.Epoch, next.PreviousEpoch = id, JoinEpoch, JoinEpoch
		return step{member: &next, was: was}
	}
	if known == nil {
		return step{member: &Member{ID: id, Status: Stable, JoinedMS: at.now}}
	}
	next := *known
	if next.Epoch == LeaveStaticEpoch {
		next.Epoch, next.PreviousEpoch = JoinEpoch, JoinEpoch
	}
	return step{member: &next, was: known}
}

// stay is for members that show an epoch (G15).
func (c *consumer) stay(hb *statev1.ConsumerHeartbeat) step {
	m, code := c.find(hb.GetMemberId(), hb.GetInstanceId())
	if code != OK {
		return step{code: code}
	}
	epoch := hb.GetMemberEpoch()
	lost := epoch == m.PreviousEpoch && epoch < m.Epoch && ownedOf(hb.GetOwned()).within(m)
	if epoch != m.Epoch && !lost {
		return step{code: FencedMemberEpoch}
	}
	return step{member: m, was: m}
}

// find gives a member as it names itself.
func (c *consumer) find(id, instance string) (*Member, Code) {
	if instance != "" {
		holder, ok := c.instances[instance]
		switch {
		case !ok:
			return nil, UnknownMemberID
		case holder != id:
			return nil, FencedInstanceID
		}
	}
	if m := c.members[id]; m != nil {
		return m, OK
	}
	return nil, UnknownMemberID
}

// leave is for members that go. A static one that goes for a while keeps what it has, but for what it had to give back.
func (c *consumer) leave(hb *statev1.ConsumerHeartbeat) step {
	m, code := c.find(hb.GetMemberId(), hb.GetInstanceId())
	if code != OK || hb.GetMemberEpoch() == LeaveEpoch {
		return step{code: code, was: m, moved: true}
	}
	next := *m
	next.Epoch, next.Revoking, next.Status = LeaveStaticEpoch, nil, Stable
	return step{member: &next, was: m}
}

// roomForMember says whether a member, and what it wrote, fits.
func (s *State) roomForMember(id string, st step) Code {
	g := s.groups[id]
	bytes := st.member.bytes()
	if g == nil {
		if len(s.groups) >= s.limits.MaxGroups {
			return TooManyGroups
		}
		bytes += groupBytes + int64(len(id))
	}
	if st.was != nil {
		bytes -= st.was.bytes()
	} else if len(g.consumers().members) >= s.limits.MaxMembers {
		return GroupMaxSizeReached
	}
	if bytes > 0 && s.bytes+bytes > s.limits.MaxBytes {
		return TooManyBytes
	}
	return OK
}

// makeStep makes it so, and gives the member.
func (s *State) makeStep(id string, st step, at stamp) *Member {
	g := s.edit(id)
	g.becomeConsumer(s)
	if st.moved {
		g.epoch++
	}
	if st.was != nil {
		s.removeMember(g.consumer, st.was)
	}
	if st.member == nil {
		return nil
	}
	m := *st.member
	m.Version = at.index
	s.addMember(g.consumer, &m)
	return &m
}

// fence removes members whose time is up, if they are still as they were (R5).
func (s *State) fence(id string, c *statev1.FenceMembers, at stamp) Result {
	g := s.groups[id]
	if g == nil || g.consumer == nil {
		return refuse(id, GroupIDNotFound)
	}
	var gone []*Member
	for _, f := range c.GetMembers() {
		if m := g.consumer.members[f.GetMemberId()]; m != nil && m.Version == f.GetVersion() {
			gone = append(gone, m)
		}
	}
	if len(gone) == 0 {
		return refuse(id, Stale)
	}
	r := changed(id)
	r.Removed = len(gone)
	if at.dry {
		return r
	}
	g = s.edit(id)
	for _, m := range gone {
		s.removeMember(g.consumer, m)
	}
	g.epoch++
	return r
}

// mayCommit says whether somebody may commit these offsets (G20). Whoever shows an older epoch may for partitions that it has had
// since then without a break: they cannot have been given to anyone else (KIP-1251).
func (c *consumer) mayCommit(by Committer, topics []*statev1.TopicOffsets) Code {
	m := c.members[by.MemberID]
	switch {
	case m == nil:
		return UnknownMemberID
	case by.Epoch > m.Epoch || by.Epoch <= JoinEpoch: // who waits at JoinEpoch for the first targets with it has no partition
		return StaleMemberEpoch
	case by.Epoch == m.Epoch:
		return OK
	}
	for _, t := range topics {
		for _, p := range t.GetPartitions() {
			if h, ok := m.holding(Partition{TopicID(t.GetTopicId()), p.GetPartition()}); !ok || h.Epoch > by.Epoch {
				return StaleMemberEpoch
			}
		}
	}
	return OK
}

// mayFetch demands exactly the member's epoch, of those who name one (G20).
func (c *consumer) mayFetch(by Committer) Code {
	m := c.members[by.MemberID]
	switch {
	case by.MemberID == "" && by.Epoch < JoinEpoch:
		return OK
	case m == nil:
		return UnknownMemberID
	case m.Epoch != by.Epoch:
		return StaleMemberEpoch
	}
	return OK
}

// subscribes says whether a member reads the topic.
func (c *consumer) subscribes(topic string) bool {
	_, matched := slices.BinarySearch(c.matched, topic)
	for _, m := range c.members {
		if _, ok := slices.BinarySearch(m.Topics, topic); ok || matched && m.Pattern != "" {
			return true
		}
	}
	return false
}
