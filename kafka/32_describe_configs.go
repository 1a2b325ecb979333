package kafka

import (
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxResources of one request.
const maxResources = 1000

// describeConfigs shows the configs that hold for topics, under Kafka's names and with Kafka's defaults where we have the thing, and of
// groups and brokers those that clients ask for.
func (c *conn) describeConfigs(r *request, req *kmsg.DescribeConfigsRequest, resp *kmsg.DescribeConfigsResponse) {
	img := c.c.Cluster.Image()
	for i, q := range req.Resources {
		at := kmsg.NewDescribeConfigsResponseResource()
		at.ResourceType, at.ResourceName = q.ResourceType, q.ResourceName
		var reason, message string
		switch {
		case i >= maxResources:
			reason, message = frontdoor.ReasonInvalidRequest, "too many resources in one request"
		case !c.mayConfigs(r, acl.DescribeConfigs, q.ResourceType, q.ResourceName):
			reason, message = c.configsDenial(acl.DescribeConfigs, q.ResourceType, q.ResourceName)
		case q.ResourceType == kmsg.ConfigResourceTypeTopic:
			at.Configs, reason, message = topicConfigs(img, q, req)
		case q.ResourceType == kmsg.ConfigResourceTypeBroker:
			at.Configs, reason, message = c.brokerConfigs(img, q, req)
		case q.ResourceType == kmsg.ConfigResourceTypeGroupConfig:
			at.Configs, reason, message = c.groupConfigs(q, req)
		default:
			reason, message = frontdoor.ReasonInvalidRequest, "only topics, groups and brokers have configs here"
		}
		if reason != "" {
			at.ErrorCode, at.ErrorMessage = c.refuse(r, reason), &message
		}
		resp.Resources = append(resp.Resources, at)
	}
}

func topicConfigs(img *metadata.Image, q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig, reason, message string) {
	if err := metadata.CheckTopicName(q.ResourceName); err != nil {
		return nil, string(err.Code), err.Message
	}
	t, ok := img.Topic(q.ResourceName)
	if !ok {
		return nil, frontdoor.ReasonUnknownTopic, "there is no such topic"
	}
	for _, held := range img.ConfigsOf(t) {
		if wants(q, held.Def.Name) {
			list = append(list, describedConfig(held, req))
		}
	}
	for i := range fixedConfigs {
		if wants(q, fixedConfigs[i].name) {
			list = append(list, describedFixed(i, req))
		}
	}
	return list, "", ""
}

func describedConfig(held metadata.HeldConfig, req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	d := kmsg.NewDescribeConfigsResponseResourceConfig()
	d.Name, d.Value, d.Source = held.Def.Name, &held.Value, configSource(held.Source)
	d.IsDefault = held.Source != metadata.FromTopic
	d.ConfigType = configType(held.Def)
	if req.IncludeDocumentation {
		d.Documentation = &held.Def.Doc
	}
	if !req.IncludeSynonyms {
		return d
	}
	if held.Source != metadata.FromTable {
		d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(held.Def.Name, held.Value, d.Source))
	}
	d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(held.Def.Name, held.Def.Default, kmsg.ConfigSourceDefaultConfig))
	return d
}

func synonym(name, value string, source kmsg.ConfigSource) kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	s.Name, s.Value, s.Source = name, &value, source
	return s
}

func configSource(s metadata.ConfigSource) kmsg.ConfigSource {
	switch s {
	case metadata.FromTopic:
		return kmsg.ConfigSourceDynamicTopicConfig
	case metadata.FromCluster:
		return kmsg.ConfigSourceDynamicDefaultBrokerConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

// smallIntegers are configs that have 32 bits in Kafka.
var smallIntegers = []string{"index.interval.bytes", "max.message.bytes", "min.insync.replicas", "segment.bytes", "segment.index.bytes"}

func configType(d *metadata.ConfigDef) kmsg.ConfigType {
	if slices.Contains(smallIntegers, d.Name) {
		return kmsg.ConfigTypeInt
	}
	switch d.Kind {
	case metadata.Integer:
		return kmsg.ConfigTypeLong
	case metadata.Ratio:
		return kmsg.ConfigTypeDouble
	case metadata.Choices:
		return kmsg.ConfigTypeList
	}
	if slices.Contains(d.Values, "false") {
		return kmsg.ConfigTypeBoolean
	}
	return kmsg.ConfigTypeString
}

// fixedConfigs are topic configs of Kafka that clients look at and that nobody can set here: their values say that the thing is not there.
var fixedConfigs = []struct {
	name, value, doc string
	kind             kmsg.ConfigType
}{
	{"remote.storage.enable", "false", "There is no tiered storage.", kmsg.ConfigTypeBoolean},
}

func describedFixed(i int, req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	fixed := &fixedConfigs[i]
	d := kmsg.NewDescribeConfigsResponseResourceConfig()
	d.Name, d.Value, d.Source, d.ConfigType = fixed.name, &fixed.value, kmsg.ConfigSourceDefaultConfig, fixed.kind
	d.IsDefault, d.ReadOnly = true, true
	if req.IncludeDocumentation {
		d.Documentation = &fixed.doc
	}
	if req.IncludeSynonyms {
		d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(fixed.name, fixed.value, kmsg.ConfigSourceDefaultConfig))
	}
	return d
}

// wants says whether a request asks for a config; without names it asks for all.
func wants(q kmsg.DescribeConfigsRequestResource, name string) bool {
	return len(q.ConfigNames) == 0 || slices.Contains(q.ConfigNames, name)
}

// brokerConfig is a config of a broker as clients see it.
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
		c.orDefault("consumer.heartbeat.interval.ms", c.c.GroupHeartbeat.Milliseconds(), 5000),
		c.orDefault("consumer.session.timeout.ms", c.c.GroupSession.Milliseconds(), 45_000),
	}
	return described(held, q, req), "", ""
}

// orDefault is a number of the broker's configuration, and whether it is Kafka's default.
func (c *conn) orDefault(name string, value, normal int64) brokerConfig {
	source := kmsg.ConfigSourceStaticBrokerConfig
	if value == normal {
		source = kmsg.ConfigSourceDefaultConfig
	}
	return brokerConfig{name, strconv.FormatInt(value, 10), kmsg.ConfigTypeInt, source}
}

// described are those of some configs that a request asks for, read-only.
func described(all []brokerConfig, q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig) {
	for _, held := range all {
		if !wants(q, held.name) {
			continue
		}
		d := kmsg.NewDescribeConfigsResponseResourceConfig()
		d.Name, d.Value, d.ReadOnly, d.Source, d.ConfigType = held.name, &held.value, true, held.source, held.kind
		d.IsDefault = held.source == kmsg.ConfigSourceDefaultConfig
		if req.IncludeSynonyms {
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
	all := append(c.ownConfigs(self), topicDefaults(img)...)
	slices.SortFunc(all, func(a, b brokerConfig) int { return strings.Compare(a.name, b.name) })
	return described(all, q, req), "", ""
}

// ownConfigs are those that are the broker's own.
func (c *conn) ownConfigs(self string) []brokerConfig {
	const static, fixed = kmsg.ConfigSourceStaticBrokerConfig, kmsg.ConfigSourceDefaultConfig
	return []brokerConfig{
		{"auto.create.topics.enable", "false", kmsg.ConfigTypeBoolean, static},
		{"broker.id", self, kmsg.ConfigTypeInt, static},
		{"default.replication.factor", "3", kmsg.ConfigTypeInt, static},
		{"delete.topic.enable", "true", kmsg.ConfigTypeBoolean, fixed},
		{"node.id", self, kmsg.ConfigTypeInt, static},
		{"num.partitions", "1", kmsg.ConfigTypeInt, static},
		{"offsets.topic.replication.factor", "3", kmsg.ConfigTypeShort, static},
		c.orDefault("socket.request.max.bytes", int64(c.c.MaxRequestBytes), 100<<20),
		c.orDefault("transaction.max.timeout.ms", c.c.MaxTransactionTimeout.Milliseconds(), 900_000),
		{"transaction.state.log.replication.factor", "3", kmsg.ConfigTypeShort, static},
	}
}

// brokerNames are what the defaults of topics are called that Kafka has as configs of brokers.
var brokerNames = []struct{ topic, broker string }{
	{"cleanup.policy", "log.cleanup.policy"},
	{"compression.type", "compression.type"},
	{"delete.retention.ms", "log.cleaner.delete.retention.ms"},
	{"max.message.bytes", "message.max.bytes"},
	{"message.timestamp.type", "log.message.timestamp.type"},
	{"min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"},
	{"min.insync.replicas", "min.insync.replicas"},
	{"producer.id.expiration.ms", "producer.id.expiration.ms"},
	{"retention.bytes", "log.retention.bytes"},
	{"retention.ms", "log.retention.ms"},
	{"segment.bytes", "log.segment.bytes"},
	{"segment.ms", "log.roll.ms"},
	{"unclean.leader.election.enable", "unclean.leader.election.enable"},
}

// topicDefaults are what holds for topics that set nothing, under the names of brokers' configs.
func topicDefaults(img *metadata.Image) (list []brokerConfig) {
	for _, held := range img.ConfigsOf(nil) {
		for _, n := range brokerNames {
			if n.topic == held.Def.Name {
				kind := configType(held.Def)
				if n.topic == "producer.id.expiration.ms" {
					kind = kmsg.ConfigTypeInt // it is no config of topics in Kafka
				}
				list = append(list, brokerConfig{n.broker, held.Value, kind, configSource(held.Source)})
			}
		}
	}
	return list
}
