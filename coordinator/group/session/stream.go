package session

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// On a stream the server pushes, without being asked: so what a member says and what it is told can cross. Three rules keep what was
// said from being taken for something else. A member is told the next thing only when it has done the last one (Ack). What it says that
// it owns counts only if it has done the last thing that it was told. And nothing that it says is looked at while a proposal about
// it is in flight.

// Open begins a stream: the member joins (epoch 0), or goes on after its stream broke or the leader changed, with its epoch and what it
// owns. A stream that the same member had before ends.
func (c *Conversation) Open(now int64, t Ticket, hb *statev1.ConsumerHeartbeat) {
	m := c.members[hb.GetMemberId()]
	if m == nil {
		m = c.add(hb.GetMemberId(), hb.GetInstanceId())
	}
	c.end(m, End{Code: group.FencedMemberEpoch})
	m.ticket, m.open, m.sent, m.acked = t, false, Assignment{}, 0
	if m.join = hb; hb.GetMemberEpoch() != group.JoinEpoch {
		m.join = nil
	}
	c.streams[t] = m.id
	m.said = &Said{open: hb}
	c.listen(now, m)
}

// Say takes a message on a stream. A stream that has ended is passed over.
func (c *Conversation) Say(now int64, t Ticket, s Said) {
	m := c.members[c.streams[t]]
	if m == nil {
		return
	}
	if old := m.said; old != nil {
		if s.Subscription == nil {
			s.Subscription = old.Subscription
		}
		s.Leave, s.Away, s.open = s.Leave || old.Leave, s.Away || old.Away, old.open
	}
	m.said = &s
	c.listen(now, m)
}

// Gone is told that a stream broke. The member stays until its session ends.
func (c *Conversation) Gone(t Ticket) {
	if m := c.members[c.streams[t]]; m != nil {
		m.ticket = NoTicket
		switch s := m.said; {
		case s != nil && s.open.GetMemberEpoch() < 0: // who leaves need not hear that it has
			m.said = &Said{open: s.open}
		case s != nil && (s.Leave || s.Away):
			m.said = &Said{Leave: s.Leave, Away: s.Away}
		default:
			m.said = nil // it was about a stream that is no more
		}
		if !m.flight && c.shard.Member(m.id) == nil {
			c.drop(m)
		}
	}
	delete(c.streams, t)
}

// listen looks at what a member has said, unless a proposal about it is in flight.
func (c *Conversation) listen(now int64, m *member) {
	if m.flight || m.said == nil {
		return
	}
	s := m.said
	m.said = nil
	if s.open == nil && !s.Leave && !s.Away && m.sent.Version == 0 && m.join == nil {
		return // on a stream that could not be opened
	}
	m.acked = max(m.acked, min(s.Ack, m.sent.Version))
	hb := c.heartbeat(m, s)
	r := c.shard.Check(&statev1.GroupCommand{GroupId: c.group, Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}})
	if r.Code != group.OK {
		c.refuse(now, m, End{Code: r.Code, Confirm: true})
		return
	}
	m.expires, m.open = now+c.config.SessionMS, true
	if s.open != nil && (s.Leave || s.Away || s.Subscription != nil) { // said while the stream could not be opened yet
		m.said = &Said{Subscription: s.Subscription, Leave: s.Leave, Away: s.Away}
	}
	if r.Changed {
		c.propose(m, hb)
		return
	}
	c.settle(now, m)
	c.listen(now, m)
}

// heartbeat is what a message on a stream amounts to: the stream says who it is from, and the last push at which epoch.
func (c *Conversation) heartbeat(m *member, s *Said) *statev1.ConsumerHeartbeat {
	if s.open != nil {
		return s.open
	}
	hb := &statev1.ConsumerHeartbeat{MemberId: m.id, InstanceId: m.instance, MemberEpoch: m.sent.Epoch, Subscription: s.Subscription}
	switch {
	case s.Away && m.instance != "":
		hb.MemberEpoch = group.LeaveStaticEpoch
	case s.Leave || s.Away:
		hb.MemberEpoch = group.LeaveEpoch
	case m.sent.Version == 0 && m.join != nil: // there are no targets yet
		hb.MemberEpoch, hb.Owned = group.JoinEpoch, m.join.GetOwned()
		if hb.Subscription == nil {
			hb.Subscription = m.join.GetSubscription()
		}
		hb.Client = m.join.GetClient()
		m.join = hb
	case s.Ack == m.sent.Version:
		hb.Owned = s.Owned
	}
	return hb
}

func (c *Conversation) propose(m *member, hb *statev1.ConsumerHeartbeat) {
	m.flight = true
	c.do(Propose{Key: Key(m.id), Command: &statev1.GroupCommand{GroupId: c.group, Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}}})
}

// heard goes on after a proposal about a member.
func (c *Conversation) heard(now int64, m *member, r group.Result, err error) {
	if m == nil {
		return
	}
	m.flight = false
	switch {
	case err != nil:
		c.refuse(now, m, End{Err: err})
		return
	case r.Code != group.OK:
		c.refuse(now, m, End{Code: r.Code})
		return
	case r.Member == nil || r.Member.Epoch == group.LeaveStaticEpoch:
		c.left(now, m, r.Member)
	default:
		m.instance = r.Member.InstanceID // another one, perhaps, if it joined again
		c.replaced(r.Member)
		c.settle(now, m)
	}
	c.lookAgain(now)
	c.progress(now, false)
	c.listen(now, m)
}

// refuse ends a stream. Whoever is no member is forgotten; who is one has the rest of its session to come again.
func (c *Conversation) refuse(now int64, m *member, e End) {
	m.said = nil
	c.end(m, e)
	if c.shard.Member(m.id) == nil {
		c.drop(m)
	} else if m.expires == Never {
		m.expires = now + c.config.SessionMS
	}
}

// left ends the stream of a member that has left. One that is away for a while has a session to come back in.
func (c *Conversation) left(now int64, m *member, away *group.Member) {
	m.said = nil
	c.end(m, End{Code: group.OK})
	if away == nil {
		c.drop(m)
		return
	}
	m.expires = now + c.config.SessionMS
	m.revoking, m.revokeBy = nil, Never
}

// replaced forgets the member that had the instance id before.
func (c *Conversation) replaced(by *group.Member) {
	if by.InstanceID == "" {
		return
	}
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; id != by.ID && m.instance == by.InstanceID && !m.flight {
			c.end(m, End{Code: group.FencedInstanceID})
			c.drop(m)
		}
	}
}

// settle tells a member what it has, if it does not know, and watches over what it has to give back.
func (c *Conversation) settle(now int64, m *member) {
	known := c.shard.Member(m.id)
	if known == nil {
		c.refuse(now, m, End{Code: group.UnknownMemberID})
		return
	}
	switch {
	case known.Status != group.Revoking:
		m.revoking, m.revokeBy = nil, Never
	case !slices.Equal(m.revoking, known.Revoking):
		m.revoking, m.revokeBy = known.Revoking, now+int64(known.RebalanceTimeoutMS)
	}
	if m.ticket == NoTicket || !m.open || known.Epoch <= group.JoinEpoch {
		return // it waits for targets of the group with it
	}
	if m.sent.Version > 0 && known.Epoch == m.sent.Epoch && slices.EqualFunc(known.Assigned, m.sent.Partitions, samePartition) {
		return
	}
	m.sent = Assignment{Version: m.sent.Version + 1, Epoch: known.Epoch, Partitions: known.Assigned}
	c.do(Push{m.ticket, m.sent})
}

func samePartition(a, b group.Held) bool { return a.Partition == b.Partition }

// progress moves those on who can: all, after new targets, or those who wait for what others had.
func (c *Conversation) progress(now int64, all bool) {
	for _, id := range slices.Clone(c.order) {
		m := c.members[id]
		if m == nil || m.ticket == NoTicket || m.flight || m.said != nil || m.acked != m.sent.Version {
			continue
		}
		known := c.shard.Member(id)
		if known == nil || !all && known.Status != group.Waiting && known.Epoch != group.JoinEpoch {
			continue
		}
		hb := &statev1.ConsumerHeartbeat{MemberId: id, InstanceId: m.instance, MemberEpoch: known.Epoch}
		if known.Epoch == group.JoinEpoch {
			if hb = m.join; hb == nil {
				continue
			}
		}
		if r := c.shard.Check(&statev1.GroupCommand{GroupId: c.group, Command: &statev1.GroupCommand_Heartbeat{Heartbeat: hb}}); r.Changed {
			c.propose(m, hb)
		}
	}
}
