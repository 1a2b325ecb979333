package record

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/compat/apachekafka"
	"github.com/oncelog/oncelog/internal/brokerproc"
	"github.com/oncelog/oncelog/internal/history"
)

var (
	bootstrap = flag.String("bootstrap", "", "Kafka addresses of a cluster to be judged, in place of one of ours")
	kafka     = flag.Bool("kafka", false, "judge Apache Kafka itself")
	lasts     = flag.Duration("lasts", 3*time.Second, "for how long transactions are run")
	keep      = flag.String("history", "", "keep the history in this file")
)

// TestTransactions: what a client of Kafka's saw of transactions, aborts and zombies is what a log may do.
func TestTransactions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), *lasts+2*time.Minute)
	defer cancel()
	file := *keep
	if file == "" {
		file = filepath.Join(t.TempDir(), "history.jsonl")
	}
	h, err := history.CreateFile(file, "transactions of franz-go")
	if err != nil {
		t.Fatal(err)
	}
	err = Run(ctx, Options{
		Bootstrap: cluster(ctx, t), Topic: fmt.Sprintf("recorded-%d", time.Now().Unix()), Partitions: 3, Replicas: 3, Producers: 3,
		Lasts: *lasts, Seed: uint64(time.Now().UnixNano()), To: h,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := history.Check(history.File(file), history.Options{})
	if err != nil || !report.OK() || report.Committed == 0 || report.Aborted == 0 {
		t.Errorf("%v, %v", err, report)
	}
	t.Log(report)
}

func cluster(ctx context.Context, t *testing.T) []string {
	t.Helper()
	switch {
	case *bootstrap != "":
		return strings.Split(*bootstrap, ",")
	case *kafka:
		c, err := apachekafka.New(ctx, apachekafka.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		return c.KafkaAddrs()
	}
	binary := filepath.Join(t.TempDir(), "brokerd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/brokerd")
	build.Dir = "../.."
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	c, err := brokerproc.New(brokerproc.Options{Binary: binary, Dir: t.TempDir(), Brokers: 3, Set: []string{"log.level=warn"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c.KafkaAddrs()
}
