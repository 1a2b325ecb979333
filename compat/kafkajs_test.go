package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// kafkajsVersion is what package.json asks for.
const kafkajsVersion = "2.2.4"

// nodeHome gives a directory with the JavaScript jobs and what they need.
var nodeHome = sync.OnceValues(func() (string, error) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", err
		}
	}
	dir, err := suiteDir("oncelog-node-")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS("js")); err != nil {
		return "", err
	}
	return dir, again(func() error {
		install := exec.Command("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
		install.Dir = dir
		return told(install)
	})
})

// node runs one job and gives what it printed.
func node(ctx context.Context, dir string, c *brokerproc.Cluster, job string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join(dir, "jobs.js"), job, strings.Join(c.KafkaAddrs(), ",")}, args...)...)
	return printed(cmd)
}

// kafkajs: idempotent with every codec, transactions and a group that reads committed records, on the versions of 2019 that it speaks; and an
// exactly-once copy. It shows no generation when it commits in a transaction (KIP-447), so one process copies.
func TestKafkaJS(t *testing.T) {
	ran(t, "kafkajs", kafkajsVersion, "idempotent producer, every codec, through a kill; transactions through a kill; a group that reads committed records; an exactly-once copy, through a kill")
	t.Parallel()
	dir, err := nodeHome()
	if err != nil {
		missing(t, "kafkajs", err)
	}
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	for _, topic := range []string{"plain", "txn", "out"} {
		createTopic(t, admin, topic, 3)
	}
	job := func(name string, args ...string) func() (string, error) {
		return func() (string, error) { return node(ctx, dir, c, name, args...) }
	}
	// killAfter kills the leader of a topic once a job has written so many records to it.
	killAfter := func(topic string, records int64) (wait func()) {
		var killing sync.WaitGroup
		killing.Go(func() {
			underWay(t, ctx, admin, topic, records)
			kill(t, c, leaderOf(t, ctx, admin, topic, 0))
		})
		return killing.Wait
	}
	killed := killAfter("plain", 700)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		mustPrint(t, "produced 500", job("produce", "plain", "500", codec))
	}
	killed()
	counts(t, ctx, c, "plain", 2500)
	killed = killAfter("txn", 20)
	said, err := job("transact", "txn", "30", "kafkajs-job")()
	killed()
	var committed, uncertain int
	if _, e := fmt.Sscanf(said, "committed %d uncertain %d", &committed, &uncertain); e != nil || err != nil || committed+uncertain < 180 {
		t.Fatalf("transactions: %q, %v", said, err)
	}
	var may []int
	for n := committed; n <= committed+uncertain; n += 10 {
		may = append(may, n)
	}
	there := counts(t, ctx, c, "txn", may...)
	ledAsPreferred(t, ctx, admin, "plain", "txn", "__consumer_offsets")
	mustPrint(t, "consumed 2500 different 2500 aborted 0", job("consume", "plain", "g", "2500"))
	mustPrint(t, fmt.Sprintf("consumed %d different %d aborted 0", there, there), job("consume", "txn", "h", fmt.Sprint(there)))
	killed = killAfter("out", 300)
	mustPrint(t, "copied 2500", job("copy", "plain", "out", "kafkajs-copy", "2500"))
	killed()
	counts(t, ctx, c, "out", 2500)
}

// ledAsPreferred has the preferred leader of every partition lead it again after a kill, so that none moves while somebody reads. When a partition
// moves, kafkajs joins its group again beside what it is doing, and a commit under way, which shows the generation before, ends the
// consumer: it knows ILLEGAL_GENERATION as a reason to join again, but not inside the error that says that it was not retried.
func ledAsPreferred(t *testing.T, ctx context.Context, cl *kgo.Client, topics ...string) {
	t.Helper()
	admin := kadm.NewClient(cl)
	for {
		moving, found := make(kadm.TopicsSet), 0
		m, err := admin.Metadata(ctx, topics...)
		for _, topic := range m.Topics {
			for _, p := range topic.Partitions {
				found++
				if p.Leader != p.Replicas[0] {
					moving.Add(topic.Topic, p.Partition)
				}
			}
		}
		if err == nil && found > 0 && len(moving) == 0 {
			return
		}
		if len(moving) > 0 {
			_, err = admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, moving)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not led by their preferred leaders: %v (%v)", moving, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// printed runs a command and gives what it printed; what it said beside that is in the error.
func printed(cmd *exec.Cmd) (string, error) {
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return strings.TrimSpace(string(out)), err
}

// told runs a command, and has what it said in the error.
func told(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
	}
	return nil
}

// again repeats what asks a mirror of packages, which fails now and then.
func again(ask func() error) (err error) {
	for try := range 4 {
		if try > 0 {
			time.Sleep(time.Duration(try) * 5 * time.Second)
		}
		if err = ask(); err == nil {
			return nil
		}
	}
	return err
}
