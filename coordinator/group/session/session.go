// Package session is what the leader of a shard remembers of a group's members between two of their messages: who is connected,
// what each was told last, whose time is up.
//
// It is a machine like package group, and beside it: pure, without clock and without I/O. Time comes in with every event, in ms of the
// leader's own time; what is to be done comes out as effects, in order. Nothing in here survives the leader, and nothing has to: what
// matters is proposed and applied (package group), and a new leader starts from that, with whole sessions.
//
// A [Conversation] belongs to one group of KIP-848 and is not safe for concurrent use.
package session

import (
	"math"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// Ticket names a client's stream. Each is used once.
type Ticket uint64

// NoTicket stands for no stream.
const NoTicket Ticket = 0

// Config says how long things take, in ms.
type Config struct {
	// SessionMS is for how long a member may be silent (G17).
	SessionMS int64
	// SettleMS is from a change of members, subscriptions or topics to new targets, so that those who come together are
	// dealt with together.
	SettleMS int64
	// RetryMS is the pause after a proposal that failed.
	RetryMS int64
}

// Shard is the applied state, as far as it is of the conversation's group.
type Shard interface {
	// Check says what would come of a command (group.State.Check).
	Check(*statev1.GroupCommand) group.Result
	// Member gives a member, nil if there is none.
	Member(id string) *group.Member
	// Epochs gives the group epoch and that of the targets.
	Epochs() (group, assignment int32)
}

// Effect is something that the owner of a conversation has to do.
type Effect interface{ effect() }

// Propose has a command applied. What came of it goes to Conversation.Proposed, with the key.
type Propose struct {
	Command *statev1.GroupCommand
	Key     Key
}

// Key names what a proposal is about: a member, by its id, or one of the following.
type Key string

// The keys of what is about no single member. No member has such an id.
const (
	KeyTargets Key = "\x00targets"
	KeyFence   Key = "\x00fence"
)

// Push tells a member what it has. It takes the place of what was pushed before and not sent yet.
type Push struct {
	Ticket Ticket
	Assignment
}

// Assignment is what a member has been told that it has.
type Assignment struct {
	// Version counts what was pushed on this stream. The member says it back when it has done what it was told.
	Version uint64
	// Epoch is the member's.
	Epoch int32
	// Partitions is all that it may read, sorted. What is missing must be given back.
	Partitions []group.Held
}

// End ends a stream.
type End struct {
	Ticket Ticket
	// Code is OK if the member has left, as it asked to; else why it is a member no more, or was not let in.
	Code group.Code
	// Confirm: the refusal is told only after proof that this broker still leads (R1).
	Confirm bool
	// Err is why a proposal failed. The member is, or may be, one still, and should connect again.
	Err error
}

// Compute has targets computed for the group as it is. They go to Conversation.Computed.
type Compute struct{}

func (Propose) effect() {}
func (Push) effect()    {}
func (End) effect()     {}
func (Compute) effect() {}

// Never is later than all times.
const Never int64 = math.MaxInt64

// member is one that is a member, or asks to be let in.
type member struct {
	id, instance string
	// ticket is its stream, if it has one. Nothing is pushed on it before it is open, which is when what the member said first has
	// been looked at: it does not know of the push.
	ticket Ticket
	open   bool
	// join is what it said when it joined; it is said again when there are targets.
	join *statev1.ConsumerHeartbeat
	// said waits until the proposal in flight is decided. One at a time, so that what a member says of itself is never about an
	// assignment that it has not seen.
	said   *Said
	flight bool
	// expires is when its session ends.
	expires int64
	// revoking is what it has to give back until revokeBy; Never: nothing.
	revoking []group.Held
	revokeBy int64
	// sent is the last that was pushed, acked the version that it has done.
	sent  Assignment
	acked uint64
}

// Said is a message of a member on its stream.
type Said struct {
	// Ack is the version of the newest push that the member has done.
	Ack uint64
	// Owned is what it reads. It counts only with the newest Ack, since anything else is about an assignment that is no more.
	// Nil: it does not say.
	Owned *statev1.OwnedPartitions
	// Subscription is a new one; nil: as before.
	Subscription *statev1.ConsumerSubscription
	// Leave: it leaves; Away: for a while, with an instance id.
	Leave, Away bool

	open *statev1.ConsumerHeartbeat
}

// Conversation is that with the members of one group.
type Conversation struct {
	config Config
	group  string
	shard  Shard

	members map[string]*member
	// order has the members' ids sorted: effects come in the same order, whenever.
	order   []string
	streams map[Ticket]string
	// computeAt is when targets are to be computed. working: they are being computed or proposed.
	computeAt int64
	working   bool
	// fencing: a fence is in flight. fenceAt: not before, after a failure.
	fencing bool
	fenceAt int64

	effects []Effect
}

// New begins a conversation with the members that a new leader finds, if any. Their sessions begin anew (G11).
func New(config Config, id string, shard Shard, found []*group.Member, now int64) *Conversation {
	c := &Conversation{config: config, group: id, shard: shard, members: make(map[string]*member), streams: make(map[Ticket]string), computeAt: Never}
	for _, m := range found {
		known := c.add(m.ID, m.InstanceID)
		known.expires = now + config.SessionMS
		c.settle(now, known)
	}
	if len(found) > 0 {
		c.computeAt = now + config.SettleMS // topics may have changed while nobody led
	}
	return c
}

// Found is told of the members that there are: one that came by a proposal whose outcome was not known is watched over from now on.
func (c *Conversation) Found(now int64, members []*group.Member) {
	for _, m := range members {
		if c.members[m.ID] == nil {
			known := c.add(m.ID, m.InstanceID)
			known.expires = now + c.config.SessionMS
			c.settle(now, known)
		}
	}
	c.lookAgain(now)
}

// MemberOf gives the member whose stream it is; empty: nobody's.
func (c *Conversation) MemberOf(t Ticket) string { return c.streams[t] }

// Effects gives what is to be done since the last call.
func (c *Conversation) Effects() []Effect {
	list := c.effects
	c.effects = nil
	return list
}

func (c *Conversation) do(e Effect) { c.effects = append(c.effects, e) }

// Idle says that there is nobody to talk to, and nothing to wait for.
func (c *Conversation) Idle() bool {
	return len(c.members) == 0 && len(c.streams) == 0 && !c.working && !c.fencing
}

// Next is when Tick is to be called at the latest.
func (c *Conversation) Next() int64 {
	next := Never
	if !c.working {
		next = c.computeAt
	}
	if c.fencing {
		return next
	}
	for _, m := range c.members {
		if !m.flight {
			next = min(next, max(min(m.expires, m.revokeBy), c.fenceAt))
		}
	}
	return next
}

// Tick does what is due.
func (c *Conversation) Tick(now int64) {
	if c.computeAt <= now && !c.working {
		c.computeAt, c.working = Never, true
		c.do(Compute{})
	}
	if !c.fencing && c.fenceAt <= now {
		c.fenceLate(now)
	}
}

// fenceLate removes members that have been silent for too long, or did not give back in time (G17). Some may be members no more, of whom
// nobody has heard: by a proposal that came to be applied after it had been given up.
func (c *Conversation) fenceLate(now int64) {
	cmd := &statev1.FenceMembers{}
	gone := false
	for _, id := range slices.Clone(c.order) {
		m := c.members[id]
		if m.flight || m.expires > now && m.revokeBy > now {
			continue
		}
		if known := c.shard.Member(id); known != nil {
			cmd.Members = append(cmd.Members, &statev1.FencedMember{MemberId: id, Version: known.Version})
			continue
		}
		c.end(m, End{Code: group.UnknownMemberID, Confirm: true})
		c.drop(m)
		gone = true
	}
	if gone {
		c.lookAgain(now)
	}
	if len(cmd.Members) > 0 {
		c.fencing = true
		c.do(Propose{Key: KeyFence, Command: &statev1.GroupCommand{GroupId: c.group, Command: &statev1.GroupCommand_Fence{Fence: cmd}}})
	}
}

// TopicsChanged is told that there are other topics, or other numbers of partitions.
func (c *Conversation) TopicsChanged(now int64) {
	if len(c.members) > 0 {
		c.computeAt = min(c.computeAt, now+c.config.SettleMS)
	}
}

// Computed takes targets; nil: they could not be computed.
func (c *Conversation) Computed(now int64, targets *statev1.AssignPartitions) {
	if targets == nil {
		c.working, c.computeAt = false, now+c.config.RetryMS
		return
	}
	cmd := &statev1.GroupCommand{GroupId: c.group, Command: &statev1.GroupCommand_Assign{Assign: targets}}
	if r := c.shard.Check(cmd); !r.Changed {
		c.targetsDone(now, r.Code)
		return
	}
	c.do(Propose{Key: KeyTargets, Command: cmd})
}

// targetsDone goes on after targets were set, or found set, or refused.
func (c *Conversation) targetsDone(now int64, code group.Code) {
	c.working = false
	switch code {
	case group.OK:
		c.lookAgain(now)
	case group.Stale:
		c.computeAt = now // the group has moved on: compute again
	default:
		c.computeAt = min(c.computeAt, now+10*c.config.RetryMS)
	}
}

// lookAgain sees to it that a group that has moved on gets targets.
func (c *Conversation) lookAgain(now int64) {
	if epoch, assignment := c.shard.Epochs(); epoch > assignment && len(c.members) > 0 {
		c.computeAt = min(c.computeAt, now+c.config.SettleMS)
	}
}

// Proposed is told what came of a proposal. err: it failed; it may have happened all the same.
func (c *Conversation) Proposed(now int64, key Key, r group.Result, err error) {
	switch key {
	case KeyTargets:
		if err != nil {
			c.working, c.computeAt = false, now+c.config.RetryMS
			return
		}
		c.targetsDone(now, r.Code)
		c.progress(now, true)
	case KeyFence:
		c.fencing = false
		if err != nil {
			c.fenceAt = now + c.config.RetryMS
			return
		}
		c.dropGone(group.UnknownMemberID)
		c.lookAgain(now)
		c.progress(now, false)
	default:
		c.heard(now, c.members[string(key)], r, err)
	}
}

// add makes a member known.
func (c *Conversation) add(id, instance string) *member {
	m := &member{id: id, instance: instance, expires: Never, revokeBy: Never}
	c.members[id] = m
	at, _ := slices.BinarySearch(c.order, id)
	c.order = slices.Insert(c.order, at, id)
	return m
}

// drop forgets a member. Its stream, if it has one, was ended or goes on by itself.
func (c *Conversation) drop(m *member) {
	delete(c.streams, m.ticket)
	delete(c.members, m.id)
	if at, ok := slices.BinarySearch(c.order, m.id); ok {
		c.order = slices.Delete(c.order, at, at+1)
	}
}

// dropGone ends the streams of those who are members no more.
func (c *Conversation) dropGone(code group.Code) {
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; !m.flight && m.said == nil && c.shard.Member(id) == nil {
			c.end(m, End{Code: code})
			c.drop(m)
		}
	}
}

// end ends a member's stream, if it has one.
func (c *Conversation) end(m *member, e End) {
	if m.ticket == NoTicket {
		return
	}
	e.Ticket = m.ticket
	delete(c.streams, m.ticket)
	m.ticket = NoTicket
	c.do(e)
}
