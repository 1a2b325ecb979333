package classic

import (
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// rebalance has everyone join again, if that is not so already.
func (c *Conversation) rebalance(now int64) {
	if c.phase == group.PhasePreparingRebalance {
		c.maybeComplete(now)
		return
	}
	c.each(func(m *member) { c.answerSync(m, Synced{Answer: Answer{Code: group.RebalanceInProgress}}) })
	c.syncBy = Never
	c.initial = c.phase == group.PhaseEmpty
	c.phase = group.PhasePreparingRebalance
	if c.initial { // more time, for those who come with the first (G4)
		c.delay, c.left, c.more = c.config.InitialDelayMS, max(c.rebalanceTimeout()-c.config.InitialDelayMS, 0), false
		c.joinBy = now + c.delay
		return
	}
	c.joinBy = now + c.rebalanceTimeout()
	c.maybeComplete(now)
}

// joined counts those who wait to join.
func (c *Conversation) joined() int {
	n := 0
	for _, m := range c.members {
		if m.join != noTicket {
			n++
		}
	}
	return n
}

// maybeComplete begins the next generation once all members have joined, and nobody is expected who has been given an id (G5).
func (c *Conversation) maybeComplete(now int64) {
	if c.phase == group.PhasePreparingRebalance && c.flight == nil && !c.initial && len(c.pending) == 0 && c.joined() == len(c.members) {
		c.complete(now)
	}
}

// joinIsOver ends the wait for others: of the first ones it is extended as long as more come (G4).
func (c *Conversation) joinIsOver(now int64) {
	if c.initial && c.more && c.left > 0 {
		delay := min(c.config.InitialDelayMS, c.left)
		c.left, c.delay, c.more = max(c.left-c.delay, 0), delay, false
		c.joinBy = now + delay
		return
	}
	c.complete(now)
}

// complete begins a generation with those who have joined. Static members are kept, and wait for their sessions to end (G5).
func (c *Conversation) complete(now int64) {
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; m.join == noTicket && m.InstanceID == "" {
			c.remove(m, group.UnknownMemberID)
		}
	}
	if len(c.members) > 0 && !c.electLeader() {
		c.joinBy = now + c.rebalanceTimeout() // nobody is there who could assign
		return
	}
	d, known := c.shard.Summarize()
	if len(c.members) == 0 && (!known || d.Kind != group.KindClassic || d.Phase == group.PhaseEmpty) {
		c.load(now) // there was never a generation, or it is empty already
		return
	}
	begin := &statev1.BeginGeneration{Previous: d.Epoch, ProtocolType: c.protocolType}
	if len(c.members) > 0 {
		begin.Protocol, begin.Leader = c.vote(), c.leader
	}
	c.each(func(m *member) {
		m.Metadata, m.Assignment = m.metadata(begin.Protocol), nil
		begin.Members = append(begin.Members, group.ClassicMemberToProto(&m.ClassicMember))
	})
	slices.SortFunc(begin.Members, func(a, b *statev1.ClassicMember) int { return strings.Compare(a.MemberId, b.MemberId) })
	c.propose(&statev1.GroupCommand{Command: &statev1.GroupCommand_BeginGeneration{BeginGeneration: begin}}, func(now int64, r group.Result, err error) {
		c.begun(now, begin, r, err)
	})
}

// electLeader sees to it that the leader is one of those who have joined.
func (c *Conversation) electLeader() bool {
	if m := c.members[c.leader]; m != nil && m.join != noTicket {
		return true
	}
	for _, id := range c.order {
		if c.members[id].join != noTicket {
			c.leader = id
			return true
		}
	}
	return false
}

// vote gives the protocol that most members like best, of those that all of them speak (G5). Of two with as many votes the one that the
// members who came first like better.
func (c *Conversation) vote() string {
	votes := make(map[string]int)
	var order []string
	c.each(func(m *member) {
		for _, p := range m.protocols {
			if c.allSpeak(p.Name) {
				if votes[p.Name]++; votes[p.Name] == 1 {
					order = append(order, p.Name)
				}
				return
			}
		}
	})
	best := ""
	for _, name := range order {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// begun goes on after a generation was to begin.
func (c *Conversation) begun(now int64, begin *statev1.BeginGeneration, r group.Result, err error) {
	switch {
	case err != nil:
		c.each(func(m *member) { c.answerJoin(m, Joined{Answer: Answer{Err: err}, MemberID: m.ID}) })
		c.initial, c.joinBy = false, now+max(c.rebalanceTimeout(), c.config.RetryMS)
	case r.Code == group.Stale:
		c.complete(now) // something has happened to the group: its generation is another one
	case r.Code != group.OK:
		c.each(func(m *member) { c.answerJoin(m, Joined{Answer: Answer{Code: r.Code}, MemberID: m.ID}) })
		c.load(now)
	case len(begin.Members) == 0:
		c.load(now)
	default:
		c.phase, c.initial, c.generation, c.protocol = group.PhaseCompletingRebalance, false, begin.Previous+1, begin.Protocol
		c.joinBy, c.syncBy = Never, now+c.rebalanceTimeout()
		c.each(func(m *member) {
			m.fresh, m.synced, m.expires = false, false, now+int64(m.SessionTimeoutMS)
			c.answerJoin(m, c.current(m.join, m, Answer{}))
		})
	}
}

// syncIsOver drops those who have not asked for their assignment (G7).
func (c *Conversation) syncIsOver(now int64) {
	c.syncBy = Never
	gone := 0
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; !m.synced {
			c.remove(m, group.UnknownMemberID)
			gone++
		}
	}
	if gone > 0 {
		c.rebalance(now)
	}
}
