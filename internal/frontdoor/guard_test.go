package frontdoor

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/xdg-go/scram"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/sasl"
)

// users is a cluster's metadata with one user, whose password can be changed.
type users struct {
	t     *testing.T
	state *metadata.State
	index uint64
}

func newUsers(t *testing.T) *users {
	u := &users{t: t, state: metadata.NewState()}
	u.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "c", FeatureLevel: 2}}})
	return u
}

func (u *users) apply(c *statev1.MetadataCommand) {
	u.t.Helper()
	data, err := metadata.EncodeCommand(c)
	if err != nil {
		u.t.Fatal(err)
	}
	u.index++
	if r, err := u.state.Apply(u.index, data); err != nil || r.Err != nil {
		u.t.Fatal(err, r.Err)
	}
}

func (u *users) alter(c *statev1.AlterAccess) {
	u.apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterAccess{AlterAccess: c}})
}

func (u *users) setPassword(user, password string) {
	u.t.Helper()
	c, err := sasl.Derive(sasl.ScramSHA512, password, sasl.NewSalt(), sasl.DefaultIterations)
	if err != nil {
		u.t.Fatal(err)
	}
	u.alter(&statev1.AlterAccess{UpsertCredentials: []*statev1.ScramCredential{{User: user, Mechanism: 2, Salt: c.Salt, Iterations: uint32(c.Iterations), StoredKey: c.StoredKey, ServerKey: c.ServerKey}}})
}

// A password that is changed, or whose user is deleted, while somebody is about to prove it lets nobody in; and a token is good only as long
// as what was proven.
func TestWhatIsProvenMustStillHold(t *testing.T) {
	from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7}
	for _, c := range []struct {
		what           string
		between, after func(*users)
		in, good       bool
	}{
		{"nothing changes", nil, nil, true, true},
		{"changed meanwhile", func(u *users) { u.setPassword("alice", "new") }, nil, false, false},
		{"deleted meanwhile", func(u *users) {
			u.alter(&statev1.AlterAccess{DeleteCredentials: []*statev1.CredentialRef{{User: "alice", Mechanism: 2}}})
		}, nil, false, false},
		{"changed after", nil, func(u *users) { u.setPassword("alice", "new") }, true, false},
		{"deleted after", nil, func(u *users) {
			u.alter(&statev1.AlterAccess{DeleteCredentials: []*statev1.CredentialRef{{User: "alice", Mechanism: 2}}})
		}, true, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			u := newUsers(t)
			u.setPassword("alice", "secret")
			g := NewGuard(GuardConfig{Image: u.state.Image})
			l, err := g.Begin("grpc", from, sasl.ScramSHA512, sasl.Known)
			if err != nil {
				t.Fatal(err)
			}
			sc, err := scram.SHA512.NewClient("alice", "secret", "")
			if err != nil {
				t.Fatal(err)
			}
			conv, in, done := sc.NewConversation(), []byte(nil), false
			for step := range 2 {
				out, stepErr := conv.Step(string(in))
				if stepErr != nil {
					t.Fatal(stepErr)
				}
				if step == 1 && c.between != nil {
					c.between(u)
				}
				in, _, done, err = l.Next(context.Background(), []byte(out))
			}
			if done != c.in || (err == nil) != c.in || err != nil && !errors.Is(err, sasl.ErrRefused) {
				t.Fatalf("in: %v, %v", done, err)
			}
			if !c.in {
				return
			}
			token, _ := l.Token()
			if c.after != nil {
				c.after(u)
			}
			user, err := g.Holder(token, from)
			if (err == nil) != c.good || err == nil && user != "alice" {
				t.Errorf("the token stands for %q, %v", user, err)
			}
		})
	}
}

// One of several rights is enough, and the audit log has one line, of what was meant.
func TestMayAny(t *testing.T) {
	t.Parallel()
	img := metadata.NewState().Image().WithAccess(nil, []acl.Rule{
		{Type: acl.Cluster, Name: acl.ClusterName, Pattern: acl.Literal, Principal: "User:all", Host: "*", Operation: acl.Create, Permission: acl.Allow},
		{Type: acl.Topic, Name: "t", Pattern: acl.Literal, Principal: "User:one", Host: "*", Operation: acl.Create, Permission: acl.Allow},
	})
	for _, c := range []struct {
		user, topic string
		enforce     bool
		want        string
	}{
		{"all", "u", true, "allowed"},
		{"one", "t", true, "allowed"},
		{"one", "u", true, "denied"},
		{"root", "u", true, "allowed"},
		{"one", "u", false, "allowed"},
	} {
		var out bytes.Buffer
		g := NewGuard(GuardConfig{Image: func() *metadata.Image { return img }, Enforce: c.enforce, SuperUsers: []string{"User:root"}, Audit: NewAudit(&out)})
		by := NewCaller("kafka", c.user, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7})
		got := g.MayAny(by, "CreateTopics", OnCluster(acl.Create), Action{acl.Create, acl.Topic, c.topic})
		if got != (c.want == "allowed") {
			t.Errorf("%+v: %v", c, got)
		}
		for _, field := range []string{`"outcome":"` + c.want, `"principal":"User:` + c.user, `"address":"10.0.0.1"`, `"call":"CreateTopics"`, `"operation":"create"`,
			`"resource_type":"topic"`, `"resource":"` + c.topic} {
			if !strings.Contains(out.String(), field) || strings.Count(out.String(), "\n") != 1 {
				t.Errorf("%+v: no %s in %s", c, field, out.String())
			}
		}
	}
	if g := (*Guard)(nil); !g.MayAny(Caller{}, "x", OnCluster(acl.Alter)) || g.Decides() || len(g.Operations(Caller{}, acl.Group, "g")) != 5 {
		t.Error("a nil Guard decides")
	}
}

// The answer to a wrong proof comes at one time after the message, whatever was wrong; the end of the client's call ends the wait.
func TestTheAnswerToAWrongProofIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUsers(t)
		u.setPassword("alice", "secret")
		g := NewGuard(GuardConfig{Image: u.state.Image})
		from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7}
		for _, c := range []struct{ mechanism, message string }{
			{sasl.Plain, "\x00alice\x00wrong"}, {sasl.Plain, "\x00nobody\x00wrong"}, {sasl.Plain, "x"}, {sasl.ScramSHA512, "x"},
		} {
			l, err := g.Begin("kafka", from, c.mechanism, sasl.Known)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, _, _, err = l.Next(t.Context(), []byte(c.message))
			if took := time.Since(start); err == nil || took != LoginDelay {
				t.Errorf("%s %q: %v after %v, want %v", c.mechanism, c.message, err, took, LoginDelay)
			}
		}
		l, err := g.Begin("kafka", from, sasl.Plain, sasl.Known)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), LoginDelay/2)
		defer cancel()
		start := time.Now()
		_, _, _, err = l.Next(ctx, []byte("\x00alice\x00wrong"))
		if took := time.Since(start); !errors.Is(err, sasl.ErrRefused) || took != LoginDelay/2 {
			t.Errorf("%v after %v", err, took)
		}
		if n := testutil.ToFloat64(g.attempts.WithLabelValues("kafka", sasl.Plain, "failed")); n != 4 {
			t.Errorf("%v failures are counted", n)
		}
	})
}
