package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// kgoSuite is franz-go's own test program.
var kgoSuite = sync.OnceValues(func() (string, error) {
	dir, err := suiteDir("oncelog-kgo-")
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
	ran(t, "franz-go's own tests", franzVersion(), "the whole test program of `pkg/kgo` with a replication of 3 and 20,000 records")
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
	ran(t, "franz-go's own tests", franzVersion(), "the same while connections break at random (`KGO_TEST_CHAOS`)")
	t.Parallel()
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	if failure := runKgo(t, ctx, c, []string{"KGO_TEST_CHAOS=1"}); failure != "" {
		t.Error(failure)
	}
}

// killPause is from when a killed broker is back until the next one is killed. kgo tries to join a group for as long as its session, 20 s in
// its tests, in which no more than one coordinator should die: they take for a failure what it reports then.
const killPause = 8 * time.Second

// franz-go's exactly-once chain of copies, while one broker after the other is killed and started again.
func TestFranzGoTransactionsThroughKills(t *testing.T) {
	ran(t, "franz-go's own tests", franzVersion(), "its chain of exactly-once copies (TxnEtl) while one broker after the other is killed")
	t.Parallel()
	// Kafka's 3 s would be added to by whoever comes, and begin anew with each coordinator. So would the 45 s for which a member of KIP-848 is waited
	// for that has gone without a word, because its coordinator was killed as it left: no coordinator lives that long here.
	c := startCluster(t, "groups.initial_rebalance_delay=0s", "groups.session_timeout=10s", "groups.heartbeat_interval=3s")
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	killing, stop := context.WithCancel(ctx)
	defer stop()
	var killer sync.WaitGroup
	var kills atomic.Int32
	killer.Go(func() {
		for pause := 6 * time.Second; ; pause = killPause {
			select {
			case <-killing.Done():
				return
			case <-time.After(pause):
			}
			id := kills.Load()%3 + 1
			kill(t, c, id)
			kills.Add(1)
			if err := c.Broker(id).WaitReady(killing); err != nil && killing.Err() == nil {
				t.Errorf("broker %d does not come back: %v", id, err)
				return
			}
		}
	})
	for kills.Load() < 3 && !t.Failed() {
		if failure := runKgo(t, ctx, c, nil, "-test.run=^TestTxnEtl$"); failure != "" {
			t.Error(failure)
		}
	}
	stop()
	killer.Wait()
	t.Logf("%d brokers were killed", kills.Load())
}
