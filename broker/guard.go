package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/sasl"
)

// newGuard makes what decides over clients; nil where nothing is to be decided.
func (p *parts) newGuard(b *Broker) (*frontdoor.Guard, error) {
	c := b.cfg
	mechanisms := make(map[string][]string)
	for name, l := range c.GRPC {
		mechanisms["grpc."+name] = l.SASL.Mechanisms
	}
	demanded := false
	for name, l := range c.Kafka {
		mechanisms["kafka."+kafkaListenerName(name)] = l.SASL.Mechanisms
	}
	for _, m := range mechanisms {
		demanded = demanded || len(m) > 0
	}
	enforce := c.Security.Authorizer == AuthorizerACL
	if !enforce && !demanded && c.Security.AuditLog == "" {
		return nil, nil
	}
	audit, err := b.openAudit(enforce)
	if err != nil {
		return nil, err
	}
	return frontdoor.NewGuard(frontdoor.GuardConfig{
		Image: p.cluster.Image, Enforce: enforce, SuperUsers: c.Security.SuperUsers, Mechanisms: mechanisms, MaxSession: c.Security.MaxSession,
		Audit: audit, Logger: p.logger, Registerer: b.options.Registry,
	}), nil
}

// openAudit opens the audit log; nil where there is none.
func (b *Broker) openAudit(enforce bool) (*frontdoor.Audit, error) {
	switch name := b.cfg.Security.AuditLog; {
	case name != "":
		f := &auditFile{name: name}
		if err := f.reopen(); err != nil {
			return nil, err
		}
		b.auditing.Store(f)
		return frontdoor.NewAudit(f), nil
	case enforce:
		return frontdoor.NewAudit(auditLog{b.logger}), nil
	}
	return nil, nil
}

// auditFile is a file that is appended to. SIGHUP opens it anew, after somebody has moved it.
type auditFile struct {
	name string

	// mu guards f.
	mu sync.Mutex
	f  *os.File
}

func (a *auditFile) reopen() error {
	f, err := os.OpenFile(a.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("security.audit_log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.f
	a.f = f
	if old != nil {
		return old.Close()
	}
	return nil
}

// Write appends a line.
func (a *auditFile) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return 0, os.ErrClosed
	}
	return a.f.Write(line)
}

func (a *auditFile) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.f
	if a.f = nil; f == nil {
		return nil
	}
	return f.Close()
}

// auditLog puts lines into the broker's log.
type auditLog struct{ logger *slog.Logger }

// Write logs a line.
func (a auditLog) Write(line []byte) (int, error) {
	a.logger.Info("audit", "line", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// firstUserRetry is the pause between two attempts to make the first user.
const firstUserRetry = time.Second

// firstUser makes the user that the configuration names, if the cluster has none, and keeps on trying until it has one. A password
// that cannot be read ends the broker: it would wait for ever for a user that never comes.
func (p *parts) firstUser(ctx context.Context) error {
	user := p.cfg.Security.BootstrapUser
	if user == "" || len(p.cluster.Image().Credentials()) > 0 {
		return nil
	}
	password, err := firstPassword(p.cfg.Security.BootstrapPasswordFile)
	if err != nil {
		return err
	}
	change := cluster.AccessChange{First: true}
	for _, m := range []metadata.Mechanism{metadata.ScramSHA256, metadata.ScramSHA512} {
		c, err := sasl.Derive(m.String(), password, sasl.NewSalt(), sasl.DefaultIterations)
		if err != nil {
			return err
		}
		change.Set = append(change.Set, &metadata.Credential{User: user, Mechanism: m, Salt: c.Salt, Iterations: c.Iterations, StoredKey: c.StoredKey, ServerKey: c.ServerKey})
	}
	for len(p.cluster.Image().Credentials()) == 0 {
		err := p.cluster.AlterAccess(ctx, change)
		var refusal *metadata.Error
		switch {
		case err == nil:
			p.logger.Info("the first user exists", "user", user)
			return nil
		case errors.As(err, &refusal):
			p.logger.Error("the first user cannot be made", "user", user, "err", err)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(firstUserRetry):
		}
	}
	return nil
}

// firstPassword is the first line of a file.
func firstPassword(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("security.bootstrap_password_file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("security.bootstrap_password_file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimRight(line, "\r"); line == "" {
		return "", fmt.Errorf("security.bootstrap_password_file: the first line of %s is empty", name)
	}
	return line, nil
}
