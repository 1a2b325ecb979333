package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// The part of the model that changes users and rules: texts in maps.

// access gives the code of the refusal; empty: done.
func (m *model) access(c *statev1.AlterAccess) Code {
	switch {
	case m.cluster == "":
		return InvalidRequest
	case m.level < 2:
		return UnsupportedVersion
	case c.FirstCredentials && len(m.credentials) > 0:
		return ""
	}
	for _, ref := range c.DeleteCredentials {
		delete(m.credentials, fmt.Sprint(ref.User, " ", ref.Mechanism))
	}
	for _, p := range c.UpsertCredentials {
		size := map[uint32]int{1: 32, 2: 64}[p.Mechanism]
		switch {
		case p.User == "":
			return UnacceptableCredential
		case size == 0:
			return UnsupportedSaslMechanism
		case p.Iterations < 4096 || p.Iterations > 16384 || len(p.Salt) < 8 || len(p.StoredKey) != size || len(p.ServerKey) != size:
			return UnacceptableCredential
		}
		m.credentials[fmt.Sprint(p.User, " ", p.Mechanism)] = credentialText(p)
	}
	for _, p := range c.RemoveRules {
		delete(m.rules, ruleText(p))
	}
	for _, p := range c.AddRules {
		good := p.ResourceType >= 2 && p.ResourceType <= 5 && p.ResourceName != "" && (p.ResourceType != 4 || p.ResourceName == "kafka-cluster") &&
			(p.PatternType == 3 || p.PatternType == 4) && p.Operation >= 2 && p.Operation <= 15 && (p.Permission == 2 || p.Permission == 3) &&
			len(p.Principal) > 5 && strings.HasPrefix(p.Principal, "User:") && (p.Host == "*" || p.Host == "10.0.0.1")
		if !good {
			return InvalidRequest
		}
		m.rules[ruleText(p)] = true
	}
	return ""
}

func credentialText(p *statev1.ScramCredential) string {
	return fmt.Sprintf("%x %d %x %x", p.Salt, p.Iterations, p.StoredKey, p.ServerKey)
}

func ruleText(p *statev1.AclRule) string {
	return fmt.Sprint(p.ResourceType, p.ResourceName, p.PatternType, p.Principal, p.Host, p.Operation, p.Permission)
}

func (m *model) accessString() string {
	return fmt.Sprintf("credentials %q rules %q\n", pairs(m.credentials), slices.Sorted(maps.Keys(m.rules)))
}

// accessOf reads an image.
func (m *model) accessOf(img *Image) {
	for _, c := range img.Credentials() {
		m.credentials[fmt.Sprint(c.User, " ", uint32(c.Mechanism))] = credentialText(CredentialToProto(c))
	}
	for _, r := range img.Rules().Rules() {
		m.rules[ruleText(RuleToProto(r))] = true
	}
}

// access makes a change of users and rules that is mostly good; before that, what lets the cluster have any.
func (g *generator) access(m *model) *statev1.MetadataCommand {
	if m.level < 2 && g.chance(2) {
		return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_SetFeatureLevel{SetFeatureLevel: &statev1.SetFeatureLevel{Level: 2, ExpectedLevel: m.level}}}
	}
	c := &statev1.AlterAccess{FirstCredentials: g.chance(10)}
	mechanism := func() uint32 {
		if g.chance(30) {
			return 3
		}
		return uint32(1 + g.r.IntN(2))
	}
	for range g.r.IntN(3) {
		p := &statev1.ScramCredential{User: g.one("alice", "bob", "carol"), Mechanism: mechanism(), Iterations: uint32(4096 * (1 + g.r.IntN(2)))}
		key := func(n int) []byte { return slices.Repeat([]byte{byte(g.r.IntN(3))}, n) }
		size := int(32 * p.Mechanism)
		if p.Salt, p.StoredKey, p.ServerKey = key(8), key(size), key(size); g.chance(15) {
			p.StoredKey = key(size - 1)
		}
		if g.chance(10) {
			p.Iterations = uint32(4095 + 12290*g.r.IntN(2))
		}
		if g.chance(40) {
			p.User = ""
		}
		c.UpsertCredentials = append(c.UpsertCredentials, p)
	}
	for range g.r.IntN(3) {
		c.DeleteCredentials = append(c.DeleteCredentials, &statev1.CredentialRef{User: g.one("alice", "bob", "carol", "nobody"), Mechanism: mechanism()})
	}
	for range g.r.IntN(3) {
		c.AddRules = append(c.AddRules, g.rule())
	}
	for range g.r.IntN(4) {
		c.RemoveRules = append(c.RemoveRules, g.rule())
	}
	return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterAccess{AlterAccess: c}}
}

// rule is one of few, so that rules meet again, and now and then none.
func (g *generator) rule() *statev1.AclRule {
	p := &statev1.AclRule{ResourceType: uint32(2 + g.r.IntN(2)), ResourceName: g.one("a", "b"), PatternType: 3, Principal: g.one("User:alice", "User:*"),
		Host: "*", Operation: 3, Permission: uint32(2 + g.r.IntN(2))}
	switch g.r.IntN(40) {
	case 0:
		p.ResourceType = []uint32{0, 1, 6, 300}[g.r.IntN(4)]
	case 1:
		p.ResourceType, p.ResourceName = 4, g.one("kafka-cluster", "x")
	case 2:
		p.PatternType = uint32(1 + g.r.IntN(5))
	case 3:
		p.Principal = g.one("alice", "Group:x", "User:")
	case 4:
		p.Host = g.one("10.0.0.1", "example.org", "")
	case 5:
		p.Operation = []uint32{0, 1, 15, 16}[g.r.IntN(4)]
	case 6:
		p.Permission = uint32(g.r.IntN(5))
	}
	return p
}
