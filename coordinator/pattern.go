package coordinator

import (
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/oncelog/oncelog/coordinator/group"
)

// maxPatternSteps is how many steps a pattern may have when its repetitions are written out. The time to match a name is its length times these:
// with a hundred times .{0,1000} it is 70 ms, for each of all topics.
const maxPatternSteps = 2000

// CompilePattern reads a client's regular expression of at most group.MaxPatternLength bytes and maxPatternSteps steps, which is to match names as a whole.
func CompilePattern(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > group.MaxPatternLength {
		return nil, fmt.Errorf("the pattern has %d bytes, at most %d are allowed", len(pattern), group.MaxPatternLength)
	}
	// What is a pattern only between the parentheses of wholeName would match other names than it seems to.
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if n := patternSteps(parsed); n > maxPatternSteps {
		return nil, fmt.Errorf("the pattern takes too long: it has %d steps when its repetitions are written out, at most %d are allowed", n, maxPatternSteps)
	}
	return wholeName(pattern)
}

// patternSteps is about how many instructions a pattern is compiled to. The parser bounds repetitions within each other to 1,000, so it is a
// thousand times the length at most.
func patternSteps(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n = 1
	}
	for _, sub := range re.Sub {
		n += patternSteps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// wholeName compiles a pattern that CompilePattern has taken, if not this version's.
func wholeName(pattern string) (*regexp.Regexp, error) {
	return regexp.Compile(`\A(?:` + pattern + `)\z`)
}
