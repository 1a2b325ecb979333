package parity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/oncelog/oncelog/compat/apachekafka"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// The targets.
const (
	oncelog = "oncelog"
	kafka   = "kafka"
	fake    = "kfake"
)

// scenarios are all of them, in the order of docs/parity.md.
var scenarios = []struct {
	name string
	run  func(*scene)
}{
	{"idempotence", idempotence},
	{"wrap", wrap},
	{"epochs", epochs},
	{"batches", batches},
	{"unknown-topics", unknownTopics},
	{"acks-zero", acksZero},
	{"transactional-data", transactionalData},
	{"transactions-v1", transactionsOfVersion1},
	{"init-producer-id", initProducerID},
	{"init-while-open", initWhileOpen},
	{"add-partitions", addPartitions},
	{"end-v1", endVersion1},
	{"end-v2", endVersion2},
	{"end-unknown", endUnknown},
	{"read-committed", readCommitted},
	{"markers", markers},
	{"fetching", fetching},
	{"listing-offsets", listingOffsets},
	{"deleting-records", deletingRecords},
	{"leader-epochs", leaderEpochs},
	{"classic-groups", classicGroups},
	{"offsets", offsets},
	{"transactional-offsets", transactionalOffsets},
	{"new-groups", newGroups},
	{"topics", topics},
	{"configs", configs},
	{"debugging", debugging},
	{"versions", versions},
}

// target is who is asked.
func target() string {
	if name := os.Getenv("PARITY_TARGET"); name != "" {
		return name
	}
	return oncelog
}

// The target says what Kafka said, but for what the table of differences explains.
func TestParity(t *testing.T) { scenes(t, target()) }

// kfake is asked the same, as a second opinion; where it differs from Kafka is kept.
func TestSecondOpinion(t *testing.T) {
	if target() != oncelog {
		t.Skip("another target was asked for")
	}
	scenes(t, fake)
}

// scenes plays all scenarios on a cluster.
func scenes(t *testing.T, who string) {
	t.Helper()
	seeds := start(t, who)
	for _, c := range scenarios {
		t.Run(c.name, func(t *testing.T) {
			if who != fake {
				t.Parallel()
			} else if c.name == "new-groups" {
				t.Skip("kfake assigns nothing to a member that joins again with epoch 0")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			s := &scene{t: t, ctx: ctx, target: who, name: c.name, seeds: seeds, wires: make(map[string]*wire)}
			defer func() {
				for _, w := range s.wires {
					_ = w.conn.Close() // nothing is asked any more
				}
			}()
			c.run(s)
			if os.Getenv("PARITY_RECORD") != "" {
				keep(t, who, s)
				return
			}
			compare(t, who, s)
		})
	}
}

func start(t *testing.T, who string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	switch who {
	case oncelog:
		return startOurs(ctx, t)
	case kafka:
		c, err := apachekafka.New(ctx, apachekafka.Options{Dir: t.TempDir(), Set: []string{"offsets.topic.num.partitions=5", "transaction.state.log.num.partitions=5",
			"auto.create.topics.enable=false", "group.min.session.timeout.ms=6000", "num.partitions=1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		return c.KafkaAddrs()
	case fake:
		c, err := kfake.NewCluster(kfake.NumBrokers(3))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c.ListenAddrs()
	}
	t.Fatalf("PARITY_TARGET=%s: it can be %s, %s and %s", who, oncelog, kafka, fake)
	return nil
}

func startOurs(ctx context.Context, t *testing.T) []string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "brokerd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/brokerd")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: binary, Dir: t.TempDir(), Brokers: 3, Set: []string{"log.level=warn"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, addr := range c.KafkaAddrs() {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			t.Fatal(err)
		}
	}
	return c.KafkaAddrs()
}

// kept is the file of what Kafka said.
func kept(scenario string) string { return filepath.Join("testdata", scenario+".txt") }

// keep writes what Kafka says, or where kfake differs.
func keep(t *testing.T, who string, s *scene) {
	t.Helper()
	var b strings.Builder
	switch who {
	case kafka:
		for _, l := range s.lines {
			fmt.Fprintf(&b, "%s\n\t%s\n", l.step, l.result)
		}
		if err := os.WriteFile(kept(s.name), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	case fake:
		text, err := os.ReadFile(fakeFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) { // what was kept of this scenario is said anew
			if !strings.HasPrefix(line, s.name+"\t") {
				b.WriteString(line)
			}
		}
		for _, d := range diff(t, s) {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", s.name, d.step, d.said)
		}
		if err := os.WriteFile(fakeFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("what %s says is not kept", who)
	}
}

// read gives what was kept.
func read(scenario string) ([]line, error) {
	text, err := os.ReadFile(kept(scenario))
	if err != nil {
		return nil, fmt.Errorf("%w: PARITY_TARGET=kafka PARITY_RECORD=1 keeps what Kafka says", err)
	}
	var list []line
	rows := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i := 0; i+1 < len(rows); i += 2 {
		list = append(list, line{rows[i], strings.TrimPrefix(rows[i+1], "\t")})
	}
	return list, nil
}

// silent is what a target says at a step that it does not have: a config that it does not know, say.
const silent = "(nothing)"

// step is one step, as a target and as Kafka took it.
type step struct{ step, said, kafkas string }

// steps lists all steps of both.
func steps(t *testing.T, s *scene) (list []step) {
	t.Helper()
	want, err := read(s.name)
	if err != nil {
		t.Fatal(err)
	}
	said, kafkas := resultsOf(t, s.lines), resultsOf(t, want)
	seen := make(map[string]bool)
	for _, l := range append(slices.Clone(s.lines), want...) {
		if seen[l.step] {
			continue
		}
		seen[l.step] = true
		one := step{l.step, silent, silent}
		if r, ok := said[l.step]; ok {
			one.said = r
		}
		if r, ok := kafkas[l.step]; ok {
			one.kafkas = r
		}
		list = append(list, one)
	}
	return list
}

// diff lists the steps at which a target and Kafka differ.
func diff(t *testing.T, s *scene) []step {
	t.Helper()
	return slices.DeleteFunc(steps(t, s), func(one step) bool { return one.said == one.kafkas })
}

// resultsOf finds results by their steps, each of which there is once.
func resultsOf(t *testing.T, list []line) map[string]string {
	t.Helper()
	results := make(map[string]string)
	for _, l := range list {
		if _, twice := results[l.step]; twice {
			t.Errorf("there are two steps %q", l.step)
		}
		results[l.step] = l.result
	}
	return results
}

// compare wants the kept line for each step, or what the table of differences says.
func compare(t *testing.T, who string, s *scene) {
	t.Helper()
	for _, one := range steps(t, s) {
		says, differs := known(t, who, s.name, one.step)
		switch {
		case differs && one.said == one.kafkas:
			t.Errorf("%s: %s does as Kafka does; the table of differences says otherwise", one.step, who)
		case differs && one.said != says:
			t.Errorf("%s:\n  %s says   %s\n  the table  %s\n  Kafka says %s", one.step, who, one.said, says, one.kafkas)
		case !differs && one.said != one.kafkas:
			t.Errorf("%s:\n  %s says   %s\n  Kafka says %s", one.step, who, one.said, one.kafkas)
		}
	}
}
