// Command brokerd is the server: flags, environment and file become a
// broker.Config, signals become the end of a context, then broker.Run.
//
// Exit codes: 0 done, 1 failed while running (or not ready, for healthcheck),
// 2 wrong usage or configuration, 128+n ended at once by signal n.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/oncelog/oncelog/internal/heapfloor"
	"github.com/oncelog/oncelog/internal/nearest"
)

// Exit codes, stable.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	p := program{
		environ: os.Environ(),
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		exit:    os.Exit,
		garbage: func(bytes int) {
			heapfloor.Set(bytes)
			go heapfloor.Rest(context.Background())
		},
	}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// program is brokerd as a value that tests can run.
type program struct {
	environ []string // "NAME=value"
	stdout  io.Writer
	stderr  io.Writer
	exit    func(code int)  // ends the process at once; only on a second signal
	garbage func(bytes int) // tells Go's collector what may gather; nil: nobody does
}

// usageError is the caller's mistake: flags or configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// run executes one command line and gives the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(p.stderr, "brokerd: %s\n", line)
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func (p *program) rootCommand() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "brokerd",
		Short: "The oncelog broker",
		Long: `brokerd keeps topics of records in partitions, each replicated by a Raft group of
its own, and holds every record exactly once, whatever dies while it is sent.`,
		Example: `  # Three brokers in this process, with data that is removed at the end
  brokerd dev

  # One broker of a cluster
  brokerd serve --config /etc/brokerd/brokerd.yaml`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			err = nearest.Flag(unknown, cmd.Flags())
		}
		return &usageError{fmt.Errorf("%w (see %q)", err, cmd.CommandPath()+" --help")}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	cobra.AddTemplateFunc("wrapped", func(f *pflag.FlagSet) string { return f.FlagUsagesWrapped(helpWidth) })
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "Flags.FlagUsages ", "Flags | wrapped "))
	root.AddCommand(p.devCommand(), p.serveCommand(), p.healthcheckCommand(), p.recoverCommand(), p.configCommand(), p.versionCommand())
	return root
}

// helpWidth is how many columns help takes at most.
const helpWidth = 96

// noArgs refuses arguments as wrong usage, and names the nearest command where
// one was meant.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if suggestions := cmd.SuggestionsFor(args[0]); len(suggestions) > 0 {
		return &usageError{fmt.Errorf("unknown command %q for %q: did you mean %q?", args[0], cmd.CommandPath(), suggestions[0])}
	}
	return &usageError{fmt.Errorf("unexpected argument %q (see %q)", args[0], cmd.CommandPath()+" --help")}
}

// group makes a command that only holds others: alone it shows its help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}
