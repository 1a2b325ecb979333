package acl

import (
	"maps"
	"slices"
)

// Set is all rules, arranged for deciding. It never changes, and belongs to nobody.
type Set struct {
	rules []Rule // sorted, each once
	// about has those of each principal: however many others there are rules for, a question does not meet them.
	about map[subject]*rulesOf
}

// subject is a principal, and a type of resources that there are rules about for it.
type subject struct {
	of        ResourceType
	principal string
}

// rulesOf are the rules about one type of resources for one principal.
type rulesOf struct {
	literal  map[string][]entry // by name
	prefixed map[string][]entry // by prefix
	// lengths of the prefixes, ascending.
	lengths []int
}

// entry is what a rule says, without what it is about and for whom.
type entry struct {
	host       string
	operation  Operation
	permission Permission
}

// New arranges rules. The slice may be changed afterwards.
func New(rules []Rule) *Set {
	s := &Set{rules: slices.Clone(rules), about: make(map[subject]*rulesOf)}
	slices.SortFunc(s.rules, Compare)
	s.rules = slices.Compact(s.rules)
	for _, r := range s.rules {
		who := subject{r.Type, r.Principal}
		of := s.about[who]
		if of == nil {
			of = &rulesOf{literal: make(map[string][]entry), prefixed: make(map[string][]entry)}
			s.about[who] = of
		}
		e := entry{host: CanonicalHost(r.Host), operation: r.Operation, permission: r.Permission}
		if r.Pattern == Prefixed {
			of.prefixed[r.Name] = append(of.prefixed[r.Name], e)
		} else {
			of.literal[r.Name] = append(of.literal[r.Name], e)
		}
	}
	for _, of := range s.about {
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

// bearing are the rules about a type of resources that are for a principal: its own, and those for everybody. Either may be nil.
func (s *Set) bearing(principal string, t ResourceType) [2]*rulesOf {
	both := [2]*rulesOf{s.about[subject{t, Anybody}]}
	if principal != Anybody {
		both[1] = s.about[subject{t, principal}]
	}
	return both
}

// Allows says whether a principal that comes from a host, in its canonical form, may do something to a resource.
func (s *Set) Allows(principal, host string, op Operation, t ResourceType, name string) bool {
	allowed := false
	for _, of := range s.bearing(principal, t) {
		may, denied := of.verdict(host, op, name)
		if denied {
			return false
		}
		allowed = allowed || may
	}
	return allowed
}

// verdict says whether one of the rules about a resource allows something, and whether one denies it; allowed says nothing then.
func (of *rulesOf) verdict(host string, op Operation, name string) (allowed, denied bool) {
	if of == nil {
		return false, false
	}
	look := func(entries []entry) (denied bool) {
		for _, e := range entries {
			switch {
			case !e.concerns(host):
			case e.permission == Deny && (e.operation == op || e.operation == All):
				return true
			case e.permission == Allow && e.operation.implies(op):
				allowed = true
			}
		}
		return false
	}
	if look(of.literal[name]) || name != Everything && look(of.literal[Everything]) {
		return false, true
	}
	for _, n := range of.lengths {
		if n > len(name) {
			break
		}
		if look(of.prefixed[name[:n]]) {
			return false, true
		}
	}
	return allowed, false
}

// concerns says whether a rule is about who comes from a host.
func (e entry) concerns(host string) bool { return e.host == AnyHost || e.host == host }

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
	both := s.bearing(principal, t)
	has := func(entries []entry, p Permission) bool {
		return slices.ContainsFunc(entries, func(e entry) bool {
			return e.permission == p && e.concerns(host) && (e.operation == op || e.operation == All)
		})
	}
	denied := func(name string) bool {
		return slices.ContainsFunc(both[:], func(of *rulesOf) bool { return of != nil && has(of.literal[name], Deny) })
	}
	if denied(Everything) {
		return false
	}
	// A denial of a prefix covers every name and prefix that begins with it.
	covered := func(name string) bool {
		return slices.ContainsFunc(both[:], func(of *rulesOf) bool {
			return of != nil && slices.ContainsFunc(of.lengths, func(n int) bool { return n <= len(name) && has(of.prefixed[name[:n]], Deny) })
		})
	}
	for _, of := range both {
		if of == nil {
			continue
		}
		for prefix, entries := range of.prefixed {
			if has(entries, Allow) && !covered(prefix) {
				return true
			}
		}
		for name, entries := range of.literal {
			if has(entries, Allow) && (name == Everything || !denied(name) && !covered(name)) {
				return true
			}
		}
	}
	return false
}
