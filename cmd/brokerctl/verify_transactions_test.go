package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
)

// TestVerifyTransactions: transactions on a real cluster, in this process, and judged again from the file.
func TestVerifyTransactions(t *testing.T) {
	t.Parallel()
	c := brokertest.Start(t, brokertest.Options{})
	run := func(args ...string) (verdictJSON, int) {
		t.Helper()
		var out, errs lockedBuffer
		p := &program{
			stdin: strings.NewReader(""), stdout: &out, stderr: &errs, clock: time.Now,
			dialer: func(ctx context.Context, addr string) (net.Conn, error) { return c.Network.Dial(ctx, "client", addr) },
			environ: func(name string) string {
				return map[string]string{"BROKERCTL_BOOTSTRAP": strings.Join(c.GRPCAddrs(), ",")}[name]
			},
		}
		code := p.run(t.Context(), append(args, "-o", "json"))
		var v verdictJSON
		if err := json.Unmarshal([]byte(out.String()), &v); err != nil {
			t.Fatalf("%v: %s%s", err, out.String(), errs.String())
		}
		return v, code
	}
	file := filepath.Join(t.TempDir(), "run.jsonl")
	v, code := run("verify", "--transactions", "--duration", "1s", "--rate", "100", "--record", file)
	if code != exitOK || !v.OK || v.Committed+v.Aborted == 0 {
		t.Errorf("exit %d, %+v", code, v)
	}
	if again, code := run("verify", "--history", file); code != exitOK || again.Committed != v.Committed {
		t.Errorf("judged again: exit %d, %+v", code, again)
	}
}
