package broker

import (
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"
)

// Config is everything one broker is told from outside. The tags are the names
// of the keys in the file, in the environment and on the command line
// (docs/configuration.md). Nothing below package broker reads flags, files or
// the environment.
//
// The zero value is not usable: start from DefaultConfig, set what differs and
// call Validate, as New does.
type Config struct {
	// BrokerID names this broker in its cluster, 0 to 2,147,483,647, for ever:
	// another broker that starts under the same id with another data directory
	// is refused. Default -1: not given, which Validate refuses.
	BrokerID int32 `koanf:"broker_id"`
	// DataDir is the directory with everything this broker must remember. One
	// broker holds its lock. It is created if its parent exists.
	DataDir string `koanf:"data_dir"`
	// Rack is where the broker stands. Replicas of a partition are spread over
	// racks where possible. Empty: no rack.
	Rack string `koanf:"rack"`
	// Seeds are the peer addresses of the brokers that found the cluster. A
	// broker whose own peer.advertise is among them is a founder: a new cluster
	// begins when all founders have met and none knows an older one. All others
	// join through any seed. Empty: this broker alone founds a cluster of one.
	Seeds []string `koanf:"seeds"`
	// Peer is the port on which the brokers of the cluster meet.
	Peer PeerConfig `koanf:"peer"`
	// GRPC are the listeners of the gRPC API, by name. A client is told the
	// addresses that all brokers advertise under the name of the listener it
	// came in by, so the same names should exist on all brokers.
	GRPC map[string]ListenerConfig `koanf:"grpc"`
	// Kafka are the listeners of the Kafka protocol, by name; the same holds for
	// them. None: Kafka clients are not served.
	Kafka map[string]ListenerConfig `koanf:"kafka"`
	// HTTP serves /metrics, /livez and /readyz.
	HTTP HTTPConfig `koanf:"http"`
	// Security says who clients are and what they may do.
	Security SecurityConfig `koanf:"security"`
	// Limits bound what clients and peers can make this broker hold.
	Limits LimitsConfig `koanf:"limits"`
	// Raft are the timings of all Raft groups. They should be the same on all
	// brokers.
	Raft RaftConfig `koanf:"raft"`
	// ProducerIDExpiration is how long a partition remembers an idle producer,
	// 1 minute to 10 years (Kafka: producer.id.expiration.ms). After it a
	// resent batch of that producer is no longer known as a duplicate (P25).
	ProducerIDExpiration time.Duration `koanf:"producer_id_expiration"`
	// ProducerIDExpirationCheck is how often a leader looks for idle producers,
	// 1 second to 1 day.
	ProducerIDExpirationCheck time.Duration `koanf:"producer_id_expiration_check"`
	// LeaderBalance is how often this broker hands partitions back to their
	// preferred leaders, 1 second to 1 day; 0: never (Kafka:
	// leader.imbalance.check.interval.seconds).
	LeaderBalance time.Duration `koanf:"leader_balance"`
	// RetentionCheck is how often a leader looks for records to delete, and every
	// replica for disk space to free, 100 ms to 1 day (Kafka:
	// log.retention.check.interval.ms).
	RetentionCheck time.Duration `koanf:"retention_check"`
	// Scrub says how the logs are searched for damage.
	Scrub ScrubConfig `koanf:"scrub"`
	// CatchUp says how new replicas, and those that were away for long, get what they lack.
	CatchUp CatchUpConfig `koanf:"catch_up"`
	// Compaction says how compacted logs are rewritten.
	Compaction CompactionConfig `koanf:"compaction"`
	// Transactions is about the transaction coordinator.
	Transactions TransactionsConfig `koanf:"transactions"`
	// Groups is about the group coordinator.
	Groups GroupsConfig `koanf:"groups"`
	// ShutdownTimeout is how long a stopping broker may take to hand over what
	// it leads and to answer what it has taken, 0 to 10 minutes.
	ShutdownTimeout time.Duration `koanf:"shutdown_timeout"`
	// Log says what is logged and how.
	Log LogConfig `koanf:"log"`
}

// CatchUpConfig says how replicas that lie far behind get what they lack.
type CatchUpConfig struct {
	// BytesPerSecond is how much all replicas of this broker together pull from others, 1 MiB to 64 GiB.
	BytesPerSecond Bytes `koanf:"bytes_per_second"`
}

// ScrubConfig says how the logs are searched for damage: they are read through, slowly.
type ScrubConfig struct {
	// Interval is the time from one look at all logs to the next, 1 second to 1 year.
	Interval time.Duration `koanf:"interval"`
	// BytesPerSecond is how much is read at most, 64 KiB to 64 GiB.
	BytesPerSecond Bytes `koanf:"bytes_per_second"`
}

// CompactionConfig says how the logs of topics with cleanup.policy=compact are rewritten.
type CompactionConfig struct {
	// Interval is how often is looked for logs to compact, 10 ms to 1 day (Kafka: log.cleaner.backoff.ms).
	Interval time.Duration `koanf:"interval"`
	// BytesPerSecond is how much is read for it at most, 64 KiB to 64 GiB (Kafka: log.cleaner.io.max.bytes.per.second).
	BytesPerSecond Bytes `koanf:"bytes_per_second"`
	// MemoryBytes is what the table of keys may take, 1 MiB to 64 GiB (Kafka: log.cleaner.dedupe.buffer.size). Where it
	// does not suffice for a log, that is read more than once.
	MemoryBytes Bytes `koanf:"memory_bytes"`
}

// ListenerConfig is one address to listen on, and the address others are told.
type ListenerConfig struct {
	// Listen is "host:port" or ":port" to accept on. Port 0 takes a free one.
	Listen string `koanf:"listen"`
	// Advertise is the "host:port" by which others reach this listener. Empty:
	// as Listen, which must then name a host.
	Advertise string `koanf:"advertise"`
	// TLS is spoken on the listener where a certificate is given.
	TLS ListenerTLSConfig `koanf:"tls"`
	// SASL has clients prove who they are.
	SASL SASLConfig `koanf:"sasl"`
}

// SASLConfig says how clients of a listener prove who they are.
type SASLConfig struct {
	// Mechanisms are those that are served, of PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 (Kafka: sasl.enabled.mechanisms). None: nothing
	// has to be proven.
	Mechanisms []string `koanf:"mechanisms"`
	// PlainWithoutTLS allows PLAIN, by which passwords are sent as they are, where nothing encrypts them.
	PlainWithoutTLS bool `koanf:"plain_without_tls"`
}

// Authorizers: nobody, or rules.
const (
	AuthorizerNone = "none"
	AuthorizerACL  = "acl"
)

// SecurityConfig says who clients are and what they may do. The same on all brokers.
type SecurityConfig struct {
	// Authorizer is none, or acl: clients may do what rules allow, and nothing else.
	Authorizer string `koanf:"authorizer"`
	// SuperUsers may do everything: "User:NAME" (Kafka: super.users).
	SuperUsers []string `koanf:"super_users"`
	// BootstrapUser is the first user of a cluster that has none, with the password that the first line of BootstrapPasswordFile
	// holds. Once there is any user, neither counts.
	BootstrapUser         string `koanf:"bootstrap_user"`
	BootstrapPasswordFile string `koanf:"bootstrap_password_file"`
	// MaxSession is for how long a client's proof is good, 1 second to 30 days (Kafka: connections.max.reauth.ms); 0: as long as the
	// connection.
	MaxSession time.Duration `koanf:"max_session"`
	// AuditLog is the file that takes one line of JSON for each call that is refused or that only administrators make. Empty: the
	// broker's log, where rules decide, else nothing.
	AuditLog string `koanf:"audit_log"`
}

// ListenerTLSConfig is the TLS of a listener for clients. The files are read again when they change.
type ListenerTLSConfig struct {
	// CertFile is this broker's certificate chain, PEM, and KeyFile its private key. Empty: no TLS.
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
	// CAFile holds the authorities that must have signed clients' certificates.
	CAFile string `koanf:"ca_file"`
	// ClientAuth is none, requested or required (Kafka: ssl.client.auth). Empty: required with a CAFile, else none.
	ClientAuth string `koanf:"client_auth"`
	// MinVersion is the lowest version of TLS that is spoken: 1.2, which is also what an empty text means, or 1.3.
	MinVersion string `koanf:"min_version"`
	// PrincipalMappingRules make names of users of the subjects of clients' certificates (Kafka: ssl.principal.mapping.rules).
	// Empty: the subject is the name.
	PrincipalMappingRules string `koanf:"principal_mapping_rules"`
}

// Enabled reports whether anything of TLS is configured.
func (t ListenerTLSConfig) Enabled() bool { return t != ListenerTLSConfig{} }

// Advertised gives the address that others are told.
func (l ListenerConfig) Advertised() string {
	if l.Advertise != "" {
		return l.Advertise
	}
	return l.Listen
}

// PeerConfig is the port of the Raft groups and of the calls between brokers.
type PeerConfig struct {
	// Listen is the "host:port" to accept peers on.
	Listen string `koanf:"listen"`
	// Advertise is the "host:port" by which the other brokers reach this one.
	// Empty: as Listen.
	Advertise string `koanf:"advertise"`
	// TLS makes the brokers prove to each other who they are. It must be on for
	// all brokers of a cluster or for none.
	TLS TLSConfig `koanf:"tls"`
}

// Advertised gives the address that the other brokers are told.
func (p PeerConfig) Advertised() string {
	return ListenerConfig{Listen: p.Listen, Advertise: p.Advertise}.Advertised()
}

// TLSConfig is mutual TLS: all three files are given, or none.
type TLSConfig struct {
	// CertFile is this broker's certificate chain, PEM. It serves both as
	// server and as client certificate.
	CertFile string `koanf:"cert_file"`
	// KeyFile is the private key of CertFile, PEM.
	KeyFile string `koanf:"key_file"`
	// CAFile holds the authorities that must have signed a peer's certificate.
	CAFile string `koanf:"ca_file"`
}

// Enabled reports whether TLS is configured.
func (t TLSConfig) Enabled() bool { return t != TLSConfig{} }

// HTTPConfig is the listener for metrics and health.
type HTTPConfig struct {
	// Listen is the "host:port" to serve on. There is no authentication.
	Listen string `koanf:"listen"`
	// Profiles serves the profiles of Go's runtime at /debug/pprof/. Whoever reaches
	// the listener can then slow the broker down, and sees pieces of its memory's
	// layout; not of its records.
	Profiles bool `koanf:"profiles"`
	// TLS is spoken on the listener where a certificate is given.
	TLS ListenerTLSConfig `koanf:"tls"`
}

// LimitsConfig bounds memory and counts. A client that meets a limit gets a
// retriable error that names it.
type LimitsConfig struct {
	// MaxPartitions is how many partition replicas this broker takes, 1 to
	// 100,000. A topic that needs more is refused.
	MaxPartitions int `koanf:"max_partitions"`
	// MaxConnections is how many client connections are open at once on all
	// listeners together, 1 to 1,000,000. More are closed at once.
	MaxConnections int `koanf:"max_connections"`
	// MaxMessageBytes is the upper bound for the topic setting
	// max.message.bytes, 1 KiB to 64 MiB. A batch must fit into one message.
	MaxMessageBytes Bytes `koanf:"max_message_bytes"`
	// Memory is what buffers of all kinds may hold together, at least 16 times
	// max_message_bytes: batches that wait for their commit and requests being
	// read, fetch answers, entries on their way to other brokers and from them,
	// and what replicas that catch up are sent. Each kind is guaranteed a part,
	// and takes more while others leave it; catching up yields first.
	Memory Bytes `koanf:"memory"`
	// ProduceBytes are the batches of all producers that wait for their commit, and
	// Kafka requests that are being read, 1 MiB and at least twice
	// max_message_bytes. Above it: did not happen, retry; Kafka clients wait.
	ProduceBytes Bytes `koanf:"produce_bytes"`
	// FetchBytes are the fetch answers of all consumers under way, 1 MiB and at
	// least twice max_message_bytes. Above it a fetch waits.
	FetchBytes Bytes `koanf:"fetch_bytes"`
	// ReplicationBytes are the entries under way to all peers, 1 MiB and at
	// least twice max_message_bytes; 16 MiB at most are under way to one.
	ReplicationBytes Bytes `koanf:"replication_bytes"`
	// CacheBytes are the newest entries of all partitions, kept so that
	// followers and consumers at the tail need not read the disk. 0 to 1 TiB.
	CacheBytes Bytes `koanf:"cache_bytes"`
	// GarbageBytes is what gathers in memory, beside half as much as is in use, before it is
	// collected, 1 MiB to 1 TiB. Less costs processor time. It belongs to the process: brokerd
	// serve and dev heed it, a program that has a Broker in it has its own GOGC. Where the
	// environment has GOGC, that holds instead.
	GarbageBytes Bytes `koanf:"garbage_bytes"`
	// MaxProducers is how many producers one partition remembers, 1 to
	// 1,000,000. Above it the longest idle one without an open transaction is
	// forgotten before its time.
	MaxProducers int `koanf:"max_producers_per_partition"`
	// MaxTransactionalIDs is how many transactional ids one shard of the
	// transaction coordinator remembers, 1 to 1,000,000. One more is refused.
	MaxTransactionalIDs int `koanf:"max_transactional_ids"`
	// MaxTransactionPartitions is how many partitions one transaction can
	// have, 1 to 100,000. A transaction that needs more has to be aborted.
	MaxTransactionPartitions int `koanf:"max_transaction_partitions"`
	// MaxGroups is how many consumer groups one shard of the group coordinator
	// remembers, 1 to 1,000,000. One more is refused.
	MaxGroups int `koanf:"max_groups"`
	// MaxGroupOffsets is how many offsets all groups of one shard have
	// together, 1 to 10,000,000. One more is refused.
	MaxGroupOffsets int `koanf:"max_group_offsets"`
	// MaxGroupBytes is how much clients can write into the groups of one
	// shard, 1 MiB to 512 MiB. What is more is refused.
	MaxGroupBytes Bytes `koanf:"max_group_bytes"`
}

// TransactionsConfig is about the transaction coordinator. All but Shards may be changed at any time.
type TransactionsConfig struct {
	// Shards is over how many Raft groups transactional ids are spread, 1 to
	// 1000. It counts when the first transaction of the cluster begins, and
	// stays as it is from then on.
	Shards int `koanf:"shards"`
	// MaxTimeout is the longest transaction timeout that a producer can ask
	// for, 1 second to 24 hours (Kafka: transaction.max.timeout.ms).
	MaxTimeout time.Duration `koanf:"max_timeout"`
	// TimeoutCheck is how late a transaction may be aborted after its timeout,
	// 10 milliseconds to 1 minute.
	TimeoutCheck time.Duration `koanf:"timeout_check"`
	// IDExpiration is how long a transactional id is remembered that is not
	// used, 1 minute to 10 years (Kafka: transactional.id.expiration.ms). A
	// producer that comes back later gets a new producer id.
	IDExpiration time.Duration `koanf:"id_expiration"`
	// IDExpirationCheck is how often a coordinator looks for such ids, 1
	// second to 1 day.
	IDExpirationCheck time.Duration `koanf:"id_expiration_check"`
}

// GroupsConfig is about the group coordinator. All but Shards may be changed at any time.
type GroupsConfig struct {
	// Shards is over how many Raft groups consumer groups are spread, 1 to
	// 1000. It counts when the first group of the cluster begins, and stays as
	// it is from then on (Kafka: offsets.topic.num.partitions).
	Shards int `koanf:"shards"`
	// MaxSize is how many members one group can have, 1 to 10,000 (Kafka:
	// group.consumer.max.size).
	MaxSize int `koanf:"max_size"`
	// SessionTimeout is for how long a member may be silent, 1 second to 1
	// hour (Kafka: group.consumer.session.timeout.ms).
	SessionTimeout time.Duration `koanf:"session_timeout"`
	// HeartbeatInterval is how often members are asked to be heard, 100
	// milliseconds to half of SessionTimeout (Kafka:
	// group.consumer.heartbeat.interval.ms).
	HeartbeatInterval time.Duration `koanf:"heartbeat_interval"`
	// Settle is how long a change of members or topics waits for others before
	// partitions are assigned anew, 1 millisecond to 1 minute.
	Settle time.Duration `koanf:"settle"`
	// MinSessionTimeout and MaxSessionTimeout bound the session timeouts that
	// members of the classic protocol ask for, 1 millisecond to 1 day (Kafka:
	// group.min.session.timeout.ms, group.max.session.timeout.ms).
	MinSessionTimeout time.Duration `koanf:"min_session_timeout"`
	MaxSessionTimeout time.Duration `koanf:"max_session_timeout"`
	// InitialRebalanceDelay is for how long the first member of the classic
	// protocol that comes into an empty group waits for others, 0 to 1 minute
	// (Kafka: group.initial.rebalance.delay.ms).
	InitialRebalanceDelay time.Duration `koanf:"initial_rebalance_delay"`
	// OffsetsRetention is how long an offset is kept that no member needs, 1
	// minute to 10 years (Kafka: offsets.retention.minutes).
	OffsetsRetention time.Duration `koanf:"offsets_retention"`
	// OffsetsRetentionCheck is how often a coordinator looks for such offsets,
	// 1 second to 1 day (Kafka: offsets.retention.check.interval.ms).
	OffsetsRetentionCheck time.Duration `koanf:"offsets_retention_check"`
}

// RaftConfig are the timings of all Raft groups of the broker.
type RaftConfig struct {
	// HeartbeatTimeout is how long a follower hears nothing before it asks for
	// an election, 200 ms to 1 minute. Lower: a dead leader is replaced sooner,
	// and a busy machine elects for nothing.
	HeartbeatTimeout time.Duration `koanf:"heartbeat_timeout"`
	// ElectionTimeout is how long a candidate waits for votes, at least
	// HeartbeatTimeout, at most 1 minute.
	ElectionTimeout time.Duration `koanf:"election_timeout"`
	// LeaderLeaseTimeout is how long a leader that hears from no majority stays
	// leader, 10 ms to HeartbeatTimeout; 0: as long as that.
	LeaderLeaseTimeout time.Duration `koanf:"leader_lease_timeout"`
	// CommitTimeout is how soon an idle leader tells its followers the commit
	// index, 10 ms to 1 minute.
	CommitTimeout time.Duration `koanf:"commit_timeout"`
	// HeartbeatBatch is how long heartbeats of all groups to one broker are
	// collected for one message, 1 ms to a quarter of HeartbeatTimeout.
	HeartbeatBatch time.Duration `koanf:"heartbeat_batch"`
	// SnapshotBytes is how much log a group writes between two snapshots of its
	// state, 64 KiB to 64 GiB. More: a longer replay after a crash.
	SnapshotBytes Bytes `koanf:"snapshot_bytes"`
	// MaxReplayBytes is about how much log all groups of this broker together apply
	// again after a crash, 16 MiB to 64 GiB: beyond it those with most of it take
	// their snapshots early. A group below 4 MiB takes none for that.
	MaxReplayBytes Bytes `koanf:"max_replay_bytes"`
	// MaxInFlightBytes are the entries of one group that are proposed and not
	// yet committed, 64 KiB to 1 GiB. A single larger entry passes alone.
	MaxInFlightBytes Bytes `koanf:"max_in_flight_bytes"`
	// QueueLogs lets Raft go on while entries of partitions are being written. What
	// must not be believed before they are on disk waits, acknowledgements first
	// (docs/decisions/0008-durable-gate.md). False: Raft waits for the disk.
	QueueLogs bool `koanf:"queue_logs"`
}

// LogConfig says what is logged, to standard error.
type LogConfig struct {
	// Level is the least severe level logged: debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is text, json, or auto: text on a terminal, else json.
	Format string `koanf:"format"`
}

// SlogLevel gives the level as slog knows it. Unknown names give info; Validate
// refuses them.
func (l LogConfig) SlogLevel() slog.Level {
	var level slog.Level
	if level.UnmarshalText([]byte(l.Level)) != nil {
		return slog.LevelInfo
	}
	return level
}

// Names of the log formats.
const (
	LogAuto = "auto"
	LogText = "text"
	LogJSON = "json"
)

// DefaultListener is the name of the gRPC listener, and of the Kafka listener,
// that exists when none is configured.
const DefaultListener = "default"

// Ports by default. Further brokers on one host add PortStep for each.
const (
	KafkaPort = 9092
	PeerPort  = 9093
	GRPCPort  = 9095
	HTTPPort  = 9644
	PortStep  = 1000
)

// noBrokerID is the broker id of a configuration that has none.
const noBrokerID = -1

// DefaultConfig gives every default in one place. BrokerID and DataDir have
// none. All listeners are on loopback, as none of them authenticates clients.
func DefaultConfig() Config {
	return Config{
		BrokerID: noBrokerID,
		Peer:     PeerConfig{Listen: loopback(PeerPort)},
		GRPC:     map[string]ListenerConfig{DefaultListener: {Listen: loopback(GRPCPort)}},
		Kafka:    map[string]ListenerConfig{DefaultListener: {Listen: loopback(KafkaPort)}},
		HTTP:     HTTPConfig{Listen: loopback(HTTPPort)},
		Security: SecurityConfig{Authorizer: AuthorizerNone},
		Limits: LimitsConfig{
			MaxPartitions:    2_000,
			MaxConnections:   10_000,
			MaxMessageBytes:  8 * MiB,
			Memory:           256 * MiB,
			ProduceBytes:     128 * MiB,
			FetchBytes:       128 * MiB,
			ReplicationBytes: 64 * MiB,
			CacheBytes:       128 * MiB,
			GarbageBytes:     40 * MiB,
			MaxProducers:     10_000,

			MaxTransactionalIDs:      10_000,
			MaxTransactionPartitions: 10_000,

			MaxGroups:       10_000,
			MaxGroupOffsets: 200_000,
			MaxGroupBytes:   256 * MiB,
		},
		Raft: RaftConfig{
			HeartbeatTimeout: time.Second,
			ElectionTimeout:  time.Second,
			CommitTimeout:    time.Second,
			HeartbeatBatch:   20 * time.Millisecond,
			SnapshotBytes:    64 * MiB,
			MaxReplayBytes:   256 * MiB,
			MaxInFlightBytes: 4 * MiB,
			QueueLogs:        true,
		},
		ProducerIDExpiration:      24 * time.Hour,
		ProducerIDExpirationCheck: 10 * time.Minute,
		LeaderBalance:             10 * time.Second,
		RetentionCheck:            5 * time.Minute,
		Scrub:                     ScrubConfig{Interval: 24 * time.Hour, BytesPerSecond: 8 * MiB},
		CatchUp:                   CatchUpConfig{BytesPerSecond: 64 * MiB},
		Compaction:                CompactionConfig{Interval: 15 * time.Second, BytesPerSecond: 64 * MiB, MemoryBytes: 64 * MiB},
		Transactions: TransactionsConfig{
			Shards:            16,
			MaxTimeout:        15 * time.Minute,
			TimeoutCheck:      time.Second,
			IDExpiration:      7 * 24 * time.Hour,
			IDExpirationCheck: time.Hour,
		},
		Groups: GroupsConfig{
			Shards:                16,
			MaxSize:               1_000,
			SessionTimeout:        45 * time.Second,
			HeartbeatInterval:     5 * time.Second,
			Settle:                100 * time.Millisecond,
			MinSessionTimeout:     6 * time.Second,
			MaxSessionTimeout:     30 * time.Minute,
			InitialRebalanceDelay: 3 * time.Second,
			OffsetsRetention:      7 * 24 * time.Hour,
			OffsetsRetentionCheck: 10 * time.Minute,
		},
		ShutdownTimeout: 30 * time.Second,
		Log:             LogConfig{Level: "info", Format: LogAuto},
	}
}

// Founder reports whether this broker may found a new cluster, together with
// the other seeds.
func (c Config) Founder() bool {
	return len(c.Seeds) == 0 || slices.Contains(c.Seeds, c.Peer.Advertised())
}

// ListenerNames gives the names of the gRPC listeners, sorted.
func (c Config) ListenerNames() []string { return slices.Sorted(maps.Keys(c.GRPC)) }

// KafkaListenerNames gives the names of the Kafka listeners, sorted.
func (c Config) KafkaListenerNames() []string { return slices.Sorted(maps.Keys(c.Kafka)) }

func loopback(port int) string {
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
}
