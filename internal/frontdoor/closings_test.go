package frontdoor

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Who is closed without end, and comes from many addresses, writes so many lines in a second, which leave room for others; how many more there
// were is told when the second is over, and counted.
func TestClosingsFillNoLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := newAuditor()
		leftOut := prometheus.NewCounter(prometheus.CounterOpts{Name: "left_out", Help: "x"})
		c := NewClosings(slog.New(slog.NewTextHandler(out, nil)), leftOut)
		closed := func(last byte, times int) {
			for port := range times {
				c.Tell(&net.TCPAddr{IP: net.IPv4(10, 0, 0, last), Port: port}, "default", "bad_frame", strings.Repeat("x", 10_000))
			}
		}
		wrote := func(text string) int { return strings.Count(out.text(), text) }
		closed(1, 1000)
		for i := range 100 {
			closed(byte(100+i), 2*closingLimits.quiet)
		}
		closed(2, 1)
		if n := wrote("client=10.0.0.1:"); n != closingLimits.each {
			t.Errorf("%d lines of one address", n)
		}
		if n := wrote(`msg="connection closed"`); n != closingLimits.all || wrote("client=10.0.0.2:") != 0 {
			t.Errorf("%d lines", n)
		}
		if n := len(out.text()); n > closingLimits.all*1000 {
			t.Errorf("%d bytes", n)
		}
		if got := testutil.ToFloat64(leftOut); got != float64(1000+100*2*closingLimits.quiet+1-closingLimits.all) {
			t.Errorf("%v lines are counted as left out", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if line := fmt.Sprintf("connections=%d reason=bad_frame of=10.0.0.1\n", 1000-closingLimits.each); wrote(line) != 1 {
			t.Errorf("%s is not in the log", line)
		}
		closed(2, 1)
		if wrote("client=10.0.0.2:") != 1 {
			t.Error("the next second has no room")
		}
	})
}
