package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// runsBrokerd makes the test's executable a brokerd.
const runsBrokerd = "ONCELOG_TEST_RUNS_BROKERD"

func TestMain(m *testing.M) {
	if os.Getenv(runsBrokerd) != "" {
		main()
	}
	os.Exit(m.Run())
}

// No secret is in what a broker tells of its inside: the profiles that http.profiles serves, and the stacks that Go's runtime writes when the
// process dies by SIGQUIT, which are those of a panic too. Passwords are planted that the broker has read from a file and was shown, right and
// wrong ones, as they are (PLAIN) and in proofs.
func TestDumpsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	const first, users, wrong = "planted-password-of-admin", "planted-password-of-alice", "planted-wrong-password"
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	must("write a password", os.WriteFile(file, []byte(first+"\n"), 0o600))
	self, err := os.Executable()
	must("find this program", err)
	c, err := brokerproc.New(brokerproc.Options{Binary: self, Dir: dir, Brokers: 1, Env: []string{runsBrokerd + "=1"}, Set: []string{
		"security.bootstrap_user=admin", "security.bootstrap_password_file=" + file, "grpc.default.sasl.mechanisms=SCRAM-SHA-512,PLAIN",
		"grpc.default.sasl.plain_without_tls=true", "http.profiles=true", "log.level=debug", "groups.shards=1", "transactions.shards=1"}})
	must("make a broker", err)
	defer c.Close()
	must("start it", c.Start(ctx))

	as := func(mechanism, user, password string) *client.Client {
		cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs(), RequestTimeout: 20 * time.Second, SASL: client.SASL{Mechanism: mechanism, User: user, Password: password}})
		must("make a client", err)
		t.Cleanup(func() { _ = cl.Close(context.Background()) }) // its broker is dead
		return cl
	}
	admin := as(client.SCRAMSHA512, "admin", first)
	for {
		if _, err = admin.Users(ctx); err == nil || ctx.Err() != nil {
			break
		}
	}
	must("log in", err)
	must("make alice", admin.SetPassword(ctx, "alice", users, 0))
	for _, mechanism := range []string{client.PLAIN, client.SCRAMSHA512} {
		_, err := as(mechanism, "alice", users).Metadata(ctx)
		must(mechanism, err)
		if _, err := as(mechanism, "alice", wrong).Metadata(ctx); err == nil {
			t.Error("a wrong password is taken by " + mechanism)
		}
	}

	p, places := c.Broker(1), make(map[string]string)
	for _, profile := range []string{"cmdline", "goroutine?debug=1", "goroutine?debug=2", "goroutine", "heap?debug=1", "heap", "allocs", "block", "mutex", "threadcreate",
		"profile?seconds=1", "trace?seconds=1"} {
		places[profile] = page(ctx, t, "http://"+p.HTTP+"/debug/pprof/"+profile)
	}
	must("SIGQUIT", p.Quit())
	said, err := os.ReadFile(p.LogFile())
	must("read what it said", err)
	places["SIGQUIT"] = string(said)
	for what, sign := range map[string]string{"SIGQUIT": "SIGQUIT: quit", "goroutine?debug=2": "oncelog/internal/raftgroup.", "heap?debug=1": "heap profile"} {
		if !strings.Contains(places[what], sign) {
			t.Errorf("%s does not hold %q: nothing is looked at: %.200q", what, sign, places[what])
		}
	}
	if n := strings.Count(places["SIGQUIT"], "\ngoroutine "); n < 20 {
		t.Errorf("the stacks of %d goroutines are in the dump", n)
	}
	for where, text := range places {
		for _, secret := range []string{first, users, wrong} {
			for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)), fmt.Sprint([]byte(secret))} {
				if at := strings.Index(text, form); at >= 0 {
					t.Errorf("%s holds %q: %q", where, form, text[max(0, at-100):min(len(text), at+100)])
				}
			}
		}
	}
}

// page gets a page, and unpacks it if it is packed. A profile that this server does not have is an empty page.
func page(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		if body, err = io.ReadAll(z); err != nil {
			t.Fatalf("%s: %v", url, err)
		}
	}
	return string(body)
}
