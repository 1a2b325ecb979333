package frontdoor

import "github.com/oncelog/oncelog/cluster/metadata/acl"

// Permits says, for one request, to which topics a caller may do something. Each is decided, and noted, once, however often the request
// names it. It belongs to one goroutine. The zero value allows everything.
type Permits struct {
	guard *Guard // nil: there is nothing to decide
	by    Caller
	call  string
	op    acl.Operation
	quiet bool

	// rules are those that have decided.
	rules *acl.Set
	// last is the topic that was asked for last, known are all before it.
	last    string
	lastMay bool
	any     bool
	known   map[string]bool
}

// Topics says to which topics a caller may do something in a call. quiet: what is not allowed is left out of the answer, and not noted.
func (g *Guard) Topics(by Caller, call string, op acl.Operation, quiet bool) Permits {
	if !g.Decides() || quiet && !g.Enforces() {
		return Permits{}
	}
	return Permits{guard: g, by: by, call: call, op: op, quiet: quiet, rules: g.rules()}
}

// Allow says whether the caller may do it to a topic.
func (p *Permits) Allow(topic string) bool {
	if p.guard == nil || p.any && p.last == topic {
		return p.guard == nil || p.lastMay
	}
	if p.any {
		if p.known == nil {
			p.known = make(map[string]bool)
		}
		p.known[p.last] = p.lastMay
	}
	may, decided := p.known[topic]
	switch {
	case decided:
	case p.quiet:
		may = p.guard.Sees(p.by, p.op, acl.Topic, topic)
	default:
		may = p.guard.May(p.by, p.call, p.op, acl.Topic, topic)
	}
	p.last, p.lastMay, p.any = topic, may, true
	return may
}

// Renew forgets what was decided by rules that are not those of now, for a request that has waited.
func (p *Permits) Renew() {
	if p.guard == nil {
		return
	}
	if now := p.guard.rules(); now != p.rules {
		p.rules, p.any = now, false
		clear(p.known)
	}
}
