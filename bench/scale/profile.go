package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profile takes a CPU profile of each broker over a time, and the heap's after that. It does nothing without -profiles.
func (m *measurement) profile(ctx context.Context, what string, d time.Duration) (wait func()) {
	if m.options.profiles == "" {
		return func() {}
	}
	var all sync.WaitGroup
	for _, p := range m.cluster.Brokers() {
		all.Go(func() {
			name := filepath.Join(m.options.profiles, fmt.Sprintf("%s-broker-%d", what, p.ID))
			err := p.Download(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds()))), name+".pprof")
			if err == nil {
				err = p.Download(ctx, "/debug/pprof/heap?gc=1", name+"-heap.pprof")
			}
			if err == nil {
				err = p.Download(ctx, "/debug/pprof/goroutine", name+"-goroutines.pprof")
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "scale: profile:", err)
			}
		})
	}
	return all.Wait
}
