package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

var binary = sync.OnceValues(func() (string, error) {
	dir, err := suiteDir("oncelog-compat-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "brokerd")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/brokerd")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
})

// startCluster runs three brokers for a test. Their logs are shown when it fails.
func startCluster(t testing.TB, set ...string) *brokerproc.Cluster {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: path, Dir: t.TempDir(), Brokers: 3, Set: append([]string{"log.level=warn"}, set...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if !t.Failed() {
			return
		}
		for _, p := range c.Brokers() {
			if text, err := os.ReadFile(p.LogFile()); err == nil {
				t.Logf("broker %d:\n%s", p.ID, text[max(0, len(text)-8000):])
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}
