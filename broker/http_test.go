package broker

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// Whoever hangs up while /metrics are sent can do so as often as he likes: the log says it once in a second.
func TestBrokenScrapesDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		for i := range 1000 { // more than is buffered
			reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: fmt.Sprintf("some_metric_%d", i), Help: strings.Repeat("x", 100)}))
		}
		var log strings.Builder
		handler := metricsHandler(reg, slog.New(slog.NewTextHandler(&log, nil)))
		for range 50 {
			handler.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		}
		time.Sleep(time.Second)
		handler.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || !strings.Contains(log.String(), "unreported=49") {
			t.Errorf("%d lines about 51 scrapes:\n%.1000s", n, log.String())
		}
	})
}

// brokenWriter is an answer whose client is gone.
type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, net.ErrClosed }
