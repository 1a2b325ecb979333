package test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/brokertest"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/sasl"
)

// ruled is a cluster where rules decide; admin may do everything.
func ruled(t *testing.T, o brokertest.Options, change func(*broker.Config)) (*scenario, *client.Client) {
	t.Helper()
	c, _ := guarded(t, o, func(c *broker.Config) {
		c.Security.Authorizer = broker.AuthorizerACL
		c.Groups.HeartbeatInterval = 200 * time.Millisecond
		if change != nil {
			change(c)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	admin := c.ClientWith(client.Config{SASL: client.SASL{User: "admin", Password: adminPassword}}) // patient: the machine may be busy
	s := &scenario{t: t, ctx: ctx, c: c, cl: admin}
	s.until("the first user to exist", func() bool { _, err := admin.Users(ctx); return err == nil })
	return s, admin
}

func rule(kind, name, operation string) client.ACL {
	return client.ACL{ResourceType: kind, Resource: name, Pattern: "literal", Principal: "User:alice", Host: "*", Operation: operation, Permission: "allow"}
}

// denied checks that an error says that alice lacks a right, and that nothing has happened.
func (s *scenario) denied(what string, err error, reason, right string) {
	s.t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != reason || e.Outcome != client.NotWritten || e.Retriable || e.Metadata["principal"] != "User:alice" ||
		!strings.Contains(e.Message, "brokerctl acl create --principal User:alice --operation "+right) {
		s.t.Errorf("%s: %v", what, err)
	}
}

// pollOnce gives the first records that a member of a group gets, or the first error.
func (s *scenario) pollOnce(g *client.GroupConsumer) (values []string, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Second)
	defer cancel()
	for len(values) == 0 && err == nil {
		var got []client.Fetched
		if got, err = g.Poll(ctx); err != nil {
			break
		}
		for i := range got {
			if err = got[i].Err; err != nil {
				break
			}
			values = append(values, s.values(got[i:i+1])...)
		}
	}
	return values, err
}

// Over gRPC a user may do what rules allow; what they do not fails at once, and says what is missing. A right that is taken away stops what runs.
func TestRightsOverGRPC(t *testing.T) {
	t.Parallel()
	s, admin := ruled(t, brokertest.Options{}, nil)
	ctx := s.ctx
	s.must("make alice", admin.SetPassword(ctx, "alice", alicesPassword, 4096))
	alice := s.c.ClientWith(client.Config{SASL: client.SASL{User: "alice", Password: alicesPassword}}) // patient: the machine may be busy
	for _, addr := range s.c.KafkaAddrs() {
		s.until("alice to be let in at "+addr, func() bool { _, code := loginKafka(t, s.c, addr, "alice", alicesPassword); return code == 0 })
	}

	_, err := alice.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 1})
	s.denied("create", err, "TOPIC_AUTHORIZATION_FAILED", "create --topic "+topic)
	s.denied("make a rule", alice.CreateACLs(ctx, rule("topic", topic, "all")), "CLUSTER_AUTHORIZATION_FAILED", "alter --cluster")
	_, err = admin.CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: 1})
	s.must("create", err)
	if m, err := alice.Metadata(ctx); err != nil || len(m.Topics) != 0 || len(m.Brokers) != 3 || m.Brokers[0].PeerAddress != "" {
		t.Errorf("alice sees %+v, %v", m, err)
	}
	p, err := alice.NewProducer(client.ProducerConfig{Linger: client.NoLinger})
	s.must("make a producer", err)
	start := time.Now()
	s.denied("write", p.SendSync(ctx, client.Record{Topic: topic, Value: []byte("x")}).Err, "TOPIC_AUTHORIZATION_FAILED", "describe --topic "+topic)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("a denial took %v", took)
	}

	allow := func(r client.ACL) {
		t.Helper()
		s.until("a rule to be there", func() bool { return admin.CreateACLs(ctx, r) == nil })
	}
	allow(rule("topic", topic, "write"))
	s.until("alice to be able to write", func() bool {
		return p.SendSync(ctx, client.Record{Topic: topic, Value: []byte("first")}).Err == nil
	})
	group := func() *client.GroupConsumer {
		g, err := alice.NewGroupConsumer(client.GroupConfig{ConsumerConfig: client.ConsumerConfig{Reset: client.ResetEarliest}, GroupID: "g", Topics: []string{topic}})
		s.must("make a member", err)
		return g
	}
	// once is pollOnce by a member that leaves again.
	once := func() ([]string, error) {
		g := group()
		defer func() { _ = g.Close(ctx) }() // it may be none
		return s.pollOnce(g)
	}
	_, err = once()
	s.denied("join", err, "GROUP_AUTHORIZATION_FAILED", "describe --group g")
	allow(rule("group", "g", "read"))
	s.until("alice to be denied the topic alone", func() bool {
		_, err = once()
		var e *client.Error
		return errors.As(err, &e) && e.Reason == "TOPIC_AUTHORIZATION_FAILED"
	})
	s.denied("read", err, "TOPIC_AUTHORIZATION_FAILED", "read --topic "+topic)
	allow(rule("topic", topic, "read"))
	s.until("alice to read", func() bool { values, err := once(); return err == nil && values[0] == "first" })
	g := group()
	_, err = s.pollOnce(g)
	s.must("read", err)

	// What runs is stopped.
	deny := func(r client.ACL) {
		t.Helper()
		s.until("a rule to be gone", func() bool { _, err := admin.DeleteACLs(ctx, false, r); return err == nil })
	}
	deny(rule("topic", topic, "write"))
	start = time.Now()
	s.until("the producer to be stopped", func() bool {
		err = p.SendSync(ctx, client.Record{Topic: topic, Value: []byte("more")}).Err
		return err != nil
	})
	s.denied("write on", err, "TOPIC_AUTHORIZATION_FAILED", "write --topic "+topic)
	deny(rule("group", "g", "read"))
	for err = nil; err == nil; {
		_, err = s.pollOnce(g)
	}
	s.denied("stay in the group", err, "GROUP_AUTHORIZATION_FAILED", "read --group g")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v until all was stopped", took)
	}
}

// No secret is in anything that brokers write: logs, the audit log, metrics, errors. Those are planted: passwords, what is kept of them, what
// is said in a proof, tokens.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	said, audit := new(lockedLog), filepath.Join(t.TempDir(), "audit")
	s, admin := ruled(t, brokertest.Options{Log: said, LogLevel: slog.LevelDebug}, func(c *broker.Config) { c.Security.AuditLog = fmt.Sprint(audit, c.BrokerID) })
	ctx := s.ctx
	known, err := sasl.Derive(client.SCRAMSHA512, alicesPassword, []byte("planted-salt-of-alice"), 4096)
	s.must("derive", err)
	conn := func(dial string) *grpc.ClientConn {
		cc, err := grpc.NewClient("passthrough:///"+dial, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return s.c.Network.Dial(ctx, brokertest.DefaultClientHost, addr)
			}))
		s.must("dial", err)
		t.Cleanup(func() { _ = cc.Close() })
		return cc
	}(s.c.GRPCAddrs()[0])

	var p planted
	token := p.login(s, conn, "admin", adminPassword)
	if token == "" {
		t.Fatalf("admin is not let in: %v", p.errs)
	}
	shown := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	_, err = clientv1.NewAdminServiceClient(conn).AlterUsers(shown, &clientv1.AlterUsersRequest{Set: []*clientv1.UserCredential{{User: "alice",
		Mechanism: clientv1.ScramMechanism_SCRAM_MECHANISM_SHA_512, Salt: known.Salt, Iterations: 4096, StoredKey: known.StoredKey, ServerKey: known.ServerKey}}})
	s.must("make alice", err)
	// Whatever goes wrong with secrets in hand.
	p.login(s, conn, "alice", "planted-wrong-password")
	p.login(s, conn, "nobody", alicesPassword)
	for _, set := range []*clientv1.UserCredential{
		{User: "bob", Mechanism: 2, Salt: known.Salt, Iterations: 1, StoredKey: known.StoredKey, ServerKey: known.ServerKey},
		{User: "bob", Mechanism: 1, Salt: known.Salt, Iterations: 4096, StoredKey: known.StoredKey, ServerKey: known.ServerKey},
	} {
		_, err := clientv1.NewAdminServiceClient(conn).AlterUsers(shown, &clientv1.AlterUsersRequest{Set: []*clientv1.UserCredential{set}})
		p.errs = append(p.errs, err)
	}
	for _, wrong := range []string{"Bearer " + token + "x", "Basic " + token, token} {
		_, err := clientv1.NewAdminServiceClient(conn).GetMetadata(metadata.AppendToOutgoingContext(ctx, "authorization", wrong), &clientv1.GetMetadataRequest{})
		p.errs = append(p.errs, err)
	}
	for _, addr := range s.c.KafkaAddrs() {
		loginKafka(t, s.c, addr, "alice", "planted-wrong-password")
		loginKafka(t, s.c, addr, "admin", adminPassword)
	}
	_, err = clientOf(s.c, "alice", "planted-wrong-password").Metadata(ctx)
	p.errs = append(p.errs, err)
	_, err = clientOf(s.c, "alice", alicesPassword).CreateTopic(ctx, client.TopicSpec{Name: "x", Partitions: 1})
	p.errs = append(p.errs, err)
	users, err := admin.Users(ctx)
	s.must("list users", err)

	// A snapshot of the metadata is written and read, too.
	s.c.Crash(2)
	s.c.Restart(2)

	places := map[string]string{"a log": said.String(), "what is told of users": fmt.Sprintf("%+v", users)}
	for id := int32(1); id <= 3; id++ {
		lines, err := os.ReadFile(fmt.Sprint(audit, id))
		s.must("read the audit log", err)
		places["an audit log"] += string(lines)
		places["metrics"] += s.c.MetricsText(id)
	}
	for _, err := range p.errs {
		if err == nil {
			t.Error("something that is wrong went well")
			continue
		}
		places["an error"] += fmt.Sprintf("%v %+v %#v\n", err, err, err)
	}
	p.secrets = append(p.secrets, adminPassword, alicesPassword, "planted-wrong-password", "Bearer ")
	for _, key := range [][]byte{known.StoredKey, known.ServerKey} {
		p.secrets = append(p.secrets, string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), strings.Trim(fmt.Sprint(key[:8]), "[]"))
	}
	if len(p.secrets) < 14 {
		t.Fatalf("%d secrets are planted", len(p.secrets))
	}
	for what, least := range map[string]int{"a log": 1000, "an audit log": 500, "metrics": 1000, "an error": 200} {
		if len(places[what]) < least {
			t.Fatalf("%s has only %q: nothing is looked at", what, places[what])
		}
	}
	p.search(t, places)
}

// planted are secrets that no text may hold, and the errors that clients were given while they had them in hand.
type planted struct {
	secrets []string
	errs    []error
}

// login proves a user by hand, and keeps what was said.
func (p *planted) login(s *scenario, conn *grpc.ClientConn, user, password string) (token string) {
	sc, err := scram.SHA512.NewClient(user, password, "")
	s.must("make a proof", err)
	stream, err := clientv1.NewAuthServiceClient(conn).Authenticate(s.ctx)
	s.must("log in", err)
	conv, in := sc.NewConversation(), ""
	for {
		out, err := conv.Step(in)
		if err != nil || out == "" {
			return token
		}
		if _, proof, ok := strings.Cut(out, ",p="); ok {
			p.secrets = append(p.secrets, proof)
		}
		_ = stream.Send(&clientv1.AuthenticateRequest{Mechanism: client.SCRAMSHA512, Message: []byte(out)})
		a, err := stream.Recv()
		if err != nil {
			p.errs = append(p.errs, err)
			return ""
		}
		in = string(a.Message)
		if a.Token != "" {
			token = a.Token
			p.secrets = append(p.secrets, a.Token, strings.TrimPrefix(in, "v="))
		}
	}
}

// search looks for the secrets in texts, which have the names of where they are from.
func (p *planted) search(t *testing.T, places map[string]string) {
	t.Helper()
	for where, text := range places {
		for _, secret := range p.secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s holds %q: %q", where, secret, text[max(0, at-100):min(len(text), at+100)])
			}
		}
	}
}
