package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/internal/buildinfo"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

// result is what one command line did.
type result struct {
	code           int
	stdout, stderr string
}

// brokerd runs one command line in this process. No file of this machine and no
// variable of this process gets in.
func brokerd(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := program{environ: environ, stdout: &stdout, stderr: &stderr, exit: func(code int) { t.Errorf("exit(%d)", code) }}
	code := p.run(context.Background(), args)
	return result{code, stdout.String(), stderr.String()}
}

// golden compares with a file of testdata, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it)\n--- want\n%s--- got\n%s", path, want, got)
	}
}

func TestHelp(t *testing.T) {
	for _, command := range []string{"", "dev", "serve", "healthcheck", "config", "config check", "config print", "version"} {
		t.Run("brokerd "+command, func(t *testing.T) {
			got := brokerd(t, nil, append(strings.Fields(command), "--help")...)
			if got.code != exitOK || got.stderr != "" {
				t.Fatalf("exit code %d, stderr %q", got.code, got.stderr)
			}
			golden(t, "help/"+strings.TrimSpace("brokerd "+command)+".txt", got.stdout)
		})
	}
}

func TestWrongUsage(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"sevre", `brokerd: unknown command "sevre" for "brokerd": did you mean "serve"?`},
		{"serve now", `brokerd: unexpected argument "now" (see "brokerd serve --help")`},
		{"serve --conf x", `brokerd: unknown flag: --conf: did you mean --config? (see "brokerd serve --help")`},
		{"serve --nope x", `brokerd: unknown flag: --nope (see "brokerd serve --help")`},
		{"recover", `brokerd: broker_id: is required: a number from 0 to 2147483647 that no other broker of the cluster has` + "\n" + `brokerd: data_dir: is required: the directory where this broker keeps its data`},
		{"version -o xml", `brokerd: flag --output: "xml" is unknown: use one of ["text" "json"]`},
		{"config print -o xml", `brokerd: flag --output: "xml" is unknown: use one of ["yaml" "json"]`},
		{"dev --brokers 10", `brokerd: flag --brokers: 10 is not between 1 and 9`},
		{"dev --ephemeral --set broker=3", `brokerd: flag --set: unknown key "broker": did you mean "broker_id"?`},
		{"dev --ephemeral --log-level loud", `brokerd: flag --log-level: log.level: "loud" is unknown: use one of ["debug" "info" "warn" "error"]`},
		{"serve --set rack", `brokerd: flag --set: "rack" is not KEY=VALUE`},
		{"dev --ephemeral --set foo=3", `brokerd: flag --set: unknown key "foo"`},
		{"healthcheck --address here", `brokerd: flag --address: "here", want host:port, such as 127.0.0.1:9644`},
		{"serve --data-dir d --broker-id -5", `brokerd: flag --broker-id: broker_id: -5 is negative: a number from 0 to 2147483647 that no other broker of the cluster has`},
		{"serve --broker-id one", `brokerd: flag --broker-id: broker_id: "one" is not a whole number of at most 32 bits`},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			got := brokerd(t, nil, strings.Fields(test.args)...)
			if got.code != exitUsage {
				t.Errorf("exit code %d, want %d", got.code, exitUsage)
			}
			if got.stderr != test.want+"\n" {
				t.Errorf("stderr %q, want %q", got.stderr, test.want)
			}
		})
	}
}

// recover names the directory where there is nothing to recover.
func TestRecoverOfNothing(t *testing.T) {
	dir := t.TempDir()
	got := brokerd(t, nil, "recover", "--set", "broker_id=1", "--set", "data_dir="+dir, "--set", "seeds=127.0.0.1:9093")
	if want := "data_dir " + dir + " holds no broker of a cluster"; got.code != exitFailed || !strings.Contains(got.stderr, want) {
		t.Fatalf("got %+v", got)
	}
	got = brokerd(t, nil, "recover", "--set", "broker_id=1", "--set", "data_dir="+dir+"/none", "--set", "seeds=127.0.0.1:9093")
	if want := "data_dir " + dir + "/none does not exist"; got.code != exitFailed || !strings.Contains(got.stderr, want) {
		t.Fatalf("got %+v", got)
	}
}

// recover says how far each group is in a table that fits a terminal, and whether another broker is the better one.
func TestRecoveredTable(t *testing.T) {
	groups := []broker.RecoveredGroup{{Name: "cluster/metadata"}, {Name: "partitions/1000034-7890", Topic: "1d087c1fab9b2439b21602ff8387e750", Partition: 15}}
	for i := range groups {
		groups[i].Voters = append(groups[i].Voters, "1/5133612459491501128", "2/831747710480720101", "3/7789985811092897030")
		groups[i].Last, groups[i].Changed = 332, true
	}
	for id, warned := range map[int32]bool{3: false, 4: true} {
		var out bytes.Buffer
		if err := printRecovered(&out, id, groups, false); err == nil || strings.Contains(out.String(), "has no vote for the metadata") != warned {
			t.Errorf("broker %d: %v\n%s", id, err, out.String())
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > 116 || strings.Contains(line, "5133612459491501128") {
				t.Errorf("line of %d columns: %s", len(line), line)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	var info buildinfo.Info
	got := brokerd(t, nil, "version", "-o", "json")
	if err := json.Unmarshal([]byte(got.stdout), &info); err != nil || info != buildinfo.Get() {
		t.Fatalf("got %q (%v), want %+v", got.stdout, err, buildinfo.Get())
	}
	if got := brokerd(t, nil, "version"); got.stdout != "brokerd "+buildinfo.Get().String()+"\n" {
		t.Fatalf("got %q", got.stdout)
	}
}
