package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// connectOffsets is where Connect keeps how far its sources are. It makes the topic, and would not start were it not compacted.
const connectOffsets = "connect-offsets"

// worker is one of Kafka Connect's, distributed, with exactly-once sources. It is killed and started again.
type worker struct {
	classpath, properties, log string
	// rest is where it is asked, "http://HOST:PORT".
	rest string
	cmd  *exec.Cmd
}

// newWorker configures a worker; it does not run yet.
func newWorker(t *testing.T, classpath string, c *brokerproc.Cluster) *worker {
	t.Helper()
	ports, err := brokerproc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &worker{classpath: classpath, properties: filepath.Join(dir, "worker.properties"), log: filepath.Join(dir, "worker.log"), rest: "http://" + ports[0]}
	if err := os.WriteFile(w.properties, []byte(strings.Join([]string{
		"bootstrap.servers=" + strings.Join(c.KafkaAddrs(), ","),
		"group.id=connect",
		"listeners=" + w.rest,
		"key.converter=org.apache.kafka.connect.storage.StringConverter",
		"value.converter=org.apache.kafka.connect.storage.StringConverter",
		"exactly.once.source.support=enabled",
		"plugin.discovery=service_load",
		"config.storage.topic=connect-configs", "config.storage.replication.factor=3",
		"status.storage.topic=connect-status", "status.storage.replication.factor=3", "status.storage.partitions=1",
		"offset.storage.topic=" + connectOffsets, "offset.storage.replication.factor=3", "offset.storage.partitions=1",
		"offset.storage.segment.bytes=65536", "offset.storage.min.cleanable.dirty.ratio=0.1", "offset.storage.delete.retention.ms=0",
		"session.timeout.ms=6000", "heartbeat.interval.ms=1000", "scheduled.rebalance.max.delay.ms=0", // a killed one is missed soon
	}, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kill)
	return w
}

func (w *worker) start(t *testing.T, ctx context.Context) {
	t.Helper()
	log, err := os.OpenFile(w.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.cmd = exec.CommandContext(ctx, "java", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", w.classpath,
		"org.apache.kafka.connect.cli.ConnectDistributed", w.properties)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (w *worker) kill() {
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait() // it was killed
		w.cmd = nil
	}
}

// connector makes a connector, or changes it, as soon as the worker can, and waits until so many tasks of it run.
func (w *worker) connector(t *testing.T, ctx context.Context, name string, tasks int, config map[string]string) {
	t.Helper()
	config["tasks.max"] = strconv.Itoa(tasks)
	body, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	w.until(t, ctx, http.MethodPut, "/connectors/"+name+"/config", body, func(string) bool { return true })
	w.until(t, ctx, http.MethodGet, "/connectors/"+name+"/status", nil, func(answer string) bool {
		var status struct{ Tasks []struct{ State string } }
		if err := json.Unmarshal([]byte(answer), &status); err != nil {
			t.Fatal(err)
		}
		running := 0
		for _, task := range status.Tasks {
			if task.State == "RUNNING" {
				running++
			}
		}
		return running == tasks && len(status.Tasks) == tasks
	})
}

// until asks a worker, which may be about to start, until it answers as it should.
func (w *worker) until(t *testing.T, ctx context.Context, method, path string, body []byte, good func(answer string) bool) {
	t.Helper()
	for {
		req, err := http.NewRequestWithContext(ctx, method, w.rest+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		said := ""
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			var answer bytes.Buffer
			_, _ = answer.ReadFrom(resp.Body) // what is cut off is no good
			resp.Body.Close()
			if resp.StatusCode/100 == 2 && good(answer.String()) {
				return
			}
			said = resp.Status + ": " + answer.String()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s %s: %v %s", method, path, err, said)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Kafka Connect with exactly-once sources: a connector copies a file's lines to a topic while its worker is killed, its topic of offsets is
// compacted, and the brokers that lead the one and the other are killed. Each line is there once: the worker has found where it was. MirrorMaker
// copies that topic to another, with fewer tasks all at once, and each line is there once, too.
func TestConnect(t *testing.T) {
	version := javaVersions[len(javaVersions)-1]
	ran(t, "Kafka Connect", version, "a distributed worker with `exactly.once.source.support`, whose source copies a file; it is killed in a transaction, and goes on from its "+
		"compacted topic of offsets; through a kill; MirrorMaker copies the topic, with tasks that are fenced; each line is there once")
	t.Parallel()
	classpath, err := javaProject("connect", "-Dkafka.version="+version)
	if err != nil {
		missing(t, "Kafka Connect "+version, err)
	}
	c := startCluster(t, "compaction.interval=500ms", "retention_check=500ms", "raft.snapshot_bytes=256KiB", "groups.initial_rebalance_delay=0s")
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	createTopic(t, admin, "copied", 3)
	w := newWorker(t, classpath, c)
	t.Cleanup(func() {
		if text, err := os.ReadFile(w.log); err == nil && t.Failed() {
			t.Logf("the worker:\n%s", text[max(0, len(text)-6000):])
		}
	})
	// The name of the file is the key of its offsets: a long one fills segments with few transactions.
	dir := filepath.Join(append([]string{t.TempDir()}, slices.Repeat([]string{strings.Repeat("d", 200)}, 15)...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lines, err := os.Create(filepath.Join(dir, "lines.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	const each = 1000
	// The connector reads 2048 bytes at once, and copies what is more than a batch of them only after it read more. So no two lines fit.
	padding := strings.Repeat("x", 1100)
	written := 0
	write := func(n int) {
		for range n {
			if _, err := fmt.Fprintf(lines, "line %d %s\n", written, padding); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	write(each)
	w.start(t, ctx)
	w.connector(t, ctx, "file", 1, map[string]string{"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
		"file": lines.Name(), "topic": "copied", "batch.size": "10", "exactly.once.support": "required", "transaction.boundary": "poll",
		"producer.override.partitioner.class":      "org.apache.kafka.clients.producer.RoundRobinPartitioner",
		"producer.override.transaction.timeout.ms": "10000"}) // so long a worker that starts waits for the transaction of the killed one
	committed(t, ctx, c, "copied", each/2)
	w.kill() // it is in the middle of the rest
	halved(t, ctx, c, connectOffsets)
	kill(t, c, leaderOf(t, ctx, admin, connectOffsets, 0))
	write(each)
	w.start(t, ctx)
	mirror := map[string]string{"connector.class": "org.apache.kafka.connect.mirror.MirrorSourceConnector", "topics": "copied",
		"source.cluster.alias": "here", "source.cluster.bootstrap.servers": strings.Join(c.KafkaAddrs(), ","),
		"target.cluster.alias": "there", "target.cluster.bootstrap.servers": strings.Join(c.KafkaAddrs(), ","),
		"source.consumer.isolation.level": "read_committed", "source.consumer.max.poll.records": "20",
		"replication.factor": "3", "offset-syncs.topic.replication.factor": "3", "sync.topic.acls.enabled": "false",
		"key.converter":        "org.apache.kafka.connect.converters.ByteArrayConverter",
		"value.converter":      "org.apache.kafka.connect.converters.ByteArrayConverter",
		"exactly.once.support": "required", "transaction.boundary": "poll"}
	w.connector(t, ctx, "mirror", 3, mirror)
	committed(t, ctx, c, "copied", each+each/2)
	kill(t, c, leaderOf(t, ctx, admin, "copied", 0))
	committed(t, ctx, c, "here.copied", each/2)
	w.connector(t, ctx, "mirror", 2, mirror) // which fences the producers of three tasks before two begin
	write(each / 5)
	committed(t, ctx, c, "copied", written)
	committed(t, ctx, c, "here.copied", written)
	w.kill()
	counts(t, ctx, c, "copied", written)
	counts(t, ctx, c, "here.copied", written)
}

// halved waits until compaction has removed half the records of a topic that is written to in transactions, at least.
func halved(t *testing.T, ctx context.Context, c *brokerproc.Cluster, topic string) {
	t.Helper()
	for {
		stored, offsets := changelogSize(t, ctx, c.KafkaAddrs(), topic)
		if stored*4 <= offsets { // half of the offsets are of markers, at most
			t.Logf("%s holds %d records of %d offsets", topic, stored, offsets)
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s still holds %d records of %d offsets", topic, stored, offsets)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// committed waits until a topic has so many committed records, at least.
func committed(t *testing.T, ctx context.Context, c *brokerproc.Cluster, topic string, want int) {
	t.Helper()
	reader := franzClient(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer reader.Close()
	for seen := 0; seen < want; {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%s has %d committed records, want %d", topic, seen, want)
		}
		seen += fetches.NumRecords()
	}
}
