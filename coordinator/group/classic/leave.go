package classic

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// Leaving names a member that is to leave: by its id, or by its instance id alone (G9).
type Leaving struct{ MemberID, InstanceID string }

// Leave takes a LeaveGroup request.
func (c *Conversation) Leave(now int64, t Ticket, list []Leaving) {
	bytes := 0
	for _, l := range list {
		bytes += len(l.MemberID) + len(l.InstanceID)
	}
	if !c.later(now, bytes, func(now int64) { c.leave(now, t, list) }) {
		c.do(Left{Ticket: t, Err: ErrBusy})
	}
}

func (c *Conversation) leave(now int64, t Ticket, list []Leaving) {
	answer := Left{Ticket: t}
	var gone []string
	for _, l := range list {
		id := l.MemberID
		if id == "" && l.InstanceID != "" { // an operator's wish, who need not know the id
			id = c.instances[l.InstanceID]
		}
		if _, pending := c.pending[id]; pending {
			delete(c.pending, id)
			answer.Codes = append(answer.Codes, group.OK)
			continue
		}
		m, code := c.find(id, l.InstanceID)
		if code == group.OK {
			c.remove(m, group.UnknownMemberID)
			gone = append(gone, m.ID)
		}
		answer.Codes = append(answer.Codes, code)
	}
	switch {
	case c.leaves(t, gone, &answer):
		return
	case len(gone) > 0:
		c.rebalance(now)
	default:
		c.maybeComplete(now)
	}
	if c.flight != nil && len(c.members) == 0 { // once it hears, the group is empty for everyone
		c.enqueue(0, func(int64) { c.do(answer) })
		return
	}
	c.do(answer)
}

// leaves has it written that members have left, if a coordinator after this one would find them among those of the generation, and answers
// once it is: it would wait for them, and with it everyone who joins, until their sessions are over. false: that is not so, or
// nobody stays.
func (c *Conversation) leaves(t Ticket, gone []string, answer *Left) bool {
	if len(gone) == 0 || len(c.members) == 0 {
		return false
	}
	d, ok := c.shard.Describe()
	if !ok || d.Kind != group.KindClassic || d.Phase != group.PhaseStable || d.Epoch != c.generation {
		return false
	}
	known, stay := 0, len(d.Classic)
	for _, m := range d.Classic {
		if slices.Contains(gone, m.ID) {
			known, stay = known+1, stay-1
		}
	}
	if known == 0 || stay == 0 {
		return false
	}
	slices.Sort(gone)
	cmd := &statev1.LeaveGeneration{Generation: c.generation, MemberIds: slices.Compact(gone)}
	c.propose(&statev1.GroupCommand{Command: &statev1.GroupCommand_LeaveGeneration{LeaveGeneration: cmd}}, func(now int64, _ group.Result, err error) {
		// Whatever became of it, to this coordinator they are gone. Stale: so they are to the log.
		answer.Err = err
		c.do(*answer)
		c.rebalance(now)
	})
	return true
}

// Heartbeat says that a member is there, and tells it whether it has to join again (G8). A refusal comes from the leader's memory: it
// is told only after proof that this broker still leads (R1).
func (c *Conversation) Heartbeat(now int64, id, instance string, generation int32) group.Code {
	m, code := c.find(id, instance)
	switch {
	case code != group.OK:
		return code
	case generation != c.generation:
		return group.IllegalGeneration
	}
	if !m.fresh {
		m.expires = now + int64(m.SessionTimeoutMS)
	}
	if c.phase == group.PhasePreparingRebalance {
		return group.RebalanceInProgress
	}
	return group.OK
}

// MayCommit says whether somebody may commit offsets, as far as the leader knows more than what is applied: who has left, and who is
// on the way to the next generation (G19). OK: it is for the applied state to decide. A member that commits is heard.
func (c *Conversation) MayCommit(now int64, by group.Committer, transactional bool) group.Code {
	anonymous := by.Epoch < 0 && by.MemberID == "" && by.InstanceID == ""
	switch {
	case len(c.members) == 0, anonymous && transactional:
		return group.OK
	case anonymous:
		return group.UnknownMemberID
	}
	m, code := c.find(by.MemberID, by.InstanceID)
	switch {
	case code != group.OK:
		return code
	case by.Epoch != c.generation:
		return group.IllegalGeneration
	case c.phase == group.PhaseCompletingRebalance && !transactional:
		return group.RebalanceInProgress
	}
	if !transactional && !m.fresh {
		m.expires = now + int64(m.SessionTimeoutMS)
	}
	return group.OK
}
