package kafka

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/frontdoor"
)

// maxResources of one request.
const maxResources = 1000

// describeConfigs shows the configs that hold for topics, under Kafka's names and with Kafka's defaults where we have the thing, and of
// brokers the few that clients ask for.
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
			at.Configs, reason, message = c.brokerConfigs(q, req)
		default:
			reason, message = frontdoor.ReasonInvalidRequest, "only topics and brokers have configs here"
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
		if q.ConfigNames != nil && !slices.Contains(q.ConfigNames, held.Def.Name) {
			continue
		}
		list = append(list, describedConfig(held, req))
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

// brokerConfigs are what clients want to know of a broker. They are this broker's, and read-only: only the broker itself is asked for
// them, or, with an empty name, the cluster.
func (c *conn) brokerConfigs(q kmsg.DescribeConfigsRequestResource, req *kmsg.DescribeConfigsRequest) (list []kmsg.DescribeConfigsResponseResourceConfig, reason, message string) {
	self := strconv.Itoa(int(c.c.Cluster.Self()))
	if q.ResourceName != "" && q.ResourceName != self {
		return nil, frontdoor.ReasonInvalidRequest, "this is broker " + self + ": ask broker " + q.ResourceName + " itself"
	}
	for _, held := range []struct{ name, value string }{
		{"auto.create.topics.enable", "false"},
		{"broker.id", self},
		{"default.replication.factor", "3"},
		{"log.cleanup.policy", "delete"},
		{"message.max.bytes", strconv.Itoa(c.c.MaxMessageBytes)},
		{"num.partitions", "1"},
		{"offsets.topic.replication.factor", "3"},
		{"socket.request.max.bytes", strconv.Itoa(c.c.MaxRequestBytes)},
		{"transaction.max.timeout.ms", strconv.FormatInt(c.c.MaxTransactionTimeout.Milliseconds(), 10)},
		{"transaction.state.log.replication.factor", "3"},
		{"unclean.leader.election.enable", "false"},
	} {
		if q.ResourceName == "" || q.ConfigNames != nil && !slices.Contains(q.ConfigNames, held.name) {
			continue
		}
		d := kmsg.NewDescribeConfigsResponseResourceConfig()
		d.Name, d.Value, d.ReadOnly, d.Source, d.ConfigType = held.name, &held.value, true, kmsg.ConfigSourceStaticBrokerConfig, kmsg.ConfigTypeString
		if req.IncludeSynonyms {
			d.ConfigSynonyms = append(d.ConfigSynonyms, synonym(held.name, held.value, d.Source))
		}
		list = append(list, d)
	}
	return list, "", ""
}
