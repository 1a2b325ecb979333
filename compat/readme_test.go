package compat

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// readmeKafka is where the README's programs find Kafka.
const readmeKafka = "127.0.0.1:9092"

// snippet is the first block of a language in the README, with another address of Kafka in it.
func snippet(t *testing.T, language, kafka string) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```"+language+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed || !strings.Contains(block, readmeKafka) {
		t.Fatalf("the README has no block of %s with %s in it", language, readmeKafka)
	}
	return strings.ReplaceAll(block, readmeKafka, kafka)
}

// startDev runs "brokerd dev" as the README does, though on free ports, and gives where Kafka is.
func startDev(t *testing.T, ctx context.Context) (kafka string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, "dev", "--ephemeral", "--data", t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was told to end
	})
	address := regexp.MustCompile(`^\s+1\s+(127\.0\.0\.1:\d+)\s`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if found := address.FindStringSubmatch(lines.Text()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }() // it must be able to say more
			return found[1]
		}
	}
	t.Fatal("brokerd dev names no address")
	return ""
}

// The README's programs, as they stand there: Python and Java write in a transaction, Go reads what is committed.
func TestReadme(t *testing.T) {
	t.Parallel()
	const what = "the program of the README, on `brokerd dev`"
	ran(t, "confluent-kafka", confluentKafka, what)
	ran(t, "kafka-clients", javaVersions[len(javaVersions)-1], what)
	ran(t, "franz-go", franzVersion(), what)
	interpreter, err := pythonHome()
	if err != nil {
		missing(t, "confluent-kafka for Python", err)
	}
	jars := javaJobs(t, javaVersions[len(javaVersions)-1])
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	kafka := startDev(t, ctx)
	admin, err := kgo.NewClient(kgo.SeedBrokers(kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := kadm.NewClient(admin).CreateTopic(ctx, 3, -1, nil, "greetings"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, language string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(snippet(t, language, kafka)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := told(exec.CommandContext(ctx, interpreter, write("greet.py", "python"))); err != nil {
		t.Error(err)
	}
	if err := told(exec.CommandContext(ctx, "java", "-cp", jars, write("Greet.java", "java"))); err != nil {
		t.Error(err)
	}
	program := filepath.Join(dir, "readers")
	if err := told(exec.CommandContext(ctx, "go", "build", "-o", program, write("main.go", "go"))); err != nil {
		t.Fatal(err)
	}
	reader := exec.CommandContext(ctx, program)
	out, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = reader.Process.Kill()
		_ = reader.Wait() // it was killed
	}()
	missed := map[string]bool{"six, exactly once": true, "seven, from Java": true}
	lines := bufio.NewScanner(out)
	for len(missed) > 0 && lines.Scan() {
		delete(missed, lines.Text())
	}
	if len(missed) > 0 {
		t.Errorf("the reader has not printed %v", missed)
	}
}
