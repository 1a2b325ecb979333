package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/xdg-go/scram"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
)

// adminPassword is planted: nothing that brokers write may hold it, nor alicesPassword.
const (
	adminPassword  = "planted-secret-of-admin"
	alicesPassword = "planted-secret-of-alice"
)

// guarded is a cluster whose clients have to prove who they are; admin is its first user.
func guarded(t *testing.T, o brokertest.Options, change func(*broker.Config)) (c *brokertest.Cluster, admin *client.Client) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(adminPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Configure = func(c *broker.Config) {
		demand := func(in map[string]broker.ListenerConfig, mechanisms ...string) map[string]broker.ListenerConfig {
			out := make(map[string]broker.ListenerConfig)
			for name, l := range in {
				l.SASL.Mechanisms = mechanisms
				out[name] = l
			}
			return out
		}
		c.GRPC, c.Kafka = demand(c.GRPC, client.SCRAMSHA256, client.SCRAMSHA512), demand(c.Kafka, client.SCRAMSHA256, client.SCRAMSHA512)
		c.Security.BootstrapUser, c.Security.BootstrapPasswordFile = "admin", file
		c.Security.SuperUsers = []string{"User:admin"}
		if change != nil {
			change(c)
		}
	}
	c = brokertest.Start(t, o)
	return c, clientOf(c, "admin", adminPassword)
}

func clientOf(c *brokertest.Cluster, user, password string) *client.Client {
	return c.ClientWith(client.Config{RequestTimeout: 2 * time.Second, SASL: client.SASL{User: user, Password: password}})
}

// loginKafka proves a user to one broker.
func loginKafka(t *testing.T, c *brokertest.Cluster, addr, user, password string) (w *kafkaWire, code int16) {
	t.Helper()
	w = dialKafka(t, c, addr)
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Version, hello.Mechanism = 1, client.SCRAMSHA512
	if code := w.ask(hello).(*kmsg.SASLHandshakeResponse).ErrorCode; code != 0 {
		return w, code
	}
	sc, err := scram.SHA512.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv, in := sc.NewConversation(), ""
	for range 2 {
		out, err := conv.Step(in)
		if err != nil {
			t.Fatal(err)
		}
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.Version, req.SASLAuthBytes = 2, []byte(out)
		resp := w.ask(req).(*kmsg.SASLAuthenticateResponse)
		if resp.ErrorCode != 0 {
			return w, resp.ErrorCode
		}
		in = string(resp.SASLAuthBytes)
	}
	if _, err := conv.Step(in); err != nil || !conv.Valid() {
		t.Fatalf("the broker does not know the password: %v", err)
	}
	return w, 0
}

// A cluster begins with the user that its configuration names. Who makes others, by either door, lets them in by both, on every
// broker; a new password counts at once, and who is deleted is out.
func TestUsersComeInByBothDoors(t *testing.T) {
	t.Parallel()
	said, audit := new(lockedLog), filepath.Join(t.TempDir(), "audit")
	c, admin := guarded(t, brokertest.Options{Log: said, LogLevel: slog.LevelDebug}, func(c *broker.Config) { c.Security.AuditLog = fmt.Sprint(audit, c.BrokerID) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &scenario{t: t, ctx: ctx, c: c, cl: admin}
	s.until("the first user to exist", func() bool { _, err := admin.Users(ctx); return err == nil })

	isOut := func(what, user, password string) {
		t.Helper()
		for _, addr := range c.KafkaAddrs() { // whose images may be older than the answer
			s.until(what+" to be out at "+addr, func() bool { _, code := loginKafka(t, c, addr, user, password); return code == 58 })
		}
		var refusal *client.Error
		if _, err := clientOf(c, user, password).Metadata(ctx); !errors.As(err, &refusal) || refusal.Reason != "SASL_AUTHENTICATION_FAILED" {
			t.Errorf("%s: %v from gRPC", what, err)
		}
	}
	isIn := func(what, user, password string) {
		t.Helper()
		for _, addr := range c.KafkaAddrs() {
			s.until(what+" on "+addr, func() bool { _, code := loginKafka(t, c, addr, user, password); return code == 0 })
		}
		if _, err := clientOf(c, user, password).Metadata(ctx); err != nil {
			t.Errorf("%s: %v from gRPC", what, err)
		}
	}
	isOut("a user that does not exist", "alice", alicesPassword)
	if err := admin.SetPassword(ctx, "alice", alicesPassword, 4096); err != nil {
		t.Fatal(err)
	}
	isIn("alice", "alice", alicesPassword)
	isOut("a wrong password", "alice", "wrong")
	if _, err := c.ClientWith(client.Config{RequestTimeout: 2 * time.Second}).Metadata(ctx); err == nil || !strings.Contains(err.Error(), "UNAUTHENTICATED") {
		t.Errorf("without a user: %v", err)
	}
	if err := admin.SetPassword(ctx, "alice", alicesPassword+"2", 4096); err != nil {
		t.Fatal(err)
	}
	isIn("alice with a new password", "alice", alicesPassword+"2")
	isOut("the old password", "alice", alicesPassword)
	users, err := admin.Users(ctx)
	if err != nil || len(users) != 4 {
		t.Fatalf("users %v, %v", users, err)
	}
	if err := admin.DeleteUser(ctx, users[2:]...); err != nil { // those of alice
		t.Fatal(err)
	}
	isOut("a deleted user", "alice", alicesPassword+"2")

	// A broker that comes back knows its users, from its log or a snapshot, and a client that it had let in goes on.
	c.Crash(2)
	c.Restart(2)
	isIn("admin after a crash", "admin", adminPassword)
	for range 3 {
		if _, err := admin.Metadata(ctx); err != nil {
			t.Errorf("a client that was in: %v", err)
		}
	}
	if err := admin.SetPassword(ctx, "x", "y", 100); !strings.Contains(err.Error(), "UNACCEPTABLE_CREDENTIAL") {
		t.Errorf("100 iterations: %v", err)
	}

	if !slices.Contains(c.MetricNames(1), "brokerd_authentications_total") {
		t.Error("no metric brokerd_authentications_total")
	}

	// What was planted is in no log, nor what could replace it; the audit log has who failed.
	written := said.String()
	for id := int32(1); id <= 3; id++ {
		lines, err := os.ReadFile(fmt.Sprint(audit, id))
		if err != nil {
			t.Fatal(err)
		}
		written += string(lines)
	}
	for _, secret := range []string{adminPassword, alicesPassword, "Bearer ", "stored_key"} {
		if strings.Contains(written, secret) {
			t.Errorf("a log holds %q", secret)
		}
	}
	for _, line := range []string{`"msg":"login","outcome":"failed","principal":"User:alice","address":"client","door":"kafka","mechanism":"SCRAM-SHA-512"`,
		`"msg":"login","outcome":"succeeded","principal":"User:admin","address":"client","door":"grpc","mechanism":"SCRAM-SHA-512"`} {
		if !strings.Contains(written, line) {
			t.Errorf("no log holds %s", line)
		}
	}
}

// lockedLog is a log that can be read while it is written.
type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A broker is not ready before it knows the first user: whoever waits until it is can come in, and needs to wait for nothing else.
func TestNotReadyWithoutTheFirstUser(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "password") // who reads it waits for who writes
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var wanted atomic.Bool
	s := beginWith(t, brokertest.Options{Configure: func(c *broker.Config) {
		if wanted.Load() {
			c.Security.BootstrapUser, c.Security.BootstrapPasswordFile = "admin", pipe
		}
	}}, nil)
	s.c.Stop(3)
	wanted.Store(true)
	s.c.StartAgain(3)
	t.Cleanup(func() { // a broker that still waits for a writer does not stop
		if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			_ = f.Close()
		}
	})
	const reason = "the user of security.bootstrap_user is not known yet"
	s.until("the reason in /readyz", func() bool { return strings.Contains(s.readyz(3), reason) })
	if s.c.Ready(3) {
		t.Error("the broker said it was ready before it knew the first user")
	}
	s.must("write the password", os.WriteFile(pipe, []byte(adminPassword+"\n"), 0o600))
	s.c.WaitReady(3)
	ask := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest() // others may not have heard of it yet
	users := dialKafka(t, s.c, s.c.KafkaAddrs()[2]).ask(ask).(*kmsg.DescribeUserSCRAMCredentialsResponse).Results
	if len(users) != 1 || users[0].User != "admin" {
		t.Errorf("the broker is ready, and the users it knows are %v", users)
	}
}
