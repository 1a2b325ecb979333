package main

import (
	"context"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/brokertest"
)

// commandsOf gives the lines of a section's blocks of a document.
func commandsOf(t *testing.T, document, section string) []string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", document, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var list []string
	for line := range strings.Lines(rest) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			list = append(list, strings.TrimSpace(command))
		}
	}
	return list
}

// words splits a command as a shell does, as far as these documents go.
func words(line string) []string {
	var list []string
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		list = append(list, m[1]+m[2])
	}
	return list
}

// TestCompactionWalkthrough runs the commands of docs/compaction.md as they stand there. The cluster looks as rarely as it does by default,
// so that more time has to pass, of which there is plenty here.
func TestCompactionWalkthrough(t *testing.T) {
	commands := commandsOf(t, "../../docs/compaction.md", "Trying it")
	if len(commands) == 0 || commands[0] != "brokerd dev --set compaction.interval=1s --set retention_check=1s" {
		t.Fatalf("the walkthrough begins with %q", commands)
	}
	brokertest.Simulate(t, brokertest.Options{LogLevel: quietLevel}, func(t *testing.T, c *brokertest.Cluster) {
		var consumed []string
		for _, line := range commands[1:] {
			stdin, command := "", line
			if text, after, piped := strings.Cut(line, " | "); piped {
				printf := words(text)
				if len(printf) != 2 || printf[0] != "printf" {
					t.Fatalf("%s: what is this?", text)
				}
				stdin, command = strings.ReplaceAll(printf[1], `\n`, "\n"), after
			}
			args := words(command)
			if args[0] == "sleep" {
				pause, err := time.ParseDuration(args[1] + "s")
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(60 * pause)
				continue
			}
			out, errs, code := walk(t, c, stdin, args[1:])
			switch {
			case stdin == "no key\n":
				if code != exitFailed || !strings.Contains(errs, "key") {
					t.Errorf("%s: exit %d, %s%s", line, code, out, errs)
				}
			case args[0] != "brokerctl" || code != exitOK:
				t.Fatalf("%s: exit %d, %s%s", line, code, out, errs)
			case args[1] == "consume":
				consumed = append(consumed, strings.TrimSpace(out))
			case args[1] == "topic" && args[2] == "describe" && !strings.Contains(out, "COMPACTED TO"):
				t.Errorf("nothing of compaction in\n%s", out)
			}
		}
		want := []string{"0 alice=10\n1 bob=20\n2 alice=11\n3 carol=5\n4 alice=12\n5 carol=", "1 bob=20\n4 alice=12"}
		if !slices.Equal(consumed, want) {
			t.Errorf("consumed %q, want %q", consumed, want)
		}
	})
}

// walk executes a command line on a cluster in this process.
func walk(t *testing.T, c *brokertest.Cluster, stdin string, args []string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs lockedBuffer
	p := &program{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, clock: time.Now,
		dialer: func(ctx context.Context, addr string) (net.Conn, error) { return c.Network.Dial(ctx, "client", addr) },
		environ: func(name string) string {
			return map[string]string{"BROKERCTL_BOOTSTRAP": strings.Join(c.GRPCAddrs(), ",")}[name]
		},
	}
	code = p.run(context.Background(), args)
	return out.String(), errs.String(), code
}
