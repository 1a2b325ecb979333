package sim

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "run this seed alone, with its trace")
	debugFlag   = flag.Bool("debug", false, "log what only developers want to know, too")
	timesFlag   = flag.Int("times", 1, "with -seed: how many times; the seed does not decide which goroutine is first")
	seedsFlag   = flag.Int("seeds", 8, "how many seeds to run")
	firstFlag   = flag.Uint64("first", 1, "the first seed")
	forFlag     = flag.Duration("for", 0, "run fresh seeds for this long, in place of -seeds")
	lastsFlag   = flag.Duration("lasts", 0, "TestTransactionSeeds: for how much virtual time each cluster is broken; 0: as the seed says")
	workersFlag = flag.Int("workers", 0, "how many seeds run at once; 0: as many as -parallel")
)

func TestMain(m *testing.M) {
	// A cluster takes little memory and makes much garbage.
	debug.SetGCPercent(1600)
	debug.SetMemoryLimit(2 << 30)
	os.Exit(m.Run())
}

// TestSeeds runs seeds side by side: a fixed handful by default, fresh ones with -for. A seed that
// fails is run again alone by
//
//	scripts/chaos.sh --only sim --seed N      or
//	go test ./test/sim -run TestSeeds -v -seed N
func TestSeeds(t *testing.T) {
	first, count, step := *firstFlag, uint64(*seedsFlag), uint64(1)
	if *seedFlag != 0 {
		first, count, step = *seedFlag, uint64(*timesFlag), 0
	}
	began := time.Now()
	if *forFlag > 0 {
		first, count = uint64(began.UnixNano())/1000, 1<<62
		fmt.Printf("sim: fresh seeds from %d for %s\n", first, *forFlag)
	}
	var taken, done, sent, faults atomic.Int64
	t.Cleanup(func() {
		took := time.Since(began)
		fmt.Printf("sim: %d seeds in %s (%.0f a minute): %d faults, %d records\n", done.Load(), took.Round(time.Millisecond),
			float64(done.Load())/took.Minutes(), faults.Load(), sent.Load())
	})
	workers := *workersFlag
	if workers == 0 {
		workers = flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int)
	}
	for w := range workers {
		t.Run(fmt.Sprint("worker", w), func(t *testing.T) {
			t.Parallel()
			for {
				n := uint64(taken.Add(1)) - 1
				if n >= count || *forFlag > 0 && time.Since(began) > *forFlag {
					return
				}
				t.Run(fmt.Sprint("seed", first+n*step), func(t *testing.T) {
					r := seed(t, first+n*step)
					done.Add(1)
					if r.Report != nil {
						sent.Add(r.Report.Sent)
						faults.Add(r.Report.Faults)
					}
				})
			}
		})
	}
}

// seed runs one seed and fails the test if a promise was broken.
func seed(t *testing.T, n uint64) *Result {
	t.Helper()
	o := Options{Seed: n, LogLevel: logLevel()}
	began := time.Now()
	if *forFlag > 0 {
		fmt.Printf("sim: seed %d\n", n)
	}
	r := Run(t, o)
	t.Logf("seed %d took %.1fs", n, time.Since(began).Seconds())
	report(t, n, r)
	return r
}

// logLevel is the brokers', nil: the usual one.
func logLevel() slog.Leveler {
	if *debugFlag {
		return slog.LevelDebug
	}
	return nil
}

// report fails the test if a promise was broken.
func report(t *testing.T, n uint64, r *Result) {
	t.Helper()
	t.Logf("seed %d: %s", n, r)
	if !r.OK() || *seedFlag != 0 && *timesFlag == 1 {
		t.Log("\n" + r.Trace)
	}
	if !r.OK() {
		t.Errorf("seed %d: a promise is broken. The brokers' logs are in %s.\nAgain: scripts/chaos.sh --only sim --seed %d", n, keepLogs(n, r.Logs), n)
	}
}

// keepLogs writes logs to a file and says which.
func keepLogs(seed uint64, logs []byte) string {
	f, err := os.CreateTemp("", fmt.Sprintf("oncelog-sim-%d-*.log", seed))
	if err != nil {
		return err.Error()
	}
	_, err = f.Write(logs)
	if err = errors.Join(err, f.Close()); err != nil {
		return err.Error()
	}
	return f.Name()
}
