package compat

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// confluentKafka is the version of the Python client, which brings its own librdkafka.
const confluentKafka = "2.16.1"

// pythonHome gives an interpreter that has the client.
var pythonHome = sync.OnceValues(func() (string, error) {
	dir, err := suiteDir("oncelog-python-")
	if err != nil {
		return "", err
	}
	if err := told(exec.Command("python3", "-m", "venv", dir)); err != nil {
		return "", err
	}
	python := filepath.Join(dir, "bin", "python")
	return python, again(func() error {
		return told(exec.Command(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "confluent-kafka=="+confluentKafka))
	})
})

// python runs one job and gives what it printed.
func python(ctx context.Context, interpreter string, c *brokerproc.Cluster, job string, args ...string) (string, error) {
	return printed(exec.CommandContext(ctx, interpreter, append([]string{"python/jobs.py", job, strings.Join(c.KafkaAddrs(), ",")}, args...)...))
}

// The same jobs as Java's with librdkafka, which speaks version 1 of transactions.
func TestConfluentKafkaPython(t *testing.T) {
	ran(t, "confluent-kafka", confluentKafka, "librdkafka: idempotent producer, every codec; transactions through a kill; consumers with `read_committed` in groups of both protocols; exactly-once copies by two processes, through a kill")
	t.Parallel()
	interpreter, err := pythonHome()
	if err != nil {
		missing(t, "confluent-kafka for Python", err)
	}
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	for _, topic := range []string{"plain", "txn", "out-classic", "out-consumer"} {
		createTopic(t, admin, topic, 3)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		mustPrint(t, "produced 500", func() (string, error) { return python(ctx, interpreter, c, "produce", "plain", "500", codec) })
	}
	var killing sync.WaitGroup
	killing.Go(func() {
		underWay(t, ctx, admin, "txn", 20)
		kill(t, c, leaderOf(t, ctx, admin, "txn", 0))
	})
	mustPrint(t, "committed 200", func() (string, error) { return python(ctx, interpreter, c, "transact", "txn", "30", "python-job") })
	killing.Wait()
	counts(t, ctx, c, "plain", 2500)
	counts(t, ctx, c, "txn", 200)
	for _, p := range []string{"classic", "consumer"} {
		mustPrint(t, "consumed 2500 different 2500 aborted 0", func() (string, error) {
			return python(ctx, interpreter, c, "consume", "plain", "g-"+p, p, "2500")
		})
		mustPrint(t, "consumed 200 different 200 aborted 0", func() (string, error) { return python(ctx, interpreter, c, "consume", "txn", "h-"+p, p, "200") })
		var copies sync.WaitGroup
		for i := range 2 {
			copies.Go(func() {
				out, err := python(ctx, interpreter, c, "copy", "plain", "out-"+p, fmt.Sprintf("python-copy-%d", i), p, "2500")
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
