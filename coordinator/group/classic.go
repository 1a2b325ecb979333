package group

import (
	"maps"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// ConsumerProtocolType is the type of protocol of consumers: the only one whose metadata is looked into, for the topics
// (G10).
const ConsumerProtocolType = "consumer"

// classic is a group of the classic protocol, with its generation in group.epoch. It belongs to its group and is copied
// with it. What members do between two generations is known to the leader alone (G11).
type classic struct {
	// protocolType stays when the group is empty; protocol and leader are those of the generation.
	protocolType, protocol, leader string
	members                        map[string]*ClassicMember
	// instances has the member for each instance id.
	instances map[string]string
	// assigned: the generation's members have their assignments (G7).
	assigned bool
	// left: members have left since then, and everyone is to join again (G9).
	left bool
	// beganMS is when the generation began.
	beganMS int64
	// topics are those that members are subscribed to, sorted, as far as they are known: see subscribed.
	topics      []string
	topicsKnown bool
}

// ClassicMember is a member of a generation. It never changes once it is in a State: a change replaces it. What it
// holds is shared and must not be written to.
type ClassicMember struct {
	ID string
	// InstanceID outlives the process; empty: a dynamic member.
	InstanceID string
	Client     Client
	// SessionTimeoutMS is for how long it may be silent, RebalanceTimeoutMS how long it may take to join again, or to ask for its
	// assignment.
	SessionTimeoutMS, RebalanceTimeoutMS int32
	// Metadata is what it says of itself under the group's protocol, Assignment what the leader gave it.
	Metadata, Assignment []byte
}

// noClassic is a group without members and without a protocol. It is never written to.
var noClassic = newClassic()

func newClassic() *classic {
	return &classic{members: make(map[string]*ClassicMember), instances: make(map[string]string)}
}

func (c *classic) clone() *classic {
	if c == nil {
		return nil
	}
	n := *c
	n.members, n.instances = maps.Clone(c.members), maps.Clone(c.instances)
	return &n
}

// What a group of the classic protocol counts in MaxBytes beside what clients wrote.
const (
	classicBytes       = 64
	classicMemberBytes = 128
)

func (c *classic) bytes() int64 {
	if c == nil {
		return 0
	}
	n := int64(classicBytes + len(c.protocolType) + len(c.protocol) + len(c.leader))
	for _, m := range c.members {
		n += m.bytes()
	}
	return n
}

func (m *ClassicMember) bytes() int64 {
	return int64(classicMemberBytes + len(m.ID) + len(m.InstanceID) + len(m.Client.ID) + len(m.Client.Address) + len(m.Metadata) + len(m.Assignment))
}

// classics is the group as one of the classic protocol, for reading only.
func (g *group) classics() *classic {
	if g == nil || g.classic == nil {
		return noClassic
	}
	return g.classic
}

// sorted lists the members by id.
func (c *classic) sorted() []*ClassicMember {
	return slices.SortedFunc(maps.Values(c.members), func(a, b *ClassicMember) int { return strings.Compare(a.ID, b.ID) })
}

func classicMemberOf(c *statev1.ClassicMember) *ClassicMember {
	return &ClassicMember{
		ID: c.GetMemberId(), InstanceID: c.GetInstanceId(), Client: clientOf(c.GetClient()),
		SessionTimeoutMS: c.GetSessionTimeoutMs(), RebalanceTimeoutMS: c.GetRebalanceTimeoutMs(), Metadata: c.GetMetadata(),
	}
}

// ClassicMemberToProto encodes a member as it joins, without its assignment.
func ClassicMemberToProto(m *ClassicMember) *statev1.ClassicMember {
	return &statev1.ClassicMember{
		MemberId: m.ID, InstanceId: m.InstanceID, Client: ClientToProto(m.Client),
		SessionTimeoutMs: m.SessionTimeoutMS, RebalanceTimeoutMs: m.RebalanceTimeoutMS, Metadata: m.Metadata,
	}
}

// find gives a member as it names itself (G7, G8, G12).
func (c *classic) find(id, instance string) (*ClassicMember, Code) {
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

// mayCommitClassic says whether a member may commit (G19).
func (g *group) mayCommitClassic(by Committer, transactional bool) Code {
	c := g.classic
	if _, code := c.find(by.MemberID, by.InstanceID); code != OK {
		return code
	}
	switch {
	case by.Epoch != g.epoch:
		return IllegalGeneration
	case !transactional && !c.assigned:
		return RebalanceInProgress
	}
	return OK
}

// subscribes says whether a member reads the topic. Of consumers whose metadata cannot be read it is said of every topic.
func (c *classic) subscribes(topic string) bool {
	if !c.topicsKnown {
		return c.protocolType == ConsumerProtocolType && len(c.members) > 0
	}
	_, ok := slices.BinarySearch(c.topics, topic)
	return ok
}

// since is when an offset of the group began to age: not before the group was empty (G29).
func (c *classic) since(o *Offset) int64 {
	if c.protocolType == "" || len(c.members) > 0 {
		return o.CommittedMS
	}
	return max(o.CommittedMS, c.beganMS)
}

// retains says that a live group keeps its offsets whatever their age: only consumers that have their assignments let go
// of those that nobody is subscribed to (G29).
func (c *classic) retains() bool { return len(c.members) > 0 && !(c.topicsKnown && c.assigned) }
