package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/oncelog/oncelog/internal/buildinfo"
	"github.com/oncelog/oncelog/internal/firstbytes"
)

// httpServer serves /metrics, /livez, /readyz and /version, and /debug/pprof/ where that is configured.
type httpServer struct {
	server *http.Server
	done   chan error
}

// readiness is what /readyz answers by.
type readiness interface {
	reasons() []string
	warned() []string
}

// maxHTTPConnections bounds the connections to the HTTP port; more wait to be accepted.
const maxHTTPConnections = 256

// startHTTP serves on l until close. health says what keeps the broker from being ready and what
// else is not well, one sentence each; profiles says whether those of the runtime are served.
func startHTTP(l net.Listener, reg *prometheus.Registry, health readiness, profiles bool, logger *slog.Logger) *httpServer {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(reg, logger))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if reasons := health.reasons(); len(reasons) > 0 {
			writeText(w, http.StatusServiceUnavailable, strings.Join(reasons, "; "))
			return
		}
		writeText(w, http.StatusOK, strings.Join(append([]string{"ready"}, health.warned()...), "; "))
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, buildinfo.Get().String()) })
	if profiles {
		serveProfiles(mux)
	}
	open := prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_http_connections", Help: "Open connections to the HTTP port."})
	reg.MustRegister(open)
	h := &httpServer{
		server: &http.Server{
			ConnState: func(_ net.Conn, s http.ConnState) {
				switch s {
				case http.StateNew:
					open.Inc()
				case http.StateClosed, http.StateHijacked:
					open.Dec()
				}
			},
			Handler:           mux,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		},
		done: make(chan error, 1),
	}
	go func() { h.done <- h.server.Serve(netutil.LimitListener(l, maxHTTPConnections)) }()
	return h
}

func metricsHandler(reg *prometheus.Registry, logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorLog: &scrapeLog{logger: logger}})
}

// scrapeLog is told of scrapes of /metrics that failed. Whoever hangs up in the middle of one can do so as often as he likes.
type scrapeLog struct {
	logger *slog.Logger
	told   firstbytes.Throttle
}

// Println logs (promhttp.Logger).
func (l *scrapeLog) Println(v ...any) {
	if n, ok := l.told.Allow(time.Now()); ok {
		l.logger.Warn("metrics not served", "err", strings.TrimSpace(fmt.Sprintln(v...)), "unreported", n)
	}
}

// serveProfiles serves what `go tool pprof` asks for. A profile over a time takes at most as long as
// the server's WriteTimeout lets an answer take.
func serveProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // A client that has gone is not our trouble.
}

// close stops serving, within a second, and waits.
func (h *httpServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := h.server.Shutdown(ctx)
	if err != nil {
		err = h.server.Close()
	}
	if served := <-h.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}
