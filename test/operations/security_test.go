package operations

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const securityDocument = "../../docs/security.md"

// securityCommands are all commands of docs/security.md, in its order.
var securityCommands = []told{
	{"Certificates", "brokerctl cert dev --dir certs --client alice"},
	{"Certificates", "brokerd dev " +
		"--set kafka.default.tls.cert_file=certs/broker.pem --set kafka.default.tls.key_file=certs/broker.key " +
		"--set kafka.default.tls.ca_file=certs/ca.pem " +
		"--set grpc.default.tls.cert_file=certs/broker.pem --set grpc.default.tls.key_file=certs/broker.key " +
		"--set grpc.default.tls.ca_file=certs/ca.pem"},
	{"Certificates", "brokerctl --tls-ca certs/ca.pem --tls-cert certs/alice.pem --tls-key certs/alice.key cluster status"},
	{"Users", "brokerctl --user admin --password-file admin.password user set alice --new-password-file alice.txt"},
	{"Access rules", "brokerctl --user admin --password-file admin.password acl create --principal User:alice --operation write --topic orders"},
	{"Access rules", "brokerctl --user admin --password-file admin.password acl create --principal User:bob --operation read --topic orders --group billing"},
}

// TestSecurity runs them, and looks whether what the page says of them is so: who has no certificate, no password or no right is kept out.
func TestSecurity(t *testing.T) {
	found := commandsOf(t, securityDocument)
	if !slices.Equal(found, securityCommands) {
		t.Fatalf("%s has the commands\n%q, and not\n%q", securityDocument, found, securityCommands)
	}
	if *binaries == "" {
		t.Skip("every command has its step; make operations runs them")
	}
	s := newShop(t)
	s.ok(found[0].command)
	grpc, stop := s.dev(found[1].command)
	s.ok(found[2].command, grpc)
	// The broker's word may be lost with a connection that it resets: TLS 1.3 lets a client write before it is refused.
	s.refused("asks for a certificate", "for try in 1 2 3 4 5; do brokerctl --tls-ca certs/ca.pem cluster status --timeout 2s && exit; done; exit 4", grpc)
	s.refused("", "brokerctl cluster status --timeout 2s", grpc)
	stop()

	for name, password := range map[string]string{"admin.password": "first-of-all", "alice.txt": "alice-s own", "bob.txt": "bob-s own"} {
		s.must(os.WriteFile(filepath.Join(s.dir, name), []byte(password+"\n"), 0o600))
	}
	// The page's configuration of the first user, by flags.
	grpc, _ = s.dev("brokerd dev --set security.bootstrap_user=admin --set security.bootstrap_password_file=admin.password " +
		"--set security.super_users=User:admin --set security.authorizer=acl --set grpc.default.sasl.mechanisms=SCRAM-SHA-512")
	const admin, alice, bob = "brokerctl --user admin --password-file admin.password ", "brokerctl --user alice --password-file alice.txt ", "brokerctl --user bob --password-file bob.txt "
	s.refused("SASL_AUTHENTICATION_FAILED", alice+"cluster status", grpc)
	s.ok(found[3].command, grpc)
	s.ok(admin+"user set bob --new-password-file bob.txt", grpc)
	s.ok(admin+"topic create orders", grpc)
	s.refused("TOPIC_AUTHORIZATION_FAILED", "echo one | "+alice+"produce orders", grpc)
	s.ok(found[4].command, grpc)
	s.ok(found[5].command, grpc)
	s.soon("echo one | "+alice+"produce orders", grpc)
	s.refused("TOPIC_AUTHORIZATION_FAILED", alice+"consume orders", grpc)
	if out := s.soon(bob+"consume orders -q", grpc); out != "one\n" {
		t.Errorf("bob reads %q", out)
	}
	s.refused("AUTHORIZATION_FAILED", "echo two | "+bob+"produce orders", grpc)
	s.refused("", "brokerctl topic list --timeout 2s", grpc)
}

// shop runs commands in a directory of its own.
type shop struct {
	t   *testing.T
	ctx context.Context
	dir string
}

func newShop(t *testing.T) *shop {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return &shop{t: t, ctx: ctx, dir: t.TempDir()}
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) shell(command, grpc string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, "bash", "-o", "pipefail", "-c", command)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+*binaries+":"+os.Getenv("PATH"), "BROKERCTL_BOOTSTRAP="+grpc)
	return cmd
}

// ok runs a command that must succeed, and gives what it printed.
func (s *shop) ok(command string, grpc ...string) string {
	s.t.Helper()
	out, err := s.shell(command, strings.Join(grpc, ",")).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// soon runs a command that must succeed once all brokers have heard what it needs.
func (s *shop) soon(command, grpc string) string {
	s.t.Helper()
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); {
		if out, err := s.shell(command, grpc).Output(); err == nil {
			return string(out)
		}
	}
	return s.ok(command, grpc)
}

// refused runs a command that must fail, and say why.
func (s *shop) refused(why, command, grpc string) {
	s.t.Helper()
	out, err := s.shell(command, grpc).CombinedOutput()
	if err == nil || !strings.Contains(string(out), why) {
		s.t.Errorf("%s: %v, want %q in\n%s", command, err, why, out)
	}
}

// dev runs brokerd dev on any free ports, and gives the gRPC address of its first broker, as its banner says it.
func (s *shop) dev(command string) (grpc string, stop func()) {
	s.t.Helper()
	args := strings.Fields(command)
	cmd := exec.CommandContext(s.ctx, filepath.Join(*binaries, args[0]), append(args[1:], "--ephemeral")...)
	cmd.Dir, cmd.Stderr = s.dir, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have been stopped before
		_ = cmd.Wait()
	}
	s.t.Cleanup(stop)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, address, ok := strings.Cut(lines.Text(), "export BROKERCTL_BOOTSTRAP="); ok {
			return address, stop
		}
	}
	s.t.Fatalf("%s says no address: %v", command, lines.Err())
	return "", nil
}
