package acl

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// naive decides as Kafka's documentation tells it, one rule after the other.
func naive(rules []Rule, principal, host string, op Operation, t ResourceType, name string) bool {
	bears := func(r Rule) bool {
		about := r.Pattern == Literal && (r.Name == name || r.Name == "*") || r.Pattern == Prefixed && strings.HasPrefix(name, r.Name)
		return r.Type == t && about && (r.Principal == principal || r.Principal == "User:*") && (r.Host == host || r.Host == "*")
	}
	for _, r := range rules {
		if bears(r) && r.Permission == Deny && (r.Operation == op || r.Operation == All) {
			return false
		}
	}
	implied := map[Operation][]Operation{Describe: {Read, Write, Delete, Alter}, DescribeConfigs: {AlterConfigs}}
	for _, r := range rules {
		if bears(r) && r.Permission == Allow && (r.Operation == op || r.Operation == All || slices.Contains(implied[op], r.Operation)) {
			return true
		}
	}
	return false
}

// naiveSome tries names: those of the rules, and such as only a prefix or "*" covers.
func naiveSome(rules []Rule, principal, host string, op Operation, t ResourceType) bool {
	bears := func(r Rule) bool {
		return r.Type == t && (r.Principal == principal || r.Principal == "User:*") && (r.Host == host || r.Host == "*") && (r.Operation == op || r.Operation == All)
	}
	for _, r := range rules {
		if bears(r) && r.Permission == Deny && r.Pattern == Literal && r.Name == "*" {
			return false
		}
	}
	for _, allow := range rules {
		if !bears(allow) || allow.Permission != Allow {
			continue
		}
		if allow.Pattern == Literal && allow.Name == "*" {
			return true
		}
		denied := slices.ContainsFunc(rules, func(deny Rule) bool {
			return bears(deny) && deny.Permission == Deny && (deny.Pattern == Prefixed && strings.HasPrefix(allow.Name, deny.Name) ||
				allow.Pattern == Literal && deny.Pattern == Literal && deny.Name == allow.Name)
		})
		if !denied {
			return true
		}
	}
	return false
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomRule(r *rand.Rand) Rule {
	return Rule{Type: pick(r, Topic, Group), Name: pick(r, "*", "a", "ab", "abc", "b"), Pattern: pick(r, Literal, Prefixed),
		Principal: pick(r, "User:x", "User:y", "User:*"), Host: pick(r, "*", "10.0.0.1"),
		Operation:  pick(r, All, Read, Write, Delete, Alter, Describe, AlterConfigs, DescribeConfigs),
		Permission: pick(r, Deny, Allow, Allow)}
}

// The set decides as one rule after the other does.
func TestSetAgainstNaive(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	allowed := 0
	for range 20_000 {
		rules := make([]Rule, r.IntN(6))
		for i := range rules {
			rules[i] = randomRule(r)
		}
		s := New(rules)
		principal, host := pick(r, "User:x", "User:y"), pick(r, "10.0.0.1", "10.0.0.2")
		op, kind := pick(r, Read, Write, Delete, Alter, Describe, AlterConfigs, DescribeConfigs), pick(r, Topic, Group)
		name := pick(r, "a", "ab", "abc", "abcd", "b", "c")
		got, want := s.Allows(principal, host, op, kind, name), naive(rules, principal, host, op, kind, name)
		if got != want {
			t.Fatalf("seed %d: %s from %s, %v %v %s: %v, want %v, by %v", seed, principal, host, op, kind, name, got, want, rules)
		}
		if got {
			allowed++
		}
		if got, want := s.AllowsSome(principal, host, op, kind), naiveSome(rules, principal, host, op, kind); got != want {
			t.Fatalf("seed %d: %s from %s, %v some %v: %v, want %v, by %v", seed, principal, host, op, kind, got, want, rules)
		}
	}
	if allowed < 300 {
		t.Fatalf("only %d were allowed: the test tries nothing", allowed)
	}
}

func text(s string) *string { return &s }

func TestFilter(t *testing.T) {
	t.Parallel()
	literal := Rule{Topic, "abc", Literal, "User:x", "*", Read, Allow}
	prefixed := Rule{Topic, "ab", Prefixed, "User:x", "*", Read, Allow}
	all := Rule{Topic, "*", Literal, "User:x", "*", Read, Allow}
	other := Rule{Topic, "abd", Literal, "User:x", "*", Read, Allow}
	rules := []Rule{literal, prefixed, all, other}
	any := Filter{Type: AnyType, Pattern: AnyPattern, Operation: AnyOperation, Permission: AnyPermission}
	with := func(change func(*Filter)) Filter { f := any; change(&f); return f }
	for _, test := range []struct {
		what string
		f    Filter
		want []Rule
	}{
		{"everything", any, rules},
		{"match", with(func(f *Filter) { f.Name, f.Pattern = text("abc"), Match }), []Rule{literal, prefixed, all}},
		{"any pattern", with(func(f *Filter) { f.Name = text("ab") }), []Rule{prefixed}},
		{"literal", with(func(f *Filter) { f.Pattern = Literal }), []Rule{literal, all, other}},
		{"another type", with(func(f *Filter) { f.Type = Group }), nil},
		{"another user", with(func(f *Filter) { f.Principal = text("User:y") }), nil},
		{"another host", with(func(f *Filter) { f.Host = text("10.0.0.1") }), nil},
		{"another operation", with(func(f *Filter) { f.Operation = Write }), nil},
		{"denials", with(func(f *Filter) { f.Permission = Deny }), nil},
	} {
		var got []Rule
		for _, r := range rules {
			if test.f.Matches(r) {
				got = append(got, r)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := Rule{Topic, "a", Literal, "User:x", "*", Read, Allow}
	for field, change := range map[string]func(*Rule){
		"":              func(r *Rule) { r.Host = "::1" },
		"resource_type": func(r *Rule) { r.Type = AnyType },
		"resource_name": func(r *Rule) { r.Type = Cluster },
		"pattern_type":  func(r *Rule) { r.Pattern = Match },
		"operation":     func(r *Rule) { r.Operation = 16 },
		"permission":    func(r *Rule) { r.Permission = AnyPermission },
		"principal":     func(r *Rule) { r.Principal = "x" },
		"host":          func(r *Rule) { r.Host = "example.org" },
	} {
		r := good
		change(&r)
		if got, why := r.Check(); got != field || (got == "") != (why == "") {
			t.Errorf("%q: %q %s", field, got, why)
		}
	}
}

func BenchmarkAllows(b *testing.B) {
	var rules []Rule
	r := rand.New(rand.NewPCG(1, 0))
	for range 1000 {
		rule := randomRule(r)
		rule.Name = strings.Repeat("x", r.IntN(20)) + rule.Name
		rule.Permission = Allow
		rules = append(rules, rule)
	}
	rules = append(rules, Rule{Topic, "orders", Literal, "User:x", "*", Write, Allow})
	s := New(rules)
	b.ReportAllocs()
	for b.Loop() {
		if !s.Allows("User:x", "10.0.0.9", Write, Topic, "orders") {
			b.Fatal("denied")
		}
	}
}

// A denial holds however its rule writes the address.
func TestHostsAreComparedInOneForm(t *testing.T) {
	t.Parallel()
	for written, comes := range map[string]string{"0:0:0:0:0:0:0:1": "::1", "FE80::1": "fe80::1%eth0", "::ffff:10.0.0.1": "10.0.0.1", "10.0.0.1": "::ffff:10.0.0.1"} {
		s := New([]Rule{{Topic, "a", Literal, "User:x", "*", Read, Allow}, {Topic, "a", Literal, "User:x", written, Read, Deny}})
		if s.Allows("User:x", CanonicalHost(comes), Read, Topic, "a") {
			t.Errorf("a denial of %s lets %s pass", written, comes)
		}
	}
	if got := CanonicalHost("example.org"); got != "example.org" {
		t.Error(got)
	}
}
