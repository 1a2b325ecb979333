package sasl

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

const password = "correct horse"

func testServer(t testing.TB) *Server {
	t.Helper()
	return NewServer(testUsers(t), func() string { return "c1" })
}

// testUsers are alice, who has both credentials, and bob, who has one.
func testUsers(t testing.TB) Lookup {
	t.Helper()
	known := make(map[string]Credential)
	for _, who := range []struct{ user, mechanism string }{{"alice", ScramSHA256}, {"alice", ScramSHA512}, {"bob", ScramSHA256}} {
		c, err := Derive(who.mechanism, password, NewSalt(), DefaultIterations)
		if err != nil {
			t.Fatal(err)
		}
		known[who.user+who.mechanism] = c
	}
	return func(user, mechanism string) (Credential, bool) { c, ok := known[user+mechanism]; return c, ok }
}

func begun(t testing.TB, s *Server, mechanism string) *Exchange {
	t.Helper()
	e, err := s.Begin(mechanism)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// attempt runs a whole exchange of a well-behaved client.
func attempt(t *testing.T, s *Server, mechanism, user, pass string) (*Exchange, error) {
	t.Helper()
	e := begun(t, s, mechanism)
	if mechanism == Plain {
		_, done, err := e.Next([]byte("\x00" + user + "\x00" + pass))
		if done != (err == nil) {
			t.Fatalf("done %v, %v", done, err)
		}
		return e, err
	}
	generator := scram.SHA512
	if mechanism == ScramSHA256 {
		generator = scram.SHA256
	}
	c, err := generator.NewClient(user, pass, "")
	if err != nil {
		t.Fatal(err)
	}
	conv, in := c.NewConversation(), ""
	for {
		out, err := conv.Step(in)
		if err != nil {
			return e, err
		}
		if conv.Done() {
			return e, nil
		}
		answer, done, err := e.Next([]byte(out))
		if err != nil {
			return e, err
		}
		if done && e.User() == "" {
			t.Fatal("it is done, and nobody is proven")
		}
		in = string(answer)
	}
}

// Who knows the password gets in, and nobody else; what is wrong is not told.
func TestPasswords(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	for _, test := range []struct {
		mechanism, user, pass string
		ok                    bool
	}{
		{Plain, "alice", password, true},
		{Plain, "bob", password, true},
		{Plain, "alice", "x", false},
		{Plain, "nobody", password, false},
		{ScramSHA256, "alice", password, true},
		{ScramSHA512, "alice", password, true},
		{ScramSHA256, "bob", password, true},
		{ScramSHA512, "bob", password, false},
		{ScramSHA256, "alice", "x", false},
		{ScramSHA512, "nobody", password, false},
	} {
		e, err := attempt(t, s, test.mechanism, test.user, test.pass)
		switch {
		case test.ok && (err != nil || e.User() != test.user):
			t.Errorf("%s %s: %q, %v", test.mechanism, test.user, e.User(), err)
		case !test.ok && (!errors.Is(err, ErrRefused) || e.User() != ""):
			t.Errorf("%s %s %s: %q, %v", test.mechanism, test.user, test.pass, e.User(), err)
		}
	}
}

// An exchange that goes wrong proves nobody, and cannot be gone on with.
func TestStepsOutOfOrder(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	for _, test := range []struct {
		what, mechanism string
		messages        []string
		want            error
	}{
		{"an empty message", ScramSHA256, []string{""}, ErrMalformed},
		{"the last message first", ScramSHA256, []string{"c=biws,r=x,p=AAAA"}, ErrMalformed},
		{"the first message twice", ScramSHA256, []string{"n,,n=alice,r=abc", "n,,n=alice,r=abc"}, ErrMalformed},
		{"a nonce of its own", ScramSHA256, []string{"n,,n=alice,r=abc", "c=biws,r=abc,p=AAAA"}, ErrRefused},
		{"cut short", ScramSHA256, []string{"n,,n=alice,r=abc", "c=biws,r="}, ErrMalformed},
		{"for somebody else", ScramSHA256, []string{"n,a=bob,n=alice,r=abc"}, ErrRefused},
		{"with channel binding", ScramSHA256, []string{"p=tls-unique,,n=alice,r=abc"}, ErrRefused},
		{"PLAIN without a password", Plain, []string{"\x00alice\x00"}, ErrMalformed},
		{"PLAIN without a name", Plain, []string{"\x00\x00" + password}, ErrMalformed},
		{"PLAIN with more", Plain, []string{"\x00alice\x00" + password + "\x00"}, ErrMalformed},
		{"PLAIN for somebody else", Plain, []string{"bob\x00alice\x00" + password}, ErrRefused},
		{"too long", Plain, []string{"\x00alice\x00" + strings.Repeat("x", MaxMessage)}, ErrMalformed},
		{"after the end", Plain, []string{"\x00alice\x00" + password, "\x00alice\x00" + password}, ErrMalformed},
	} {
		e := begun(t, s, test.mechanism)
		var err error
		for i, m := range test.messages {
			if _, _, err = e.Next([]byte(m)); err != nil && i < len(test.messages)-1 {
				t.Fatalf("%s: message %d: %v", test.what, i, err)
			}
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
		if _, done, err := e.Next([]byte("n,,n=alice,r=abc")); done || err == nil {
			t.Errorf("%s: it goes on", test.what)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%s: the error tells the password", test.what)
		}
	}
	if _, err := s.Begin("SCRAM-SHA-1"); err == nil {
		t.Error("SCRAM-SHA-1 begins")
	}
}

// librdkafka before 2.8 says its own nonce twice in its last message.
func TestNonceSaidTwice(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	e := begun(t, s, ScramSHA256)
	answer, _, err := e.Next([]byte("n,,n=alice,r=abc"))
	if err != nil {
		t.Fatal(err)
	}
	first := string(answer)
	nonce, _, _ := strings.Cut(strings.TrimPrefix(first, "r="), ",")
	without := "c=biws,r=abc" + nonce
	known := s.find("alice", ScramSHA256)
	salted, err := pbkdf2.Key(sha256.New, password, known.Salt, known.Iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	proof := mac(known.StoredKey, "n=alice,r=abc,"+first+","+without)
	subtle.XORBytes(proof, proof, mac(salted, "Client Key"))
	if _, done, err := e.Next([]byte(without + ",p=" + base64.StdEncoding.EncodeToString(proof))); err != nil || !done || e.User() != "alice" {
		t.Fatalf("done %v, %v", done, err)
	}
}

// A name that does not exist looks like one that does, and the same on every server of a cluster and after a restart.
func TestNamesCannotBeGuessed(t *testing.T) {
	t.Parallel()
	users, id := testUsers(t), func(id string) func() string { return func() string { return id } }
	one, two, elsewhere := NewServer(users, id("c1")), NewServer(users, id("c1")), NewServer(users, id("c2"))
	first := func(s *Server, mechanism, user string) string {
		answer, _, err := begun(t, s, mechanism).Next([]byte("n,,n=" + user + ",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(answer), ",")
		return after // salt and iterations
	}
	for _, mechanism := range []string{ScramSHA256, ScramSHA512} {
		for _, user := range []string{"nobody", "alice"} {
			if a, b, c := first(one, mechanism, user), first(one, mechanism, user), first(two, mechanism, user); a != b || a != c {
				t.Errorf("%s %s: %q, again %q, on another server %q", mechanism, user, a, b, c)
			}
		}
		if a, b := first(one, mechanism, "nobody"), first(one, mechanism, "alice"); len(a) != len(b) {
			t.Errorf("%s: %q is not as long as %q", mechanism, a, b)
		}
		if a, b := first(one, mechanism, "nobody"), first(one, mechanism, "somebody"); a == b {
			t.Errorf("%s: all have %q", mechanism, a)
		}
		if a, b := first(one, mechanism, "nobody"), first(elsewhere, mechanism, "nobody"); a == b {
			t.Errorf("%s: %q in every cluster", mechanism, a)
		}
	}
	if first(one, ScramSHA256, "nobody") == first(one, ScramSHA512, "nobody") {
		t.Error("both mechanisms have one salt")
	}
	iterations := make(map[int]int)
	for i := range 100 {
		iterations[one.find(strings.Repeat("x", i+1), ScramSHA512).Iterations]++
	}
	if len(iterations) != 2 || iterations[4096] < 20 || iterations[8192] < 20 {
		t.Errorf("iterations of users that do not exist: %v", iterations)
	}
}

// Whatever a client says proves nobody but who knows the password, and never panics.
func FuzzExchange(f *testing.F) {
	f.Add(0, "\x00alice\x00x", "")
	f.Add(1, "n,,n=alice,r=abc", "c=biws,r=abc,p=AAAA")
	f.Add(2, "n,a=x,n=al=2Cice,r=abc,ext=1", "c=biws,r=,p=")
	s := testServer(f)
	f.Fuzz(func(t *testing.T, mechanism int, first, second string) {
		e := begun(t, s, Known[uint(mechanism)%3])
		for _, m := range []string{first, second} {
			if _, done, err := e.Next([]byte(m)); done && !strings.Contains(m, password) {
				t.Fatalf("%q got in as %q", m, e.User())
			} else if err != nil {
				return
			}
		}
	})
}
