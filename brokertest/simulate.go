package brokertest

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

const defaultWatchdog = 2 * time.Minute

// Simulate starts a cluster on virtual time and runs body. It may be called by parallel tests.
func Simulate(t *testing.T, o Options, body func(t *testing.T, c *Cluster)) {
	t.Helper()
	if o.Watchdog == 0 {
		o.Watchdog = defaultWatchdog
	}
	watchdog := time.AfterFunc(o.Watchdog, func() { bark(t.Name(), o) })
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		body(t, Start(t, o))
	})
}

// bark ends the program with the stacks of all goroutines. A goroutine that computes for ever, or
// that waits for something outside of the simulation, cannot be ended any other way.
func bark(name string, o Options) {
	stacks := make([]byte, 64<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	fmt.Fprintf(os.Stderr, "%s: seed %d has taken more than %s of real time\n\n%s\n", name, o.Seed, o.Watchdog, stacks)
	os.Exit(2)
}
