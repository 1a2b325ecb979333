package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Kafka Streams program with exactly_once_v2 whose store lives in a compacted changelog: it is killed, everything it has on its
// machine is removed, the changelog is compacted meanwhile and a broker of it killed; what it restores is exact.
func TestStreamsRestoreFromCompactedChangelog(t *testing.T) {
	ran(t, "Kafka Streams", javaVersions[len(javaVersions)-1], "the same, killed and its local state wiped, restored from its compacted changelog")
	t.Parallel()
	path := javaJobs(t, javaVersions[len(javaVersions)-1])
	c := startCluster(t, "compaction.interval=500ms", "retention_check=500ms", "raft.snapshot_bytes=256KiB")
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "lines", 3)
	createTopic(t, admin, "counted", 3)
	const changelog, partitions = "words-counts-changelog", 3
	value := func(s string) *string { return &s }
	if _, err := kadm.NewClient(admin).CreateTopic(ctx, partitions, 3, map[string]*string{"cleanup.policy": value("compact"), "segment.bytes": value("65536"),
		"min.cleanable.dirty.ratio": value("0.1"), "delete.retention.ms": value("0")}, changelog); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	start := func() *exec.Cmd {
		log, err := os.OpenFile(filepath.Join(dir, "streams.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd := exec.CommandContext(ctx, "java", "-Xmx256m", "-cp", path, "compat.WordCount", strings.Join(c.KafkaAddrs(), ","), filepath.Join(dir, "state"))
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	end := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	app := start()
	defer func() { end(app) }()
	words := make([]string, 60)
	for i := range words {
		words[i] = fmt.Sprintf("word%02d%s", i, strings.Repeat("x", 200))
	}
	producer := franzClient(t, c, kgo.DefaultProduceTopic("lines"))
	const rounds, each = 3, 120
	for round := range rounds {
		for i := range each {
			producer.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "%d", i), Value: []byte(strings.Join(words, " "))}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			if i%10 == 9 { // in many transactions
				if err := producer.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				counted(t, ctx, c.KafkaAddrs(), words[0], round*each+i+1, dir)
			}
		}
		if round == rounds-1 {
			break
		}
		end(app)
		if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
			t.Fatal(err)
		}
		for stored, written := changelogSize(t, ctx, c.KafkaAddrs(), changelog); stored*2 > written; stored, written = changelogSize(t, ctx, c.KafkaAddrs(), changelog) {
			if ctx.Err() != nil {
				t.Fatalf("the changelog still holds %d of %d", stored, written)
			}
			time.Sleep(200 * time.Millisecond)
		}
		kill(t, c, leaderOf(t, ctx, admin, changelog, int32(round)))
		app = start()
	}
	for _, w := range words {
		if got := counted(t, ctx, c.KafkaAddrs(), w, rounds*each, dir); got != rounds*each {
			t.Errorf("%s was counted %d times, want %d", w[:6], got, rounds*each)
		}
	}
	stored, written := changelogSize(t, ctx, c.KafkaAddrs(), changelog)
	t.Logf("the changelog holds %s records of %d offsets", strconv.Itoa(stored), written)
}

// changelogSize is how many records a topic holds, and how many offsets it has given out.
func changelogSize(t *testing.T, ctx context.Context, seeds []string, topic string) (stored, written int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	at := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		written += int(o.Offset)
		if o.Offset > 0 {
			at[o.Partition] = o.Offset
		}
	})
	quiet, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	for len(at) > 0 && quiet.Err() == nil {
		cl.PollFetches(quiet).EachPartition(func(p kgo.FetchTopicPartition) {
			stored += len(p.Records)
			// The last offsets are markers, which are not shown: what is near the end is the end.
			if n := len(p.Records); n > 0 && p.Records[n-1].Offset+3 >= at[p.Partition] {
				delete(at, p.Partition)
			}
		})
	}
	return stored, written
}
