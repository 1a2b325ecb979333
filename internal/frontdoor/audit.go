package frontdoor

import (
	"io"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// Audit writes one JSON line for each call that is refused or that only administrators make, and for each attempt to prove who one is.
// No line holds a secret: what clients send is in none of them but names. A nil Audit writes nothing.
type Audit struct {
	log     *slog.Logger
	leftOut *prometheus.CounterVec

	// mu guards what follows. What was refused has a budget of its own, lest somebody hide by it what another has done.
	mu              sync.Mutex
	refused, served lineBudget
}

// Outcomes of calls and of proofs.
const (
	outcomeAllowed   = "allowed"
	outcomeDenied    = "denied"
	outcomeSucceeded = "succeeded"
	outcomeFailed    = "failed"
)

// NewAudit writes to w, one write for each line.
func NewAudit(w io.Writer) *Audit {
	a := &Audit{refused: lineBudget{lineLimits: auditLimits}, served: lineBudget{lineLimits: auditLimits}, leftOut: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_audit_lines_left_out_total",
		Help: "Lines that the audit log did not take, by outcome, and by the limit that they were above: that of one principal, or that of all."}, []string{"outcome", "limit"})}
	a.log = slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))
	for _, outcome := range []string{outcomeAllowed, outcomeDenied, outcomeSucceeded, outcomeFailed} {
		for _, limit := range []string{limitPrincipal, limitTotal} {
			a.leftOut.WithLabelValues(outcome, limit) // 0 is a figure, too
		}
	}
	return a
}

func (a *Audit) call(c Caller, call string, op acl.Operation, t acl.ResourceType, name, outcome string) {
	if a == nil || !a.room(c, outcome) {
		return
	}
	a.log.Info("call", "outcome", outcome, "principal", c.principal, "address", c.Host, "door", c.Door, "call", call,
		"operation", op.String(), "resource_type", t.String(), "resource", cut(name))
}

func (a *Audit) login(c Caller, mechanism, outcome string) {
	if a == nil || !a.room(c, outcome) {
		return
	}
	a.log.Info("login", "outcome", outcome, "principal", cut(c.principal), "address", c.Host, "door", c.Door, "mechanism", mechanism)
}

// cut bounds what a client can have written.
func cut(text string) string {
	const most = 256
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
