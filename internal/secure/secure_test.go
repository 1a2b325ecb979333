package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/firstbytes"
)

// devSet makes certificates in a directory of the test's.
func devSet(t *testing.T, until time.Time) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	set := DevSet{Dir: dir, Hosts: []string{"localhost", "127.0.0.1"}, Clients: []string{"alice"}, From: time.Now().Add(-48 * time.Hour), Until: until}
	if _, err := set.Make(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func brokerFiles(dir string) Files {
	return Files{Cert: filepath.Join(dir, DevBroker), Key: filepath.Join(dir, DevBrokerKey), CA: filepath.Join(dir, DevCA)}
}

// logBook is a log that can be read while it is written.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// opened is a listener on loopback.
func opened(t *testing.T, c ListenerConfig) (l *Listener, said *logBook) {
	t.Helper()
	base, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	said = new(logBook)
	c.Port, c.Logger, c.Metrics = "kafka.test", slog.New(slog.NewTextHandler(said, nil)), NewMetrics(prometheus.NewRegistry())
	l = Listen(base, c)
	t.Cleanup(func() { _ = l.Close() })
	return l, said
}

func clientConfig(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	k, err := Load(KeeperConfig{Port: "client", Files: Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key"), CA: filepath.Join(dir, DevCA)}})
	if err != nil {
		t.Fatal(err)
	}
	c := k.Client().Clone()
	c.ServerName = "localhost"
	return c
}

// A file that changes counts from the next handshake on; one that is no good, half a pair or expired changes nothing.
func TestCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	first, second := devSet(t, time.Now().Add(time.Hour)), devSet(t, time.Now().Add(2*time.Hour))
	expired := devSet(t, time.Now().Add(-time.Hour))
	dir := t.TempDir()
	put := func(from string, names ...string) {
		t.Helper()
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := []string{DevCA, DevBroker, DevBrokerKey}
	put(first, all...)
	said := new(logBook)
	k, err := Load(KeeperConfig{Port: "kafka.test", Files: brokerFiles(dir), Logger: slog.New(slog.NewTextHandler(said, nil)), Metrics: NewMetrics(nil)})
	if err != nil {
		t.Fatal(err)
	}
	was := k.NotAfter()
	if err := k.Reload(); err != nil || k.NotAfter() != was {
		t.Fatalf("nothing has changed: %v", err)
	}
	put(second, DevBroker) // the key is still that of the first
	for range 3 {
		if err := k.Reload(); err == nil || k.NotAfter() != was {
			t.Fatalf("half a pair was taken: %v", err)
		}
	}
	if n := strings.Count(said.String(), "no good"); n != 1 {
		t.Fatalf("said %d times: %s", n, said)
	}
	put(second, all...)
	if err := k.Reload(); err != nil || !k.NotAfter().After(was) {
		t.Fatalf("a good set was not taken: %v", err)
	}
	now := k.NotAfter()
	put(expired, all...)
	if err := k.Reload(); err == nil || !strings.Contains(err.Error(), "expired") || k.NotAfter() != now {
		t.Fatalf("an expired certificate: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, DevBrokerKey), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Reload(); err == nil || k.NotAfter() != now || strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("nonsense: %v", err)
	}
}

// A listener lets in who has a good certificate, under its name, and tells the others apart.
func TestListenerTellsClientsApart(t *testing.T) {
	t.Parallel()
	ours, theirs := devSet(t, time.Now().Add(time.Hour)), devSet(t, time.Now().Add(time.Hour))
	k, err := Load(KeeperConfig{Port: "kafka.test", Files: brokerFiles(ours), ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := ParseMapping(`RULE:^CN=(.*)$/user-$1/U`)
	if err != nil {
		t.Fatal(err)
	}
	l, said := opened(t, ListenerConfig{TLS: k.Server(), Mapping: rules, Timeout: 5 * time.Second})
	addr := l.Addr().String()
	for _, intruder := range []struct{ what, log string }{
		{"\x00\x00\x00\x10\x00\x12\x00\x03", "looks like a Kafka client without TLS"},
		{"GET / HTTP/1.1\r\n", "looks like a web client without TLS"},
		{"PRI * HTTP/2.0\r\n", "looks like a gRPC client without TLS"},
		{"OLR1xxxx", "looks like a broker"},
	} {
		l.told = firstbytes.Throttle{}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, intruder.what)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.Copy(io.Discard, conn) // until the other side closes
		_ = conn.Close()
		if !strings.Contains(said.String(), intruder.log) {
			t.Errorf("%q: the log lacks %q: %s", intruder.what, intruder.log, said)
		}
	}
	l.told = firstbytes.Throttle{}
	stranger := clientConfig(t, theirs, "alice")
	stranger.RootCAs = clientConfig(t, ours, "alice").RootCAs
	if conn, err := tls.Dial("tcp", addr, stranger); err == nil {
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3 tells the client only when it reads
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a stranger got in")
		}
	}
	conn, err := tls.Dial("tcp", addr, clientConfig(t, ours, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if c, ok := Of(in); !ok || c.User != "USER-ALICE" {
		t.Fatalf("it came in as %+v", c)
	}
}

// A connection whose first bytes were looked at gives them again, and a gRPC server learns whose certificate it showed.
func TestUserOfAnHTTP2Connection(t *testing.T) {
	t.Parallel()
	dir := devSet(t, time.Now().Add(time.Hour))
	k, err := Load(KeeperConfig{Port: "grpc.test", Files: brokerFiles(dir), ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := ParseMapping(`RULE:^CN=(.*)$/user-$1/U`)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := opened(t, ListenerConfig{TLS: k.Server(), Mapping: rules, Timeout: 5 * time.Second, HTTP2: true})
	conn, err := tls.Dial("tcp", l.Addr().String(), clientConfig(t, dir, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const preface = "PRI * HTTP/2.0"
	if _, err := io.WriteString(conn, preface); err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	_, info, err := GRPC{}.ServerHandshake(in)
	if a, ok := info.(AuthInfo); err != nil || !ok || !a.TLS || a.User != "USER-ALICE" {
		t.Errorf("%+v, %v", info, err)
	}
	got := make([]byte, len(preface))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != preface {
		t.Errorf("%q, %v", got, err)
	}
}

// A client of another's authority, or one that is a client only, is no broker.
func TestClientsAreNoBrokers(t *testing.T) {
	t.Parallel()
	dir := devSet(t, time.Now().Add(time.Hour))
	k, err := Load(KeeperConfig{Port: "peer", Files: brokerFiles(dir), ClientAuth: tls.RequireAndVerifyClientCert, BrokersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"alice": false, "broker": true} {
		c, s := net.Pipe()
		server := tls.Server(s, k.Server())
		client := tls.Client(c, clientConfig(t, dir, name))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		go func() {
			_ = client.HandshakeContext(ctx)
			_, _ = io.Copy(io.Discard, client)
		}()
		err := server.HandshakeContext(ctx)
		cancel()
		_ = c.Close()
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Handshakes that are begun and not finished are bounded, by address and by time.
func TestHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	dir := devSet(t, time.Now().Add(time.Hour))
	k, err := Load(KeeperConfig{Port: "kafka.test", Files: brokerFiles(dir)})
	if err != nil {
		t.Fatal(err)
	}
	l, said := opened(t, ListenerConfig{TLS: k.Server(), MaxPendingPerAddress: 2, Timeout: 300 * time.Millisecond})
	var silent []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		silent = append(silent, conn)
	}
	for _, conn := range silent {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a silent connection lives: %v", err)
		}
	}
	if !strings.Contains(said.String(), "too many handshakes") {
		t.Fatalf("nothing of it in the log: %s", said)
	}
}

func TestMapping(t *testing.T) {
	t.Parallel()
	// Rules and names from Kafka's documentation, and its edge cases.
	const subject = "CN=Duke,OU=ServiceUsers,O=Org,C=US"
	tests := []struct{ rules, want string }{
		{"", subject},
		{"DEFAULT", subject},
		{`RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/,DEFAULT`, "Duke"},
		{`RULE:^CN=(.*?),OU=Admins.*$/$1/, RULE:^CN=(.*?),OU=(.*?),O=(.*?),C=(.*?)$/$1@$2/L , DEFAULT`, "duke@serviceusers"},
		{`RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/U`, "DUKE"},
		{`RULE:CN=(.*?),.*/$1\/x/`, "Duke/x"},
		{`RULE:^CN=x$/$1/`, "!" + ErrNoRule.Error()},
		{`RULE:CN=(x*).*/$1/`, "!" + ErrNoRule.Error()},
		{`RULE:^CN=(.*?)`, "!no /"},
		{`RULE:^CN=(.*?)/$1`, "!no /"},
		{`RULE:(/x/`, "!bad pattern"},
		{`RULE:a/b/X`, "!separated by commas"},
		{`nonsense`, "!neither"},
		{strings.Repeat("x", MaxMappingLength+1), "!at most"},
	}
	for _, test := range tests {
		m, err := ParseMapping(test.rules)
		var got string
		if err == nil {
			got, err = m.Name(subject)
		}
		if want, bad := strings.CutPrefix(test.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.40s: %q, %v; want an error with %q", test.rules, got, err, want)
			}
		} else if err != nil || got != test.want {
			t.Errorf("%s: %q, %v; want %q", test.rules, got, err, test.want)
		}
	}
}

// A subject is written whole: who has the same common name elsewhere in a directory, or one more, is somebody else.
func TestSubjectsAreWholeNames(t *testing.T) {
	t.Parallel()
	type a = pkix.AttributeTypeAndValue
	cn, ou, o := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 11}, asn1.ObjectIdentifier{2, 5, 4, 10}
	for want, name := range map[string]pkix.RDNSequence{
		"":                       {},
		"CN=alice,OU=Ops,O=Shop": {{a{Type: o, Value: "Shop"}}, {a{Type: ou, Value: "Ops"}}, {a{Type: cn, Value: "alice"}}},
		"O=Shop,CN=alice":        {{a{Type: cn, Value: "alice"}}, {a{Type: o, Value: "Shop"}}},
		"CN=alice,CN=Users":      {{a{Type: cn, Value: "Users"}}, {a{Type: cn, Value: "alice"}}},
		"CN=alice,CN=Partners":   {{a{Type: cn, Value: "Partners"}}, {a{Type: cn, Value: "alice"}}},
		"OU=Ops+CN=alice":        {{a{Type: cn, Value: "alice"}, a{Type: ou, Value: "Ops"}}},
		`CN=alice\,O=Shop`:       {{a{Type: cn, Value: "alice,O=Shop"}}},
		"!no text":               {{a{Type: cn, Value: 7}}},
	} {
		der, err := asn1.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := subjectOf(der)
		if bad, isBad := strings.CutPrefix(want, "!"); isBad && (err == nil || !strings.Contains(err.Error(), bad)) || !isBad && (err != nil || got != want) {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if got, err := subjectOf([]byte{1, 2}); err == nil {
		t.Errorf("nonsense is %q", got)
	}
}

func FuzzMapping(f *testing.F) {
	f.Add("DEFAULT", "CN=x")
	f.Add(`RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L,DEFAULT`, "CN=a,OU=ServiceUsers")
	f.Fuzz(func(t *testing.T, rules, subject string) {
		m, err := ParseMapping(rules)
		if err != nil {
			return
		}
		if name, err := m.Name(subject); err == nil && name == "" && subject != "" {
			t.Fatalf("%q makes nothing of %q", rules, subject)
		}
	})
}
