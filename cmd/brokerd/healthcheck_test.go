package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		code   int
		stdout string
		stderr string
	}{
		{"ready", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("ready: 3 groups lead\nmore\n"))
		}, exitOK, "ready: 3 groups lead\n", ""},
		{"not ready", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "metadata has no leader", http.StatusServiceUnavailable)
		}, exitFailed, "", "brokerd: not ready: 503 Service Unavailable: metadata has no leader\n"},
		{"no reason", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}, exitFailed, "", "brokerd: not ready: 503 Service Unavailable: (no reason given)\n"},
		{"endless line", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat("x", 1<<20)))
		}, exitOK, strings.Repeat("x", 4096) + "\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /readyz", test.answer)
			server := httptest.NewServer(mux)
			defer server.Close()
			address := strings.TrimPrefix(server.URL, "http://")
			got := brokerd(t, nil, "healthcheck", "--address", address)
			if got != (result{test.code, test.stdout, test.stderr}) {
				t.Fatalf("by --address: got %+v", got)
			}
			_, port, _ := strings.Cut(address, ":")
			if got := brokerd(t, []string{"BROKERD_HTTP__LISTEN=:" + port}, "healthcheck"); got.code != test.code {
				t.Fatalf("by configuration: got %+v", got)
			}
		})
	}
}

func TestHealthcheckWithoutBroker(t *testing.T) {
	server := httptest.NewServer(nil)
	address := strings.TrimPrefix(server.URL, "http://")
	server.Close()
	got := brokerd(t, nil, "healthcheck", "--address", address)
	if got.code != exitFailed || !strings.Contains(got.stderr, "not ready: ") || !strings.Contains(got.stderr, "connection refused") {
		t.Fatalf("got %+v", got)
	}
}

func TestHealthcheckGivesUp(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	got := brokerd(t, nil, "healthcheck", "--timeout", "50ms", "--address", strings.TrimPrefix(server.URL, "http://"))
	if got.code != exitFailed || !strings.Contains(got.stderr, "context deadline exceeded") {
		t.Fatalf("got %+v", got)
	}
}

func TestLocalAddress(t *testing.T) {
	for listen, want := range map[string]string{
		":9644": "127.0.0.1:9644", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.1:1": "10.0.0.1:1", "host:1": "host:1",
	} {
		if got := localAddress(listen); got != want {
			t.Errorf("localAddress(%q) = %q, want %q", listen, got, want)
		}
	}
}
