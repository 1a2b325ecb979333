package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Kafka's own command line tools, from the published jars, and a line that each must print.
func TestKafkaTools(t *testing.T) {
	ran(t, "Kafka's tools", javaVersions[len(javaVersions)-1])
	t.Parallel()
	path := javaJobs(t, javaVersions[len(javaVersions)-1])
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
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
}
