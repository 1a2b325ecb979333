package group

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// classic parses what concerns groups of the classic protocol.
func (p *player) classic(c *statev1.GroupCommand, words []string) {
	generation := int32(0)
	if g := p.s.groups[c.GroupId]; g != nil {
		generation = g.epoch
	}
	number := func(name string) int32 { return int32(p.number(key(words, name, fmt.Sprint(generation)))) }
	switch words[0] {
	case "begin":
		b := &statev1.BeginGeneration{Previous: number("previous"), ProtocolType: key(words, "type", "consumer")}
		if words[2] != "nobody" {
			for one := range strings.SplitSeq(words[2], ",") {
				b.Members = append(b.Members, classicMember(one))
			}
			slices.SortFunc(b.Members, func(a, b *statev1.ClassicMember) int { return strings.Compare(a.MemberId, b.MemberId) })
			b.Protocol, b.Leader = key(words, "protocol", "range"), key(words, "leader", b.Members[0].MemberId)
		}
		c.Command = &statev1.GroupCommand_BeginGeneration{BeginGeneration: b}
	case "give":
		a := &statev1.AssignGeneration{Generation: number("generation")}
		if words[2] != "nothing" {
			for one := range strings.SplitSeq(words[2], ",") {
				id, text, _ := strings.Cut(one, "=")
				a.Assignments = append(a.Assignments, &statev1.ClassicAssignment{MemberId: id, Assignment: []byte(text)})
			}
		}
		c.Command = &statev1.GroupCommand_AssignGeneration{AssignGeneration: a}
	case "go":
		c.Command = &statev1.GroupCommand_LeaveGeneration{LeaveGeneration: &statev1.LeaveGeneration{Generation: number("generation"), MemberIds: strings.Split(words[2], ",")}}
	case "replace":
		c.Command = &statev1.GroupCommand_ReplaceMember{ReplaceMember: &statev1.ReplaceClassicMember{Generation: number("generation"), OldId: words[2], Member: classicMember(words[3])}}
	}
}

// classicMember parses MEMBER[/INSTANCE][=TOPIC+TOPIC].
func classicMember(text string) *statev1.ClassicMember {
	who, topics, subscribes := strings.Cut(text, "=")
	id, instance, _ := strings.Cut(who, "/")
	m := &statev1.ClassicMember{MemberId: id, InstanceId: instance, SessionTimeoutMs: 1000, RebalanceTimeoutMs: 2000}
	if subscribes {
		m.Metadata = subscriptionTo(strings.Split(topics, "+")...)
	}
	return m
}

// subscriptionTo is a consumer's metadata, with some bytes that only newer clients know.
func subscriptionTo(topics ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, 3)
	b = binary.BigEndian.AppendUint32(b, uint32(len(topics)))
	for _, t := range topics {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(t))), t...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff, 7)
}

func (c *classic) show() string {
	if c == nil {
		return ""
	}
	out := fmt.Sprintf(" %s", c.protocolType)
	if c.protocol != "" {
		out += fmt.Sprintf(" by %s, led by %s", c.protocol, c.leader)
	}
	if c.topicsKnown {
		out += fmt.Sprintf(", reads %v", c.topics)
	}
	out += fmt.Sprintf(", since %d", c.beganMS)
	if c.left {
		out += ", members have left"
	}
	for _, m := range c.sorted() {
		out += "\n  " + m.ID
		if m.InstanceID != "" {
			out += "/" + m.InstanceID
		}
		if len(m.Assignment) > 0 {
			out += fmt.Sprintf(" has %s", m.Assignment)
		}
	}
	return out
}

// mustHold checks what is always true of a group of the classic protocol.
func (c *classic) mustHold(t testing.TB, g *group) {
	t.Helper()
	if g.classic == nil {
		return
	}
	if g.consumer != nil || g.epoch == 0 {
		t.Fatalf("group %q: generation %d of the classic protocol, and of KIP-848: %t", g.id, g.epoch, g.consumer != nil)
	}
	static := 0
	for id, m := range c.members {
		if m.ID != id || m.InstanceID != "" && c.instances[m.InstanceID] != id {
			t.Fatalf("member %s is in the wrong place", id)
		}
		if m.InstanceID != "" {
			static++
		}
		if !c.assigned && len(m.Assignment) > 0 {
			t.Fatalf("member %s has an assignment too early", id)
		}
	}
	if static != len(c.instances) {
		t.Fatalf("%d static members, %d instance ids", static, len(c.instances))
	}
	if (c.leader == "") != (len(c.members) == 0) || c.leader != "" && c.members[c.leader] == nil {
		t.Fatalf("%q leads %v", c.leader, slices.Collect(maps.Keys(c.members)))
	}
}

// TestConsumerTopics reads what consumers say of themselves, and whatever else they might say (G10).
func TestConsumerTopics(t *testing.T) {
	for _, c := range []struct {
		metadata []byte
		topics   []string
		ok       bool
	}{
		{subscriptionTo("t", "u"), []string{"t", "u"}, true},
		{subscriptionTo("t", "u")[:6], nil, false},
		{subscriptionTo(), []string{}, true},
		{subscriptionTo()[:6], []string{}, true},
		{nil, nil, false},
		{[]byte{0}, nil, false},
		{[]byte{0xff, 0xff, 0, 0, 0, 0}, nil, false},
		{[]byte{0, 0, 0xff, 0xff, 0xff, 0xff}, nil, false},
		{[]byte{0, 0, 0x7f, 0xff, 0xff, 0xff}, nil, false},
		{[]byte{0, 0, 0, 0, 0, 1, 0xff, 0xff}, nil, false},
		{[]byte{0, 0, 0, 0, 0, 1, 0, 2, 'a'}, nil, false},
	} {
		if topics, ok := ConsumerTopics(c.metadata); ok != c.ok || !slices.Equal(topics, c.topics) {
			t.Errorf("%x: %q, %t; want %q, %t", c.metadata, topics, ok, c.topics, c.ok)
		}
	}
}

// TestConsumerAssignment reads what consumers are given, and whatever else that might be (G10).
func TestConsumerAssignment(t *testing.T) {
	good := []byte{0, 1, 0, 0, 0, 2, 0, 1, 't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 'u', 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	list, ok := ConsumerAssignment(good)
	if want := "[{t [0 3]} {u []}]"; !ok || fmt.Sprint(list) != want {
		t.Errorf("%v, %t; want %s", list, ok, want)
	}
	for n := range len(good) - 4 {
		if _, ok := ConsumerAssignment(good[:n]); ok {
			t.Errorf("%d bytes of it can be read", n)
		}
	}
	for _, at := range []int{0, 2, 6, 9, 13} { // a number below 0
		bad := slices.Clone(good)
		bad[at] = 0xff
		if list, ok := ConsumerAssignment(bad); ok {
			t.Errorf("byte %d: %v", at, list)
		}
	}
}
