package compat

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/compatpage"
)

var results struct {
	mu   sync.Mutex
	list []compatpage.Result
}

// ran notes what becomes of a test of a client. docs/compatibility.md is made of what was noted: what says in a few words what the test
// runs, and stands there once it ran.
func ran(t *testing.T, client, version, what string) {
	t.Helper()
	began := time.Now()
	t.Cleanup(func() {
		if t.Skipped() {
			return
		}
		results.mu.Lock()
		defer results.mu.Unlock()
		results.list = append(results.list, compatpage.Result{Client: client, Version: version, Test: t.Name(), What: what, Passed: !t.Failed(),
			Date: time.Now().UTC().Format(time.DateOnly), Seconds: int(time.Since(began).Seconds())})
	})
}

// TestMain writes what was run into the file that COMPAT_RESULTS names, over what was written of the same tests before.
func TestMain(m *testing.M) {
	status := m.Run()
	suiteDirs.remove()
	if path := os.Getenv("COMPAT_RESULTS"); path != "" {
		before, err := compatpage.Read(path)
		if err == nil {
			err = compatpage.Write(path, compatpage.Merge(before, results.list))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "compat:", err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

// suiteDirs are what tests share, and what is removed after the last of them.
var suiteDirs dirs

type dirs struct {
	mu   sync.Mutex
	list []string
}

// suiteDir makes a directory that tests share.
func suiteDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err == nil {
		suiteDirs.mu.Lock()
		defer suiteDirs.mu.Unlock()
		suiteDirs.list = append(suiteDirs.list, dir)
	}
	return dir, err
}

func (d *dirs) remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dir := range d.list {
		_ = os.RemoveAll(dir) // what is left is in nobody's way
	}
}

// moduleVersion is the version of a Go module that the suite is built with.
func moduleVersion(path string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", path).Output()
	if err != nil {
		return "?"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
}

func franzVersion() string { return moduleVersion("github.com/twmb/franz-go") }
