package kafka

import (
	"slices"

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
			reason, message = tooMany("resources", len(req.Resources), maxResources)
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
