package recordlog

import (
	"encoding/binary"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// putNonce makes a batch unlike any other: in the producer id, which the log does not look at.
func putNonce(b record.Batch, nonce uint64) { binary.BigEndian.PutUint64(b[43:], nonce) }

// budget is how long the random tests run: a few seconds, or as ONCELOG_CRASH_SECONDS says.
func budget(t testing.TB, usual time.Duration) time.Duration {
	t.Helper()
	if s := os.Getenv("ONCELOG_CRASH_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("ONCELOG_CRASH_SECONDS: %v", err)
		}
		return time.Duration(n) * time.Second
	}
	if testing.Short() {
		return usual / 4
	}
	return usual
}

// seedOfRun is ONCELOG_SEED, or taken from the clock; it is printed.
func seedOfRun(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ONCELOG_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("ONCELOG_SEED: %v", err)
		}
	}
	t.Logf("ONCELOG_SEED=%d", seed)
	return seed
}

// The log and a dumb second implementation agree over long random runs, restarts included.
func TestAgreesWithModel(t *testing.T) {
	seed := seedOfRun(t)
	until := time.Now().Add(budget(t, 2*time.Second))
	steps := 0
	for ; time.Now().Before(until); seed++ {
		d := newDriver(t, seed, newMem(t, seed))
		d.did("seed %d", seed)
		for range 600 {
			d.next()
			switch d.rng.IntN(40) {
			case 0:
				d.reopen(nil)
			case 1:
				d.reopen(d.fs.KillClone())
			case 2:
				d.check()
			}
		}
		steps += d.step
		must(t, d.log.Close())
	}
	t.Logf("%d steps", steps)
}
