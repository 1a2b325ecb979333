package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/secure"
)

// devCertificates are as `brokerctl cert dev` makes them, for three brokers.
func devCertificates(t *testing.T, clients ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	set := secure.DevSet{Dir: dir, Hosts: []string{"b1", "b2", "b3"}, Clients: clients, From: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}
	if _, err := set.Make(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listenerTLS is the configuration with a development set.
func listenerTLS(dir string) broker.ListenerTLSConfig {
	return broker.ListenerTLSConfig{CertFile: filepath.Join(dir, secure.DevBroker), KeyFile: filepath.Join(dir, secure.DevBrokerKey),
		CAFile: filepath.Join(dir, secure.DevCA)}
}

// clientTLS is a client's side; an empty name shows no certificate.
func clientTLS(t *testing.T, dir, name, host string) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(dir, secure.DevCA))
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: host}
	c.RootCAs.AppendCertsFromPEM(ca)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// dialKafkaTLS is dialKafka over TLS.
func dialKafkaTLS(t *testing.T, c *brokertest.Cluster, addr string, config *tls.Config) *kafkaWire {
	t.Helper()
	w := dialKafka(t, c, addr)
	secured := tls.Client(w.conn, config)
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	w.conn = secured
	return w
}

// With TLS on every port a cluster works as without; who speaks something else on a port is told apart in the log and turned away,
// and goes on with nothing; new certificates count without a restart.
func TestTLSOnEveryListener(t *testing.T) {
	dir := devCertificates(t, "alice")
	s := beginTLS(t, dir)
	w := dialKafkaTLS(t, s.c, "b1:9092", clientTLS(t, dir, "alice", "b1"))
	meta := kafkaMetadata(w, topic)
	leader := fmt.Sprintf("b%d", meta.Topics[0].Partitions[0].Leader)
	w = dialKafkaTLS(t, s.c, leader+":9092", clientTLS(t, dir, "alice", leader))
	done := w.ask(kafkaProduce(topic, oneBatch(t, -1, -1, "by Kafka over TLS"))).(*kmsg.ProduceResponse)
	if code := done.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("produce: error %d", code)
	}
	fetched := w.ask(kafkaFetch(meta.Topics[0].TopicID, 0, 1000)).(*kmsg.FetchResponse)
	if len(fetched.Topics) != 1 || len(fetched.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatalf("fetched %+v", fetched)
	}
	s.wantStored("by Kafka over TLS")

	for _, intruder := range []struct{ addr, says, log string }{
		{"b1:9092", "\x00\x00\x00\x10\x00\x12\x00\x03", "looks like a Kafka client without TLS"},
		{"b1:9095", "PRI * HTTP/2.0\r\n", "looks like a gRPC client without TLS"},
		{"b1:9093", "\x00\x00\x00\x10\x00\x12\x00\x03", "does not look like a TLS handshake"},
	} {
		conn, err := s.c.Network.Dial(s.ctx, brokertest.DefaultClientHost, intruder.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, intruder.says)
		_, _ = io.Copy(io.Discard, conn) // until it is closed
		_ = conn.Close()
		s.until(intruder.addr+" to say so", func() bool { return s.c.Logged(1, intruder.log) })
	}
	s.write(s.producer(client.ProducerConfig{Linger: client.NoLinger}), "and on")
	for _, name := range []string{"brokerd_tls_certificate_not_after_seconds", "brokerd_tls_authority_not_after_seconds"} {
		if !slices.Contains(s.c.MetricNames(1), name) {
			t.Errorf("no metric %s", name)
		}
	}
	s.keepsKeys(dir)
}

// keepsKeys makes sure that no line of a private key is in a log or in metrics.
func (s *scenario) keepsKeys(dir string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no keys: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		s.must("read a key", err)
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			for id := int32(1); id <= 3; id++ {
				if line != "" && (s.c.Logged(id, line) || strings.Contains(s.c.MetricsText(id), line)) {
					s.t.Errorf("broker %d tells a line of %s", id, file)
				}
			}
		}
	}
}

// beginTLS begins a cluster with TLS on every port of three brokers, and a client called alice.
func beginTLS(t *testing.T, dir string) *scenario {
	t.Helper()
	c := brokertest.Start(t, brokertest.Options{Configure: func(c *broker.Config) {
		files := listenerTLS(dir)
		c.Peer.TLS = broker.TLSConfig{CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile}
		c.GRPC, c.Kafka = withTLS(c.GRPC, files), withTLS(c.Kafka, files)
		c.HTTP.TLS = files
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	t.Cleanup(cancel)
	s := &scenario{t: t, ctx: ctx, c: c, cl: c.ClientWith(client.Config{RequestTimeout: 2 * time.Second, TLS: clientTLS(t, dir, "alice", "")})}
	if _, err := s.cl.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.cl.WaitReady(ctx, topic); err != nil {
		t.Fatal(err)
	}
	return s
}

func withTLS(listeners map[string]broker.ListenerConfig, files broker.ListenerTLSConfig) map[string]broker.ListenerConfig {
	out := make(map[string]broker.ListenerConfig, len(listeners))
	for name, l := range listeners {
		l.TLS = files
		out[name] = l
	}
	return out
}

// The wrong client on a port without TLS hears nothing and is named in the log.
func TestWrongPortIsNamed(t *testing.T) {
	s := begin(t)
	for _, intruder := range []struct{ addr, says, log string }{
		{"b1:9092", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "speaks TLS, which this listener does not have"},
		{"b1:9092", "PRI * HTTP/2.0\r\n", "looks like a gRPC client"},
		{"b1:9092", "OLR1--------", "which belongs on the port peer.listen"},
		{"b1:9095", "\x00\x00\x00\x10\x00\x12\x00\x03", "looks like a Kafka client; this port speaks gRPC"},
		{"b1:9093", "\x00\x00\x00\x10\x00\x12\x00\x03", "looks like a Kafka client"},
		{"b1:9093", "\x16\x03\x01\x02", "speaks TLS, which is not configured here"},
	} {
		for !s.c.Logged(1, intruder.log) { // what comes within a second of the last may be counted only
			conn, err := s.c.Network.Dial(s.ctx, brokertest.DefaultClientHost, intruder.addr)
			if err != nil {
				t.Fatalf("%s: %v", intruder.log, err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(conn, intruder.says)
			_, _ = io.Copy(io.Discard, conn) // until it is closed
			_ = conn.Close()
		}
	}
}
