package classic

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/oncelog/oncelog/coordinator/group"
)

// Join asks to be a member, or to be one of the next generation (JoinGroup).
type Join struct {
	// MemberID is empty for a client that has none.
	MemberID, InstanceID string
	// NewID is the member's if it gets a new one. No member ever had it.
	NewID        string
	Client       group.Client
	ProtocolType string
	// Protocols are those that it speaks, the one that it likes best first.
	Protocols                            []Protocol
	SessionTimeoutMS, RebalanceTimeoutMS int32
	// MustKnowID: it has to join again with the id that it is given (KIP-394). MaySkip: it knows SkipAssignment (KIP-814).
	MustKnowID, MaySkip bool
}

// Protocol is a way to assign that a member speaks, and what it says of itself under it. Both are opaque (G10).
type Protocol struct {
	Name     string
	Metadata []byte
}

// MaxProtocols is how many protocols a member may speak.
const MaxProtocols = 32

// maxMemoryBytes is what all members of a group may write, under all of their protocols.
const maxMemoryBytes = 4 * group.MaxGenerationBytes

// Join takes a JoinGroup request. The answer may have to wait until everyone has joined, or time is up.
func (c *Conversation) Join(now int64, t Ticket, j Join) {
	if !c.later(now, j.bytes(), func(now int64) { c.join(now, t, j) }) {
		c.do(Joined{Ticket: t, Answer: Answer{Err: ErrBusy}})
	}
}

// bytes is what the request holds in memory.
func (j *Join) bytes() int {
	n := len(j.MemberID) + len(j.InstanceID) + len(j.NewID) + len(j.Client.ID) + len(j.Client.Address) + len(j.ProtocolType)
	for _, p := range j.Protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	return n
}

func (c *Conversation) join(now int64, t Ticket, j Join) {
	refuse := func(code group.Code) {
		c.do(Joined{Ticket: t, Answer: Answer{Code: code, Confirm: true}, MemberID: j.MemberID})
	}
	if err := j.check(); err != nil {
		c.do(Joined{Ticket: t, Answer: Answer{Err: err}, MemberID: j.MemberID})
		return
	}
	m, code := c.find(j.MemberID, j.InstanceID)
	_, pending := c.pending[j.MemberID]
	switch {
	case j.SessionTimeoutMS < c.config.MinSessionMS || j.SessionTimeoutMS > c.config.MaxSessionMS:
		refuse(group.InvalidSessionTimeout)
	case !c.isOurs():
		refuse(group.InconsistentGroupProtocol)
	case !c.accepts(j):
		c.turnAway(now, t, j)
	case j.MemberID != "" && len(c.members) == 0 && len(c.pending) == 0:
		refuse(group.UnknownMemberID)
	case !c.speaksWith(j):
		refuse(group.InconsistentGroupProtocol)
	case j.MemberID == "":
		c.newcomer(now, t, j)
	case pending && j.InstanceID == "":
		c.add(now, t, j, j.MemberID)
	case code != group.OK:
		refuse(code)
	default:
		c.again(now, t, m, j)
	}
}

// turnAway refuses a member that there is no room for. One that was in the group leaves partitions behind: the others share them (G9).
func (c *Conversation) turnAway(now int64, t Ticket, j Join) {
	m := c.members[j.MemberID]
	if m != nil {
		c.remove(m, group.GroupMaxSizeReached)
	}
	delete(c.pending, j.MemberID)
	c.do(Joined{Ticket: t, Answer: Answer{Code: group.GroupMaxSizeReached, Confirm: true}, MemberID: j.MemberID})
	if m != nil {
		c.rebalance(now)
		return
	}
	c.maybeComplete(now)
}

// check refuses what cannot be written (group.ErrInvalidCommand).
func (j *Join) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", group.ErrInvalidCommand, fmt.Sprintf(format, args...))
	}
	seen := make(map[string]bool)
	for _, p := range j.Protocols {
		switch {
		case len(p.Name) > group.MaxTextLength || p.Name == "":
			return bad("protocol name of %d bytes, 1 to %d are allowed", len(p.Name), group.MaxTextLength)
		case len(p.Metadata) > group.MaxOpaque:
			return bad("metadata of %d bytes, at most %d are allowed", len(p.Metadata), group.MaxOpaque)
		case seen[p.Name]:
			return bad("protocol %q twice", p.Name)
		}
		seen[p.Name] = true
	}
	switch {
	case len(j.Protocols) > MaxProtocols:
		return bad("%d protocols, at most %d are allowed", len(j.Protocols), MaxProtocols)
	case len(j.ProtocolType) > group.MaxTextLength:
		return bad("protocol type of %d bytes, at most %d are allowed", len(j.ProtocolType), group.MaxTextLength)
	case len(j.MemberID) > group.MaxIDLength || len(j.NewID) > group.MaxIDLength || len(j.InstanceID) > group.MaxIDLength:
		return bad("member or instance id of more than %d bytes", group.MaxIDLength)
	case len(j.Client.ID) > group.MaxTextLength || len(j.Client.Address) > group.MaxTextLength:
		return bad("client id or address of more than %d bytes", group.MaxTextLength)
	case j.RebalanceTimeoutMS <= 0:
		return bad("a rebalance timeout of %d ms", j.RebalanceTimeoutMS)
	}
	return nil
}

// isOurs: no member of KIP-848 has the group (G18).
func (c *Conversation) isOurs() bool {
	d, ok := c.shard.Summarize()
	return !ok || d.Kind != group.KindConsumer || d.Phase == group.PhaseEmpty
}

// accepts says whether there is room (G3). While everyone is to join again those count who have: the last ones to come are too
// many.
func (c *Conversation) accepts(j Join) bool {
	m := c.members[j.MemberID]
	switch {
	case !c.fits(&j):
		return false
	case j.MemberID == "" && j.InstanceID == "" && j.MustKnowID && len(c.pending) >= c.config.MaxMembers:
		return false
	case c.phase == group.PhaseEmpty:
		return true
	case c.phase == group.PhasePreparingRebalance:
		return m != nil && m.join != noTicket || c.joined() < c.config.MaxMembers || c.replaces(j)
	}
	return m != nil || len(c.members) < c.config.MaxMembers || c.replaces(j)
}

// replaces says that a client takes the place of a member (G12), so that no room is needed.
func (c *Conversation) replaces(j Join) bool {
	return j.MemberID == "" && j.InstanceID != "" && c.instances[j.InstanceID] != ""
}

// fits says whether what a member says of itself fits beside what the others do: into memory, and into one generation under
// whatever protocol.
func (c *Conversation) fits(j *Join) bool {
	one, all := sizes(&group.ClassicMember{ID: j.NewID, InstanceID: j.InstanceID, Client: j.Client}, j.Protocols)
	c.each(func(m *member) {
		if m.ID != j.MemberID && m.ID != c.instances[j.InstanceID] {
			longest, sum := sizes(&m.ClassicMember, m.protocols)
			one, all = one+longest, all+sum
		}
	})
	return one <= group.MaxGenerationBytes && all <= maxMemoryBytes
}

// sizes counts a member under the protocol under which it says most, and under all.
func sizes(m *group.ClassicMember, protocols []Protocol) (longest, sum int) {
	base := *m
	base.Metadata = nil
	for _, p := range protocols {
		longest = max(longest, len(p.Metadata))
		sum += len(p.Name) + len(p.Metadata)
	}
	n := group.GenerationBytes(&base)
	return n + longest, n + sum
}

// speaksWith says whether the members and the one who joins have a protocol in common (G3).
func (c *Conversation) speaksWith(j Join) bool {
	if len(j.Protocols) == 0 || j.ProtocolType == "" {
		return false
	}
	if c.phase == group.PhaseEmpty {
		return true
	}
	return j.ProtocolType == c.protocolType && slices.ContainsFunc(j.Protocols, func(p Protocol) bool { return c.allSpeak(p.Name) })
}

func (c *Conversation) allSpeak(protocol string) bool {
	for _, m := range c.members {
		if !m.speaks(protocol) {
			return false
		}
	}
	return true
}

func (m *member) speaks(protocol string) bool {
	return slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == protocol })
}

func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

// newcomer is for clients without a member id (G2, G12).
func (c *Conversation) newcomer(now int64, t Ticket, j Join) {
	switch old := c.members[c.instances[j.InstanceID]]; {
	case j.InstanceID != "" && old != nil:
		c.replace(now, t, old, j)
	case j.InstanceID == "" && j.MustKnowID:
		c.pending[j.NewID] = now + int64(j.SessionTimeoutMS)
		c.do(Joined{Ticket: t, Answer: Answer{Code: group.MemberIDRequired}, MemberID: j.NewID})
	default:
		c.add(now, t, j, j.NewID)
	}
}

// add lets a new member join. Everyone is to join again then.
func (c *Conversation) add(now int64, t Ticket, j Join, id string) {
	if len(c.members) == 0 {
		c.protocolType, c.leader = j.ProtocolType, id
	}
	m := &member{ClassicMember: group.ClassicMember{ID: id, InstanceID: j.InstanceID, Client: j.Client}, fresh: true, join: t, expires: now + c.config.NewMemberMS}
	m.update(j)
	c.put(m)
	c.more = true
	c.rebalance(now)
}

func (m *member) update(j Join) {
	m.protocols, m.SessionTimeoutMS, m.RebalanceTimeoutMS = j.Protocols, j.SessionTimeoutMS, j.RebalanceTimeoutMS
}

// again is for members that join again (G6).
func (c *Conversation) again(now int64, t Ticket, m *member, j Join) {
	same := slices.EqualFunc(m.protocols, j.Protocols, func(a, b Protocol) bool { return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata) })
	switch {
	case c.phase == group.PhaseCompletingRebalance && same, // it has not got the answer to its last Join
		c.phase == group.PhaseStable && same && c.leader != m.ID:
		c.do(c.current(t, m, Answer{Confirm: true}))
		return
	}
	c.answerJoin(m, Joined{Answer: Answer{Code: group.RebalanceInProgress}}) // a request that it has given up
	m.join = t
	m.update(j)
	c.rebalance(now)
}

// current is the answer to a member of the generation.
func (c *Conversation) current(t Ticket, m *member, a Answer) Joined {
	out := Joined{Ticket: t, Answer: a, MemberID: m.ID, Generation: c.generation, ProtocolType: c.protocolType, Protocol: c.protocol, Leader: c.leader}
	if c.leader == m.ID {
		out.Members = c.forLeader()
	}
	return out
}

func (c *Conversation) forLeader() (list []JoinedMember) {
	c.each(func(m *member) { list = append(list, JoinedMember{m.ID, m.InstanceID, m.metadata(c.protocol)}) })
	return list
}
