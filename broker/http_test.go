package broker

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Profiles are served only where the configuration says so.
func TestProfilesAreOffByDefault(t *testing.T) {
	for _, profiles := range []bool{DefaultConfig().HTTP.Profiles, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		h := startHTTP(l, prometheus.NewRegistry(), &health{}, profiles, slog.New(slog.DiscardHandler))
		for path, want := range map[string]bool{"/readyz": true, "/debug/pprof/heap": profiles, "/debug/pprof/profile?seconds=1": profiles} {
			resp, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if got := resp.StatusCode == http.StatusOK && err == nil && len(body) > 0; got != want {
				t.Errorf("profiles %v: %s answers %s: %v", profiles, path, resp.Status, strings.TrimSpace(string(body)))
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := h.close(); err != nil {
			t.Error(err)
		}
	}
}
