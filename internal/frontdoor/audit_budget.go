package frontdoor

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Whoever is refused again and again must neither fill a disk nor drown what others do. Of each kind of lines so many are written in a second:
const (
	// maxAuditLines by all.
	maxAuditLines = 1000
	// maxAuditLinesEach by one principal.
	maxAuditLinesEach = 100
	// auditReserve of maxAuditLines are for principals with fewer than quietAuditLines: it takes many who are noisy to leave none to who is not.
	auditReserve    = 500
	quietAuditLines = 10
)

// The limits that a line can be above.
const (
	limitPrincipal = "principal"
	limitTotal     = "total"
)

// auditBudget is what was written of one kind of lines in a second, and what was left out.
type auditBudget struct {
	second int64
	lines  int
	// by has who has written, and so no more entries than there are lines.
	by map[string]int
	// leftOut has its entries by those of by, all others together being "".
	leftOut map[leftOut]int
}

// leftOut is what lines that are left out have in common.
type leftOut struct{ by, outcome, limit string }

// accountOf is whose lines these are: those of who has proven nothing are its address's, whatever name it gives.
func accountOf(c Caller, outcome string) string {
	if outcome == outcomeFailed || c.User == Anonymous {
		return c.Host
	}
	return c.principal
}

// above is the limit that another line of somebody would be above; empty: none.
func (b *auditBudget) above(by string) string {
	switch n := b.by[by]; {
	case n >= maxAuditLinesEach:
		return limitPrincipal
	case b.lines >= maxAuditLines, b.lines >= maxAuditLines-auditReserve && n >= quietAuditLines:
		return limitTotal
	}
	return ""
}

// room says whether another line may be written now, and counts it.
func (a *Audit) room(c Caller, outcome string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &a.refused
	if outcome == outcomeAllowed || outcome == outcomeSucceeded {
		b = &a.served
	}
	now := time.Now()
	if now.Unix() != b.second {
		*b = auditBudget{second: now.Unix(), by: make(map[string]int), leftOut: make(map[leftOut]int)}
	}
	by := accountOf(c, outcome)
	limit := b.above(by)
	if limit == "" {
		b.lines++
		b.by[by]++
		return true
	}
	a.leftOut.WithLabelValues(outcome, limit).Inc()
	if lines := b.leftOut; len(lines) == 0 {
		time.AfterFunc(now.Truncate(time.Second).Add(time.Second).Sub(now), func() { a.tell(lines) })
	}
	if b.by[by] == 0 {
		by = ""
	}
	b.leftOut[leftOut{by, outcome, limit}]++
	return false
}

// tell says what was left out in a second that is over, of whose lines, and why.
func (a *Audit) tell(lines map[leftOut]int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range slices.SortedFunc(maps.Keys(lines), func(x, y leftOut) int {
		return cmp.Or(cmp.Compare(x.by, y.by), cmp.Compare(x.outcome, y.outcome), cmp.Compare(x.limit, y.limit))
	}) {
		a.log.Info("left_out", "lines", lines[k], "outcome", k.outcome, "limit", k.limit, "of", cut(k.by))
	}
	clear(lines) // by the clock the second may have more to come
}
