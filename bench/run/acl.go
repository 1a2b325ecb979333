package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/oncelog/oncelog/client"
)

// aclRows measure what asking for rights costs brokers.
var aclRows = []row{{name: "acl", measure: rightsInProfile, ownProfiles: true}}

// checkedLoads are what brokers do meanwhile: the more requests for a byte, the more is asked.
var checkedLoads = []row{
	{name: "acl-1k-8", what: "produce, one 1 KiB record", partitions: 8,
		ours: []string{"produce", "--batch", "1024", "--size", "1024", "--linger", "0", "--buffer", "65536", "--producers", "16", "--in-flight", "4"}},
	{name: "acl-100k-8", what: "produce, 100 KiB batches", partitions: 8, ours: []string{"produce", "--batch", "102400", "--size", "1000"}},
	{name: "acl-consume", what: "consume", partitions: 8, kind: consume, ours: []string{"consume"}},
}

// asking finds, in a profile, where rights are asked for: from the handlers' question to the rules.
const asking = `metadata/acl\.|internal/frontdoor\.\(\*(Guard\)\.(May|Sees|Topics|Operations|Decides|allows|deny|rules)|Permits)|` +
	`oncelog/api\.(callerOf|\(\*service\)\.rights|\(\*rights\)|\(\*topicRights\))|oncelog/kafka\.\(\*conn\)\.(may|sees|topics|operations)`

// rightsInProfile loads a cluster where rules decide, as a user who is no administrator, and finds the share of asking in the brokers'
// profiles.
func rightsInProfile(ctx context.Context, b *bench) ([]figure, error) {
	checked, err := b.withRules(ctx)
	if err != nil {
		return nil, err
	}
	if checked.options.profiles == "" {
		checked.options.profiles = filepath.Join(b.dir, "acl-profiles")
		if err := os.MkdirAll(checked.options.profiles, 0o755); err != nil {
			return nil, err
		}
	}
	var list []figure
	for _, r := range checkedLoads {
		if _, _, err := checked.ours(ctx, &r); err != nil {
			return nil, err
		}
		settle()
		share, err := checked.share(ctx, &r, asking)
		if err != nil {
			return nil, err
		}
		list = append(list, figure{what: "ACL: " + r.what + "; share of CPU", unit: "%", ours: 100 * share, goal: "<= 2"})
	}
	return list, nil
}

const (
	administrator, writer = "administrator", "writer"
	benchPassword         = "for the benchmark"
)

// withRules gives a cluster with users and rules, its client being the administrator's and its brokerctl the writer's.
func (b *bench) withRules(ctx context.Context) (*bench, error) {
	if had := b.others["acl"]; had != nil {
		return had, nil
	}
	file := filepath.Join(b.dir, "password")
	if err := os.WriteFile(file, []byte(benchPassword+"\n"), 0o600); err != nil {
		return nil, err
	}
	c, err := b.beside(ctx, other{name: "acl",
		set: []string{"http.profiles=true", "security.authorizer=acl", "security.super_users=User:" + administrator,
			"security.bootstrap_user=" + administrator, "security.bootstrap_password_file=" + file, "grpc.default.sasl.mechanisms=SCRAM-SHA-256"},
		flags:  []string{"--user", writer, "--password-file", file, "--sasl-mechanism", client.SCRAMSHA256},
		config: client.Config{SASL: client.SASL{User: administrator, Password: benchPassword, Mechanism: client.SCRAMSHA256}},
	})
	if err != nil {
		return nil, err
	}
	if err := awaitUser(ctx, c.client); err != nil {
		return nil, err
	}
	if err := c.client.SetPassword(ctx, writer, benchPassword, 0); err != nil {
		return nil, err
	}
	return c, c.client.CreateACLs(ctx, thousandRules()...)
}

// awaitUser waits until the administrator exists everywhere that is asked.
func awaitUser(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := c.Users(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// thousandRules are those of a cluster that many users share: the writer's own, and those of others, of which many are about the names
// that the writer uses, so that each question meets them.
func thousandRules() []client.ACL {
	var rules []client.ACL
	add := func(user, pattern, name, operation, permission string) {
		rules = append(rules, client.ACL{ResourceType: "topic", Resource: name, Pattern: pattern, Principal: "User:" + user, Host: "*",
			Operation: operation, Permission: permission})
	}
	for _, operation := range []string{"read", "write"} {
		add(writer, "prefixed", "bench-", operation, "allow")
	}
	for i := range 200 {
		user := fmt.Sprintf("user-%03d", i)
		add(user, "prefixed", "bench-", "read", "allow")
		add(user, "literal", "*", "describe", "allow")
		add(user, "prefixed", "private-"+user[:5+i%4], "write", "deny")
		add(user, "literal", "topic of "+user, "all", "allow")
	}
	for i := range 198 {
		add(fmt.Sprintf("user-%03d", i), "prefixed", "b", "alter", "deny")
	}
	return rules
}

// share is the part of the processor time of a row's brokers that was spent where a pattern says.
func (b *bench) share(ctx context.Context, r *row, pattern string) (float64, error) {
	args := []string{"tool", "pprof", "-top", "-unit=ms", "-focus=" + pattern}
	for _, p := range b.cluster.Brokers() {
		args = append(args, b.profileFile(r, p.ID))
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go tool pprof: %w: %s", err, complaint.Bytes())
	}
	return shareIn(out)
}

var accounting = regexp.MustCompile(`accounting for ([0-9.]+)(?:ms)?, .* of ([0-9.]+)ms total`)

// shareIn reads what go tool pprof -top -unit=ms says of what is in focus.
func shareIn(text []byte) (float64, error) {
	m := accounting.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("go tool pprof says %.300q", text)
	}
	part, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return 0, err
	}
	whole, err := strconv.ParseFloat(string(m[2]), 64)
	if err != nil || whole == 0 {
		return 0, fmt.Errorf("go tool pprof says %.300q", text)
	}
	return part / whole, nil
}
