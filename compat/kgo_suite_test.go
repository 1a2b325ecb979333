package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// kgoSuite is franz-go's own test program.
var kgoSuite = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "oncelog-kgo-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kgo.test")
	cmd := exec.Command("go", "test", "-c", "-o", path, "github.com/twmb/franz-go/pkg/kgo")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
})

// kgoSource is where the module has the package.
var kgoSource = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/twmb/franz-go/pkg/kgo").Output()
	return strings.TrimSpace(string(out)), err
})

// otherThanKafka are tests of what differs on purpose; docs/compatibility.md says why.
const otherThanKafka = "^Test848RegexBrokerResolves$"

// runKgo runs franz-go's own tests against a cluster, and gives what they said if they failed.
func runKgo(t *testing.T, ctx context.Context, c *brokerproc.Cluster, env []string, args ...string) (failure string) {
	t.Helper()
	path, err := kgoSuite()
	if err != nil {
		missing(t, "franz-go's tests", err)
	}
	source, err := kgoSource() // some of the tests read it
	if err != nil {
		missing(t, "franz-go's source", err)
	}
	log := filepath.Join(t.TempDir(), "kgo.log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, path, append([]string{"-test.timeout=8m", "-test.skip=" + otherThanKafka}, args...)...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+strings.Join(c.KafkaAddrs(), ","), "KGO_TEST_RF=3", "KGO_TEST_RECORDS=20000", "KGO_LOG_LEVEL=none")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	err = cmd.Run()
	t.Logf("took %v", time.Since(began).Round(time.Second))
	if err == nil {
		return ""
	}
	text, _ := os.ReadFile(log) // what can be shown
	var told []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "[") {
			told = append(told, line)
		}
	}
	return err.Error() + "\n" + strings.Join(told[max(0, len(told)-200):], "")
}

// franz-go's own tests of producers, groups of both protocols and transactions.
func TestFranzGoItself(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	if failure := runKgo(t, ctx, c, nil); failure != "" {
		t.Error(failure)
	}
}

// The same while clients' connections break and are slow.
func TestFranzGoItselfInChaos(t *testing.T) {
	t.Parallel()
	if os.Getenv("COMPAT_LONG") == "" {
		t.Skip("COMPAT_LONG is not set")
	}
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	if failure := runKgo(t, ctx, c, []string{"KGO_TEST_CHAOS=1"}); failure != "" {
		t.Error(failure)
	}
}

// joinCut is what a member hears whose coordinator is killed while it joins. The client joins again, but its tests take it for a failure.
const joinCut = "unable to join group session: EOF"

// franz-go's exactly-once chain of copies, while one broker after the other is killed and started again.
func TestFranzGoTransactionsThroughKills(t *testing.T) {
	t.Parallel()
	for range 3 {
		failure := chainThroughKills(t)
		switch {
		case failure == "":
			return
		case !strings.Contains(failure, joinCut):
			t.Fatal(failure)
		}
		t.Log("a member's JoinGroup was cut; once more")
	}
	t.Error("a member's JoinGroup was cut every time")
}

func chainThroughKills(t *testing.T) (failure string) {
	c := startCluster(t)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	killing, stop := context.WithCancel(ctx)
	var killer sync.WaitGroup
	killer.Go(func() {
		for i := range 6 {
			select {
			case <-killing.Done():
				return
			case <-time.After(8 * time.Second):
			}
			id := int32(i%3 + 1)
			kill(t, c, id)
			if err := c.Broker(id).WaitReady(killing); err != nil && killing.Err() == nil {
				t.Errorf("broker %d does not come back: %v", id, err)
				return
			}
		}
	})
	defer killer.Wait()
	defer stop()
	return runKgo(t, ctx, c, nil, "-test.run=^TestTxnEtl$")
}
