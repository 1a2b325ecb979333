package brokertest

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

// logger passes a broker's log to the test, from the level of the options on, and to its book.
func (c *Cluster) logger(n *node) *slog.Logger {
	return slog.New(slog.NewMultiHandler(
		slog.NewTextHandler(c.options.Log, &slog.HandlerOptions{Level: c.options.LogLevel}),
		slog.NewTextHandler(&n.said, nil),
	)).With("broker", n.id)
}

// Logged says whether a broker has logged a line, at Info or above, that holds all of the texts.
func (c *Cluster) Logged(id int32, texts ...string) bool { return c.node(id).said.holds(texts) }

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// maxBook bounds the lines that are remembered of one broker; the oldest go.
const maxBook = 20_000

// logBook remembers what a broker has logged.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines) >= maxBook {
		b.lines = slices.Clone(b.lines[maxBook/2:])
	}
	b.lines = append(b.lines, string(p))
	return len(p), nil
}

func (b *logBook) holds(texts []string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.lines, func(line string) bool {
		return !slices.ContainsFunc(texts, func(t string) bool { return !strings.Contains(line, t) })
	})
}
