package frontdoor

import (
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// Audit writes one JSON line for each call that is refused or that only administrators make, and for each attempt to prove who one is.
// No line holds a secret: what clients send is in none of them but names. A nil Audit writes nothing.
type Audit struct {
	log *slog.Logger

	// mu guards what follows.
	mu              sync.Mutex
	refused, served budget
}

// budget is what is left to write of one kind of lines in a second.
type budget struct {
	second         int64
	lines, skipped int
}

// maxAuditLines is how many are written in a second: whoever is refused again and again must not fill a disk. The rest are counted. What was
// refused has its own, lest somebody hide by it what another has done.
const maxAuditLines = 1000

// Outcomes of calls and of proofs.
const (
	outcomeAllowed   = "allowed"
	outcomeDenied    = "denied"
	outcomeSucceeded = "succeeded"
	outcomeFailed    = "failed"
)

// NewAudit writes to w, one write for each line.
func NewAudit(w io.Writer) *Audit {
	return &Audit{log: slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))}
}

func (a *Audit) call(c Caller, call string, op acl.Operation, t acl.ResourceType, name, outcome string) {
	if a == nil || !a.room(outcome) {
		return
	}
	a.log.Info("call", "outcome", outcome, "principal", c.principal, "address", c.Host, "door", c.Door, "call", call,
		"operation", op.String(), "resource_type", t.String(), "resource", cut(name))
}

func (a *Audit) login(c Caller, mechanism, outcome string) {
	if a == nil || !a.room(outcome) {
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

// room says whether another line may be written now.
func (a *Audit) room(outcome string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &a.refused
	if outcome == outcomeAllowed || outcome == outcomeSucceeded {
		b = &a.served
	}
	if now := time.Now().Unix(); now != b.second {
		if b.skipped > 0 {
			a.log.Info("skipped", "lines", b.skipped)
		}
		*b = budget{second: now}
	}
	if b.lines++; b.lines > maxAuditLines {
		b.skipped++
		return false
	}
	return true
}
