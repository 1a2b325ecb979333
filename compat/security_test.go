package compat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/oncelog/oncelog/internal/brokerproc"
)

const (
	adminPassword = "the password of admin"
	userPassword  = "the password of alice"
)

// startSecured runs brokers whose listeners, of both protocols, speak TLS and demand a proof. certs holds the authority; admin is the first
// user, with adminPassword.
func startSecured(t *testing.T, set ...string) (c *brokerproc.Cluster, certs string) {
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
	for _, listener := range []string{"kafka.default.", "grpc.default."} {
		set = append(set, listener+"tls.cert_file="+filepath.Join(certs, "broker.pem"), listener+"tls.key_file="+filepath.Join(certs, "broker.key"),
			listener+"sasl.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN")
	}
	return startCluster(t, append(set, "security.bootstrap_user=admin", "security.bootstrap_password_file="+password)...), certs
}

// trust is TLS with the authority of the suite's certificates.
func trust(t *testing.T, certs string) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(certs, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool}
}

func securedClient(t *testing.T, c *brokerproc.Cluster, certs string, mechanism sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.KafkaAddrs()...), kgo.DialTLSConfig(trust(t, certs)), kgo.SASL(mechanism))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// franz-go and librdkafka come in over TLS, by every mechanism, and their proofs are renewed on the way; who has none stays outside.
func TestSecuredListeners(t *testing.T) {
	ran(t, "franz-go", franzVersion(), "over TLS by each mechanism of SASL, with proofs that are renewed, and not without one")
	ran(t, "kcat", kcatVersion(), "over TLS by SCRAM-SHA-512, and not by a wrong password")
	t.Parallel()
	c, certs := startSecured(t, "security.max_session=5s")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	adminClient := securedClient(t, c, certs, scram.Auth{User: "admin", Pass: adminPassword}.AsSha512Mechanism())
	admin := kadm.NewClient(adminClient)
	var upserts []kadm.UpsertSCRAM
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		upserts = append(upserts, kadm.UpsertSCRAM{User: "alice", Mechanism: m, Iterations: 4096, Password: userPassword})
	}
	altered, err := admin.AlterUserSCRAMs(ctx, nil, upserts)
	if err != nil || altered.Error() != nil {
		t.Fatal(err, altered.Error())
	}
	everyBrokerHas(t, ctx, adminClient, 2, 0)
	if _, err := admin.CreateTopic(ctx, 3, 3, nil, "secured"); err != nil {
		t.Fatal(err)
	}
	proof := scram.Auth{User: "alice", Pass: userPassword}
	var sent int
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
	// One client outlives its proofs: it writes until two have been renewed.
	var proofs renewals
	long := securedClient(t, c, certs, proof.AsSha512Mechanism(), kgo.DefaultProduceTopic("secured"), kgo.WithHooks(&proofs))
	for proofs.count() < 2 {
		if err := long.ProduceSync(ctx, kgo.StringRecord("long")).FirstErr(); err != nil {
			t.Fatalf("after %d renewals: %v", proofs.count(), err)
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

// everyBrokerHas waits until every broker has heard of so many proofs of users beside that of admin, and of so many rules: whoever is asked
// may not have heard of them yet.
func everyBrokerHas(t *testing.T, ctx context.Context, cl *kgo.Client, proofs, rules int) {
	t.Helper()
	for id := 1; id <= 3; {
		users, err := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest().RequestWith(ctx, cl.Broker(id))
		if err != nil {
			t.Fatal(err)
		}
		haveProofs, haveRules := 0, 0
		for _, u := range users.Results {
			if u.User != "admin" {
				haveProofs += len(u.CredentialInfos)
			}
		}
		all := kmsg.NewPtrDescribeACLsRequest()
		all.ResourceType, all.ResourcePatternType, all.Operation, all.PermissionType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny, kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		described, err := all.RequestWith(ctx, cl.Broker(id))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range described.Resources {
			haveRules += len(r.ACLs)
		}
		if haveProofs == proofs && haveRules == rules {
			id++
			continue
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("broker %d has %d proofs and %d rules, want %d and %d", id, haveProofs, haveRules, proofs, rules)
		}
	}
}

// renewals counts proofs that a client gave again on a connection that it had: each is two messages.
type renewals struct{ connected, said atomic.Int64 }

func (r *renewals) count() int64 { return (r.said.Load() - 2*r.connected.Load()) / 2 }

// OnBrokerConnect is kgo.HookBrokerConnect.
func (r *renewals) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		r.connected.Add(1)
	}
}

// OnBrokerWrite is kgo.HookBrokerWrite.
func (r *renewals) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if err == nil && key == int16(kmsg.SASLAuthenticate) {
		r.said.Add(1)
	}
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
