package classic

import (
	"fmt"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// Sync asks for the member's assignment in a generation, and brings everyone's if it leads (SyncGroup).
type Sync struct {
	MemberID, InstanceID string
	Generation           int32
	// ProtocolType and Protocol are what it takes to be the group's; empty: it does not say.
	ProtocolType, Protocol string
	// Assignments are the leader's. Who is named twice gets the last.
	Assignments []Assignment
}

// Assignment is what the leader assigns to a member. Opaque (G10).
type Assignment struct {
	MemberID   string
	Assignment []byte
}

// Sync takes a SyncGroup request. The answer waits for the leader's, and until that is committed (G7).
func (c *Conversation) Sync(now int64, t Ticket, s Sync) {
	if !c.later(now, s.bytes(), func(now int64) { c.sync(now, t, s) }) {
		c.do(Synced{Ticket: t, Answer: Answer{Err: ErrBusy}})
	}
}

// bytes is what the request holds in memory.
func (s *Sync) bytes() int {
	n := len(s.MemberID) + len(s.InstanceID) + len(s.ProtocolType) + len(s.Protocol)
	for _, a := range s.Assignments {
		n += len(a.MemberID) + len(a.Assignment)
	}
	return n
}

func (c *Conversation) sync(now int64, t Ticket, s Sync) {
	refuse := func(code group.Code) { c.do(Synced{Ticket: t, Answer: Answer{Code: code, Confirm: true}}) }
	m, code := c.find(s.MemberID, s.InstanceID)
	switch {
	case code != group.OK:
		refuse(code)
	case s.Generation != c.generation:
		refuse(group.IllegalGeneration)
	case s.ProtocolType != "" && s.ProtocolType != c.protocolType || s.Protocol != "" && s.Protocol != c.protocol:
		refuse(group.InconsistentGroupProtocol)
	case c.phase == group.PhasePreparingRebalance:
		refuse(group.RebalanceInProgress)
	case c.phase == group.PhaseStable:
		m.synced, m.expires = true, now+int64(m.SessionTimeoutMS)
		c.do(c.assigned(t, m, Answer{Confirm: true}))
	default:
		c.answerSync(m, Synced{Answer: Answer{Code: group.RebalanceInProgress}}) // a request that it has given up
		m.sync, m.synced = t, true
		if c.leader == m.ID {
			c.assign(now, s.Assignments)
		}
	}
}

// assigned is the answer to a member that has an assignment.
func (c *Conversation) assigned(t Ticket, m *member, a Answer) Synced {
	return Synced{Ticket: t, Answer: a, ProtocolType: c.protocolType, Protocol: c.protocol, Assignment: m.Assignment}
}

// assign has the leader's assignments written. Nobody gets any before that (G7).
func (c *Conversation) assign(now int64, list []Assignment) {
	given := make(map[string][]byte)
	for _, a := range list {
		if c.members[a.MemberID] != nil {
			given[a.MemberID] = a.Assignment
		}
	}
	cmd := &statev1.AssignGeneration{Generation: c.generation}
	bytes, longest := 0, 0
	for id, a := range given {
		cmd.Assignments = append(cmd.Assignments, &statev1.ClassicAssignment{MemberId: id, Assignment: a})
		bytes, longest = bytes+group.AssignmentBytes(id, a), max(longest, len(a))
	}
	slices.SortFunc(cmd.Assignments, func(a, b *statev1.ClassicAssignment) int { return strings.Compare(a.MemberId, b.MemberId) })
	if bytes > group.MaxGenerationBytes || longest > group.MaxOpaque {
		c.failed(now, Answer{Err: fmt.Errorf("%w: assignments of %d bytes, at most %d are allowed", group.ErrInvalidCommand, bytes, group.MaxGenerationBytes)})
		return
	}
	c.propose(&statev1.GroupCommand{Command: &statev1.GroupCommand_AssignGeneration{AssignGeneration: cmd}}, func(now int64, r group.Result, err error) {
		switch {
		case err != nil:
			c.failed(now, Answer{Err: err})
		case r.Code != group.OK:
			c.failed(now, Answer{Code: r.Code})
		default:
			c.give(now, given)
		}
	})
}

// failed tells those who wait that there is no assignment. Everyone has to join again.
func (c *Conversation) failed(now int64, why Answer) {
	if why.Code == group.Stale {
		why.Code = group.RebalanceInProgress
	}
	c.each(func(m *member) { c.answerSync(m, Synced{Answer: why}) })
	c.rebalance(now)
}

// give answers those who wait for their assignments.
func (c *Conversation) give(now int64, given map[string][]byte) {
	c.phase = group.PhaseStable
	c.each(func(m *member) {
		if m.Assignment = given[m.ID]; m.sync != noTicket {
			m.expires = now + int64(m.SessionTimeoutMS)
			c.answerSync(m, c.assigned(m.sync, m, Answer{}))
		}
	})
}
