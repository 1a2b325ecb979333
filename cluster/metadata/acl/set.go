package acl

import (
	"maps"
	"slices"
)

// Set is all rules, arranged for deciding. It never changes, and belongs to nobody.
type Set struct {
	rules []Rule // sorted, each once
	types map[ResourceType]*rulesOf
}

// rulesOf are the rules about one type of resources.
type rulesOf struct {
	literal  map[string][]entry // by name
	prefixed map[string][]entry // by prefix
	// lengths of the prefixes, ascending.
	lengths []int
}

// entry is what a rule says, without what it is about.
type entry struct {
	principal, host string
	operation       Operation
	permission      Permission
}

// New arranges rules. The slice may be changed afterwards.
func New(rules []Rule) *Set {
	s := &Set{rules: slices.Clone(rules), types: make(map[ResourceType]*rulesOf)}
	slices.SortFunc(s.rules, Compare)
	s.rules = slices.Compact(s.rules)
	for _, r := range s.rules {
		of := s.types[r.Type]
		if of == nil {
			of = &rulesOf{literal: make(map[string][]entry), prefixed: make(map[string][]entry)}
			s.types[r.Type] = of
		}
		e := entry{principal: r.Principal, host: CanonicalHost(r.Host), operation: r.Operation, permission: r.Permission}
		if r.Pattern == Prefixed {
			of.prefixed[r.Name] = append(of.prefixed[r.Name], e)
		} else {
			of.literal[r.Name] = append(of.literal[r.Name], e)
		}
	}
	for _, of := range s.types {
		seen := make(map[int]bool)
		for prefix := range maps.Keys(of.prefixed) {
			seen[len(prefix)] = true
		}
		of.lengths = slices.Sorted(maps.Keys(seen))
	}
	return s
}

// Rules are all of them, sorted. They must not be changed.
func (s *Set) Rules() []Rule { return s.rules }

// Len is how many rules there are.
func (s *Set) Len() int { return len(s.rules) }

// Allows says whether a principal that comes from a host, in its canonical form, may do something to a resource.
func (s *Set) Allows(principal, host string, op Operation, t ResourceType, name string) bool {
	of := s.types[t]
	if of == nil {
		return false
	}
	allowed := false
	verdict := func(entries []entry) (denied bool) {
		for _, e := range entries {
			if !e.concerns(principal, host) {
				continue
			}
			switch {
			case e.permission == Deny && (e.operation == op || e.operation == All):
				return true
			case e.permission == Allow && e.operation.implies(op):
				allowed = true
			}
		}
		return false
	}
	if verdict(of.literal[name]) || name != Everything && verdict(of.literal[Everything]) {
		return false
	}
	for _, n := range of.lengths {
		if n > len(name) {
			break
		}
		if verdict(of.prefixed[name[:n]]) {
			return false
		}
	}
	return allowed
}

// concerns says whether a rule is about who asks.
func (e entry) concerns(principal, host string) bool {
	return (e.principal == principal || e.principal == Anybody) && (e.host == AnyHost || e.host == host)
}

// implies says whether the permission to do o is also one to do what is asked.
func (o Operation) implies(asked Operation) bool {
	if o == asked || o == All {
		return true
	}
	switch asked {
	case Describe:
		return o == Read || o == Write || o == Delete || o == Alter
	case DescribeConfigs:
		return o == AlterConfigs
	}
	return false
}

// AllowsSome says whether there is any resource of a type to which a principal may do something, as far as rules tell: a permission
// counts that no denial covers whole. Permissions that imply others do not count, as in Kafka.
func (s *Set) AllowsSome(principal, host string, op Operation, t ResourceType) bool {
	of := s.types[t]
	if of == nil {
		return false
	}
	has := func(entries []entry, p Permission) bool {
		return slices.ContainsFunc(entries, func(e entry) bool {
			return e.permission == p && e.concerns(principal, host) && (e.operation == op || e.operation == All)
		})
	}
	if has(of.literal[Everything], Deny) {
		return false
	}
	// A denial of a prefix covers every name and prefix that begins with it.
	covered := func(name string) bool {
		return slices.ContainsFunc(of.lengths, func(n int) bool { return n <= len(name) && has(of.prefixed[name[:n]], Deny) })
	}
	for prefix, entries := range of.prefixed {
		if has(entries, Allow) && !covered(prefix) {
			return true
		}
	}
	for name, entries := range of.literal {
		if has(entries, Allow) && (name == Everything || !has(entries, Deny) && !covered(name)) {
			return true
		}
	}
	return false
}
