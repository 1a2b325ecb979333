// Package classic is what the leader of a shard remembers of a group of the classic protocol between two of its generations: who
// has joined, who waits for whom, whose time is up (G1 to G13).
//
// It is a machine like package group, and beside it: pure, without clock and without I/O. Time comes in with every event, in ms of the
// leader's own time, and so do the ids that new members get; what is to be done comes out as effects, in order. An answer that has to
// wait is an effect of a later event. Nothing in here survives the leader: what matters is proposed and applied (package group),
// and a new leader starts from the last generation, with whole sessions (G11).
//
// A [Conversation] belongs to one group and is not safe for concurrent use. DESIGN.md of package group tells what is in the log.
package classic

import (
	"errors"
	"math"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// Ticket names a request that waits for its answer. Each is used once.
type Ticket uint64

// noTicket stands for nobody who waits.
const noTicket Ticket = 0

// Config says how long things take, in ms, and how much a group may hold.
type Config struct {
	// MinSessionMS and MaxSessionMS bound what members may ask for (group.min.session.timeout.ms, group.max.session.timeout.ms).
	MinSessionMS, MaxSessionMS int32
	// InitialDelayMS is for how long the first who joins waits for others (group.initial.rebalance.delay.ms).
	InitialDelayMS int64
	// NewMemberMS is for how long a member that has just joined may wait without being heard: it cannot send heartbeats yet (G4).
	NewMemberMS int64
	// MaxMembers is how many members a group may have, and how many may have been given an id without having joined
	// (group.max.size).
	MaxMembers int
	// RetryMS is the pause after a proposal that failed.
	RetryMS int64
}

// DefaultConfig has Kafka's defaults, with a bound on members.
func DefaultConfig() Config {
	return Config{MinSessionMS: 6_000, MaxSessionMS: 1_800_000, InitialDelayMS: 3_000, NewMemberMS: 300_000, MaxMembers: 1_000, RetryMS: 100}
}

// Shard is the applied state, as far as it is of the conversation's group.
type Shard interface {
	// Describe tells what is applied (group.State.Describe), Summarize the same without members.
	Describe() (group.Description, bool)
	Summarize() (group.Description, bool)
}

// ErrBusy refuses a request because too many wait for what is being written.
var ErrBusy = errors.New("too many requests of the group are waiting")

// Effect is something that the owner of a conversation has to do.
type Effect interface{ effect() }

// Propose has a command applied. What came of it goes to Conversation.Proposed. There is never more than one.
type Propose struct{ Command *statev1.GroupCommand }

// Joined answers a Join.
type Joined struct {
	Ticket Ticket
	Answer
	// MemberID is the member's, also beside MEMBER_ID_REQUIRED.
	MemberID string
	// Generation, the protocol and the leader are set if Code is OK.
	Generation                     int32
	ProtocolType, Protocol, Leader string
	// Members are all, for the leader alone: it assigns. SkipAssignment: it leads, and everyone has an assignment already
	// (KIP-814).
	Members        []JoinedMember
	SkipAssignment bool
}

// JoinedMember is a member as the leader of a generation sees it.
type JoinedMember struct {
	ID, InstanceID string
	Metadata       []byte
}

// Synced answers a Sync.
type Synced struct {
	Ticket Ticket
	Answer
	ProtocolType, Protocol string
	Assignment             []byte
}

// Left answers a Leave.
type Left struct {
	Ticket Ticket
	// Codes are those of the members, in the order of the request.
	Codes []group.Code
	Err   error
}

// Answer is what all answers have.
type Answer struct {
	Code group.Code
	// Err: the request cannot be (group.ErrInvalidCommand), or what it waited for could not be written, though it may have been.
	Err error
	// Confirm: the answer comes from the leader's memory, and is told only after proof that this broker still leads (R1).
	Confirm bool
}

func (Propose) effect() {}
func (Joined) effect()  {}
func (Synced) effect()  {}
func (Left) effect()    {}

// Never is later than all times.
const Never int64 = math.MaxInt64

// member is one that has joined, or has been in the last generation.
type member struct {
	group.ClassicMember
	// protocols are those that it speaks, the one that it likes best first. One that a new leader found speaks the generation's.
	protocols []Protocol
	// join and sync are its requests that wait. skip: the one that waits to join knows KIP-814.
	join, sync Ticket
	// fresh: it does not know its id yet, so nobody will hear of it while it waits.
	fresh bool
	// synced: it has asked for its assignment in this generation.
	synced bool
	// expires is when its session ends. A request that waits keeps it alive, unless it is fresh.
	expires int64
}

func (m *member) waits() bool { return m.join != noTicket || m.sync != noTicket }

// Conversation is that with the members of one group.
type Conversation struct {
	config Config
	group  string
	shard  Shard

	phase group.Phase
	// initial: the rebalance began with an empty group, and waits for those who may come (G4). delay is the pause that ends at joinBy, left
	// what may be added to it, more: somebody has come since it began.
	initial     bool
	delay, left int64
	more        bool
	// joinBy and syncBy are when those who have not joined, or have not asked for their assignment, are dropped.
	joinBy, syncBy                 int64
	generation                     int32
	protocolType, protocol, leader string

	members map[string]*member
	// order has the members' ids, the one that came first at the beginning.
	order     []string
	instances map[string]string
	// pending are ids that were given to clients who have to join with them, until when (KIP-394).
	pending map[string]int64

	// flight is called with what came of the proposal in flight; nil: there is none. queue waits for it, queuedBytes is what it
	// holds in memory.
	flight      func(now int64, r group.Result, err error)
	queue       []queued
	queuedBytes int64

	effects []Effect
}

// queued is a request that waits for a proposal, and what it holds in memory.
type queued struct {
	request func(now int64)
	bytes   int64
}

// maxQueuedBytes is what the requests of a group that wait for a proposal may hold: all members can join again at once.
const maxQueuedBytes = maxMemoryBytes

// New begins a conversation with what a new leader finds. Sessions begin anew, and a rebalance that was not over does, too (G11).
func New(config Config, id string, shard Shard, now int64) *Conversation {
	c := &Conversation{config: config, group: id, shard: shard}
	c.load(now)
	return c
}

// load forgets everything but what is applied.
func (c *Conversation) load(now int64) {
	c.phase, c.initial, c.joinBy, c.syncBy = group.PhaseEmpty, false, Never, Never
	c.members, c.order, c.instances, c.pending = make(map[string]*member), nil, make(map[string]string), make(map[string]int64)
	c.generation, c.protocolType, c.protocol, c.leader = 0, "", "", ""
	d, ok := c.shard.Describe()
	if !ok {
		return
	}
	c.generation = d.Epoch
	if d.Kind != group.KindClassic {
		return
	}
	c.phase, c.protocolType, c.protocol, c.leader = d.Phase, d.ProtocolType, d.Protocol, d.Leader
	for _, m := range d.Classic {
		known := &member{ClassicMember: *m, protocols: []Protocol{{d.Protocol, m.Metadata}}, synced: d.Phase == group.PhaseStable, expires: now + int64(m.SessionTimeoutMS)}
		c.put(known)
	}
	switch {
	case c.phase == group.PhaseCompletingRebalance:
		c.syncBy = now + c.rebalanceTimeout()
	case d.Left: // the rebalance that this was the beginning of is redone (G11)
		c.phase, c.joinBy = group.PhasePreparingRebalance, now+c.rebalanceTimeout()
	}
}

// Effects gives what is to be done since the last call.
func (c *Conversation) Effects() []Effect {
	list := c.effects
	c.effects = nil
	return list
}

func (c *Conversation) do(e Effect) { c.effects = append(c.effects, e) }

// Idle says that there is nobody to talk to: the conversation may be forgotten, and begun again when somebody comes.
func (c *Conversation) Idle() bool {
	return c.phase == group.PhaseEmpty && len(c.members) == 0 && len(c.pending) == 0 && c.flight == nil
}

// Live says that the group has members, or will have: it must not be deleted, nor change its protocol.
func (c *Conversation) Live() bool { return len(c.members) > 0 || c.flight != nil }

// Settled says that the members are those of the applied generation, with their assignments.
func (c *Conversation) Settled() bool { return c.phase == group.PhaseStable && c.flight == nil }

// Waiting counts the requests that wait for an answer.
func (c *Conversation) Waiting() int {
	n := len(c.queue)
	for _, m := range c.members {
		if m.waits() {
			n++
		}
	}
	return n
}

// pendingBytes is what an id counts that was given to a client, beside its length.
const pendingBytes = 64

// Bytes is what the members hold in memory, those who are to be members, and those requests that wait for a proposal.
func (c *Conversation) Bytes() int64 {
	n := int(c.queuedBytes)
	for id := range c.pending {
		n += pendingBytes + len(id)
	}
	for _, m := range c.members {
		_, sum := sizes(&m.ClassicMember, m.protocols)
		n += sum + len(m.Assignment)
	}
	return int64(n)
}

// Next is when Tick is to be called at the latest.
func (c *Conversation) Next() int64 {
	if c.flight != nil {
		return Never
	}
	next := min(c.joinBy, c.syncBy)
	for _, until := range c.pending {
		next = min(next, until)
	}
	for _, m := range c.members {
		if m.fresh || !m.waits() {
			next = min(next, m.expires)
		}
	}
	return next
}

// Tick does what is due.
func (c *Conversation) Tick(now int64) {
	if c.flight != nil {
		return
	}
	gone := 0
	for id, until := range c.pending {
		if until <= now {
			delete(c.pending, id)
		}
	}
	for _, id := range slices.Clone(c.order) {
		if m := c.members[id]; m.expires <= now && (m.fresh || !m.waits()) {
			c.remove(m, group.UnknownMemberID)
			gone++
		}
	}
	if gone > 0 {
		c.rebalance(now)
	}
	c.maybeComplete(now)
	if c.flight == nil && c.joinBy <= now {
		c.joinIsOver(now)
	}
	if c.flight == nil && c.syncBy <= now {
		c.syncIsOver(now)
	}
}

// Deciding says that a proposal is in flight, for which requests wait.
func (c *Conversation) Deciding() bool { return c.flight != nil }

// later runs a request, of so many bytes, at once, or when the proposal in flight is decided. False: too many wait already, or
// hold too much.
func (c *Conversation) later(now int64, bytes int, request func(now int64)) bool {
	switch {
	case c.flight == nil:
		request(now)
	case len(c.queue) >= 2*c.config.MaxMembers || c.queuedBytes+int64(bytes) > maxQueuedBytes:
		return false
	default:
		c.enqueue(bytes, request)
	}
	return true
}

func (c *Conversation) enqueue(bytes int, request func(now int64)) {
	c.queue = append(c.queue, queued{request, int64(bytes)})
	c.queuedBytes += int64(bytes)
}

// propose has a command applied. Until then nothing else is decided.
func (c *Conversation) propose(cmd *statev1.GroupCommand, then func(now int64, r group.Result, err error)) {
	c.flight = then
	cmd.GroupId = c.group
	c.do(Propose{cmd})
}

// Proposed is told what came of the proposal. err: it failed; it may have happened all the same.
func (c *Conversation) Proposed(now int64, r group.Result, err error) {
	then := c.flight
	if then == nil {
		return
	}
	c.flight = nil
	then(now, r, err)
	for c.flight == nil && len(c.queue) > 0 {
		next := c.queue[0]
		c.queue[0] = queued{} // the list may keep its place
		c.queue = c.queue[1:]
		c.queuedBytes -= next.bytes
		next.request(now)
	}
}

// put makes a member known. One that has been known under its id is replaced.
func (c *Conversation) put(m *member) {
	if c.members[m.ID] == nil {
		c.order = append(c.order, m.ID)
	}
	c.members[m.ID] = m
	if m.InstanceID != "" {
		c.instances[m.InstanceID] = m.ID
	}
	delete(c.pending, m.ID)
}

// remove forgets a member, and tells it so if it waits.
func (c *Conversation) remove(m *member, code group.Code) {
	c.answerJoin(m, Joined{Answer: Answer{Code: code}})
	c.answerSync(m, Synced{Answer: Answer{Code: code}})
	delete(c.members, m.ID)
	c.order = slices.DeleteFunc(c.order, func(id string) bool { return id == m.ID })
	if m.InstanceID != "" {
		delete(c.instances, m.InstanceID)
	}
	if c.leader == m.ID {
		if c.leader = ""; len(c.order) > 0 {
			c.leader = c.order[0]
		}
	}
}

// answerJoin answers a member that waits to join, if it does.
func (c *Conversation) answerJoin(m *member, a Joined) {
	if m.join == noTicket {
		return
	}
	a.Ticket, m.join = m.join, noTicket
	c.do(a)
}

func (c *Conversation) answerSync(m *member, a Synced) {
	if m.sync == noTicket {
		return
	}
	a.Ticket, m.sync = m.sync, noTicket
	c.do(a)
}

// each calls f for all members, the one that came first at first.
func (c *Conversation) each(f func(m *member)) {
	for _, id := range c.order {
		f(c.members[id])
	}
}

// find gives a member as it names itself (G7, G8, G12).
func (c *Conversation) find(id, instance string) (*member, group.Code) {
	if instance != "" {
		holder, ok := c.instances[instance]
		switch {
		case !ok:
			return nil, group.UnknownMemberID
		case holder != id:
			return nil, group.FencedInstanceID
		}
	}
	if m := c.members[id]; m != nil {
		return m, group.OK
	}
	return nil, group.UnknownMemberID
}

// rebalanceTimeout is the longest that a member asks for.
func (c *Conversation) rebalanceTimeout() int64 {
	longest := int64(0)
	for _, m := range c.members {
		longest = max(longest, int64(m.RebalanceTimeoutMS))
	}
	return longest
}

// Describe tells of the group as it is now: what is applied, and who is on the way to the next generation. The protocol and the members'
// metadata is known only while the group is stable.
func (c *Conversation) Describe() (group.Description, bool) {
	d, ok := c.shard.Describe()
	if len(c.members) == 0 && c.phase == group.PhaseEmpty {
		return d, ok
	}
	d.ID, d.Kind, d.Phase, d.ProtocolType, d.Protocol, d.Leader, d.Classic = c.group, group.KindClassic, c.phase, c.protocolType, c.protocol, c.leader, nil
	if c.phase != group.PhaseStable {
		d.Protocol, d.Leader = "", ""
	}
	c.each(func(m *member) {
		out := m.ClassicMember
		if out.Metadata = m.metadata(d.Protocol); d.Phase != group.PhaseStable {
			out.Assignment = nil
		}
		d.Classic = append(d.Classic, &out)
	})
	slices.SortFunc(d.Classic, func(a, b *group.ClassicMember) int { return strings.Compare(a.ID, b.ID) })
	return d, true
}
