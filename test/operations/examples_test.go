package operations

import (
	"encoding/json"
	"errors"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestExamples runs the three programs of examples/README.md as it says: each crashes in the middle and is started again. What they differ in
// is how often an order is in the ledger then.
func TestExamples(t *testing.T) {
	if *binaries == "" {
		t.Skip("make operations runs them")
	}
	s := newShop(t)
	programs := t.TempDir()
	build := exec.CommandContext(s.ctx, "go", "build", "-o", programs, "./examples/at-most-once", "./examples/at-least-once", "./examples/exactly-once")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	grpc, _ := s.dev("brokerd dev --set groups.session_timeout=5s --set groups.heartbeat_interval=1s")
	s.ok("brokerctl topic create orders --partitions 3", grpc)
	s.ok("seq 1 10 | brokerctl produce orders", grpc)
	for _, e := range []struct {
		name string
		// none and twice: some orders are missing, and some are there twice.
		none, twice bool
	}{{"at-most-once", true, false}, {"at-least-once", false, true}, {"exactly-once", false, false}} {
		path := filepath.Join(programs, e.name)
		if out, err := s.shell(path+" --crash 4 --bootstrap "+grpc, grpc).CombinedOutput(); !exited(err, 137) {
			t.Fatalf("%s --crash 4: %v\n%s", e.name, err, out)
		}
		again := exec.CommandContext(s.ctx, path, "--bootstrap", grpc)
		s.must(again.Start())
		for !s.readAll(e.name, grpc) {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-s.ctx.Done():
				t.Fatalf("%s does not get to the end", e.name)
			}
		}
		s.must(again.Process.Signal(syscall.SIGTERM))
		_ = again.Wait() // how it ends is its own business: what it has committed counts
		times := s.ledger(grpc)
		// A transaction's offsets may be there a moment before its records.
		for end := time.Now().Add(10 * time.Second); !e.none && len(times) < 10 && time.Now().Before(end); {
			times = s.ledger(grpc)
		}
		twice := false
		for n := range maps.Values(times) {
			twice = twice || n > 1
		}
		if none := len(times) < 10; none != e.none || twice != e.twice {
			t.Errorf("%s: the ledger has %v", e.name, times)
		}
		s.ok("brokerctl topic delete ledger --yes", grpc)
	}
}

// ledger gives how often each order is in the ledger now.
func (s *shop) ledger(grpc string) map[string]int {
	s.t.Helper()
	times := make(map[string]int)
	for line := range strings.Lines(s.ok("brokerctl consume ledger --isolation read_committed -q", grpc)) {
		times[strings.TrimSpace(line)]++
	}
	return times
}

// readAll says whether a group has committed everything there is.
func (s *shop) readAll(group, grpc string) bool {
	out, err := s.shell("brokerctl group lag "+group+" -q -o json", grpc).Output()
	var lag []struct{ Committed int64 }
	if err != nil || json.Unmarshal(out, &lag) != nil {
		return false
	}
	read := int64(0)
	for _, p := range lag {
		read += max(p.Committed, 0)
	}
	return read == 10
}

func exited(err error, code int) bool {
	var e *exec.ExitError
	return errors.As(err, &e) && e.ExitCode() == code
}
