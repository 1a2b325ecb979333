package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/compat/apachekafka"
	"github.com/oncelog/oncelog/internal/brokerproc"
)

// ruled is a cluster that lets in over TLS who proves who they are by SCRAM-SHA-512, and denies what no rule allows.
type ruled struct {
	*brokerproc.Cluster
	certs string
}

// runner does a job for a user, and gives what it printed: "produce" TOPIC N, "transact" TOPIC N ID, "consume" TOPIC GROUP N.
type runner func(ctx context.Context, user, password, job string, args ...string) (string, error)

// secured are the clients that come in by their proofs and with their rights, each as the user of its name.
var secured = []struct {
	user, client string
	version      func() string
	prepare      func(*testing.T, ruled) runner
}{
	{"franz", "franz-go", franzVersion, func(t *testing.T, c ruled) runner { return c.franz(t) }},
	{"java", "kafka-clients", func() string { return javaVersions[1] }, func(t *testing.T, c ruled) runner {
		path := javaJobs(t, javaVersions[1])
		return func(ctx context.Context, user, password, job string, args ...string) (string, error) {
			if job == "consume" {
				args = append(args[:2:2], "classic", args[2])
			} else if job == "produce" {
				args = append(args, "zstd")
			}
			return c.external(ctx, user, password, "java", append([]string{"-Xmx256m", "-cp", path, "compat.Jobs", job, c.seeds()}, args...)...)
		}
	}},
	{"python", "confluent-kafka", func() string { return confluentKafka }, func(t *testing.T, c ruled) runner {
		interpreter, err := pythonHome()
		if err != nil {
			missing(t, "confluent-kafka for Python", err)
		}
		return func(ctx context.Context, user, password, job string, args ...string) (string, error) {
			if job == "consume" {
				args = append(args[:2:2], "classic", args[2])
			} else if job == "produce" {
				args = append(args, "lz4")
			}
			return c.external(ctx, user, password, interpreter, append([]string{"python/jobs.py", job, c.seeds()}, args...)...)
		}
	}},
	{"kafkajs", "kafkajs", func() string { return kafkajsVersion }, func(t *testing.T, c ruled) runner {
		dir, err := nodeHome()
		if err != nil {
			missing(t, "kafkajs", err)
		}
		return func(ctx context.Context, user, password, job string, args ...string) (string, error) {
			if job == "produce" {
				args = append(args, "gzip")
			}
			out, err := c.external(ctx, user, password, "node", append([]string{filepath.Join(dir, "jobs.js"), job, c.seeds()}, args...)...)
			return strings.TrimSuffix(out, " uncertain 0"), err
		}
	}},
	{"oncelog", "", func() string { return "" }, func(t *testing.T, c ruled) runner { return c.oncelog(t) }},
}

func (c ruled) seeds() string { return strings.Join(c.KafkaAddrs(), ",") }

// external runs a job that is a process.
func (c ruled) external(ctx context.Context, user, password, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "JOB_CA="+filepath.Join(c.certs, "ca.pem"), "JOB_USER="+user, "JOB_PASSWORD="+password)
	return printed(cmd)
}

// passwordOf is that of a user of the suite.
func passwordOf(user string) string { return "the password of " + user }

// What clients say when they lack a right.
var (
	topicDenied = regexp.MustCompile(`(?i)topic.?authorization|not authorized to access topics`)
	groupDenied = regexp.MustCompile(`(?i)group.?authorization|not authorized to access group`)
	idDenied    = regexp.MustCompile(`(?i)transactional.?id.?authorization`)
	notProven   = regexp.MustCompile(`(?i)sasl.?authentication.?failed|authentication failed|SaslAuthenticationException|invalid credentials`)
)

// Each client does with its rights what it does without any where nobody is asked, and is refused what it has none for, by the resource
// that is missing.
func TestClientsWithRights(t *testing.T) {
	t.Parallel()
	running, certs := startSecured(t, "security.authorizer=acl", "security.super_users=User:admin", "groups.initial_rebalance_delay=0s")
	c := ruled{running, certs}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	adminClient := securedClient(t, c.Cluster, certs, scram.Auth{User: "admin", Pass: adminPassword}.AsSha512Mechanism())
	admin := kadm.NewClient(adminClient)
	topics := []string{"t-secret"}
	var proofs []kadm.UpsertSCRAM
	rules := 0
	for _, s := range secured {
		topics = append(topics, "t-"+s.user)
		proofs = append(proofs, kadm.UpsertSCRAM{User: s.user, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: passwordOf(s.user)})
		for _, b := range []*kadm.ACLBuilder{
			kadm.NewACLs().Topics("t-"+s.user).Operations(kadm.OpRead, kadm.OpWrite),
			kadm.NewACLs().Groups("g-" + s.user).Operations(kadm.OpRead),
			kadm.NewACLs().TransactionalIDs("x-" + s.user).Operations(kadm.OpWrite),
		} {
			made, err := admin.CreateACLs(ctx, b.Allow("User:"+s.user).AllowHosts().ResourcePatternType(kadm.ACLPatternLiteral))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range made {
				if m.Err != nil {
					t.Fatal(m.Err, m.ErrMessage)
				}
				rules++
			}
		}
	}
	altered, err := admin.AlterUserSCRAMs(ctx, nil, proofs)
	if err != nil || altered.Error() != nil {
		t.Fatal(err, altered.Error())
	}
	if _, err := admin.CreateTopics(ctx, 3, 3, nil, topics...); err != nil {
		t.Fatal(err)
	}
	everyBrokerHas(t, ctx, adminClient, len(proofs), rules)
	for _, s := range secured {
		t.Run(s.user, func(t *testing.T) {
			if s.client != "" {
				ran(t, s.client, s.version(), "over TLS by SCRAM-SHA-512 with the rights that it needs, and refused without")
			}
			withRights(t, ctx, s.user, s.prepare(t, c))
		})
	}
	t.Run("tools", func(t *testing.T) {
		ran(t, "Kafka's tools", javaVersions[1], "access rules and SCRAM users, made, listed and removed")
		toolsOfRights(t, ctx, c, adminClient, len(proofs), rules)
	})
}

// withRights does the jobs of one client.
func withRights(t *testing.T, ctx context.Context, user string, run runner) {
	began := time.Now()
	topic, group, id := "t-"+user, "g-"+user, "x-"+user
	did := func(job string) {
		t.Logf("%5.1f s: %s", time.Since(began).Seconds(), job)
	}
	do := func(want, job string, args ...string) {
		t.Helper()
		defer did(job)
		mustPrint(t, want, func() (string, error) { return run(ctx, user, passwordOf(user), job, args...) })
	}
	do("produced 100", "produce", topic, "100")
	do("committed 40", "transact", topic, "6", id)
	do("consumed 140 different 140 aborted 0", "consume", topic, group, "140")
	refused := func(why *regexp.Regexp, password, job string, args ...string) {
		t.Helper()
		defer did("refused: " + job)
		once, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if out, err := run(once, user, password, job, args...); err == nil || !why.MatchString(err.Error()) {
			t.Errorf("%s %v: %q, %.3000v; want %v", job, args, out, err, why)
		}
	}
	refused(topicDenied, passwordOf(user), "produce", "t-secret", "1")
	refused(groupDenied, passwordOf(user), "consume", topic, "g-secret", "1")
	refused(idDenied, passwordOf(user), "transact", topic, "1", "x-secret")
	if user != "python" { // librdkafka connects again and again, for it may have been a slip
		refused(notProven, "wrong", "produce", topic, "1")
	}
}

// toolsOfRights makes, lists and removes users and rules with Kafka's own tools, and tries them. proofs and rules are there already.
func toolsOfRights(t *testing.T, ctx context.Context, c ruled, adminClient *kgo.Client, proofs, rules int) {
	classpath, err := apachekafka.Classpath(javaVersions[1])
	if err != nil {
		missing(t, "Kafka's tools", err)
	}
	config := filepath.Join(t.TempDir(), "admin.properties")
	if err := os.WriteFile(config, []byte("security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location="+filepath.Join(c.certs, "ca.pem")+
		"\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"admin\" password=\""+
		adminPassword+"\";\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool := func(name, args, want string, not ...string) {
		t.Helper()
		out, err := exec.CommandContext(ctx, "java", append([]string{"-Xmx128m", "-cp", classpath, name, "--bootstrap-server", c.seeds(), "--command-config", config},
			strings.Fields(args)...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s %s: %v, want %q in:\n%.2000s", name, args, err, want, out)
		}
		for _, n := range not {
			if strings.Contains(string(out), n) {
				t.Errorf("%s %s: %q in:\n%.2000s", name, args, n, out)
			}
		}
	}
	const acls, configs = "org.apache.kafka.tools.AclCommand", "kafka.admin.ConfigCommand"
	tool(configs, "--alter --add-config SCRAM-SHA-512=[iterations=4096,password=made-by-a-tool] --entity-type users --entity-name tooled", "Completed updating config for user tooled")
	tool(configs, "--describe --entity-type users", "SCRAM credential configs for user-principal 'tooled' are SCRAM-SHA-512=iterations=4096")
	tool(acls, "--add --allow-principal User:tooled --producer --topic t-tools --resource-pattern-type prefixed", "operation=WRITE")
	tool(acls, "--list --topic t-tools-1 --resource-pattern-type match", "principal=User:tooled", "User:java")
	const made = 3 // write, describe and create of topics
	everyBrokerHas(t, ctx, adminClient, proofs+1, rules+made)
	if _, err := kadm.NewClient(adminClient).CreateTopic(ctx, 1, 3, nil, "t-tools-1"); err != nil {
		t.Fatal(err)
	}
	run := c.franz(t)
	if out, err := run(ctx, "tooled", "made-by-a-tool", "produce", "t-tools-1", "10"); err != nil || out != "produced 10" {
		t.Errorf("the tools' user with the tools' rules: %q, %v", out, err)
	}
	tool(acls, "--remove --force --topic t-tools --resource-pattern-type prefixed", "", "User:tooled")
	everyBrokerHas(t, ctx, adminClient, proofs+1, rules)
	if out, err := run(ctx, "tooled", "made-by-a-tool", "produce", "t-tools-1", "1"); err == nil || !topicDenied.MatchString(err.Error()) {
		t.Errorf("the tools' user without rules: %q, %v", out, err)
	}
	tool(configs, "--alter --delete-config SCRAM-SHA-512 --entity-type users --entity-name tooled", "Completed updating config for user tooled")
	everyBrokerHas(t, ctx, adminClient, proofs, rules)
	if out, err := run(ctx, "tooled", "made-by-a-tool", "produce", "t-tools-1", "1"); err == nil || !notProven.MatchString(err.Error()) {
		t.Errorf("the tools' user after it was removed: %q, %v", out, err)
	}
}

// franz does jobs with franz-go.
func (c ruled) franz(t *testing.T) runner {
	return func(ctx context.Context, user, password, job string, args ...string) (string, error) {
		topic := args[0]
		opts := []kgo.Opt{kgo.DefaultProduceTopic(topic)}
		switch job {
		case "transact":
			opts = append(opts, kgo.TransactionalID(args[2]))
		case "consume":
			opts = append(opts, kgo.ConsumerGroup(args[1]), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
				kgo.DisableAutoCommit())
		}
		cl := securedClient(t, c.Cluster, c.certs, scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), opts...)
		defer cl.Close()
		if err := cl.Ping(ctx); err != nil { // what it does later it would do again and again, since a proof that failed may have been a slip
			return "", err
		}
		switch job {
		case "produce":
			n := number(args[1])
			for i := range n {
				if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
					return "", err
				}
			}
			return fmt.Sprint("produced ", n), nil
		case "transact":
			return transactions(number(args[1]), cl.BeginTransaction, func(v string) error { return cl.ProduceSync(ctx, kgo.StringRecord(v)).FirstErr() },
				func(commit bool) error { return cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)) })
		}
		var seen reading
		for seen.total < number(args[2]) {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return "", err
			}
			fetches.EachRecord(func(r *kgo.Record) { seen.note(string(r.Value)) })
		}
		return seen.String(), cl.CommitUncommittedOffsets(ctx)
	}
}

// oncelog does jobs with this project's own client, by its own protocol.
func (c ruled) oncelog(t *testing.T) runner {
	return func(ctx context.Context, user, password, job string, args ...string) (string, error) {
		cl, err := client.New(client.Config{Bootstrap: c.GRPCAddrs(), TLS: trust(t, c.certs), SASL: client.SASL{User: user, Password: password}})
		if err != nil {
			return "", err
		}
		defer func() {
			over, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = cl.Close(over) // what it did is known
		}()
		topic := args[0]
		if _, _, err := cl.DescribeTopic(ctx, topic); err != nil { // a producer would wait for a leader
			return "", err
		}
		switch job {
		case "produce":
			p, err := cl.NewProducer(client.ProducerConfig{})
			if err != nil {
				return "", err
			}
			n := number(args[1])
			for i := range n {
				if r := p.SendSync(ctx, client.Record{Topic: topic, Value: fmt.Append(nil, i)}); r.Err != nil {
					return "", r.Err
				}
			}
			return fmt.Sprint("produced ", n), nil
		case "transact":
			p, err := cl.NewTransactionalProducer(client.TransactionalConfig{TransactionalID: args[2]})
			if err != nil {
				return "", err
			}
			if err := p.InitTransactions(ctx); err != nil {
				return "", err
			}
			return transactions(number(args[1]), p.Begin, func(v string) error { return p.SendSync(ctx, client.Record{Topic: topic, Value: []byte(v)}).Err },
				func(commit bool) error {
					if commit {
						return p.Commit(ctx)
					}
					return p.Abort(ctx)
				})
		}
		g, err := cl.NewGroupConsumer(client.GroupConfig{GroupID: args[1], Topics: []string{topic}, ConsumerConfig: client.ConsumerConfig{Isolation: client.ReadCommitted, Reset: client.ResetEarliest}})
		if err != nil {
			return "", err
		}
		var seen reading
		for seen.total < number(args[2]) {
			fetched, err := g.Poll(ctx)
			if err != nil {
				return "", err
			}
			for i := range fetched {
				if fetched[i].Err != nil {
					return "", fetched[i].Err
				}
				for r, err := range fetched[i].Records() {
					if err != nil {
						return "", err
					}
					seen.note(string(r.Value))
				}
			}
		}
		return seen.String(), g.Commit(ctx)
	}
}

// transactions commits n transactions of ten records, but every third, which it aborts.
func transactions(n int, begin func() error, send func(string) error, end func(commit bool) error) (string, error) {
	committed := 0
	for i := range n {
		if err := begin(); err != nil {
			return "", err
		}
		commit, kind := i%3 != 2, "a"
		if commit {
			kind = "c"
			committed += 10
		}
		for j := range 10 {
			if err := send(fmt.Sprintf("%s-%d-%d", kind, i, j)); err != nil {
				return "", err
			}
		}
		if err := end(commit); err != nil {
			return "", err
		}
	}
	return fmt.Sprint("committed ", committed), nil
}

// reading counts what a consumer reads.
type reading struct {
	total, aborted int
	values         map[string]bool
}

func (r *reading) note(value string) {
	if r.values == nil {
		r.values = make(map[string]bool)
	}
	r.total++
	r.values[value] = true
	if strings.HasPrefix(value, "a-") {
		r.aborted++
	}
}

// noteLines notes each line of what a program printed.
func (r *reading) noteLines(text string) {
	for line := range strings.Lines(text) {
		r.note(strings.TrimSpace(line))
	}
}

func (r *reading) String() string {
	return fmt.Sprintf("consumed %d different %d aborted %d", r.total, len(r.values), r.aborted)
}

// number is a number of a job's arguments, which the suite itself gives.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
