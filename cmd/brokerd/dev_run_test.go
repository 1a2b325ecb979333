package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The whole of brokerd dev: three brokers get ready, say where they are, answer
// the health check, stop when asked, and leave nothing behind.
func TestDevServesAndCleansUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, in := io.Pipe()
	var stderr bytes.Buffer
	p := program{stdout: in, stderr: &stderr, exit: func(code int) { t.Errorf("exit(%d)", code) }}
	ended := make(chan int, 1)
	go func() {
		ended <- p.run(ctx, []string{"dev", "--ephemeral"})
		_ = in.Close() // Ends the reading below also where no banner came.
	}()
	said := readBanner(t, out)
	health := regexp.MustCompile(`http://([0-9.:]+)/metrics`).FindAllStringSubmatch(said, -1)
	if len(health) != 3 {
		cancel()
		t.Fatalf("exit code %d; the banner names %d brokers:\n%s%s", <-ended, len(health), said, stderr.String())
	}
	for _, address := range health {
		if got := brokerd(t, nil, "healthcheck", "--address", address[1]); got.code != exitOK {
			t.Errorf("broker at %s: exit code %d: %s", address[1], got.code, got.stderr)
		}
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// readBanner reads up to the banner's last line, and goes on reading, so that
// nobody blocks who writes.
func readBanner(t *testing.T, out io.Reader) string {
	t.Helper()
	var said strings.Builder
	reader := bufio.NewReader(out)
	for {
		line, err := reader.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			return said.String()
		}
		if strings.HasPrefix(line, "Ctrl-C") {
			go func() { _, _ = io.Copy(io.Discard, reader) }() // Until the program ends.
			return said.String()
		}
	}
}
