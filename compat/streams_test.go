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

	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka Streams with processing.guarantee=exactly_once_v2: a word count with a store, whose process is killed and started again, and
// under which a broker is killed. The last count of each word is how often it was written.
func TestStreams(t *testing.T) {
	ran(t, "Kafka Streams", javaVersions[len(javaVersions)-1], "a word count with a store and `exactly_once_v2`, whose process is killed and started again, and through a kill")
	t.Parallel()
	path := javaJobs(t, javaVersions[len(javaVersions)-1])
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "lines", 3)
	createTopic(t, admin, "counted", 3)
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
	producer := franzClient(t, c, kgo.DefaultProduceTopic("lines"))
	const rounds, each = 4, 100
	for round := range rounds {
		for i := range each {
			producer.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "%d", i), Value: []byte("alpha beta alpha")}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := producer.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		counted(t, ctx, c.KafkaAddrs(), "alpha", (round+1)*each, dir) // something of the round is there
		switch round {
		case 0:
			end(app)
			app = start()
		case 1:
			kill(t, c, leaderOf(t, ctx, admin, "counted", 0))
		}
	}
	counted(t, ctx, c.KafkaAddrs(), "alpha", 2*rounds*each, dir)
	if got := counted(t, ctx, c.KafkaAddrs(), "beta", rounds*each, dir); got != rounds*each {
		t.Errorf("beta was counted %d times, want %d", got, rounds*each)
	}
}

// counted waits until a word was counted so often, and gives the largest count, which nothing may exceed.
func counted(t *testing.T, ctx context.Context, seeds []string, word string, want int, dir string) (largest int) {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("counted"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for largest < want {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "streams.log"))
			t.Fatalf("%s was counted %d times, want %d\n%s", word, largest, want, log[max(0, len(log)-4000):])
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if n, err := strconv.Atoi(string(r.Value)); err == nil && string(r.Key) == word {
				largest = max(largest, n)
			}
		})
	}
	return largest
}
