// Command brokerctl is what an operator asks: topics, records, producers, transactions, consumer groups, the cluster,
// benchmarks and checks, one file per noun. It talks to the gRPC API by the Go client, and may do nothing that
// any client could not.
//
// Exit codes: see exitCodes in errors.go, or brokerctl help exit-codes.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/internal/heapfloor"
)

// heapFloor is how much garbage may gather before it is collected: benchmarks and consumers let go of
// what they read at once.
const heapFloor = 64 << 20

func main() {
	heapfloor.Set(heapFloor)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Getenv, terminal: terminal(os.Stderr)}
	code := p.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// terminal says whether somebody is looking.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// program is brokerctl as a value that tests can run.
type program struct {
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	environ  func(name string) string
	terminal bool // stderr is one: progress may rewrite its line
	// dialer replaces TCP in tests.
	dialer func(ctx context.Context, addr string) (net.Conn, error)
	// clock replaces the time of day in tests.
	clock func() time.Time

	flags globalFlags
}

// globalFlags are those of every command.
type globalFlags struct {
	bootstrap  []string
	output     string
	timeout    time.Duration
	verbose    bool
	quiet      bool
	tls        bool
	tlsCA      string
	tlsCert    string
	tlsKey     string
	serverName string

	user         string
	passwordFile string
	mechanism    string
}

// run executes one command line and gives the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		return exitInterrupted
	}
	return p.report(err)
}

func (p *program) rootCommand() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "brokerctl",
		Short: "Ask and operate an oncelog cluster",
		Long: `brokerctl creates topics, writes and reads records, and shows what brokers know of
producers, transactions, consumer groups, Raft groups and themselves. It measures a
cluster and checks that it keeps its promises.`,
		Example: `  # Is the cluster well?
  brokerctl cluster status

  # A topic, three records, and back
  brokerctl topic create greetings --partitions 3
  printf 'one\ntwo\nthree\n' | brokerctl produce greetings
  brokerctl consume greetings

  # For scripts
  brokerctl topic list -o json | jq -r '.[].name'`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if p.flags.output != "table" && p.flags.output != "json" {
				return usagef("flag --output: %q is unknown: use table or json", p.flags.output)
			}
			return nil
		},
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (see %q)", flagError(cmd, err), cmd.CommandPath()+" --help")
	})
	wrapFlags(root)
	bootstrap := []string{"localhost:9095", "localhost:10095", "localhost:11095"}
	if env := p.environ("BROKERCTL_BOOTSTRAP"); env != "" {
		bootstrap = strings.Split(env, ",")
	}
	f := root.PersistentFlags()
	f.StringSliceVarP(&p.flags.bootstrap, "bootstrap", "b", bootstrap, "gRPC addresses of some brokers (or BROKERCTL_BOOTSTRAP)")
	f.StringVarP(&p.flags.output, "output", "o", "table", "table or json")
	f.DurationVar(&p.flags.timeout, "timeout", 30*time.Second, "how long one request may take, 100ms to 10m")
	f.BoolVarP(&p.flags.verbose, "verbose", "v", false, "say on stderr what the client does")
	f.BoolVarP(&p.flags.quiet, "quiet", "q", false, "no progress on stderr")
	f.BoolVar(&p.flags.tls, "tls", false, "encrypt; the other --tls flags imply it")
	f.StringVar(&p.flags.tlsCA, "tls-ca", "", "PEM file with the authorities that sign brokers' certificates")
	f.StringVar(&p.flags.tlsCert, "tls-cert", "", "PEM file with this client's certificate")
	f.StringVar(&p.flags.tlsKey, "tls-key", "", "PEM file with the key of --tls-cert")
	f.StringVar(&p.flags.serverName, "tls-server-name", "", "name to expect in brokers' certificates")
	f.StringVar(&p.flags.user, "user", p.environ("BROKERCTL_USER"), "user to be, with SASL (or BROKERCTL_USER)")
	f.StringVar(&p.flags.passwordFile, "password-file", "", "file whose first line is the user's password (or BROKERCTL_PASSWORD has it)")
	f.StringVar(&p.flags.mechanism, "sasl-mechanism", client.SCRAMSHA512, client.SCRAMSHA512+", "+client.SCRAMSHA256+" or "+client.PLAIN)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there

	root.AddCommand(p.topicCommand(), p.produceCommand(), p.consumeCommand(), p.producerCommand(), p.txnCommand(), p.groupCommand(), p.clusterCommand(), p.doctorCommand(),
		p.userCommand(), p.aclCommand(), p.certCommand(), p.benchCommand(), p.verifyCommand(), p.logCommand(), p.versionCommand(), exitCodesTopic())
	return root
}

// group makes a command that only holds others: alone it shows its help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("unknown command %q for %q: did you mean %q?", args[0], cmd.CommandPath(), near[0])
		}
		return usagef("unknown command %q for %q (see %q)", args[0], cmd.CommandPath(), cmd.CommandPath()+" --help")
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// exactly wants n arguments and says which.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s is missing: %s", names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usagef("unexpected argument %q: %s", args[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// connect makes the client. Whoever calls it closes it.
func (p *program) connect() (*client.Client, error) {
	cfg := client.Config{Bootstrap: p.flags.bootstrap, ClientID: "brokerctl", Dialer: p.dialer, RequestTimeout: p.flags.timeout}
	if p.flags.verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var err error
	if cfg.TLS, err = p.flags.tlsConfig(); err != nil {
		return nil, err
	}
	if cfg.SASL, err = p.sasl(); err != nil {
		return nil, err
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, &usageError{asFlag(err)}
	}
	return c, nil
}

// sasl is who the user of this program says to be.
func (p *program) sasl() (client.SASL, error) {
	if p.flags.user == "" {
		return client.SASL{}, nil
	}
	s := client.SASL{User: p.flags.user, Mechanism: p.flags.mechanism, Password: p.environ("BROKERCTL_PASSWORD")}
	if p.flags.passwordFile != "" {
		var err error
		if s.Password, err = p.readPassword(p.flags.passwordFile); err != nil {
			return client.SASL{}, err
		}
	}
	if s.Password == "" {
		return client.SASL{}, usagef("flag --user: no password: set --password-file or BROKERCTL_PASSWORD")
	}
	if s.Mechanism == client.PLAIN && !p.flags.tls && p.flags.tlsCA == "" && p.flags.tlsCert == "" {
		return client.SASL{}, usagef("flag --sasl-mechanism: PLAIN sends the password as it is: use it with --tls, or a SCRAM mechanism")
	}
	return s, nil
}

// with runs f with a client.
func (p *program) with(f func(c *client.Client) error) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(closedContext()) }() // what mattered has been flushed
	return meantTopic(c, asFlag(f(c)))
}

// closedContext is for Close where nothing is worth waiting for.
func closedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (f *globalFlags) tlsConfig() (*tls.Config, error) {
	if !f.tls && f.tlsCA == "" && f.tlsCert == "" && f.tlsKey == "" && f.serverName == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: f.serverName}
	if f.tlsCA != "" {
		pem, err := os.ReadFile(f.tlsCA)
		if err != nil {
			return nil, usagef("flag --tls-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("flag --tls-ca: %s holds no PEM certificate", f.tlsCA)
		}
	}
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return nil, usagef("flags --tls-cert and --tls-key belong together: set both")
	}
	if f.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return nil, usagef("flags --tls-cert and --tls-key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// now is the time of day; brokers' clocks may differ from it.
func (p *program) now() time.Time {
	if p.clock != nil {
		return p.clock()
	}
	return time.Now()
}

// sayf writes a remark to stderr, where it does not get into pipes.
func (p *program) sayf(format string, args ...any) {
	if !p.flags.quiet {
		fmt.Fprintf(p.stderr, format+"\n", args...)
	}
}
