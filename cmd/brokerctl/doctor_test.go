package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/oncelog/oncelog/client"
)

// kafkaPort answers ApiVersions as a broker does, and closes what is something else.
func kafkaPort(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			b := make([]byte, 14)
			if _, err := io.ReadFull(conn, b); err == nil && bytes.Equal(b[:6], []byte{0, 0, 0, 10, 0, 18}) {
				_, _ = conn.Write(append([]byte{0, 0, 0, 10}, append(b[8:12], 0, 0, 0, 0, 0, 0)...))
			}
		}()
	}
}

// port serves on loopback until the test ends.
func port(t *testing.T, serve func(net.Listener)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); serve(l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// closedPort is the address of a connection's own end: nobody listens there, and nobody else gets it while the connection lives.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

func grpcPort(t *testing.T) string {
	srv := grpc.NewServer()
	t.Cleanup(srv.Stop)
	return port(t, func(l net.Listener) { _ = srv.Serve(l) })
}

// httpPort tells a time that is ahead by so much.
func httpPort(t *testing.T, ahead time.Duration) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// What the doctor says of addresses that are good, and of each way to get them wrong.
func TestDoctor(t *testing.T) {
	t.Parallel()
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	defer certificates.Close()
	closed := closedPort(t)
	good := func() []client.Listener {
		return []client.Listener{{Name: "default", Address: grpcPort(t), Protocol: "grpc"}, {Name: "http", Address: httpPort(t, 0), Protocol: "http"},
			{Name: "kafka.default", Address: port(t, kafkaPort), Protocol: "kafka"}, {Name: "peer", Address: grpcPort(t), Protocol: "peer"}}
	}
	kafkaAt := func(addr string) func([]client.Broker) {
		return func(b []client.Broker) { b[1].Listeners[2].Address = addr }
	}
	secured := port(t, func(l net.Listener) {
		kafkaPort(tls.NewListener(l, &tls.Config{Certificates: certificates.TLS.Certificates}))
	})
	for _, c := range []struct {
		name   string
		change func([]client.Broker)
		// level and problem of the one finding that is not ok; empty: none.
		level, problem string
	}{
		{"all is well", func([]client.Broker) {}, "", ""},
		{"TLS is spoken", kafkaAt(secured), "", ""},
		{"nobody listens", kafkaAt(closed), levelBroken, "cannot be reached from here"},
		{"no such name", kafkaAt("no-such-host.invalid:9092"), levelBroken, "the name does not resolve here"},
		{"no port", kafkaAt("b2.example"), levelBroken, "no host:port"},
		{"a gRPC port", kafkaAt(grpcPort(t)), levelBroken, "a port for grpc"},
		{"an HTTP port", kafkaAt(httpPort(t, 0)), levelBroken, "a port for http"},
		{"a Kafka port for gRPC", func(b []client.Broker) { b[1].Listeners[0].Address = port(t, kafkaPort) }, levelBroken, "a port for kafka"},
		{"nonsense is spoken", kafkaAt(port(t, func(l net.Listener) {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("220 mail.example ESMTP\r\n"))
				_ = conn.Close()
			}
		})), levelBroken, "no protocol that is known"},
		{"the address of another", func(b []client.Broker) { b[1].Listeners[2].Address = b[0].Listeners[2].Address }, levelBroken, "advertises the same address"},
		{"every address", kafkaAt("0.0.0.0:9092"), levelBroken, "nobody can connect to 0.0.0.0"},
		{"not on all brokers", func(b []client.Broker) { b[1].Listeners = append(b[1].Listeners[:2], b[1].Listeners[3:]...) }, levelBroken, "broker 1 has the listener"},
		{"a clock goes ahead", func(b []client.Broker) { b[1].Listeners[1].Address = httpPort(t, time.Minute) }, levelWarn, "ahead of the one here"},
		{"a clock is far behind", func(b []client.Broker) { b[1].Listeners[1].Address = httpPort(t, -time.Hour) }, levelBroken, "behind the one here"},
		{"no HTTP", func(b []client.Broker) { b[1].Listeners[1].Address = closed }, levelWarn, "the clocks were not compared"},
		{"peers are not reached", func(b []client.Broker) { b[1].Listeners[3].Address = closed }, levelWarn, "cannot be reached from here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			brokers := []client.Broker{{ID: 1, Listeners: good()}, {ID: 2, Listeners: good()}}
			for i := range brokers {
				brokers[i].PeerAddress = brokers[i].Listeners[3].Address
			}
			c.change(brokers)
			var out bytes.Buffer
			p := &program{stdout: &out, flags: globalFlags{output: "table"}}
			d := p.examine(context.Background(), client.Metadata{ClusterID: "c", Brokers: brokers})
			if d.Healthy != (c.level != levelBroken) {
				t.Errorf("healthy: %v", d.Healthy)
			}
			var bad []finding
			for _, f := range d.Findings {
				if f.Level != levelOK {
					bad = append(bad, f)
				}
			}
			if c.name == "the address of another" && len(bad) == 2 { // both are told
				bad = bad[:1]
			}
			switch {
			case c.level == "" && len(bad) > 0, c.level != "" && len(bad) != 1:
				t.Fatalf("found %+v", bad)
			case c.level != "" && (bad[0].Level != c.level || !strings.Contains(bad[0].Problem, c.problem)):
				t.Errorf("found %+v, want %s: %s", bad[0], c.level, c.problem)
			}
			if err := p.printDoctor(d); err != nil || len(bad) > 0 && !strings.Contains(strings.Join(strings.Fields(out.String()), " "), bad[0].Problem) {
				t.Errorf("%v, printed:\n%s", err, out.String())
			}
		})
	}
}

// A loopback address is a warning where the brokers are on several machines.
func TestDoctorOnLoopback(t *testing.T) {
	kafka := port(t, kafkaPort)
	brokers := []client.Broker{{ID: 1, PeerAddress: "10.0.0.1:9093", Listeners: []client.Listener{{Name: "kafka.default", Address: kafka, Protocol: "kafka"}}}}
	d := (&program{}).examine(context.Background(), client.Metadata{Brokers: brokers})
	if f := d.Findings[0]; !d.Healthy || f.Level != levelWarn || !strings.Contains(f.Try, "kafka.default.advertise") {
		t.Errorf("found %+v", f)
	}
}

// The command's exit code is that of a failed check, and its JSON says what its table says.
func TestDoctorCommand(t *testing.T) {
	f := startFake(t)
	if out, errs, code := f.run(t, "", "doctor"); code != exitFailed || out != "" || !strings.Contains(errs, "takes a right") {
		t.Errorf("who may not see addresses: exit code %d:\n%s%s", code, out, errs)
	}
	f.mu.Lock()
	f.listeners = map[int32][]client.Listener{2: {{Name: "kafka.default", Address: "b7.example:9092", Protocol: "kafka"}}}
	f.mu.Unlock()
	out, errs, code := f.run(t, "", "doctor", "-o", "json")
	var d doctorJSON
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != exitCheck || d.Healthy || !strings.Contains(errs, "some clients cannot work") {
		t.Fatalf("%v, exit code %d:\n%s%s", err, code, out, errs)
	}
	if f := d.Findings[0]; f.Broker != 2 || f.Level != levelBroken || !strings.Contains(f.Problem, "connection refused") || !strings.Contains(f.Breaks, "listener default") {
		t.Errorf("found %+v", f)
	}
}
