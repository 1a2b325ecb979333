package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// javaVersions are those of kafka-clients that the jobs run with: the last with transactions of version 1, and one of today.
var javaVersions = []string{"3.9.1", "4.3.1"}

// required makes what is missing on this machine a failure rather than a skipped test; make compat sets it.
var required = os.Getenv("COMPAT_REQUIRED") != ""

// missing skips or fails a test that cannot run here.
func missing(t *testing.T, what string, err error) {
	t.Helper()
	if required {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("%s: %v", what, err)
}

// javaJobs gives the class path of the jobs with a version of kafka-clients.
func javaJobs(t *testing.T, version string) string {
	t.Helper()
	path, err := javaProject("java", "-Dkafka.version="+version)
	if err != nil {
		missing(t, "Java jobs with kafka-clients "+version, err)
	}
	return path
}

// java runs one job and gives what it printed.
func java(ctx context.Context, path string, c *brokerproc.Cluster, job string, args ...string) (string, error) {
	return printed(exec.CommandContext(ctx, "java", append([]string{"-Xmx256m", "-cp", path, "compat.Jobs", job, strings.Join(c.KafkaAddrs(), ",")}, args...)...))
}

// mustPrint runs a job that must print a line.
func mustPrint(t *testing.T, want string, run func() (string, error)) {
	t.Helper()
	if got, err := run(); err != nil || got != want {
		t.Errorf("printed %q, %v; want %q", got, err, want)
	}
}

// The producer and the consumer of Java's clients: idempotent with every codec, transactional, read_committed in a group, and an
// exactly-once copy by two instances, through a killed leader.
func TestJava(t *testing.T) {
	t.Parallel()
	for _, version := range javaVersions {
		t.Run("kafka-clients "+version, func(t *testing.T) {
			ran(t, "kafka-clients", version, "idempotent producer, every codec; transactions (`initTransactions` ... `commitTransaction`) through a kill; consumers with `read_committed` and `commitSync` in groups of the classic protocol and, from 4 on, of the consumer protocol; exactly-once copies by two processes, through a kill")
			path := javaJobs(t, version)
			protocols := []string{"classic"}
			if version >= "4" {
				protocols = append(protocols, "consumer")
			}
			runJava(t, path, protocols)
		})
	}
}

// clientRace is what the consumer of kafka-clients 4 dies of now and then when a leader changes: its background thread begins to validate
// a position while a poll moves it.
const clientRace = "Cannot set a new position without a valid current position"

func runJava(t *testing.T, path string, protocols []string) {
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	for _, topic := range []string{"plain", "txn", "out-classic", "out-consumer"} {
		createTopic(t, admin, topic, 3)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		mustPrint(t, "produced 500", func() (string, error) { return java(ctx, path, c, "produce", "plain", "500", codec) })
	}
	var killing sync.WaitGroup
	killing.Go(func() {
		underWay(t, ctx, admin, "txn", 20)
		kill(t, c, leaderOf(t, ctx, admin, "txn", 0))
	})
	mustPrint(t, "committed 200", func() (string, error) { return java(ctx, path, c, "transact", "txn", "30", "java-job") })
	killing.Wait()
	counts(t, ctx, c, "plain", 2500)
	counts(t, ctx, c, "txn", 200)
	for _, p := range protocols {
		mustPrint(t, "consumed 2500 different 2500 aborted 0", func() (string, error) { return java(ctx, path, c, "consume", "plain", "g-"+p, p, "2500") })
		mustPrint(t, "consumed 200 different 200 aborted 0", func() (string, error) { return java(ctx, path, c, "consume", "txn", "h-"+p, p, "200") })
	}
	for _, p := range protocols {
		var copies sync.WaitGroup
		for i := range 2 {
			copies.Go(func() {
				copying := func() (string, error) {
					return java(ctx, path, c, "copy", "plain", "out-"+p, fmt.Sprintf("java-copy-%d", i), p, "2500")
				}
				out, err := copying()
				for err != nil && strings.Contains(err.Error(), clientRace) { // it dies, and is started again
					t.Log("the consumer died of its own race")
					out, err = copying()
				}
				if err != nil || !strings.HasPrefix(out, "copied ") {
					t.Errorf("copy: %v: %s", err, out)
				}
			})
		}
		underWay(t, ctx, admin, "out-"+p, 200)
		kill(t, c, leaderOf(t, ctx, admin, "out-"+p, 1))
		copies.Wait()
		counts(t, ctx, c, "out-"+p, 2500)
	}
}
