package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/broker"
)

// Every file of testdata/config is checked; what is said about it stands beside
// it, with the exit code.
func TestConfigFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files (%v)", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			got := brokerd(t, nil, "config", "check", "--config", file)
			code := map[int]string{exitOK: "accepted", exitUsage: "refused"}[got.code]
			golden(t, "config/"+name+".txt", code+"\n"+got.stdout+got.stderr)
		})
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "brokerd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStrongerSourceWins(t *testing.T) {
	file := writeFile(t, "broker_id: 1\ndata_dir: /file\nrack: file\nlimits: {max_partitions: 11, cache_bytes: 1MiB}\nlog: {level: error}\n")
	environ := []string{
		"BROKERD_DATA_DIR=/env", "BROKERD_RACK=env", "BROKERD_LIMITS__MAX_PARTITIONS=22", "BROKERD_SEEDS=a:1, b:2",
		"PATH=/bin", "XBROKERD_FOO=1",
	}
	got := brokerd(t, environ, "config", "print", "-o", "json", "--effective", "--config", file,
		"--rack", "flag", "--set", "limits.max_partitions=33")
	if got.code != exitOK {
		t.Fatalf("exit code %d: %s", got.code, got.stderr)
	}
	values := decodeValues(t, got.stdout)
	want := map[string][2]any{
		"broker_id":             {1.0, file + ":1"},
		"data_dir":              {"/env", "env BROKERD_DATA_DIR"},
		"rack":                  {"flag", "flag --rack"},
		"seeds":                 {[]any{"a:1", "b:2"}, "env BROKERD_SEEDS"},
		"limits.max_partitions": {33.0, "flag --set limits.max_partitions"},
		"limits.cache_bytes":    {"1MiB", file + ":4"},
		"log.level":             {"error", file + ":5"},
		"log.format":            {"auto", "default"},
		"grpc.default.listen":   {"127.0.0.1:9095", "default"},
	}
	for key, w := range want {
		if got := values[key]; !reflect.DeepEqual(got.Value, w[0]) || got.Source != w[1] {
			t.Errorf("%s = %v from %q, want %v from %q", key, got.Value, got.Source, w[0], w[1])
		}
	}
}

func decodeValues(t *testing.T, text string) map[string]effectiveValue {
	t.Helper()
	var list []effectiveValue
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	values := map[string]effectiveValue{}
	for _, value := range list {
		values[value.Key] = value
	}
	return values
}

func TestDefaultListenerOnlyWhereNoneIsConfigured(t *testing.T) {
	tests := []struct {
		set  []string
		want string
	}{
		{nil, "default=127.0.0.1:9095"},
		{[]string{"--set", "grpc.internal.listen=a:1"}, "internal=a:1"},
		{[]string{"--set", "grpc.default.advertise=b:1"}, "default=127.0.0.1:9095"},
		{[]string{"--set", "grpc.default.advertise=b:1", "--set", "grpc.internal.listen=a:1"}, "default=127.0.0.1:9095 internal=a:1"},
	}
	for _, test := range tests {
		got := brokerd(t, nil, append([]string{"config", "print", "--effective", "-o", "json"}, test.set...)...)
		var listeners []string
		var list []effectiveValue
		if err := json.Unmarshal([]byte(got.stdout), &list); err != nil {
			t.Fatal(err)
		}
		for _, value := range list {
			if name, ok := strings.CutPrefix(value.Key, "grpc."); ok && strings.HasSuffix(name, ".listen") {
				listeners = append(listeners, strings.TrimSuffix(name, ".listen")+"="+value.Value.(string))
			}
		}
		if got := strings.Join(listeners, " "); got != test.want {
			t.Errorf("%v gives listeners %q, want %q", test.set, got, test.want)
		}
	}
}

func TestEnvironmentMistakes(t *testing.T) {
	tests := []struct{ variable, want string }{
		{"BROKERD_BROKRID=1", `env BROKERD_BROKRID: unknown key "brokrid": did you mean "broker_id"?`},
		{"BROKERD_PEER_LISTEN=:1", `env BROKERD_PEER_LISTEN: unknown key "peer_listen": did you mean "peer.listen"?`},
		{"BROKERD_PEER=:1", `env BROKERD_PEER: "peer" holds other keys and has no value of its own`},
		{"BROKERD_LIMITS__CACHE_BYTES=lots", `env BROKERD_LIMITS__CACHE_BYTES: limits.cache_bytes: "lots" is not a size such as 64MiB`},
		{"BROKERD_SHUTDOWN_TIMEOUT=30", `env BROKERD_SHUTDOWN_TIMEOUT: shutdown_timeout: "30" is not a duration such as 500ms, 30s or 24h`},
		{"BROKERD_CONFIG=/does/not/exist", "configuration file (env BROKERD_CONFIG): open /does/not/exist: no such file or directory"},
	}
	for _, test := range tests {
		got := brokerd(t, []string{test.variable}, "config", "check")
		if got.code != exitUsage || got.stderr != "brokerd: "+test.want+"\n" {
			t.Errorf("%s: exit code %d, stderr %q, want %q", test.variable, got.code, got.stderr, test.want)
		}
	}
}

// A container platform that runs a service called brokerd sets these.
func TestServiceLinksAreIgnored(t *testing.T) {
	environ := []string{
		"BROKERD_BROKER_ID=1", "BROKERD_DATA_DIR=/x",
		"BROKERD_SERVICE_HOST=10.0.0.1", "BROKERD_SERVICE_PORT=9095", "BROKERD_SERVICE_PORT_GRPC=9095",
		"BROKERD_PORT=tcp://10.0.0.1:9095", "BROKERD_PORT_9095_TCP=tcp://10.0.0.1:9095", "BROKERD_PORT_9095_TCP_ADDR=10.0.0.1",
	}
	if got := brokerd(t, environ, "config", "check"); got.code != exitOK {
		t.Fatalf("exit code %d: %s", got.code, got.stderr)
	}
}

// What print writes is a configuration file for the same configuration.
func TestPrintedConfigurationReadsBack(t *testing.T) {
	set := func(assignments ...string) (args []string) {
		for _, a := range assignments {
			args = append(args, "--set", a)
		}
		return args
	}
	args := set("broker_id=7", "data_dir=/var/lib/a b: #c", `rack="'x`, "seeds=a:1,b:2", "peer.tls.cert_file=null",
		"peer.tls.key_file=true", "peer.tls.ca_file=~", "grpc.in-1.listen=a:1", "grpc.out.listen=b:1",
		"limits.cache_bytes=1000", "producer_id_expiration=90m", "raft.snapshot_bytes=3GiB")
	direct := brokerd(t, nil, append([]string{"config", "print", "--effective", "-o", "json"}, args...)...)
	for _, effective := range []string{"--effective=true", "--effective=false"} {
		printed := brokerd(t, nil, append([]string{"config", "print", effective}, args...)...)
		file := writeFile(t, printed.stdout)
		again := brokerd(t, nil, "config", "print", "--effective", "-o", "json", "--config", file)
		if again.code != exitOK {
			t.Fatalf("%s: exit code %d: %s\n%s", effective, again.code, again.stderr, printed.stdout)
		}
		want, got := decodeValues(t, direct.stdout), decodeValues(t, again.stdout)
		if len(got) != len(want) {
			t.Errorf("%s: %d keys, want %d", effective, len(got), len(want))
		}
		for key := range want {
			if !reflect.DeepEqual(got[key].Value, want[key].Value) {
				t.Errorf("%s: %s = %v, want %v\n%s", effective, key, got[key].Value, want[key].Value, printed.stdout)
			}
		}
	}
}

func TestPrintShowsAnUnusableConfiguration(t *testing.T) {
	got := brokerd(t, []string{"BROKERD_BROKER_ID=-4"}, "config", "print")
	if got.code != exitUsage || got.stdout != "broker_id: -4  # env BROKERD_BROKER_ID\n" {
		t.Fatalf("exit code %d, stdout %q", got.code, got.stdout)
	}
	if want := "brokerd: env BROKERD_BROKER_ID: broker_id: "; !strings.HasPrefix(got.stderr, want) {
		t.Fatalf("stderr %q, want it to start with %q", got.stderr, want)
	}
}

// The compose file configures brokers by environment alone: its variables must
// be accepted.
func TestComposeFileIsValid(t *testing.T) {
	data, err := os.ReadFile("../../deploy/docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	beforeVolumes, _, _ := strings.Cut(string(data), "\nvolumes:")
	// What the environment may replace has the value after ":-" where it does not.
	beforeVolumes = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`).ReplaceAllString(beforeVolumes, "$1")
	services := regexp.MustCompile(`(?m)^  broker-\d:$`).Split(beforeVolumes, -1)
	if len(services) != 4 {
		t.Fatalf("found %d services, want 3", len(services)-1)
	}
	variable := regexp.MustCompile(`(?m)^ +(BROKERD_[A-Z_]+): "?([^"\n]*)"?$`)
	for _, service := range services[1:] {
		environ := []string{"BROKERD_DATA_DIR=/var/lib/brokerd"} // From the image.
		for _, m := range variable.FindAllStringSubmatch(services[0]+service, -1) {
			environ = append(environ, m[1]+"="+m[2])
		}
		loaded, err := load(loadRequest{environ: environ, noFile: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := loaded.validate(); err != nil {
			t.Fatal(err)
		}
		if cfg := loaded.config; !cfg.Founder() || len(cfg.GRPC) != 2 || cfg.ShutdownTimeout >= 40*time.Second {
			t.Errorf("broker %d: founder %v, listeners %v, shutdown %v", cfg.BrokerID, cfg.Founder(), cfg.ListenerNames(), cfg.ShutdownTimeout)
		}
	}
}

// Every key has its line in the reference, and the reference has no other.
func TestEveryKeyIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(string(data), -1) {
		documented[m[1]] = strings.Trim(strings.TrimSpace(m[2]), "`")
	}
	s := newSchema()
	for path := range s.leaves {
		key := strings.ReplaceAll(path, anyName, "NAME")
		if _, ok := documented[key]; !ok {
			t.Errorf("%s is not in docs/configuration.md", key)
		}
	}
	defaults := map[string]string{}
	flatten("", reflect.ValueOf(broker.DefaultConfig()), func(path string, value any) {
		defaults[strings.ReplaceAll(s.pattern(path), anyName, "NAME")] = yamlScalar(plain(value))
	})
	for key, text := range documented {
		want, ok := defaults[key]
		if !ok {
			t.Errorf("docs/configuration.md has %s, which is no key", key)
		}
		if text != want {
			t.Errorf("docs/configuration.md says the default of %s is %q; it is %q", key, text, want)
		}
	}
}

// Whatever stands in the file: an error or settings, never a panic.
func FuzzReadYAML(f *testing.F) {
	files, _ := filepath.Glob("testdata/config/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	s := newSchema()
	f.Fuzz(func(t *testing.T, data []byte) {
		settings, errs := readYAML("fuzz", data, s)
		if len(errs) > 0 {
			return
		}
		if _, err := merge([][]setting{settings}); err != nil {
			t.Fatalf("settings that were accepted do not merge: %v", err)
		}
	})
}
