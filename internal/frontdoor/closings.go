package frontdoor

import (
	"log/slog"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// closingLimits are those of lines about connections that a door closes, by the client's address.
var closingLimits = lineLimits{all: 100, each: 20, reserve: 50, quiet: 5}

// Closings writes a line for each connection that a door closes, within a budget: who connects again and again is told of a few times. Its
// methods may be called from many goroutines.
type Closings struct {
	log     *slog.Logger
	leftOut prometheus.Counter

	// mu guards budget.
	mu     sync.Mutex
	budget lineBudget
}

// NewClosings makes one; leftOut counts the lines that are not written.
func NewClosings(log *slog.Logger, leftOut prometheus.Counter) *Closings {
	return &Closings{log: log, leftOut: leftOut, budget: lineBudget{lineLimits: closingLimits}}
}

// Tell says that the connection of a client of a listener is closed, and why.
func (c *Closings) Tell(client net.Addr, listener, reason, detail string) {
	c.mu.Lock()
	limit := c.budget.take(NewCaller("", "", client).Host, reason, c.tell)
	c.mu.Unlock()
	if limit != "" {
		c.leftOut.Inc()
		return
	}
	c.log.Info("connection closed", "reason", reason, "detail", cut(detail), "client", client.String(), "listener", listener)
}

func (c *Closings) tell(lines map[leftOut]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	logLeftOut(lines, func(n int, k leftOut) {
		c.log.Info("more connections closed", "connections", n, "reason", k.what, "of", k.by)
	})
}
