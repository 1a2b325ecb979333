package frontdoor

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// lineLimits are how many lines of one kind are written in a second: whoever is refused again and again must neither fill a disk nor drown what
// others do.
type lineLimits struct {
	// all are everybody's together, each those of one account.
	all, each int
	// reserve of all are for accounts with fewer than quiet: it takes many who are noisy to leave none to who is not.
	reserve, quiet int
}

// The limits that a line can be above: that of its account, and that of all.
const (
	limitPrincipal = "principal"
	limitTotal     = "total"
)

// lineBudget is what was written of one kind of lines in a second, and what was left out. Who owns it guards it.
type lineBudget struct {
	lineLimits
	second int64
	lines  int
	// by has who has written, and so no more entries than there are lines.
	by map[string]int
	// leftOut has its entries by those of by, all others together being "".
	leftOut map[leftOut]int
}

// leftOut is what lines that are left out have in common: whose they are, what they say, and the limit that they were above.
type leftOut struct{ by, what, limit string }

// above is the limit that another line of somebody would be above; empty: none.
func (b *lineBudget) above(by string) string {
	switch n := b.by[by]; {
	case n >= b.each:
		return limitPrincipal
	case b.lines >= b.all, b.lines >= b.all-b.reserve && n >= b.quiet:
		return limitTotal
	}
	return ""
}

// take says above which limit another line of somebody would be now; empty: it may be written, and is counted. tell is told what was left out
// when the second is over.
func (b *lineBudget) take(by, what string, tell func(map[leftOut]int)) (limit string) {
	now := time.Now()
	if now.Unix() != b.second {
		b.second, b.lines, b.by, b.leftOut = now.Unix(), 0, make(map[string]int), make(map[leftOut]int)
	}
	limit = b.above(by)
	if limit == "" {
		b.lines++
		b.by[by]++
		return ""
	}
	if lines := b.leftOut; len(lines) == 0 {
		time.AfterFunc(now.Truncate(time.Second).Add(time.Second).Sub(now), func() { tell(lines) })
	}
	if b.by[by] == 0 {
		by = ""
	}
	b.leftOut[leftOut{by, what, limit}]++
	return limit
}

// logLeftOut says what was left out in a second that is over, of whose lines, and why.
func logLeftOut(lines map[leftOut]int, log func(n int, k leftOut)) {
	for _, k := range slices.SortedFunc(maps.Keys(lines), func(x, y leftOut) int {
		return cmp.Or(cmp.Compare(x.by, y.by), cmp.Compare(x.what, y.what), cmp.Compare(x.limit, y.limit))
	}) {
		log(lines[k], k)
	}
	clear(lines) // by the clock the second may have more to come
}

// auditLimits are those of the audit log.
var auditLimits = lineLimits{all: 1000, each: 100, reserve: 500, quiet: 10}

// accountOf is whose lines these are: those of who has proven nothing are its address's, whatever name it gives.
func accountOf(c Caller, outcome string) string {
	if outcome == outcomeFailed || c.User == Anonymous {
		return c.Host
	}
	return c.principal
}

// room says whether another line may be written now, and counts it.
func (a *Audit) room(c Caller, outcome string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &a.refused
	if outcome == outcomeAllowed || outcome == outcomeSucceeded {
		b = &a.served
	}
	limit := b.take(accountOf(c, outcome), outcome, a.tell)
	if limit != "" {
		a.leftOut.WithLabelValues(outcome, limit).Inc()
	}
	return limit == ""
}

func (a *Audit) tell(lines map[leftOut]int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	logLeftOut(lines, func(n int, k leftOut) {
		a.log.Info("left_out", "lines", n, "outcome", k.what, "limit", k.limit, "of", cut(k.by))
	})
}
