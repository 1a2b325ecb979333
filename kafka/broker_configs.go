package kafka

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/record"
)

// Settings are those of the broker that Kafka has under names of its own.
type Settings struct {
	// MaxConnections is how many connections the broker takes.
	MaxConnections int
	// MaxTransactionTimeout is the longest that a producer may ask for, TransactionTimeoutCheck how often coordinators look for what has timed out,
	// TransactionalIDExpiration how long an id is remembered.
	MaxTransactionTimeout, TransactionTimeoutCheck, TransactionalIDExpiration time.Duration
	// GroupSession and GroupHeartbeat are what members of KIP-848 are told; GroupMinSession and GroupMaxSession bound what those of the classic protocol
	// ask for, GroupInitialDelay is how long the first of them waits for others.
	GroupSession, GroupHeartbeat, GroupMinSession, GroupMaxSession, GroupInitialDelay time.Duration
	GroupMaxSize                                                                      int
	// OffsetsRetention is how long an offset is kept that nobody needs, OffsetsRetentionCheck how often coordinators look for such.
	OffsetsRetention, OffsetsRetentionCheck time.Duration
}

// brokerConfig is a config of a broker as clients see it. An empty value is one that is not set, which clients see as null.
type brokerConfig struct {
	name, value string
	kind        kmsg.ConfigType
	source      kmsg.ConfigSource
}

// groupConfigs are what holds for the members of any group of KIP-848; none has configs of its own.
func (c *conn) groupConfigs(q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig, reason, message string) {
	if q.ResourceName == "" {
		return nil, frontdoor.ReasonInvalidRequest, "the group has no name"
	}
	held := []brokerConfig{
		millis("consumer.heartbeat.interval.ms", c.c.Settings.GroupHeartbeat, 5*time.Second),
		millis("consumer.session.timeout.ms", c.c.Settings.GroupSession, 45*time.Second),
	}
	return described(held, q, req), "", ""
}

// numeric is a number of the broker's configuration, and whether it is Kafka's default.
func numeric(name string, value, normal int64) brokerConfig {
	source := kmsg.ConfigSourceStaticBrokerConfig
	if value == normal {
		source = kmsg.ConfigSourceDefaultConfig
	}
	return brokerConfig{name, strconv.FormatInt(value, 10), kmsg.ConfigTypeInt, source}
}

func millis(name string, value, normal time.Duration) brokerConfig {
	return numeric(name, value.Milliseconds(), normal.Milliseconds())
}

// long is a number that has 64 bits in Kafka.
func long(b brokerConfig) brokerConfig {
	b.kind = kmsg.ConfigTypeLong
	return b
}

// described are those of some configs that a request asks for, read-only.
func described(all []brokerConfig, q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig) {
	for _, held := range all {
		if !wants(q, held.name) {
			continue
		}
		d := kmsg.NewDescribeConfigsResponseResourceConfig()
		d.Name, d.ReadOnly, d.Source, d.ConfigType = held.name, true, held.source, held.kind
		d.IsDefault = held.source == kmsg.ConfigSourceDefaultConfig
		if held.value != "" {
			d.Value = &held.value
		}
		if req.IncludeSynonyms && d.Value != nil {
			d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(held.name, held.value, d.Source))
		}
		list = append(list, d)
	}
	return list
}

// brokerConfigs are what clients want to know of a broker. They are this broker's, and read-only: only the broker itself is asked for
// them, or, with an empty name, the cluster.
func (c *conn) brokerConfigs(img *metadata.Image, q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig, reason, message string) {
	self := strconv.Itoa(int(c.c.Cluster.Self()))
	if q.ResourceName != "" && q.ResourceName != self {
		return nil, frontdoor.ReasonInvalidRequest, "this is broker " + self + ": ask broker " + q.ResourceName + " itself"
	}
	if q.ResourceName == "" {
		return nil, "", "" // nothing of it is set for all brokers at once
	}
	all := slices.Concat(c.ownConfigs(self), c.coordinatorConfigs(img), topicDefaults(img))
	slices.SortFunc(all, func(a, b brokerConfig) int { return strings.Compare(a.name, b.name) })
	return described(all, q, req), "", ""
}

// ownConfigs are those that are the broker's own.
func (c *conn) ownConfigs(self string) []brokerConfig {
	const static, fixed = kmsg.ConfigSourceStaticBrokerConfig, kmsg.ConfigSourceDefaultConfig
	reauth := time.Duration(0)
	if c.c.Guard != nil {
		reauth = c.c.Guard.MaxSession()
	}
	return []brokerConfig{
		{"auto.create.topics.enable", "false", kmsg.ConfigTypeBoolean, static},
		{"broker.id", self, kmsg.ConfigTypeInt, static},
		long(millis("connections.max.idle.ms", c.c.IdleTimeout, 10*time.Minute)),
		long(millis("connections.max.reauth.ms", reauth, 0)),
		{"default.replication.factor", "3", kmsg.ConfigTypeInt, static},
		{"delete.topic.enable", "true", kmsg.ConfigTypeBoolean, fixed},
		numeric("max.connections", int64(c.c.Settings.MaxConnections), math.MaxInt32),
		{"node.id", self, kmsg.ConfigTypeInt, static},
		{"num.partitions", "1", kmsg.ConfigTypeInt, static},
		numeric("socket.request.max.bytes", int64(c.c.MaxRequestBytes), 100<<20),
	}
}

// coordinatorConfigs are those of groups and transactions. How many shards there are is known once there are any.
func (c *conn) coordinatorConfigs(img *metadata.Image) []brokerConfig {
	s, static := &c.c.Settings, kmsg.ConfigSourceStaticBrokerConfig
	list := []brokerConfig{
		millis("group.consumer.heartbeat.interval.ms", s.GroupHeartbeat, 5*time.Second),
		numeric("group.consumer.max.size", int64(s.GroupMaxSize), math.MaxInt32),
		millis("group.consumer.session.timeout.ms", s.GroupSession, 45*time.Second),
		millis("group.initial.rebalance.delay.ms", s.GroupInitialDelay, 3*time.Second),
		millis("group.max.session.timeout.ms", s.GroupMaxSession, 30*time.Minute),
		numeric("group.max.size", int64(s.GroupMaxSize), math.MaxInt32),
		millis("group.min.session.timeout.ms", s.GroupMinSession, 6*time.Second),
		numeric("offset.metadata.max.bytes", group.MaxMetadataUnits, 4096),
		long(millis("offsets.retention.check.interval.ms", s.OffsetsRetentionCheck, 10*time.Minute)),
		numeric("offsets.retention.minutes", int64(s.OffsetsRetention/time.Minute), 10080),
		{"offsets.topic.replication.factor", "3", kmsg.ConfigTypeShort, static},
		millis("transaction.abort.timed.out.transaction.cleanup.interval.ms", s.TransactionTimeoutCheck, 10*time.Second),
		millis("transaction.max.timeout.ms", s.MaxTransactionTimeout, 15*time.Minute),
		{"transaction.state.log.replication.factor", "3", kmsg.ConfigTypeShort, static},
		millis("transactional.id.expiration.ms", s.TransactionalIDExpiration, 7*24*time.Hour),
	}
	for name, topic := range map[string]string{"offsets.topic.num.partitions": record.GroupsTopic, "transaction.state.log.num.partitions": record.TransactionsTopic} {
		if t, ok := img.Topic(topic); ok {
			list = append(list, numeric(name, int64(len(t.Partitions)), 50))
		}
	}
	return list
}

// brokerNames are what the defaults of topics are called that Kafka has as configs of brokers.
var brokerNames = []struct{ topic, broker string }{
	{"cleanup.policy", "log.cleanup.policy"},
	{"compression.type", "compression.type"},
	{"delete.retention.ms", "log.cleaner.delete.retention.ms"},
	{"max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"},
	{"max.message.bytes", "message.max.bytes"},
	{"message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"},
	{"message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"},
	{"message.timestamp.type", "log.message.timestamp.type"},
	{"min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"},
	{"min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"},
	{"min.insync.replicas", "min.insync.replicas"},
	{"producer.id.expiration.ms", "producer.id.expiration.ms"},
	{"retention.bytes", "log.retention.bytes"},
	{"retention.ms", "log.retention.ms"},
	{"segment.bytes", "log.segment.bytes"},
	{"segment.ms", "log.roll.ms"},
	{"unclean.leader.election.enable", "unclean.leader.election.enable"},
}

// inHours are configs of brokers in ms that Kafka leaves unset: their defaults are those of others, in hours.
var inHours = map[string]string{"log.retention.ms": "log.retention.hours", "log.roll.ms": "log.roll.hours"}

// topicDefaults are what holds for topics that set nothing, under the names of brokers' configs.
func topicDefaults(img *metadata.Image) (list []brokerConfig) {
	for _, held := range img.ConfigsOf(nil) {
		for _, n := range brokerNames {
			if n.topic == held.Def.Name {
				kind := configType(held.Def)
				if n.topic == "producer.id.expiration.ms" {
					kind = kmsg.ConfigTypeInt // it is no config of topics in Kafka
				}
				shown := brokerConfig{n.broker, held.Value, kind, configSource(held.Source)}
				if hours := inHours[n.broker]; hours != "" {
					ms, _ := strconv.ParseInt(held.Def.Default, 10, 64)
					normal := ms / time.Hour.Milliseconds()
					list = append(list, numeric(hours, normal, normal))
					if held.Source == metadata.FromTable {
						shown.value = ""
					}
				}
				list = append(list, shown)
			}
		}
	}
	return list
}
