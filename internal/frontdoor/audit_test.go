package frontdoor

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// auditor is an audit log and who appears in it.
type auditor struct {
	*Audit
	// mu guards out.
	mu  sync.Mutex
	out bytes.Buffer
}

func newAuditor() *auditor {
	a := new(auditor)
	a.Audit = NewAudit(a)
	return a
}

// Write is the log's.
func (a *auditor) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(line)
}

func (a *auditor) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

func auditedBy(user string, last byte) Caller {
	return NewCaller("kafka", user, &net.TCPAddr{IP: net.IPv4(10, 0, 0, last)})
}

func (a *auditor) denied(by Caller, times int) {
	for range times {
		a.call(by, "Produce", acl.Write, acl.Topic, "t", outcomeDenied)
	}
}

// wrote is how many lines there are with a text.
func (a *auditor) wrote(text string) int { return strings.Count(a.text(), text) }

// Who is refused without end fills no disk, and hides nothing that others do, or that it is allowed; what was left out is told, of whom and why,
// as soon as the second is over, whether or not anything follows.
func TestOnePrincipalLeavesRoomInTheAuditLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuditor()
		alice, bob := auditedBy("alice", 1), auditedBy("bob", 1)
		a.denied(alice, 2*auditLimits.all)
		for range 2 * auditLimits.all {
			a.login(alice, "PLAIN", outcomeFailed) // whatever name it gives
			a.login(bob, "PLAIN", outcomeFailed)
		}
		a.denied(bob, 1)
		a.call(alice, "CreateACLs", acl.Alter, acl.Cluster, acl.ClusterName, outcomeAllowed)
		for text, want := range map[string]int{
			`"denied","principal":"User:alice"`: auditLimits.each, `"outcome":"failed"`: auditLimits.each,
			`"denied","principal":"User:bob"`: 1, `"call":"CreateACLs"`: 1, "\n": 2*auditLimits.each + 2,
		} {
			if n := a.wrote(text); n != want {
				t.Errorf("%d lines with %q, want %d", n, text, want)
			}
		}
		if got := testutil.ToFloat64(a.leftOut.WithLabelValues(outcomeDenied, limitPrincipal)); got != float64(2*auditLimits.all-auditLimits.each) {
			t.Errorf("%v denials are counted as left out", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, line := range []string{
			`"msg":"left_out","lines":1900,"outcome":"denied","limit":"principal","of":"User:alice"`,
			`"msg":"left_out","lines":3900,"outcome":"failed","limit":"principal","of":"10.0.0.1"`,
		} {
			if a.wrote(line) != 1 {
				t.Errorf("%s is not in %s", line, a.text()[strings.LastIndex(a.text(), "CreateACLs"):])
			}
		}
		time.Sleep(time.Second)
		a.denied(alice, 1)
		if n := a.wrote("left_out"); n != 2 {
			t.Errorf("what was left out is told %d times", n)
		}
	})
}

// However many are noisy, the log grows by no more than the total, some of which is for who is not; no map grows with who is turned away.
func TestManyPrincipalsShareTheAuditLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuditor()
		for i := range auditLimits.all {
			a.denied(auditedBy(fmt.Sprint("noisy", i), 1), 2*auditLimits.quiet)
			if i == auditLimits.all/20 {
				a.denied(auditedBy("quiet", 1), 1)
			}
		}
		if n := a.wrote("\n"); n != auditLimits.all {
			t.Errorf("%d lines", n)
		}
		if a.wrote("User:quiet") != 1 {
			t.Error("who is quiet is not heard")
		}
		if n := len(a.refused.by); n > auditLimits.all {
			t.Errorf("%d principals are remembered", n)
		}
		if n := len(a.refused.leftOut); n > auditLimits.all/auditLimits.quiet+1 {
			t.Errorf("what was left out is told in %d lines", n)
		}
	})
}
