package classic

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// replace puts a client in the place of the member that had its instance id, which is fenced (G12). In a stable group, if the protocol
// stays the same, that is all that happens, and it is in the log before anyone hears of it; else everyone joins again (G13).
func (c *Conversation) replace(now int64, t Ticket, old *member, j Join) {
	next := *old
	next.ID, next.Client, next.join, next.sync, next.fresh = j.NewID, j.Client, t, noTicket, false
	next.expires = now + int64(j.SessionTimeoutMS)
	next.update(j)
	if c.phase != group.PhaseStable || c.voteWith(old, &next) != c.protocol {
		c.exchange(old, &next)
		c.rebalance(now)
		return
	}
	next.Metadata = next.metadata(c.protocol)
	next.join = noTicket
	cmd := &statev1.ReplaceClassicMember{Generation: c.generation, OldId: old.ID, Member: group.ClassicMemberToProto(&next.ClassicMember)}
	c.propose(&statev1.GroupCommand{Command: &statev1.GroupCommand_ReplaceMember{ReplaceMember: cmd}}, func(now int64, r group.Result, err error) {
		switch {
		case err != nil:
			c.do(Joined{Ticket: t, Answer: Answer{Err: err}})
			c.rebalance(now) // nobody knows which of the two it is; the next generation says
			return
		case r.Code == group.Stale:
			c.do(Joined{Ticket: t, Answer: Answer{Code: group.UnknownMemberID}})
			c.load(now) // somebody has changed what nobody else should
			return
		case r.Code != group.OK:
			c.do(Joined{Ticket: t, Answer: Answer{Code: r.Code}})
			return
		}
		led := c.leader
		c.exchange(old, &next)
		next.expires = now + int64(next.SessionTimeoutMS)
		answer := c.current(t, &next, Answer{})
		switch leads := c.leader == next.ID; {
		case leads && j.MaySkip:
			answer.SkipAssignment = true // everyone has an assignment (KIP-814)
		case leads:
			answer.Leader, answer.Members = led, nil // it must not assign, and would if it knew
		}
		c.do(answer)
	})
}

// exchange puts a member in the place of another, at the same place in the order.
func (c *Conversation) exchange(old, next *member) {
	c.answerJoin(old, Joined{Answer: Answer{Code: group.FencedInstanceID}, MemberID: old.ID})
	c.answerSync(old, Synced{Answer: Answer{Code: group.FencedInstanceID}})
	for i, id := range c.order {
		if id == old.ID {
			c.order[i] = next.ID
		}
	}
	delete(c.members, old.ID)
	c.members[next.ID] = next
	c.instances[next.InstanceID] = next.ID
	if c.leader == old.ID {
		c.leader = next.ID
	}
}

// voteWith is the vote as it would be with another member.
func (c *Conversation) voteWith(old, next *member) string {
	c.members[old.ID] = next
	defer func() { c.members[old.ID] = old }()
	return c.vote()
}
