package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/sasl"
	"github.com/oncelog/oncelog/internal/secure"
)

// FieldError is one setting that cannot be used.
type FieldError struct {
	// Field is the key as docs/configuration.md has it, such as peer.listen.
	Field string
	// Reason says what is wrong, what is allowed, and what would follow.
	Reason string
}

// Error is "field: reason".
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Validate reports every setting that cannot be used, each as a *FieldError,
// joined. A nil error means New will not refuse the configuration as such.
func (c Config) Validate() error {
	var v validator
	c.validateIdentity(&v)
	c.validateListeners(&v)
	c.Limits.validate(&v)
	c.Raft.validate(&v)
	v.duration("producer_id_expiration", c.ProducerIDExpiration, time.Minute, 10*365*24*time.Hour,
		"a producer that pauses longer than this can write a duplicate")
	v.duration("producer_id_expiration_check", c.ProducerIDExpirationCheck, time.Second, 24*time.Hour,
		"idle producers hold memory until the next check")
	if c.LeaderBalance != 0 {
		v.duration("leader_balance", c.LeaderBalance, time.Second, 24*time.Hour,
			"a broker that comes back leads nothing until then; 0 switches it off")
	}
	v.duration("retention_check", c.RetentionCheck, 100*time.Millisecond, 24*time.Hour,
		"what retention no longer keeps stays until the next check")
	v.duration("scrub.interval", c.Scrub.Interval, time.Second, 365*24*time.Hour,
		"damage is found only while others still have what it destroyed")
	v.size("scrub.bytes_per_second", c.Scrub.BytesPerSecond, 64*KiB, 64*GiB,
		"the search shares the disk with clients")
	v.size("catch_up.bytes_per_second", c.CatchUp.BytesPerSecond, 1*MiB, 64*GiB,
		"replicas that copy share disk and network with clients")
	c.Security.validate(&v)
	v.duration("compaction.interval", c.Compaction.Interval, 10*time.Millisecond, 24*time.Hour,
		"what compaction could remove stays until the next look")
	v.size("compaction.bytes_per_second", c.Compaction.BytesPerSecond, 64*KiB, 64*GiB,
		"compaction shares the disk with clients")
	v.size("compaction.memory_bytes", c.Compaction.MemoryBytes, MiB, 64*GiB,
		"with less, logs with many keys are read many times")
	c.Transactions.validate(&v)
	c.Groups.validate(&v)
	v.duration("shutdown_timeout", c.ShutdownTimeout, 0, 10*time.Minute,
		"a service manager kills what stops too slowly")
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, LogAuto, LogText, LogJSON)
	return errors.Join(v.errs...)
}

func (c Config) validateIdentity(v *validator) {
	if c.BrokerID < 0 {
		wrong := "is required"
		if c.BrokerID != noBrokerID {
			wrong = fmt.Sprintf("%d is negative", c.BrokerID)
		}
		v.add("broker_id", "%s: a number from 0 to 2147483647 that no other broker of the cluster has", wrong)
	}
	if c.DataDir == "" {
		v.add("data_dir", "is required: the directory where this broker keeps its data")
	}
	if !rackName.MatchString(c.Rack) {
		v.add("rack", "%q is not a rack name: at most 255 printable ASCII characters without spaces", c.Rack)
	}
	seen := make(map[string]bool, len(c.Seeds))
	for _, seed := range c.Seeds {
		v.dialable("seeds", seed)
		if seen[seed] {
			v.add("seeds", "%q is listed twice: the founders are counted by it", seed)
		}
		seen[seed] = true
	}
	if len(c.Seeds) > 255 {
		v.add("seeds", "has %d addresses: at most 255", len(c.Seeds))
	}
}

var (
	rackName     = regexp.MustCompile(`^[!-~]{0,255}$`)
	listenerName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
)

func (c Config) validateListeners(v *validator) {
	v.listener("peer", ListenerConfig{Listen: c.Peer.Listen, Advertise: c.Peer.Advertise})
	tls := c.Peer.TLS
	for _, file := range []struct{ key, name string }{
		{"cert_file", tls.CertFile}, {"key_file", tls.KeyFile}, {"ca_file", tls.CAFile},
	} {
		if tls.Enabled() && file.name == "" {
			v.add("peer.tls."+file.key, "is required: cert_file, key_file and ca_file are given together or not at all")
		}
	}
	if len(c.GRPC) == 0 {
		v.add("grpc", "has no listener: no client could reach the broker")
	}
	for _, name := range c.ListenerNames() {
		if !listenerName.MatchString(name) {
			v.add("grpc."+name, "is not a listener name: a lower-case letter, then at most 62 of a-z, 0-9, - and _")
		}
		v.listener("grpc."+name, c.GRPC[name])
		v.tls("grpc."+name+".tls", c.GRPC[name].TLS)
		v.sasl("grpc."+name, c.GRPC[name])
	}
	for _, name := range c.KafkaListenerNames() {
		if !listenerName.MatchString(name) {
			v.add("kafka."+name, "is not a listener name: a lower-case letter, then at most 62 of a-z, 0-9, - and _")
		}
		v.listener("kafka."+name, c.Kafka[name])
		v.tls("kafka."+name+".tls", c.Kafka[name].TLS)
		v.sasl("kafka."+name, c.Kafka[name])
	}
	if n, most := len(c.GRPC)+len(c.Kafka), metadata.MaxListeners-2; n > most {
		v.add("grpc, kafka", "have %d listeners: at most %d can be advertised beside those for peers and HTTP", n, most)
	}
	v.address("http.listen", c.HTTP.Listen)
	v.tls("http.tls", c.HTTP.TLS)
	c.validateDistinctPorts(v)
}

// validateDistinctPorts finds two listeners on the same port, which would
// otherwise be an error of the operating system without the name of either.
func (c Config) validateDistinctPorts(v *validator) {
	type use struct{ field, address string }
	uses := []use{{"peer.listen", c.Peer.Listen}, {"http.listen", c.HTTP.Listen}}
	for _, name := range c.ListenerNames() {
		uses = append(uses, use{"grpc." + name + ".listen", c.GRPC[name].Listen})
	}
	for _, name := range c.KafkaListenerNames() {
		uses = append(uses, use{"kafka." + name + ".listen", c.Kafka[name].Listen})
	}
	for i, a := range uses {
		for _, b := range uses[:i] {
			if sameSocket(a.address, b.address) {
				v.add(a.field, "%s is taken by %s (%s)", a.address, b.field, b.address)
			}
		}
	}
}

// sameSocket reports whether two listen addresses cannot be open at once.
func sameSocket(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isWildcard(hostA) || isWildcard(hostB)
}

func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func (l LimitsConfig) validate(v *validator) {
	v.count("limits.max_partitions", l.MaxPartitions, 1, 100_000, "each replica costs files, goroutines and memory")
	v.count("limits.max_connections", l.MaxConnections, 1, 1_000_000, "each connection costs a file descriptor and memory")
	least := MiB
	if v.size("limits.max_message_bytes", l.MaxMessageBytes, KiB, 64*MiB, "a batch is one message and one entry of the log") {
		least = max(least, 2*l.MaxMessageBytes)
		v.size("limits.memory", l.Memory, max(16*MiB, memoryParts*l.MaxMessageBytes), TiB, "each kind of buffers needs room for two of the largest messages")
	}
	const full = "below twice max_message_bytes large batches would stop each other"
	v.size("limits.produce_bytes", l.ProduceBytes, least, TiB, full)
	v.size("limits.fetch_bytes", l.FetchBytes, least, TiB, full)
	v.size("limits.replication_bytes", l.ReplicationBytes, least, TiB, full)
	v.size("limits.cache_bytes", l.CacheBytes, 0, TiB, "without a cache every follower and consumer reads the disk")
	v.size("limits.garbage_bytes", l.GarbageBytes, MiB, TiB, "with little of it the collector runs all the time")
	v.count("limits.max_producers_per_partition", l.MaxProducers, 1, 1_000_000,
		"a producer that is forgotten early can write a duplicate")
	v.count("limits.max_transactional_ids", l.MaxTransactionalIDs, 1, 1_000_000, "each id costs memory on the replicas of its shard")
	v.count("limits.max_transaction_partitions", l.MaxTransactionPartitions, 1, 100_000, "each partition of a transaction costs a marker")
	v.count("limits.max_groups", l.MaxGroups, 1, 1_000_000, "each group costs memory on the replicas of its shard")
	v.count("limits.max_group_offsets", l.MaxGroupOffsets, 1, 10_000_000, "each offset costs memory on the replicas of its shard")
	v.size("limits.max_group_bytes", l.MaxGroupBytes, MiB, 512*MiB, "a snapshot of a shard has about as much")
}

func (t TransactionsConfig) validate(v *validator) {
	v.count("transactions.shards", t.Shards, 1, 1000, "each shard is a Raft group, and their number can never be changed")
	v.duration("transactions.max_timeout", t.MaxTimeout, time.Second, 24*time.Hour,
		"an open transaction holds back readers of committed data")
	v.duration("transactions.timeout_check", t.TimeoutCheck, 10*time.Millisecond, time.Minute,
		"a transaction is aborted that much too late")
	v.duration("transactions.id_expiration", t.IDExpiration, time.Minute, 10*365*24*time.Hour,
		"a producer that is forgotten while it pauses loses its transaction")
	v.duration("transactions.id_expiration_check", t.IDExpirationCheck, time.Second, 24*time.Hour,
		"unused ids hold memory until the next check")
}

func (g GroupsConfig) validate(v *validator) {
	v.count("groups.shards", g.Shards, 1, 1000, "each shard is a Raft group, and their number can never be changed")
	v.count("groups.max_size", g.MaxSize, 1, 10_000, "every member takes part in every rebalance")
	if v.duration("groups.session_timeout", g.SessionTimeout, time.Second, time.Hour,
		"a member that has died keeps its partitions that long") {
		v.duration("groups.heartbeat_interval", g.HeartbeatInterval, 100*time.Millisecond, g.SessionTimeout/2,
			"one that is lost must not end a session")
	}
	v.duration("groups.settle", g.Settle, time.Millisecond, time.Minute, "every rebalance waits that long")
	if v.duration("groups.max_session_timeout", g.MaxSessionTimeout, time.Millisecond, 24*time.Hour,
		"a member that has died keeps its partitions that long") {
		v.duration("groups.min_session_timeout", g.MinSessionTimeout, time.Millisecond, g.MaxSessionTimeout,
			"members that are heard too often load the coordinator")
	}
	v.duration("groups.initial_rebalance_delay", g.InitialRebalanceDelay, 0, time.Minute, "the first member of a group waits that long")
	v.duration("groups.offsets_retention", g.OffsetsRetention, time.Minute, 10*365*24*time.Hour,
		"a group that pauses for longer loses its place")
	v.duration("groups.offsets_retention_check", g.OffsetsRetentionCheck, time.Second, 24*time.Hour,
		"old offsets hold memory until the next check")
}

func (r RaftConfig) validate(v *validator) {
	const minute = time.Minute
	// The other timings are compared with the heartbeat's only where that is sound.
	if v.duration("raft.heartbeat_timeout", r.HeartbeatTimeout, 200*time.Millisecond, minute,
		"short ones elect for nothing when the machine is busy, long ones keep a dead leader") {
		v.duration("raft.election_timeout", r.ElectionTimeout, r.HeartbeatTimeout, minute,
			"an election must outlast a heartbeat")
		if r.LeaderLeaseTimeout != 0 {
			v.duration("raft.leader_lease_timeout", r.LeaderLeaseTimeout, 10*time.Millisecond, r.HeartbeatTimeout,
				"a leader without a majority must step down before another is elected")
		}
		v.duration("raft.heartbeat_batch", r.HeartbeatBatch, time.Millisecond, r.HeartbeatTimeout/4,
			"a heartbeat that waits longer would come too late")
	}
	v.duration("raft.commit_timeout", r.CommitTimeout, 10*time.Millisecond, minute, "each idle group sends a message that often")
	v.size("raft.snapshot_bytes", r.SnapshotBytes, 4*KiB, 64*GiB, "that much log is replayed after a crash")
	v.size("raft.max_replay_bytes", r.MaxReplayBytes, 16*MiB, 64*GiB, "a start after a crash takes about a second for each GiB")
	v.size("raft.max_in_flight_bytes", r.MaxInFlightBytes, 64*KiB, GiB,
		"little stops the pipeline, much only waits in memory")
}

// validator collects what is wrong. Its checks report whether all was well.
type validator struct{ errs []error }

func (v *validator) add(field, format string, args ...any) {
	v.errs = append(v.errs, &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (v *validator) duration(field string, got, least, most time.Duration, why string) bool {
	if got < least || got > most {
		v.add(field, "%s is not between %s and %s: %s", got, least, most, why)
		return false
	}
	return true
}

func (v *validator) size(field string, got, least, most Bytes, why string) bool {
	if got < least || got > most {
		v.add(field, "%s is not between %s and %s: %s", got, least, most, why)
		return false
	}
	return true
}

func (v *validator) count(field string, got, least, most int, why string) {
	if got < least || got > most {
		v.add(field, "%d is not between %d and %d: %s", got, least, most, why)
	}
}

func (v *validator) oneOf(field, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		v.add(field, "%q is unknown: use one of %q", got, allowed)
	}
}

// listener checks both addresses of a listener; what others are told must name
// a host and a port.
func (v *validator) listener(field string, l ListenerConfig) {
	if !v.address(field+".listen", l.Listen) {
		return
	}
	if l.Advertise != "" {
		v.dialable(field+".advertise", l.Advertise)
		return
	}
	// Port 0 needs no advertise: the port that was taken is advertised.
	if host, _, _ := net.SplitHostPort(l.Listen); isWildcard(host) {
		v.add(field+".advertise", "is required: listen is %q, which names no host that others could dial", l.Listen)
	}
}

func (v *validator) sasl(field string, l ListenerConfig) {
	for _, m := range l.SASL.Mechanisms {
		v.oneOf(field+".sasl.mechanisms", m, sasl.Known...)
	}
	if slices.Contains(l.SASL.Mechanisms, sasl.Plain) && !l.TLS.Enabled() && !l.SASL.PlainWithoutTLS {
		v.add(field+".sasl.mechanisms", "has PLAIN, which sends passwords as they are, on a listener without TLS: add TLS, or set plain_without_tls")
	}
}

func (s SecurityConfig) validate(v *validator) {
	v.oneOf("security.authorizer", s.Authorizer, AuthorizerNone, AuthorizerACL)
	for _, u := range s.SuperUsers {
		if name, ok := strings.CutPrefix(u, "User:"); !ok || name == "" {
			v.add("security.super_users", "%q is not User:NAME", u)
		}
	}
	if (s.BootstrapUser == "") != (s.BootstrapPasswordFile == "") {
		v.add("security.bootstrap_user", "and bootstrap_password_file belong together: set both or neither")
	}
	if len(s.BootstrapUser) > metadata.MaxUserLength {
		v.add("security.bootstrap_user", "has %d bytes: at most %d", len(s.BootstrapUser), metadata.MaxUserLength)
	}
	if s.BootstrapUser != "" && s.Authorizer == AuthorizerACL && !slices.Contains(s.SuperUsers, "User:"+s.BootstrapUser) {
		v.add("security.super_users", "lacks User:%s: the first user could do nothing", s.BootstrapUser)
	}
	if s.MaxSession != 0 {
		v.duration("security.max_session", s.MaxSession, time.Second, 30*24*time.Hour, "a user that is gone keeps its connections that long")
	}
}

// tls checks what can be told without reading the files.
func (v *validator) tls(field string, t ListenerTLSConfig) {
	if !t.Enabled() {
		return
	}
	if t.CertFile == "" {
		v.add(field+".cert_file", "is required where anything of TLS is set")
	}
	if t.KeyFile == "" {
		v.add(field+".key_file", "is required where anything of TLS is set")
	}
	auth, err := secure.ClientAuth(t.ClientAuth, t.CAFile != "")
	switch {
	case err != nil:
		v.add(field+".client_auth", "%v", err)
	case auth != tls.NoClientCert && t.CAFile == "":
		v.add(field+".ca_file", "is required: without authorities no client's certificate can be checked")
	}
	if _, err := secure.Version(t.MinVersion); err != nil {
		v.add(field+".min_version", "%v", err)
	}
	if _, err := secure.ParseMapping(t.PrincipalMappingRules); err != nil {
		v.add(field+".principal_mapping_rules", "%v", err)
	}
}

// address checks "host:port" where the host may be empty and the port 0.
func (v *validator) address(field, address string) bool {
	if address == "" {
		v.add(field, "is required: host:port, or :port for all addresses of this machine")
		return false
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		v.add(field, "%q is not host:port", address)
		return false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		v.add(field, "%q has port %q: a port is a number from 0 to 65535", address, port)
		return false
	}
	return true
}

// dialable checks an address that others are to dial.
func (v *validator) dialable(field, address string) {
	if !v.address(field, address) {
		return
	}
	host, port, _ := net.SplitHostPort(address)
	if isWildcard(host) {
		v.add(field, "%q names no host that others could dial", address)
	}
	if n, _ := strconv.Atoi(port); n == 0 {
		v.add(field, "%q has port 0, which nobody can dial", address)
	}
}
