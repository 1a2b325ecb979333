package group

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// mClassic is a group of the classic protocol as the model has it. It is never changed, only replaced.
type mClassic struct {
	generation                     int32
	protocolType, protocol, leader string
	assigned, left                 bool
	began                          int64
	members                        map[string]mClassicMember
}

type mClassicMember struct {
	instance, client, address string
	session, rebalance        int32
	metadata, assignment      string
}

func (c mClassic) equal(d mClassic) bool {
	same := maps.Equal(c.members, d.members)
	c.members, d.members = nil, nil
	return same && fmt.Sprint(c) == fmt.Sprint(d)
}

func mMemberOf(m *statev1.ClassicMember) mClassicMember {
	return mClassicMember{instance: m.InstanceId, client: m.GetClient().GetClientId(), address: m.GetClient().GetAddress(),
		session: m.SessionTimeoutMs, rebalance: m.RebalanceTimeoutMs, metadata: string(m.Metadata)}
}

func (m *model) begin(now int64, group string, c *statev1.BeginGeneration) mResult {
	was, known := m.classic[group]
	if c.Previous != was.generation || len(c.Members) == 0 && !known {
		return mResult{code: "STALE"}
	}
	next := mClassic{was.generation + 1, c.ProtocolType, c.Protocol, c.Leader, false, false, now, map[string]mClassicMember{}}
	for _, member := range c.Members {
		next.members[member.MemberId] = mMemberOf(member)
	}
	return m.become(group, next)
}

func (m *model) give(group string, c *statev1.AssignGeneration) mResult {
	next := m.classic[group]
	if next.generation != c.Generation || next.assigned || len(next.members) == 0 {
		return mResult{code: "STALE"}
	}
	next.assigned, next.members = true, maps.Clone(next.members)
	for _, a := range c.Assignments {
		if member, ok := next.members[a.MemberId]; ok {
			member.assignment = string(a.Assignment)
			next.members[a.MemberId] = member
		}
	}
	return m.become(group, next)
}

func (m *model) replace(group string, c *statev1.ReplaceClassicMember) mResult {
	next := m.classic[group]
	old, ok := next.members[c.OldId]
	if _, taken := next.members[c.Member.MemberId]; !ok || taken || next.generation != c.Generation || old.instance != c.Member.InstanceId {
		return mResult{code: "STALE"}
	}
	next.members = maps.Clone(next.members)
	delete(next.members, c.OldId)
	member := mMemberOf(c.Member)
	member.assignment = old.assignment
	next.members[c.Member.MemberId] = member
	if next.leader == c.OldId {
		next.leader = c.Member.MemberId
	}
	return m.become(group, next)
}

func (m *model) leave(group string, c *statev1.LeaveGeneration) mResult {
	next := m.classic[group]
	if next.generation != c.Generation || !next.assigned {
		return mResult{code: "STALE"}
	}
	stay := map[string]mClassicMember{}
	for id, member := range next.members {
		if !slices.Contains(c.MemberIds, id) {
			stay[id] = member
		}
	}
	if len(stay) == 0 || len(stay) == len(next.members) {
		return mResult{code: "STALE"}
	}
	if _, ok := stay[next.leader]; !ok {
		next.leader = slices.Min(slices.Collect(maps.Keys(stay)))
	}
	next.left, next.members = true, stay
	return m.become(group, next)
}

func (m *model) become(group string, next mClassic) mResult {
	do := func(m *model) { m.groups[group], m.classic[group] = true, next }
	code := m.fits(do)
	if n := len(next.members); n > m.limits.MaxMembers && n > len(m.classic[group].members) && code != "TOO_MANY_GROUPS" {
		code = "GROUP_MAX_SIZE_REACHED"
	}
	if code == "NONE" {
		do(m)
	}
	return mResult{code: code}
}

func (c mClassic) bytes() int64 {
	n := int64(64 + len(c.protocolType) + len(c.protocol) + len(c.leader))
	for id, m := range c.members {
		n += int64(128 + len(id) + len(m.instance) + len(m.client) + len(m.address) + len(m.metadata) + len(m.assignment))
	}
	return n
}

// mayCommitClassic is G19 and G22.
func (c mClassic) mayCommit(by *statev1.Committer, transactional bool) string {
	if by.InstanceId != "" {
		holder := ""
		for id, m := range c.members {
			if m.instance == by.InstanceId {
				holder = id
			}
		}
		if holder != "" && holder != by.MemberId {
			return "FENCED_INSTANCE_ID"
		}
		if holder == "" {
			return "UNKNOWN_MEMBER_ID"
		}
	}
	_, known := c.members[by.MemberId]
	switch {
	case !known:
		return "UNKNOWN_MEMBER_ID"
	case by.Epoch != c.generation:
		return "ILLEGAL_GENERATION"
	case !c.assigned && !transactional:
		return "REBALANCE_IN_PROGRESS"
	}
	return "NONE"
}

// reads gives the topics of all members; false: they do not say, or not so that it can be read.
func (c mClassic) reads() (map[string]bool, bool) {
	topics := map[string]bool{}
	for _, m := range c.members {
		if len(m.metadata) < 6 || c.protocolType != "consumer" {
			return nil, false
		}
		rest := m.metadata[6:]
		for range binary.BigEndian.Uint32([]byte(m.metadata[2:])) {
			n := binary.BigEndian.Uint16([]byte(rest))
			topics[rest[2:2+n]] = true
			rest = rest[2+n:]
		}
	}
	return topics, true
}

// keeps says that an offset must not be deleted, by anyone, or that its age does not count yet (G29, G30).
func (m *model) keeps(at place) (subscribed, live bool) {
	c, ok := m.classic[at.group]
	if !ok || len(c.members) == 0 {
		return false, false
	}
	topics, known := c.reads()
	return topics[at.topic] || !known && c.protocolType == "consumer", !known || !c.assigned
}

func classicOf(g *group) (mClassic, bool) {
	c := g.classic
	if c == nil {
		return mClassic{}, false
	}
	out := mClassic{g.epoch, c.protocolType, c.protocol, c.leader, c.assigned, c.left, c.beganMS, map[string]mClassicMember{}}
	for id, m := range c.members {
		member := mMemberOf(ClassicMemberToProto(m))
		member.assignment = string(m.Assignment)
		out.members[id] = member
	}
	return out, true
}

// classic makes a command about a group of the classic protocol.
func (g *generator) classic(group string) *statev1.GroupCommand {
	c := &statev1.GroupCommand{GroupId: group}
	generation := int32(0)
	var members []string
	if known := g.s.groups[group]; known != nil {
		generation = known.epoch
		members = slices.Sorted(maps.Keys(known.classics().members))
	}
	if g.chance(5) {
		generation += int32(g.r.IntN(3))
	}
	switch n := g.r.IntN(12); {
	case n < 4 || len(members) == 0:
		b := &statev1.BeginGeneration{Previous: generation, ProtocolType: "consumer"}
		if g.chance(15) {
			b.ProtocolType = "connect"
		}
		for _, id := range []string{"m", "n", "o", "p"} {
			if g.chance(40) {
				instance := ""
				if id < "o" && g.chance(50) {
					instance = "i" + id
				}
				b.Members = append(b.Members, g.classicMember(id, instance))
			}
		}
		if len(b.Members) > 0 {
			b.Protocol, b.Leader = pick(g.r, []string{"range", "sticky"}), pick(g.r, b.Members).MemberId
		}
		c.Command = &statev1.GroupCommand_BeginGeneration{BeginGeneration: b}
	case n < 8:
		a := &statev1.AssignGeneration{Generation: generation}
		for _, id := range []string{"m", "n", "o", "p"} {
			if g.chance(70) {
				a.Assignments = append(a.Assignments, &statev1.ClassicAssignment{MemberId: id, Assignment: []byte("assignment"[:g.r.IntN(10)])})
			}
		}
		c.Command = &statev1.GroupCommand_AssignGeneration{AssignGeneration: a}
	case n < 10:
		gone := []string{pick(g.r, members)}
		if other := pick(g.r, []string{"m", "n", "o", "p", "q"}); g.chance(30) && other != gone[0] {
			gone = append(gone, other)
			slices.Sort(gone)
		}
		c.Command = &statev1.GroupCommand_LeaveGeneration{LeaveGeneration: &statev1.LeaveGeneration{Generation: generation, MemberIds: gone}}
	default:
		old := pick(g.r, members)
		instance := g.s.groups[group].classics().members[old].InstanceID
		if instance == "" || g.chance(10) {
			instance = "im"
		}
		c.Command = &statev1.GroupCommand_ReplaceMember{ReplaceMember: &statev1.ReplaceClassicMember{Generation: generation, OldId: old,
			Member: g.classicMember(pick(g.r, []string{"m", "n", "q"}), instance)}}
	}
	return c
}

func (g *generator) classicMember(id, instance string) *statev1.ClassicMember {
	m := &statev1.ClassicMember{MemberId: id, InstanceId: instance, SessionTimeoutMs: 1 + int32(g.r.IntN(9)), RebalanceTimeoutMs: 1 + int32(g.r.IntN(9))}
	switch n := g.r.IntN(10); {
	case n < 5:
		m.Metadata = subscriptionTo("t")
	case n < 8:
		m.Metadata = subscriptionTo("t", "u")
	case n < 9:
		m.Client = &statev1.ClientRef{ClientId: "app"}
		m.Metadata = subscriptionTo()
	}
	return m
}

// TestGenerations: a generation that members show is theirs alone. Whatever is lost, repeated or reordered between the leader
// and the log, no generation number is ever given to two sets of members, so that the number fences (G11).
func TestGenerations(t *testing.T) {
	p := newPlayer(t)
	p.run("apply", "begin g a,b")
	before := p.s.Clone()
	p.run("apply", "begin g a,c previous=1")
	if out := p.run("apply", "begin g a,d previous=1"); out != "3: STALE\n" {
		t.Fatal(out)
	}
	if d, _ := before.Describe("g"); d.Epoch != 1 || len(d.Classic) != 2 {
		t.Fatalf("the clone has changed: %+v", d)
	}
}
