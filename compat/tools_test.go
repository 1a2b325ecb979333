package compat

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// Kafka's own command line tools, from the published jars, and a line that each must print.
func TestKafkaTools(t *testing.T) {
	ran(t, "Kafka's tools", javaVersions[len(javaVersions)-1], "topics, groups, offsets, transactions, producers, log dirs, features, quorum, API versions, reassignments, "+
		"preferred elections, producer-perf-test, console consumer, from the published jars; kafka-verifiable-producer through a kill, with what it says is acknowledged there once")
	t.Parallel()
	path := javaJobs(t, javaVersions[len(javaVersions)-1])
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	seeds := strings.Join(c.KafkaAddrs(), ",")
	move := filepath.Join(t.TempDir(), "move.json") // to brokers that do not hold it, and to others that lead it
	if err := os.WriteFile(move, []byte(`{"version":1,"partitions":[{"topic":"moved","partition":0,"replicas":[3]},{"topic":"tools","partition":0,"replicas":[3,2,1]},`+
		`{"topic":"tools","partition":1,"replicas":[1,3,2]},{"topic":"tools","partition":2,"replicas":[2,1,3]}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		tool, args, want string
	}{
		{"TopicCommand", "--create --topic tools --partitions 3 --replication-factor 3 --config retention.ms=3600000", "Created topic tools."},
		{"TopicCommand", "--list", "tools"},
		{"TopicCommand", "--describe --topic tools", "PartitionCount: 3\tReplicationFactor: 3\tConfigs: retention.ms=3600000"},
		{"TopicCommand", "--alter --topic tools --partitions 5", ""},
		{"ProducerPerformance", "--topic tools --num-records 5000 --record-size 100 --throughput -1", "5000 records sent"},
		{"GetOffsetShell", "--topic tools", "tools:4:"},
		{"consumer.ConsoleConsumer", "--topic tools --from-beginning --max-messages 5000 --group tools --timeout-ms 30000", "Processed a total of 5000 messages"},
		{"consumer.group.ConsumerGroupCommand", "--list", "tools"},
		{"consumer.group.ConsumerGroupCommand", "--describe --group tools", "tools           tools           4"},
		{"consumer.group.ConsumerGroupCommand", "--reset-offsets --to-earliest --topic tools --group tools --execute", "NEW-OFFSET"},
		{"consumer.group.ConsumerGroupCommand", "--delete --group tools", "was successful"},
		{"TransactionsCommand", "list", "TransactionalId"},
		{"TransactionsCommand", "describe-producers --topic tools --partition 0", "LastSequence"},
		{"LogDirsCommand", "--describe --topic-list tools", "\"partition\":\"tools-4\""},
		{"FeatureCommand", "describe", "FinalizedVersionLevel: 2"},
		{"MetadataQuorumCommand", "describe --status", "LeaderId:"},
		{"BrokerApiVersionsCommand", "", "ConsumerGroupHeartbeat(68): 0 to 1"},
		{"TopicCommand", "--create --topic moved --replica-assignment 1", "Created topic moved."},
		{"reassign.ReassignPartitionsCommand", "--execute --reassignment-json-file " + move, "Successfully started partition reassignments for moved-0,tools-0,tools-1,tools-2"},
		{"reassign.ReassignPartitionsCommand", "--list", ""},
		{"reassign.ReassignPartitionsCommand", "--verify --reassignment-json-file " + move, "Reassignment of partition moved-0 is completed."},
		{"LeaderElectionCommand", "--election-type preferred --topic tools --partition 2", "elect"}, // or it has been by then
		{"LeaderElectionCommand", "--election-type preferred --all-topic-partitions", ""},
		{"TopicCommand", "--describe --topic moved", "Leader: 3\tReplicas: 3\tIsr: 3"},
		{"MetadataQuorumCommand", "describe --replication", "Leader"},
		{"TopicCommand", "--delete --topic tools", ""},
	} {
		args := append([]string{"-Xmx128m", "-cp", path, "org.apache.kafka.tools." + step.tool, "--bootstrap-server", seeds}, strings.Fields(step.args)...)
		out, err := exec.CommandContext(ctx, "java", args...).CombinedOutput()
		for err == nil && strings.Contains(string(out), "still in progress") {
			out, err = exec.CommandContext(ctx, "java", args...).CombinedOutput()
		}
		if err != nil || !strings.Contains(string(out), step.want) {
			t.Errorf("%s %s: %v, want %q in:\n%.2000s", step.tool, step.args, err, step.want, out)
		}
	}
	verifiableProducer(t, ctx, c, path)
}

// verifiableProducer runs kafka-verifiable-producer through a killed leader. It does not repeat a record unless it is told to; told so and
// to be idempotent, what it says is acknowledged is where it says, once.
func verifiableProducer(t *testing.T, ctx context.Context, c *brokerproc.Cluster, path string) {
	const n = 2000
	admin := franzClient(t, c)
	createTopic(t, admin, "verified", 3)
	config := filepath.Join(t.TempDir(), "producer.properties")
	if err := os.WriteFile(config, []byte("enable.idempotence=true\nretries=2147483647\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var killing sync.WaitGroup
	killing.Go(func() {
		underWay(t, ctx, admin, "verified", n/10)
		kill(t, c, leaderOf(t, ctx, admin, "verified", 0))
	})
	out, err := exec.CommandContext(ctx, "java", "-Xmx128m", "-cp", path, "org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", strings.Join(c.KafkaAddrs(), ","),
		"--topic", "verified", "--max-messages", strconv.Itoa(n), "--throughput", strconv.Itoa(n/5), "--command-config", config).Output()
	killing.Wait()
	if err != nil {
		t.Fatalf("VerifiableProducer: %v\n%.2000s", err, out)
	}
	type place struct {
		partition int32
		offset    int64
	}
	acknowledged := make(map[place]string)
	for line := range strings.Lines(string(out)) {
		var said struct {
			Name, Value string
			Partition   int32
			Offset      int64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Name == "producer_send_success" {
			acknowledged[place{said.Partition, said.Offset}] = said.Value
		}
	}
	if len(acknowledged) != n {
		t.Errorf("VerifiableProducer says that %d are acknowledged, want %d", len(acknowledged), n)
	}
	counts(t, ctx, c, "verified", n)
	reader := franzClient(t, c, kgo.ConsumeTopics("verified"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for range acknowledged { // as many as there are, says counts
		fetches := reader.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		r := fetches.Records()[0]
		if want := acknowledged[place{r.Partition, r.Offset}]; string(r.Value) != want {
			t.Errorf("%s at %d/%d, and %q was acknowledged there", r.Value, r.Partition, r.Offset, want)
		}
	}
}
