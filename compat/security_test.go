package compat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

const (
	adminPassword = "the password of admin"
	userPassword  = "the password of alice"
)

// startSecured runs brokers whose Kafka listener speaks TLS and demands a proof. certs holds the authority.
func startSecured(t *testing.T) (c *brokerproc.Cluster, certs string) {
	t.Helper()
	certs = filepath.Join(t.TempDir(), "certs")
	make := exec.Command("go", "run", "./cmd/brokerctl", "cert", "dev", "--dir", certs)
	make.Dir = ".."
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("certificates: %v: %s", err, out)
	}
	password := filepath.Join(certs, "admin.password")
	if err := os.WriteFile(password, []byte(adminPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return startCluster(t,
		"kafka.default.tls.cert_file="+filepath.Join(certs, "broker.pem"), "kafka.default.tls.key_file="+filepath.Join(certs, "broker.key"),
		"kafka.default.sasl.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN", "security.bootstrap_user=admin", "security.bootstrap_password_file="+password,
		"security.max_session=5s"), certs
}

func securedClient(t *testing.T, c *brokerproc.Cluster, certs string, mechanism sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(certs, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.KafkaAddrs()...), kgo.DialTLSConfig(&tls.Config{RootCAs: pool}), kgo.SASL(mechanism))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// franz-go and librdkafka come in over TLS, by every mechanism, and their proofs are renewed on the way; who has none stays outside.
func TestSecuredListeners(t *testing.T) {
	ran(t, "franz-go", franzVersion())
	ran(t, "kcat", kcatVersion())
	t.Parallel()
	c, certs := startSecured(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	admin := kadm.NewClient(securedClient(t, c, certs, scram.Auth{User: "admin", Pass: adminPassword}.AsSha512Mechanism()))
	var upserts []kadm.UpsertSCRAM
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		upserts = append(upserts, kadm.UpsertSCRAM{User: "alice", Mechanism: m, Iterations: 4096, Password: userPassword})
	}
	altered, err := admin.AlterUserSCRAMs(ctx, nil, upserts)
	if err != nil || altered.Error() != nil {
		t.Fatal(err, altered.Error())
	}
	for { // whoever is asked may not have heard of it yet
		described, err := admin.DescribeUserSCRAMs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(described["alice"].CredInfos) == 2 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("users: %+v", described)
		}
	}
	if _, err := admin.CreateTopic(ctx, 3, 3, nil, "secured"); err != nil {
		t.Fatal(err)
	}
	proof := scram.Auth{User: "alice", Pass: userPassword}
	var sent int
	began := time.Now()
	for name, m := range map[string]sasl.Mechanism{"SCRAM-SHA-256": proof.AsSha256Mechanism(), "SCRAM-SHA-512": proof.AsSha512Mechanism(),
		"PLAIN": plain.Auth{User: "alice", Pass: userPassword}.AsMechanism()} {
		cl := securedClient(t, c, certs, m, kgo.DefaultProduceTopic("secured"))
		for range 100 {
			if err := cl.ProduceSync(ctx, kgo.StringRecord(name)).FirstErr(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			sent++
		}
	}
	// One client outlives its proofs.
	long := securedClient(t, c, certs, proof.AsSha512Mechanism(), kgo.DefaultProduceTopic("secured"))
	for time.Since(began) < 12*time.Second {
		if err := long.ProduceSync(ctx, kgo.StringRecord("long")).FirstErr(); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		sent++
		time.Sleep(50 * time.Millisecond) // the time of proofs passes
	}
	wrong := securedClient(t, c, certs, scram.Auth{User: "alice", Pass: "wrong"}.AsSha512Mechanism())
	if err := wrong.Ping(ctx); err == nil || !strings.Contains(err.Error(), "SASL_AUTHENTICATION_FAILED") {
		t.Errorf("a wrong password: %v", err)
	}
	kcat(t, c, certs, sent)
}

// kcat reads everything and writes a record, through librdkafka.
func kcat(t *testing.T, c *brokerproc.Cluster, certs string, sent int) {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		missing(t, "kcat", err)
	}
	run := func(password, stdin string, args ...string) (string, error) {
		args = append(args, "-b", strings.Join(c.KafkaAddrs(), ","), "-t", "secured", "-X", "security.protocol=sasl_ssl", "-X", "ssl.ca.location="+filepath.Join(certs, "ca.pem"),
			"-X", "sasl.mechanisms=SCRAM-SHA-512", "-X", "sasl.username=alice", "-X", "sasl.password="+password)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if failed, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		return string(out), err
	}
	if _, err := run(userPassword, "one more\n", "-P"); err != nil {
		t.Fatal(err)
	}
	out, err := run(userPassword, "", "-C", "-e", "-q")
	if n := strings.Count(out, "\n"); err != nil || n != sent+1 {
		t.Fatalf("kcat read %d records, want %d: %v", n, sent+1, err)
	}
	if _, err := run("wrong", "", "-L", "-m", "5"); err == nil {
		t.Error("kcat came in with a wrong password")
	}
}
