package coordinator

import (
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/coordinator/group"
)

// Patterns that real programs use are taken, and match as a whole; those that would keep a processor busy are not.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern string
		matches []string // before the empty one; what follows does not match
	}{
		{"orders-.*", []string{"orders-", "orders-eu", "", "my-orders-eu"}},
		{"a|b", []string{"a", "b", "", "ab", "xa", "bx"}},
		{"(orders|payments)[._-][a-z0-9]+-v[0-9]{1,3}", []string{"orders.x-v1", "payments_eu2-v200", "", "orders.x-v"}},
		{".{0,249}", []string{"a", strings.Repeat("x", 249), "", strings.Repeat("x", 250)}},
		{strings.Repeat("(?:", 100) + "x" + strings.Repeat("){1,}", 100), []string{"xx", "", "y"}},
		{"[a-z]{1,200}", []string{"abc", "", "A"}},
		{`(?i)EVENTS\.\pL+`, []string{"events.é", "", "events.1"}},
		{strings.Repeat("a", group.MaxPatternLength), []string{strings.Repeat("a", group.MaxPatternLength), "", "a"}},
	} {
		re, err := CompilePattern(c.pattern)
		if err != nil {
			t.Errorf("%.50s: %v", c.pattern, err)
			continue
		}
		parsed, _ := syntax.Parse(c.pattern, syntax.Perl)
		prog, err := syntax.Compile(parsed.Simplify())
		if n := patternSteps(parsed); err != nil || len(prog.Inst) > 2*n+8 {
			t.Errorf("%.50s counts %d steps, and has %d (%v)", c.pattern, n, len(prog.Inst), err)
		}
		want := true
		for _, name := range c.matches {
			if name == "" {
				want = false
			} else if re.MatchString(name) != want {
				t.Errorf("%.50s matches %.50s: %v", c.pattern, name, !want)
			}
		}
	}
	const deep = 100 // {1,} repeats nothing, however deep
	nested := strings.Repeat("(?:", deep) + ".{0,1000}" + strings.Repeat("){1,}", deep)
	for _, pattern := range []string{"(", nested + ".{0,1000}", "a)|(b", strings.Repeat(".{0,1000}", 100), "((.{0,10}){0,10}){0,10}x{1000}y{1000}", ".{1000,}.{1000,}", strings.Repeat("a", group.MaxPatternLength+1)} {
		if _, err := CompilePattern(pattern); err == nil {
			t.Errorf("%.50s was taken", pattern)
		}
	}
}
