package frontdoor

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

// Who is refused without end fills no disk, and hides nothing that others do; what was left out is counted.
func TestAuditIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a := NewAudit(&out)
		by := NewCaller("kafka", "alice", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)})
		for range 2 * maxAuditLines {
			a.call(by, "Produce", acl.Write, acl.Topic, "t", outcomeDenied)
			a.login(by, "PLAIN", outcomeFailed)
		}
		a.call(by, "CreateACLs", acl.Alter, acl.Cluster, acl.ClusterName, outcomeAllowed)
		if n := strings.Count(out.String(), "\n"); n != maxAuditLines+1 || !strings.HasSuffix(out.String(), `"call":"CreateACLs","operation":"alter","resource_type":"cluster","resource":"kafka-cluster"}`+"\n") {
			t.Errorf("%d lines, the last is %s", n, out.String()[strings.LastIndex(out.String()[:out.Len()-1], "\n")+1:])
		}
		time.Sleep(time.Second)
		a.login(by, "PLAIN", outcomeFailed)
		if !strings.Contains(out.String(), `"msg":"skipped","lines":3000`) {
			t.Error("what was left out is not counted")
		}
	})
}
