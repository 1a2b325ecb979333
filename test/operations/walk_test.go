package operations

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

var binaries = flag.String("binaries", "", "where brokerd and brokerctl are; empty: nothing is run")

const document = "../../docs/operations.md"

// step runs one command of the document. It may change what an operator would fill in.
type step struct {
	section, command string
	do               func(w *walk, command string)
}

// steps are all commands, in the order of the document.
var steps = []step{
	{"Start", "brokerd config check --config broker-1.yaml", (*walk).alone},
	{"Start", "brokerd serve --config broker-1.yaml", (*walk).serveAlone},
	{"A client that cannot connect", "brokerctl doctor -b broker-1.example:9095", (*walk).alone},
	{"Stop and restart", "until brokerctl cluster can-restart 2 -q; do sleep 1; done", (*walk).cluster},
	{"Upgrade", "until brokerctl cluster can-restart 2 -q; do sleep 1; done", (*walk).cluster},
	{"Upgrade", "systemctl restart brokerd", (*walk).restart},
	{"Upgrade", "brokerctl cluster set-feature-level 3", (*walk).level},
	{"Brokers come and go", "brokerctl topic reassign orders --to 0=2,3,4 --to 1=3,4,2", (*walk).cluster},
	{"Brokers come and go", "brokerctl topic reassign orders --replication-factor 3", (*walk).cluster},
	{"Brokers come and go", "brokerctl cluster drain 3", (*walk).cluster},
	{"Brokers come and go", "brokerctl cluster unregister 3", (*walk).unregister},
	{"Old records", "brokerctl topic alter orders --set retention.ms=3600000 --set retention.bytes=1073741824", (*walk).cluster},
	{"Old records", "brokerctl topic delete-records orders/0 --before 1000", (*walk).cluster},
	{"A disk that is lost", "rm -rf /var/lib/brokerd", (*walk).loseDisk},
	{"A disk that is lost", "systemctl start brokerd", (*walk).startLost},
	{"A disk that is lost", "until brokerctl cluster health; do sleep 10; done", (*walk).healthy},
	{"Loss of a majority", "brokerd recover --config broker-1.yaml", (*walk).loseMajority},
	{"Loss of a majority", "brokerd recover --config broker-1.yaml --accept-loss", (*walk).survivor},
	{"Loss of a majority", "brokerctl cluster drain 2 && brokerctl cluster unregister 2", (*walk).addOthers},
	{"Loss of a majority", "brokerctl cluster drain 3 && brokerctl cluster unregister 3", (*walk).forgetFour},
	{"Looking into logs", "brokerctl log verify /var/lib/brokerd", (*walk).readLogs},
	{"Looking into logs", "brokerctl log dump /var/lib/brokerd/partitions/1000-3 --from 120 --records --producers", (*walk).readLogs},
}

// TestOperations runs them one after the other. What was acknowledged before the first is still there after the last.
func TestOperations(t *testing.T) {
	found := commandsOf(t, document)
	for i := range max(len(found), len(steps)) {
		switch {
		case i >= len(found) || i < len(steps) && found[i] != (told{steps[i].section, steps[i].command}):
			t.Fatalf("command %d of %s is not %q of %q: the steps here and the document go different ways", i+1, document, steps[i].command, steps[i].section)
		case i >= len(steps):
			t.Fatalf("%s has a command that no step runs: %q of %q", document, found[i].command, found[i].section)
		}
	}
	if *binaries == "" {
		t.Skip("every command has its step; make operations runs them")
	}
	w := begin(t)
	for _, s := range steps {
		began := time.Now()
		s.do(w, s.command)
		t.Logf("%5.1f s  %s", time.Since(began).Seconds(), s.command)
	}
	w.wantAll()
}

// told is one command that a document tells operators to run.
type told struct{ section, command string }

// commandsOf are the commands of a document: indented lines that begin with one of the programs, and those that stand between. What ends in a
// backslash goes on in the next line.
func commandsOf(t *testing.T, document string) (list []told) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`^    (until |brokerctl |brokerd |systemctl |rm )`)
	section := ""
	for line := range strings.Lines(regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(string(text), " ")) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = name
		}
		if command.MatchString(line) {
			line, _, _ = strings.Cut(line, "   #")
			list = append(list, told{section, strings.TrimSpace(line)})
		}
	}
	return list
}

// walk is the cluster that the commands are for: four brokers with the topic orders, two more that are started later, and a
// broker alone, which is the one of the document's configuration.
type walk struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	c    *brokerproc.Cluster
	cl   *client.Client
	solo *exec.Cmd
	// files are what the document calls broker-1.yaml, of the broker alone and of the cluster's first.
	soloFile, firstFile, soloGRPC, soloDir string
}

const kept = 2000 // records of each partition of orders

func begin(t *testing.T) *walk {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	w := &walk{t: t, ctx: ctx, dir: t.TempDir()}
	var err error
	w.c, err = brokerproc.New(brokerproc.Options{Binary: filepath.Join(*binaries, "brokerd"), Dir: w.dir, Brokers: 6, Founders: 3, Set: []string{"leader_balance=1s"}})
	w.must(err)
	t.Cleanup(w.c.Close)
	for _, id := range []int32{1, 2, 3, 4} {
		w.must(w.c.Broker(id).Start())
	}
	for _, id := range []int32{1, 2, 3, 4} {
		w.must(w.c.Broker(id).WaitReady(ctx))
	}
	w.cl, err = client.New(client.Config{Bootstrap: w.c.GRPCAddrs()})
	w.must(err)
	t.Cleanup(func() { _ = w.cl.Close(context.Background()) })
	_, err = w.cl.CreateTopic(ctx, client.TopicSpec{Name: "orders", Partitions: 2, ReplicationFactor: 3, WaitReady: time.Minute})
	w.must(err)
	w.fill(w.cl, kept)
	w.writeConfigs()
	return w
}

func (w *walk) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// fill writes to both partitions, and to none if one record is not written.
func (w *walk) fill(cl *client.Client, n int) {
	w.t.Helper()
	p, err := cl.NewProducer(client.ProducerConfig{})
	w.must(err)
	for i := range n {
		for part := range int32(2) {
			w.must(p.Send(w.ctx, client.Record{Topic: "orders", Partition: client.ToPartition(part), Value: fmt.Append(nil, i)}, func(r client.Result) {
				if r.Outcome != client.Written {
					w.t.Errorf("not written: %v", r)
				}
			}))
		}
	}
	w.must(p.Close(w.ctx))
}

// writeConfigs writes the document's configuration, with addresses and a directory of this machine, for a broker alone; and
// that of the cluster's first broker.
func (w *walk) writeConfigs() {
	w.t.Helper()
	text, err := os.ReadFile(document)
	w.must(err)
	_, yaml, ok := strings.Cut(string(text), "    # broker-1.yaml\n")
	yaml, _, ok2 := strings.Cut(yaml, "\n\n")
	if !ok || !ok2 {
		w.t.Fatalf("%s has no broker-1.yaml", document)
	}
	ports, err := brokerproc.FreePorts(4)
	w.must(err)
	w.soloDir, w.soloGRPC = filepath.Join(w.dir, "alone"), ports[1]
	replace := func(peer, grpc, kafka, http, dir string, seeds ...string) string {
		lines := strings.ReplaceAll(yaml, "\n    ", "\n")
		return strings.NewReplacer("    broker_id", "broker_id", "10.0.0.1:9093, 10.0.0.2:9093, 10.0.0.3:9093", strings.Join(seeds, ", "), "10.0.0.1:9093", peer,
			"10.0.0.1:9095", grpc, "10.0.0.1:9092", kafka, "10.0.0.1:9644", http, "/var/lib/brokerd", dir).Replace(lines) + "\n"
	}
	w.soloFile, w.firstFile = filepath.Join(w.dir, "alone.yaml"), filepath.Join(w.dir, "first.yaml")
	w.must(os.WriteFile(w.soloFile, []byte(replace(ports[0], ports[1], ports[2], ports[3], w.soloDir, ports[0])), 0o644))
	b := w.c.Broker(1)
	w.must(os.WriteFile(w.firstFile, []byte(replace(b.Peer, b.GRPC, b.Kafka, b.HTTP, b.DataDir(), w.c.Broker(1).Peer, w.c.Broker(2).Peer, w.c.Broker(3).Peer)), 0o644))
}

// run runs a command as a shell does, and gives what it said.
func (w *walk) run(command string, bootstrap ...string) string {
	w.t.Helper()
	out, err := w.try(command, bootstrap...)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func (w *walk) try(command string, bootstrap ...string) (string, error) {
	cmd := exec.CommandContext(w.ctx, "bash", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+*binaries+":"+os.Getenv("PATH"), "BROKERCTL_BOOTSTRAP="+strings.Join(bootstrap, ","))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// addresses are those of the brokers that run.
func (w *walk) addresses() (list []string) {
	for _, b := range w.c.Brokers() {
		if b.Running() {
			list = append(list, b.GRPC)
		}
	}
	return list
}

func (w *walk) cluster(command string) { w.run(command, w.addresses()...) }

// wantAll reads both partitions to their ends.
func (w *walk) wantAll() {
	w.t.Helper()
	for part, from := range []int{1000, 0} {
		out := w.run(fmt.Sprintf("brokerctl consume orders/%d -q | wc -l", part), w.addresses()...)
		if got := strings.TrimSpace(out); got != fmt.Sprint(kept-from) {
			w.t.Errorf("partition %d has %s records, want %d", part, got, kept-from)
		}
	}
	groups, _, err := w.cl.RaftGroups(w.ctx, "")
	w.must(err)
	if !slices.ContainsFunc(groups, func(g client.RaftGroup) bool { return g.Name == "orders/0" && g.Role == "leader" && len(g.Voters) == 3 }) {
		w.t.Error("orders/0 has not three voters")
	}
}
