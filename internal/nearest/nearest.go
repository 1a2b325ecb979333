// Package nearest finds what somebody meant who has mistyped a name.
package nearest

import "strings"

// Most is how many edits a name may be away from what was meant: two, or a third of it, and never more than half.
func Most(name string) int { return min(max(2, len(name)/3), len(name)/2) }

// Of gives the candidate with the fewest edits to a name, the first of several, letters' case apart; "" where none is so near that it can
// have been meant. A candidate that was cut short is one edit away.
func Of(name string, candidates []string) string {
	name = strings.ToLower(name)
	best, most := "", Most(name)
	for _, c := range candidates {
		lower := strings.ToLower(c)
		d := Distance(name, lower)
		if strings.HasPrefix(lower, name) {
			d = min(d, 1)
		}
		if d <= most {
			best, most = c, d-1
		}
	}
	return best
}

// Distance counts the insertions, deletions and replacements of bytes that turn a into b.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal, row[j+1] = row[j+1], min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
