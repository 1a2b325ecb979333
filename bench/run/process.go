package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// profile takes a CPU profile of each broker while a row is measured, beginning a second in.
func (b *bench) profile(ctx context.Context, group *sync.WaitGroup, r *row) {
	seconds := max(1, int(b.options.duration.Seconds()))
	for _, p := range b.cluster.Brokers() {
		file := b.profileFile(r, p.ID)
		group.Go(func() {
			if err := p.Download(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), file); err != nil {
				fmt.Fprintln(os.Stderr, "bench: profile:", err)
			}
		})
	}
}

// profileFile is where a broker's profile of a row goes.
func (b *bench) profileFile(r *row, broker int32) string {
	return filepath.Join(b.options.profiles, fmt.Sprintf("%s-broker-%d.pprof", r.name, broker))
}

// showLogs prints how the logs of the brokers end, which are about to be removed.
func (b *bench) showLogs() {
	for _, p := range b.cluster.Brokers() {
		text, _ := os.ReadFile(p.LogFile()) // no log, no lines
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		lines = lines[max(0, len(lines)-shownLines):]
		fmt.Fprintf(os.Stderr, "broker %d:\n%s\n", p.ID, strings.Join(lines, "\n"))
	}
}

// shownLines is how many lines of a broker's log are shown after a failure.
const shownLines = 40
