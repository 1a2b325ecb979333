// Package acl decides who may do what, by Kafka's rules: rules that allow and rules that deny, for one resource, for all whose names
// begin alike, or for all; a denial beats every permission, and what nothing allows is denied. (machine)
package acl

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// ResourceType is a kind of thing that rules are about. Numbers are those of Kafka's protocol, here and below.
type ResourceType uint8

// Types of resources that rules can be about; AnyType is for filters.
const (
	AnyType         ResourceType = 1
	Topic           ResourceType = 2
	Group           ResourceType = 3
	Cluster         ResourceType = 4
	TransactionalID ResourceType = 5
)

// ClusterName is the name of the one resource of type Cluster.
const ClusterName = "kafka-cluster"

// Pattern says how a rule's name is meant.
type Pattern uint8

// Patterns. A literal "*" means all; AnyPattern and Match are for filters: Match finds every rule that bears on a name.
const (
	AnyPattern Pattern = 1
	Match      Pattern = 2
	Literal    Pattern = 3
	Prefixed   Pattern = 4
)

// Operation is what is done.
type Operation uint8

// Operations. All stands for every one; AnyOperation is for filters.
const (
	AnyOperation    Operation = 1
	All             Operation = 2
	Read            Operation = 3
	Write           Operation = 4
	Create          Operation = 5
	Delete          Operation = 6
	Alter           Operation = 7
	Describe        Operation = 8
	ClusterAction   Operation = 9
	DescribeConfigs Operation = 10
	AlterConfigs    Operation = 11
	IdempotentWrite Operation = 12
	CreateTokens    Operation = 13
	DescribeTokens  Operation = 14
	TwoPhaseCommit  Operation = 15
)

// Permission is what a rule says.
type Permission uint8

// Permissions; AnyPermission is for filters.
const (
	AnyPermission Permission = 1
	Deny          Permission = 2
	Allow         Permission = 3
)

var (
	typeNames       = []string{AnyType: "any", Topic: "topic", Group: "group", Cluster: "cluster", TransactionalID: "transactional_id"}
	patternNames    = []string{AnyPattern: "any", Match: "match", Literal: "literal", Prefixed: "prefixed"}
	permissionNames = []string{AnyPermission: "any", Deny: "deny", Allow: "allow"}
	operationNames  = []string{AnyOperation: "any", All: "all", Read: "read", Write: "write", Create: "create", Delete: "delete", Alter: "alter",
		Describe: "describe", ClusterAction: "cluster_action", DescribeConfigs: "describe_configs", AlterConfigs: "alter_configs",
		IdempotentWrite: "idempotent_write", CreateTokens: "create_tokens", DescribeTokens: "describe_tokens", TwoPhaseCommit: "two_phase_commit"}
)

func nameOf(names []string, n uint8) string {
	if int(n) < len(names) && names[n] != "" {
		return names[n]
	}
	return fmt.Sprintf("unknown(%d)", n)
}

// String gives Kafka's name in lower case.
func (t ResourceType) String() string { return nameOf(typeNames, uint8(t)) }

// String gives Kafka's name in lower case.
func (p Pattern) String() string { return nameOf(patternNames, uint8(p)) }

// String gives Kafka's name in lower case.
func (o Operation) String() string { return nameOf(operationNames, uint8(o)) }

// String gives Kafka's name in lower case.
func (p Permission) String() string { return nameOf(permissionNames, uint8(p)) }

// Rule lets a principal do something, or forbids it.
type Rule struct {
	Type    ResourceType
	Name    string
	Pattern Pattern
	// Principal is "User:name"; "User:*" means everybody.
	Principal string
	// Host is an IP address that the principal comes from; "*": any.
	Host       string
	Operation  Operation
	Permission Permission
}

// Compare orders rules: by what they are about, then by whom.
func Compare(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pattern, b.Pattern), cmp.Compare(a.Principal, b.Principal),
		cmp.Compare(a.Host, b.Host), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission))
}

// Bounds of what a rule holds, in bytes.
const (
	MaxNameLength      = 1024
	MaxPrincipalLength = 1024
)

// Anybody is the principal that stands for everybody, AnyHost the host that stands for every one, and Everything the literal
// name that stands for all.
const (
	Anybody    = "User:*"
	AnyHost    = "*"
	Everything = "*"
)

// Check says what is wrong with a rule: the field and why; an empty field: nothing.
func (r Rule) Check() (field, why string) {
	switch {
	case r.Type < Topic || r.Type > TransactionalID:
		return "resource_type", fmt.Sprintf("%v is no type of resources that rules can be about", r.Type)
	case r.Name == "" || len(r.Name) > MaxNameLength:
		return "resource_name", fmt.Sprintf("has %d bytes: 1 to %d", len(r.Name), MaxNameLength)
	case r.Type == Cluster && r.Name != ClusterName:
		return "resource_name", fmt.Sprintf("%q: the one cluster is called %q", r.Name, ClusterName)
	case r.Pattern != Literal && r.Pattern != Prefixed:
		return "pattern_type", fmt.Sprintf("%v is for filters: literal or prefixed", r.Pattern)
	case r.Operation < All || r.Operation > TwoPhaseCommit:
		return "operation", fmt.Sprintf("%v is no operation", r.Operation)
	case r.Permission != Deny && r.Permission != Allow:
		return "permission", fmt.Sprintf("%v is neither allow nor deny", r.Permission)
	case len(r.Principal) > MaxPrincipalLength:
		return "principal", fmt.Sprintf("has %d bytes: at most %d", len(r.Principal), MaxPrincipalLength)
	}
	if kind, name, ok := strings.Cut(r.Principal, ":"); !ok || kind != "User" || name == "" {
		return "principal", fmt.Sprintf("%q is not User:NAME", r.Principal)
	}
	if _, err := netip.ParseAddr(r.Host); err != nil && r.Host != AnyHost {
		return "host", fmt.Sprintf("%q is neither an IP address nor *", r.Host)
	}
	return "", ""
}

// Operations are those that there are for a type of resources, ascending. The slice must not be changed.
func Operations(t ResourceType) []Operation { return operations[t] }

var operations = map[ResourceType][]Operation{
	Topic:           {Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs},
	Group:           {Read, Delete, Describe, DescribeConfigs, AlterConfigs},
	Cluster:         {Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite},
	TransactionalID: {Write, Describe},
}

// CanonicalHost is the one form of an IP address that is compared: rules may write it as they like. An address of IPv4 that comes in by
// IPv6 is one of IPv4, and a zone is left out. What is no address stays as it is.
func CanonicalHost(host string) string {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	return a.WithZone("").Unmap().String()
}

// Filter finds rules. The zero value of a text and the Any values mean all.
type Filter struct {
	Type       ResourceType
	Name       *string
	Pattern    Pattern
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Matches says whether the filter finds a rule.
func (f Filter) Matches(r Rule) bool {
	if f.Type != AnyType && f.Type != r.Type || f.Operation != AnyOperation && f.Operation != r.Operation ||
		f.Permission != AnyPermission && f.Permission != r.Permission ||
		f.Principal != nil && *f.Principal != r.Principal || f.Host != nil && *f.Host != r.Host {
		return false
	}
	switch f.Pattern {
	case AnyPattern:
		return f.Name == nil || *f.Name == r.Name
	case Match:
		return f.Name == nil || r.covers(*f.Name) || *f.Name == r.Name
	default:
		return f.Pattern == r.Pattern && (f.Name == nil || *f.Name == r.Name)
	}
}

// covers says whether a rule is about the resource of a name.
func (r Rule) covers(name string) bool {
	if r.Pattern == Prefixed {
		return strings.HasPrefix(name, r.Name)
	}
	return r.Name == name || r.Name == Everything
}
