package mux

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a listener without a network.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	fail   chan error
}

func newMemory() *memory {
	return &memory{conns: make(chan net.Conn), closed: make(chan struct{}), fail: make(chan error)}
}

func (l *memory) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.fail:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *memory) Close() error   { close(l.closed); return nil }
func (l *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (l *memory) dial(ctx context.Context, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, net.ErrClosed
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func count(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

// serve echoes what comes on a listener, after its name.
func serve(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, name); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

func TestRouting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newMemory()
		m := New(base, Config{})
		go serve(m.Raft(), "raft:")
		go serve(m.Peer(), "peer:")
		d := Dialer{Dial: base.dial}
		raft, err := d.Raft(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, raft, "hello", "raft:hello")
		// What was read to find out what it is is not lost.
		peer, err := d.Peer(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, peer, "PRI * HTTP/2.0\r\n", "peer:PRI * HTTP/2.0\r\n")
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
		if _, err := m.Raft().Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		exchange(t, raft, "more", "more") // Connections that were taken live on.
		_ = raft.Close()
		_ = peer.Close()
	})
}

func exchange(t *testing.T, c net.Conn, say, want string) {
	t.Helper()
	go func() { _, _ = io.WriteString(c, say) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// Who comes to the wrong port is told, counted and disconnected; those who say nothing are too.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newMemory()
		var log logBuffer
		m := New(base, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for _, x := range []struct {
			say, kind, answer, logged string
		}{
			{"GET /metrics HTTP/1.1\r\n", "http", "HTTP/1.1 400 Bad Request", "web client"},
			{"POST / HTTP/1.1\r\n", "http", "oncelog brokers talk to each other", "web client"},
			{"\x00\x00\x00\x2a\x00\x12\x00\x03", "kafka", "", "Kafka client"},
			{"\x16\x03\x01\x02\x00", "tls", "", "TLS, which is not configured"},
			{"SSH-2.0-x\r\n", "unknown", "", "SSH-"},
			{"GE", "silent", "", "sent nothing"},
			{"", "silent", "", "sent nothing"},
		} {
			before := count(m.metrics.rejected.WithLabelValues(x.kind))
			log.Reset()
			c, err := base.dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(c, x.say) }()
			started := time.Now()
			got, _ := io.ReadAll(c)
			synctest.Wait()
			if !strings.Contains(string(got), x.answer) || x.answer == "" && len(got) > 0 {
				t.Errorf("%q was answered %q", x.say, got)
			}
			if took := time.Since(started); took > 5*time.Second {
				t.Errorf("%q was disconnected after %v", x.say, took)
			}
			if n := count(m.metrics.rejected.WithLabelValues(x.kind)) - before; n != 1 {
				t.Errorf("%q is counted %v times as %s", x.say, n, x.kind)
			}
			if !strings.Contains(log.String(), x.logged) {
				t.Errorf("%q is logged as %q", x.say, log.String())
			}
			_ = c.Close()
			time.Sleep(time.Second) // The log says one in a second.
		}
		_ = m.Close()
	})
}

// The log is not flooded, and the number of those that have said nothing yet is bounded.
func TestManyStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newMemory()
		var log logBuffer
		m := New(base, Config{MaxPending: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		var conns []net.Conn
		for range 5 {
			c, err := base.dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			synctest.Wait()
		}
		if n := count(m.metrics.rejected.WithLabelValues("overload")); n != 2 {
			t.Errorf("%v of 5 refused, want 2", n)
		}
		time.Sleep(6 * time.Second)
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines logged:\n%s", n, log.String())
		}
		for _, c := range conns {
			_ = c.Close()
		}
		// A full process recovers.
		base.fail <- errors.New("too many open files")
		time.Sleep(time.Second)
		go serve(m.Raft(), "raft:")
		c, err := Dialer{Dial: base.dial}.Raft(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, "x", "raft:x")
		_ = c.Close()
		// Close cuts those nobody has taken.
		waiting, err := Dialer{Dial: base.dial}.Peer(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(waiting, "PRI * HTTP/2.0\r\n") }()
		synctest.Wait()
		_ = m.Close()
		if _, err := io.ReadAll(waiting); err != nil {
			t.Errorf("a waiting connection: %v", err)
		}
		_ = waiting.Close()
	})
}

// One side may close; the other goes on.
func TestOneSideCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newMemory()
		m := New(base, Config{})
		_ = m.Peer().Close()
		go serve(m.Raft(), "raft:")
		c, _ := base.dial(t.Context(), "")
		go func() { _, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n") }()
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("a closed side answered %q", got)
		}
		r, err := Dialer{Dial: base.dial}.Raft(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, r, "x", "raft:x")
		_ = r.Close()
		_ = c.Close()
		_ = m.Close()
	})
}

// certificate makes a certificate that its own key has signed.
func certificate(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pool(t *testing.T, c tls.Certificate) *x509.CertPool {
	t.Helper()
	parsed, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AddCert(parsed)
	return p
}

// With mTLS only who has a certificate of ours gets through, to either side; a web client that
// speaks no TLS is told in plain text.
func TestMutualTLS(t *testing.T) {
	ours, foreign := certificate(t, "broker"), certificate(t, "broker")
	base, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := New(base, Config{TLS: &tls.Config{
		Certificates: []tls.Certificate{ours}, ClientCAs: pool(t, ours), ClientAuth: tls.RequireAndVerifyClientCert,
	}})
	defer m.Close()
	go serve(m.Raft(), "raft:")
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(m.Peer()) }()
	defer server.Stop()
	addr := base.Addr().String()
	d := Dialer{TLS: fixed(&tls.Config{Certificates: []tls.Certificate{ours}, RootCAs: pool(t, ours), ServerName: "broker"})}
	c, err := d.Raft(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "x", "raft:x")
	_ = c.Close()
	client, err := grpc.NewClient("passthrough:///"+addr, grpc.WithContextDialer(d.Peer), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if a, err := healthpb.NewHealthClient(client).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || a.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC over the mux: %v, %v", a, err)
	}
	stranger := Dialer{TLS: fixed(&tls.Config{Certificates: []tls.Certificate{foreign}, RootCAs: pool(t, ours), ServerName: "broker"})}
	if c, err := stranger.Raft(t.Context(), addr); err == nil {
		// TLS 1.3 tells the client only when it reads.
		if got, err := io.ReadAll(c); err == nil || len(got) > 0 {
			t.Errorf("a foreign certificate was served %q", got)
		}
		_ = c.Close()
	}
	if _, err := (Dialer{TLS: fixed(&tls.Config{Certificates: []tls.Certificate{ours}, RootCAs: pool(t, foreign), ServerName: "broker"})}).Raft(t.Context(), addr); err == nil {
		t.Error("a server with a foreign certificate was trusted")
	}
	a, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(a.Body)
	_ = a.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "oncelog brokers") {
		t.Errorf("plain HTTP was answered %d, %q", a.StatusCode, body)
	}
	if n := count(m.metrics.rejected.WithLabelValues("tls")); n < 1 {
		t.Errorf("%v failed handshakes counted", n)
	}
}

// fixed always gives the same.
func fixed(c *tls.Config) func() *tls.Config { return func() *tls.Config { return c } }
