package broker

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func validConfig() Config {
	cfg := DefaultConfig()
	cfg.BrokerID = 1
	cfg.DataDir = "/var/lib/brokerd"
	return cfg
}

func TestDefaultConfigNeedsOnlyIdentity(t *testing.T) {
	if err := validConfig().Validate(); err != nil {
		t.Fatalf("defaults with id and directory: %v", err)
	}
	got := fields(t, DefaultConfig().Validate())
	if want := "broker_id data_dir"; got != want {
		t.Fatalf("bare defaults refuse %q, want %q", got, want)
	}
}

// fields gives the names of the refused fields, in order.
func fields(t *testing.T, err error) string {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %v, want joined field errors", err)
	}
	var names []string
	for _, one := range joined.Unwrap() {
		var field *FieldError
		if !errors.As(one, &field) {
			t.Fatalf("%v is no field error", one)
		}
		if field.Reason == "" {
			t.Errorf("%s is refused without a reason", field.Field)
		}
		names = append(names, field.Field)
	}
	return strings.Join(names, " ")
}

func TestValidateNamesTheField(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // refused fields; "" accepted
	}{
		{"negative id", func(c *Config) { c.BrokerID = -7 }, "broker_id"},
		{"largest id", func(c *Config) { c.BrokerID = math.MaxInt32 }, ""},
		{"rack with space", func(c *Config) { c.Rack = "a b" }, "rack"},
		{"rack", func(c *Config) { c.Rack = "eu-1/row.7" }, ""},
		{"seed without port", func(c *Config) { c.Seeds = []string{"a"} }, "seeds"},
		{"seed on any host", func(c *Config) { c.Seeds = []string{":9093"} }, "seeds"},
		{"seed on port 0", func(c *Config) { c.Seeds = []string{"a:0"} }, "seeds"},
		{"seed twice", func(c *Config) { c.Seeds = []string{"a:1", "a:1"} }, "seeds"},
		{"many seeds", func(c *Config) { c.Seeds = hosts(255) }, ""},
		{"too many seeds", func(c *Config) { c.Seeds = hosts(256) }, "seeds"},
		{"peer on all addresses", func(c *Config) { c.Peer.Listen = ":9093" }, "peer.advertise"},
		{"peer on all IPv6 addresses", func(c *Config) { c.Peer.Listen = "[::]:9093" }, "peer.advertise"},
		{"peer advertised", func(c *Config) { c.Peer = PeerConfig{Listen: ":9093", Advertise: "a:1"} }, ""},
		{"advertise any host", func(c *Config) { c.Peer.Advertise = "0.0.0.0:1" }, "peer.advertise"},
		{"port out of range", func(c *Config) { c.Peer.Listen = "a:65536" }, "peer.listen"},
		{"port by name", func(c *Config) { c.HTTP.Listen = "a:http" }, "http.listen"},
		{"no http", func(c *Config) { c.HTTP.Listen = "" }, "http.listen"},
		{"half TLS", func(c *Config) { c.Peer.TLS.CertFile = "x" }, "peer.tls.key_file peer.tls.ca_file"},
		{"no gRPC listener", func(c *Config) { c.GRPC = nil }, "grpc"},
		{"listener without address", func(c *Config) { c.GRPC["x"] = ListenerConfig{Advertise: "a:1"} }, "grpc.x.listen"},
		{"listener name", func(c *Config) { c.GRPC["X"] = ListenerConfig{Listen: "a:1"} }, "grpc.X"},
		{"two on one port", func(c *Config) { c.HTTP.Listen = c.Peer.Listen }, "http.listen"},
		{"two on one port, one on all addresses", func(c *Config) { c.HTTP.Listen = ":9095" }, "grpc.default.listen"},
		{"free ports", func(c *Config) {
			c.Peer.Listen, c.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0"
		}, ""},
		{"no partitions", func(c *Config) { c.Limits.MaxPartitions = 0 }, "limits.max_partitions"},
		{"small budget", func(c *Config) { c.Limits.ProduceBytes = 15 * MiB }, "limits.produce_bytes"},
		{"huge message", func(c *Config) { c.Limits.MaxMessageBytes = 65 * MiB }, "limits.max_message_bytes"},
		{"no cache", func(c *Config) { c.Limits.CacheBytes = 0 }, ""},
		{"hasty heartbeat", func(c *Config) { c.Raft.HeartbeatTimeout = 199 * time.Millisecond }, "raft.heartbeat_timeout"},
		{"election before heartbeat", func(c *Config) { c.Raft.ElectionTimeout = 999 * time.Millisecond }, "raft.election_timeout"},
		{"lease beyond heartbeat", func(c *Config) { c.Raft.LeaderLeaseTimeout = 2 * time.Second }, "raft.leader_lease_timeout"},
		{"slow batch", func(c *Config) { c.Raft.HeartbeatBatch = 251 * time.Millisecond }, "raft.heartbeat_batch"},
		{"short memory", func(c *Config) { c.ProducerIDExpiration = time.Second }, "producer_id_expiration"},
		{"endless shutdown", func(c *Config) { c.ShutdownTimeout = time.Hour }, "shutdown_timeout"},
		{"log level", func(c *Config) { c.Log.Level = "verbose" }, "log.level"},
		{"log format", func(c *Config) { c.Log.Format = "xml" }, "log.format"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := validConfig()
			test.change(&cfg)
			err := cfg.Validate()
			if test.want == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted, want %s refused", test.want)
			}
			if got := fields(t, err); got != test.want {
				t.Fatalf("refused %q, want %q\n%v", got, test.want, err)
			}
		})
	}
}

func hosts(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("host-%d:9093", i))
	}
	return list
}

// A configuration of zeroes or of extremes is refused, field by field, without
// a panic in the rules that relate two fields.
func TestValidateSurvivesExtremes(t *testing.T) {
	if err := (Config{}).Validate(); err == nil {
		t.Fatal("the zero Config is accepted")
	}
	cfg := validConfig()
	cfg.Limits = LimitsConfig{math.MinInt, math.MaxInt, math.MaxInt64, -1, math.MinInt64, math.MaxInt64, -1, -1, -1, -1, -1, -1, -1, -1, math.MaxInt64}
	cfg.Transactions = TransactionsConfig{0, -1, math.MaxInt64, 0, -1}
	cfg.Groups = GroupsConfig{-1, math.MaxInt, 0, math.MinInt64, -1, -1, 0, -1, math.MaxInt64, 0}
	cfg.Raft = RaftConfig{math.MaxInt64, math.MinInt64, math.MaxInt64, -1, math.MaxInt64, -1, -1, math.MaxInt64, false}
	if got := len(strings.Fields(fields(t, cfg.Validate()))); got != 32 {
		t.Fatalf("%d fields refused, want 32:\n%v", got, cfg.Validate())
	}
}

func TestFounder(t *testing.T) {
	cfg := validConfig()
	if !cfg.Founder() {
		t.Error("a broker without seeds founds a cluster of its own")
	}
	cfg.Seeds = []string{"a:9093", "b:9093"}
	if cfg.Founder() {
		t.Error("a broker that is not among the seeds only joins")
	}
	cfg.Peer = PeerConfig{Listen: ":9093", Advertise: "b:9093"}
	if !cfg.Founder() {
		t.Error("a broker that is among the seeds is a founder")
	}
}

func TestParseBytes(t *testing.T) {
	tests := map[string]Bytes{
		"0": 0, "1": 1, "1B": 1, " 64 KiB ": 64 << 10, "64kib": 64 << 10, "5MB": 5e6, "2kB": 2000,
		"3GiB": 3 << 30, "7TiB": 7 << 40, "9223372036854775807": math.MaxInt64,
	}
	for text, want := range tests {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "-1", "1.5MiB", "1XB", "9223372036854775808", "8388608TiB", "0x10", "1 2", "١"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", text, got)
		}
	}
}

func TestBytesTextGoesBothWays(t *testing.T) {
	for _, b := range []Bytes{0, 1, 1023, 1024, 1025, MiB, 3 * GiB, TiB, math.MaxInt64} {
		var back Bytes
		if err := back.UnmarshalText([]byte(b.String())); err != nil || back != b {
			t.Errorf("%d writes %q, which reads as %d, %v", int64(b), b, int64(back), err)
		}
	}
}
