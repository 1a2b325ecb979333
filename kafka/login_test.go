package kafka

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/xdg-go/scram"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/sasl"
)

const (
	testUser     = "alice"
	testPassword = "correct horse"
)

// imageWith is metadata with credentials of users, whose password is testPassword, and rules.
func imageWith(t testing.TB, users []string, rules ...acl.Rule) *metadata.Image {
	t.Helper()
	var credentials []*metadata.Credential
	for _, user := range users {
		for _, m := range []metadata.Mechanism{metadata.ScramSHA256, metadata.ScramSHA512} {
			c, err := sasl.Derive(m.String(), testPassword, sasl.NewSalt(), sasl.DefaultIterations)
			if err != nil {
				t.Fatal(err)
			}
			credentials = append(credentials, &metadata.Credential{User: user, Mechanism: m, Salt: c.Salt, Iterations: c.Iterations, StoredKey: c.StoredKey, ServerKey: c.ServerKey})
		}
	}
	return metadata.NewState().Image().WithAccess(credentials, rules)
}

// newGuardedRig is a rig whose clients have to prove who they are.
func newGuardedRig(t testing.TB, change func(*frontdoor.GuardConfig)) *rig {
	t.Helper()
	img := imageWith(t, []string{testUser, "bob"})
	c := frontdoor.GuardConfig{Image: func() *metadata.Image { return img }, Mechanisms: map[string][]string{"kafka." + testListener: sasl.Known}}
	if change != nil {
		change(&c)
	}
	return newRig(t, func(k *Config) { k.Guard = frontdoor.NewGuard(c) })
}

func (w *wire) handshake(version int16, mechanism string) int16 {
	w.t.Helper()
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Version, req.Mechanism = version, mechanism
	return w.ask(req).(*kmsg.SASLHandshakeResponse).ErrorCode
}

func (w *wire) authenticate(token string) *kmsg.SASLAuthenticateResponse {
	w.t.Helper()
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.Version, req.SASLAuthBytes = 2, []byte(token)
	return w.ask(req).(*kmsg.SASLAuthenticateResponse)
}

func plainToken(user, password string) string { return "\x00" + user + "\x00" + password }

// login proves a user by SCRAM-SHA-256.
func (w *wire) login(user string) *kmsg.SASLAuthenticateResponse {
	w.t.Helper()
	if code := w.handshake(1, sasl.ScramSHA256); code != 0 {
		w.t.Fatalf("handshake: %d", code)
	}
	c, err := scram.SHA256.NewClient(user, testPassword, "")
	if err != nil {
		w.t.Fatal(err)
	}
	conv, in := c.NewConversation(), ""
	var last *kmsg.SASLAuthenticateResponse
	for !conv.Done() {
		out, err := conv.Step(in)
		if err != nil {
			w.t.Fatal(err)
		}
		if conv.Done() {
			break
		}
		if last = w.authenticate(out); last.ErrorCode != 0 {
			w.t.Fatalf("authenticate: %d", last.ErrorCode)
		}
		in = string(last.SASLAuthBytes)
	}
	return last
}

func (w *wire) serves() bool {
	w.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	w.send(req)
	_, err := w.frame()
	return err == nil
}

// Before a proof nothing is served; after it everything is, by whichever mechanism and version.
func TestLogin(t *testing.T) {
	t.Parallel()
	r := newGuardedRig(t, nil)
	if r.dial().serves() {
		t.Error("metadata before a proof")
	}
	w := r.dial()
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.Version, versions.ClientSoftwareName, versions.ClientSoftwareVersion = 3, "test", "1"
	if w.ask(versions).(*kmsg.ApiVersionsResponse).ErrorCode != 0 {
		t.Error("no ApiVersions before a proof")
	}
	if last := w.login(testUser); last.SessionLifetimeMillis != 0 {
		t.Errorf("a session of %d ms", last.SessionLifetimeMillis)
	}
	if !w.serves() {
		t.Error("nothing is served after SCRAM")
	}
	if code := w.handshake(1, sasl.Plain); code != 34 {
		t.Errorf("another handshake: %d, want ILLEGAL_SASL_STATE", code)
	}
	w = r.dial()
	if code := w.handshake(1, sasl.Plain); code != 0 || w.authenticate(plainToken(testUser, testPassword)).ErrorCode != 0 || !w.serves() {
		t.Error("nothing is served after PLAIN")
	}
	w = r.dial()
	if code := w.handshake(0, sasl.Plain); code != 0 {
		t.Fatal(code)
	}
	w.token(plainToken(testUser, testPassword))
	if b, err := w.frame(); err != nil || len(b) != 0 || !w.serves() {
		t.Errorf("after a token without a header: %x, %v", b, err)
	}
}

// token sends what follows a handshake of version 0.
func (w *wire) token(text string) {
	w.t.Helper()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	if _, err := w.conn.Write(append(b, text...)); err != nil {
		w.t.Fatal(err)
	}
}

// Steps that are wrong, or out of order, are answered as Kafka does, and end the connection.
func TestLoginGoesWrong(t *testing.T) {
	t.Parallel()
	r := newGuardedRig(t, nil)
	for _, test := range []struct {
		what string
		do   func(w *wire) int16
		want int16
	}{
		{"a wrong password", func(w *wire) int16 {
			w.handshake(1, sasl.Plain)
			return w.authenticate(plainToken(testUser, "x")).ErrorCode
		}, 58},
		{"a user that does not exist", func(w *wire) int16 {
			w.handshake(1, sasl.Plain)
			return w.authenticate(plainToken("nobody", testPassword)).ErrorCode
		}, 58},
		{"no handshake", func(w *wire) int16 { return w.authenticate(plainToken(testUser, testPassword)).ErrorCode }, 34},
		{"an unknown mechanism", func(w *wire) int16 { return w.handshake(1, "GSSAPI") }, 33},
		{"an unknown mechanism in version 0", func(w *wire) int16 { return w.handshake(0, "GSSAPI") }, 33},
		{"a SCRAM message twice", func(w *wire) int16 {
			w.handshake(1, sasl.ScramSHA256)
			w.authenticate("n,,n=alice,r=abc")
			return w.authenticate("n,,n=alice,r=abc").ErrorCode
		}, 58},
		{"a SCRAM message for PLAIN", func(w *wire) int16 {
			w.handshake(1, sasl.Plain)
			return w.authenticate("n,,n=alice,r=abc").ErrorCode
		}, 58},
		{"another handshake in between", func(w *wire) int16 {
			w.handshake(1, sasl.ScramSHA256)
			w.authenticate("n,,n=alice,r=abc")
			w.handshake(1, sasl.Plain)
			return w.authenticate("c=biws,r=abc,p=AAAA").ErrorCode
		}, 58},
	} {
		w := r.dial()
		if code := test.do(w); code != test.want {
			t.Errorf("%s: code %d, want %d", test.what, code, test.want)
		}
		if w.serves() {
			t.Errorf("%s: the connection serves", test.what)
		}
	}
	for what, send := range map[string]func(w *wire){
		"a wrong token without a header": func(w *wire) { w.handshake(0, sasl.Plain); w.token(plainToken(testUser, "x")) },
		"a long token":                   func(w *wire) { w.handshake(0, sasl.Plain); w.token(strings.Repeat("x", sasl.MaxMessage+1)) },
		"a token cut short": func(w *wire) {
			w.handshake(0, sasl.Plain)
			_, _ = w.conn.Write([]byte{0, 0, 1, 0, 1})
			_ = w.conn.(*net.TCPConn).CloseWrite()
		},
		"a long request": func(w *wire) {
			req := kmsg.NewPtrSASLAuthenticateRequest()
			req.SASLAuthBytes = bytes.Repeat([]byte("x"), maxBeforeLogin)
			w.send(req)
		},
	} {
		w := r.dial()
		send(w)
		if b, err := w.frame(); err == nil {
			t.Errorf("%s: it is answered with %x", what, b)
		}
	}
	if said := r.said.String(); strings.Contains(said, testPassword) {
		t.Errorf("the log tells the password: %s", said)
	}
}

// A proof that has expired must be given again, by the same user; until then nothing is served (KIP-368).
func TestLoginAgain(t *testing.T) {
	t.Parallel()
	r := newGuardedRig(t, func(c *frontdoor.GuardConfig) { c.MaxSession = 150 * time.Millisecond })
	w := r.dial()
	if last := w.login(testUser); last.SessionLifetimeMillis != 150 || !w.serves() {
		t.Fatalf("a session of %d ms", last.SessionLifetimeMillis)
	}
	w.login(testUser)
	if !w.serves() {
		t.Fatal("nothing is served after the second proof")
	}
	other := r.dial()
	other.login("bob")
	other.handshake(1, sasl.Plain)
	if code := other.authenticate(plainToken(testUser, testPassword)).ErrorCode; code != 58 || other.serves() {
		t.Errorf("the user of a connection changed: %d", code)
	}
	deadline := time.Now().Add(10 * time.Second)
	for w.serves() {
		if time.Now().After(deadline) {
			t.Fatal("an expired proof serves")
		}
	}
}

// A listener without SASL says so.
func TestLoginWhereNoneIsDemanded(t *testing.T) {
	t.Parallel()
	w := newRig(t, nil).dial()
	if code := w.handshake(1, sasl.Plain); code != 34 || w.authenticate("x").ErrorCode != 34 || !w.serves() {
		t.Errorf("handshake: %d", code)
	}
}

// One address has so many connections without a proof, and no more.
func TestLobbyIsBounded(t *testing.T) {
	t.Parallel()
	r := newGuardedRig(t, nil)
	for range frontdoor.MaxLoginsPerAddress {
		w := r.dial()
		if w.handshake(1, sasl.Plain) != 0 {
			t.Fatal("no handshake")
		}
	}
	w := r.dial()
	if _, err := w.conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one more: %v", err)
	}
}

// Whatever comes before a proof, the broker goes on, and serves nothing.
func FuzzBeforeLogin(f *testing.F) {
	r := newGuardedRig(f, nil)
	for _, req := range []kmsg.Request{kmsg.NewPtrSASLHandshakeRequest(), kmsg.NewPtrSASLAuthenticateRequest(), kmsg.NewPtrApiVersionsRequest()} {
		for v := int16(0); v <= req.MaxVersion() && v <= 2; v++ {
			req.SetVersion(v)
			f.Add(encode(req, 1))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		c := newConn(r.server, testListener, server)
		done := make(chan struct{})
		go func() { c.serve(); close(done) }()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_ = client.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = client.Write(b)
		_ = client.Close()
		<-done
		if !c.login.pending() {
			t.Fatal("it got in")
		}
	})
}
