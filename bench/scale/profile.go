package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
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
			url := "http://" + p.HTTP + "/debug/pprof/"
			err := download(ctx, fmt.Sprintf("%sprofile?seconds=%d", url, max(1, int(d.Seconds()))), name+".pprof")
			if err == nil {
				err = download(ctx, url+"heap?gc=1", name+"-heap.pprof")
			}
			if err == nil {
				err = download(ctx, url+"goroutine", name+"-goroutines.pprof")
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "scale: profile:", err)
			}
		})
	}
	return all.Wait
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
