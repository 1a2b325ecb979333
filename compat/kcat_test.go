package compat

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

// kcatVersion is that of kcat and of the librdkafka that it has.
func kcatVersion() string {
	out, err := exec.Command("kcat", "-V").Output()
	if err != nil {
		return "?"
	}
	version := regexp.MustCompile(`Version ([0-9.]+).*librdkafka ([0-9.]+)`).FindStringSubmatch(string(out))
	if version == nil {
		return "?"
	}
	return version[1] + " with librdkafka " + version[2]
}

// kcatOn runs kcat on a cluster.
type kcatOn struct {
	*brokerproc.Cluster
	ctx context.Context
}

func (k kcatOn) command(args ...string) *exec.Cmd {
	return exec.CommandContext(k.ctx, "kcat", append([]string{"-b", strings.Join(k.KafkaAddrs(), ",")}, args...)...)
}

// run runs it to its end, and gives what it printed.
func (k kcatOn) run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := k.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := printed(cmd)
	if err != nil {
		t.Errorf("kcat %v: %v", args, err)
	}
	return out
}

// start runs it with an input that stays open.
func (k kcatOn) start(t *testing.T, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser) {
	t.Helper()
	cmd = k.command(args...)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdin
}

// numbered is a line that no other is like. It has 128 bytes, for kcat reads as many before it sends the next record, and would hold back
// shorter ones until its input ends.
func numbered(prefix string, i int) string {
	return fmt.Sprintf("%-127s\n", fmt.Sprintf("%s-%d", prefix, i))
}

// lines are n of them.
func lines(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(numbered(prefix, i))
	}
	return b.String()
}

// startKcat is a cluster for a test of kcat, and a topic of three partitions.
func startKcat(t *testing.T, topic string) kcatOn {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		missing(t, "kcat", err)
	}
	c := startCluster(t, "groups.initial_rebalance_delay=0s")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	createTopic(t, franzClient(t, c), topic, 3)
	return kcatOn{c, ctx}
}

// kcat of Debian, with an older librdkafka: every codec, idempotent and through a killed leader; metadata, offsets by time, and reading to
// the end; a group whose next member goes on where the last one has committed.
func TestKcat(t *testing.T) {
	ran(t, "kcat", kcatVersion(), "librdkafka as Debian has it: idempotent producer, every codec, through a kill; metadata; offsets; reading to the end; "+
		"a group (`-G`) whose next member goes on where the last one stopped")
	t.Parallel()
	k := startKcat(t, "kcat")
	admin := franzClient(t, k.Cluster)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		k.run(t, lines(codec, 400), "-P", "-t", "kcat", "-z", codec, "-X", "enable.idempotence=true")
	}
	producer, stdin := k.start(t, "-P", "-t", "kcat", "-X", "enable.idempotence=true", "-X", "linger.ms=0")
	for i := range 500 {
		if i == 100 {
			underWay(t, k.ctx, admin, "kcat", 2050)
			kill(t, k.Cluster, leaderOf(t, k.ctx, admin, "kcat", 0))
		}
		if _, err := io.WriteString(stdin, numbered("killed", i)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // it writes while there is no leader
	}
	_ = stdin.Close() // its end is the end of the input
	if err := producer.Wait(); err != nil {
		t.Errorf("through a kill: %v", err)
	}
	counts(t, k.ctx, k.Cluster, "kcat", 2500)
	var all reading
	all.noteLines(k.run(t, "", "-C", "-t", "kcat", "-e", "-q"))
	if got := all.String(); got != "consumed 2500 different 2500 aborted 0" {
		t.Error(got)
	}
	if got := k.run(t, "", "-L", "-t", "kcat"); !strings.Contains(got, "3 brokers") || !strings.Contains(got, `topic "kcat" with 3 partitions`) {
		t.Errorf("metadata:\n%s", got)
	}
	if got := k.run(t, "", "-Q", "-t", "kcat:0:-2"); !strings.Contains(got, "offset 0") {
		t.Errorf("the earliest offset: %s", got)
	}
	var members reading
	members.noteLines(k.run(t, "", "-G", "kcats", "-c", "700", "-q", "-X", "auto.offset.reset=earliest", "kcat"))
	if members.total != 700 {
		t.Errorf("the first member read %d records, want 700", members.total)
	}
	members.noteLines(k.run(t, "", "-G", "kcats", "-e", "-q", "-X", "auto.offset.reset=earliest", "kcat"))
	if got := members.String(); got != "consumed 2500 different 2500 aborted 0" {
		t.Errorf("two members, one after the other: %s", got)
	}
}

// Each run of kcat with a transactional id is one transaction, which is committed at the end of its input. When it is killed, the next one
// with its id aborts what it has left open.
func TestKcatTransactions(t *testing.T) {
	ran(t, "kcat", kcatVersion(), "a transaction (`-X transactional.id`) that is committed, one that is killed and fenced by the next; "+
		"both levels of `isolation.level` in groups")
	t.Parallel()
	k := startKcat(t, "txn")
	admin := franzClient(t, k.Cluster)
	transaction := []string{"-P", "-t", "txn", "-X", "transactional.id=kcat-job"}
	k.run(t, lines("c-1", 200), transaction...)
	var written int64 // with markers
	for _, end := range endsOf(t, k.ctx, admin, "txn") {
		written += end
	}
	killed, stdin := k.start(t, append(transaction, "-X", "linger.ms=0")...)
	if _, err := io.WriteString(stdin, lines("a-1", 200)); err != nil { // of which it may hold back some
		t.Fatal(err)
	}
	underWay(t, k.ctx, admin, "txn", written+100)
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close() // it is nobody's any more
	_ = killed.Wait() // it was killed
	k.run(t, lines("c-2", 200), transaction...)
	counts(t, k.ctx, k.Cluster, "txn", 400)
	read := func(level string) (seen reading) {
		seen.noteLines(k.run(t, "", "-G", "g-"+level, "-e", "-q", "-X", "auto.offset.reset=earliest", "-X", "isolation.level="+level, "txn"))
		return seen
	}
	committed, uncommitted := read("read_committed"), read("read_uncommitted")
	if got := committed.String(); got != "consumed 400 different 400 aborted 0" {
		t.Errorf("read_committed: %s", got)
	}
	if uncommitted.aborted < 90 || uncommitted.total != 400+uncommitted.aborted || len(uncommitted.values) != uncommitted.total {
		t.Errorf("read_uncommitted: %v", &uncommitted)
	}
}
