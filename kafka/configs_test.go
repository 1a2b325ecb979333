package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Configs are shown of topics, groups and brokers; a list of names that is empty means all, as in Kafka.
func TestDescribeConfigs(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Settings = Settings{GroupSession: 45 * time.Second, GroupHeartbeat: 5 * time.Second, GroupMaxSession: time.Minute, OffsetsRetention: 7 * 24 * time.Hour}
	})
	r.cluster.image = imageOf(t, "t", 1)
	w := r.dial()
	describe := func(kind kmsg.ConfigResourceType, name string, names ...string) kmsg.DescribeConfigsResponseResource {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Version, req.IncludeSynonyms, req.IncludeDocumentation = 4, true, true
		one := kmsg.NewDescribeConfigsRequestResource()
		one.ResourceType, one.ResourceName, one.ConfigNames = kind, name, names
		req.Resources = append(req.Resources, one)
		return w.ask(req).(*kmsg.DescribeConfigsResponse).Resources[0]
	}
	type shown struct {
		value, kind, source string
		readOnly            bool
	}
	self := describe(kmsg.ConfigResourceTypeBroker, "1").Configs
	for _, c := range []struct {
		kind       kmsg.ConfigResourceType
		name, what string
		want       shown
	}{
		{kmsg.ConfigResourceTypeTopic, "t", "remote.storage.enable", shown{"false", "BOOLEAN", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeTopic, "t", "retention.ms", shown{"604800000", "LONG", "DEFAULT_CONFIG", false}},
		{kmsg.ConfigResourceTypeGroupConfig, "g", "consumer.session.timeout.ms", shown{"45000", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeGroupConfig, "g", "consumer.heartbeat.interval.ms", shown{"5000", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "broker.id", shown{"1", "INT", "STATIC_BROKER_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "log.retention.ms", shown{"null", "LONG", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "log.retention.hours", shown{"168", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "log.roll.ms", shown{"null", "LONG", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "log.roll.hours", shown{"168", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "socket.request.max.bytes", shown{"104857600", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "offsets.topic.replication.factor", shown{"3", "SHORT", "STATIC_BROKER_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "group.max.session.timeout.ms", shown{"60000", "INT", "STATIC_BROKER_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "offsets.retention.minutes", shown{"10080", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "connections.max.idle.ms", shown{"600000", "LONG", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "log.cleaner.max.compaction.lag.ms", shown{"9223372036854775807", "LONG", "DEFAULT_CONFIG", true}},
	} {
		got := describe(c.kind, c.name, c.what)
		if got.ErrorCode != 0 || len(got.Configs) != 1 {
			t.Errorf("%s of %s: code %d, %d configs", c.what, c.name, got.ErrorCode, len(got.Configs))
			continue
		}
		one := got.Configs[0]
		value := "null"
		if one.Value != nil {
			value = *one.Value
		}
		if is := (shown{value, one.ConfigType.String(), one.Source.String(), one.ReadOnly}); is != c.want || (len(one.ConfigSynonyms) == 0) != (one.Value == nil) {
			t.Errorf("%s of %s: %+v with %d synonyms, want %+v", c.what, c.name, is, len(one.ConfigSynonyms), c.want)
		}
	}
	if all := describe(kmsg.ConfigResourceTypeBroker, "1", []string{}...); len(self) < 20 || len(all.Configs) != len(self) {
		t.Errorf("all configs of a broker: %d, and %d", len(self), len(all.Configs))
	}
	if got := describe(kmsg.ConfigResourceTypeBroker, ""); got.ErrorCode != 0 || len(got.Configs) != 0 {
		t.Errorf("what is set for all brokers: %+v", got)
	}
	for name, got := range map[string]kmsg.DescribeConfigsResponseResource{
		"another broker": describe(kmsg.ConfigResourceTypeBroker, "2"), "a group without a name": describe(kmsg.ConfigResourceTypeGroupConfig, ""),
		"a kind that nobody knows": describe(77, "x"),
	} {
		if got.ErrorCode != 42 || got.ErrorMessage == nil || *got.ErrorMessage == "" {
			t.Errorf("%s: code %d, %v", name, got.ErrorCode, got.ErrorMessage)
		}
	}
}

// Kafka's tools ask for the quotas of users before they show them: there are none, and what is asked badly is refused by name.
func TestThereAreNoQuotas(t *testing.T) {
	w := newRig(t, nil).dial()
	name := "u"
	ask := func(components ...kmsg.DescribeClientQuotasRequestComponent) *kmsg.DescribeClientQuotasResponse {
		req := kmsg.NewPtrDescribeClientQuotasRequest()
		req.Version, req.Components = 1, components
		return w.ask(req).(*kmsg.DescribeClientQuotasResponse)
	}
	exact, of := kmsg.DescribeClientQuotasRequestComponent{EntityType: "user", Match: &name}, func(entity string, match kmsg.QuotasMatchType) kmsg.DescribeClientQuotasRequestComponent {
		return kmsg.DescribeClientQuotasRequestComponent{EntityType: entity, MatchType: match}
	}
	for _, good := range [][]kmsg.DescribeClientQuotasRequestComponent{nil, {exact}, {of("user", 2), of("client-id", 1)}, {of("ip", 2)}} {
		if got := ask(good...); got.ErrorCode != 0 || got.Entries == nil || len(got.Entries) > 0 {
			t.Errorf("%v: %+v", good, got)
		}
	}
	for _, c := range []struct {
		code  int16
		names string
		bad   []kmsg.DescribeClientQuotasRequestComponent
	}{
		{35, "entity_type", []kmsg.DescribeClientQuotasRequestComponent{of("planet", 2)}},
		{42, "entity_type", []kmsg.DescribeClientQuotasRequestComponent{of("", 2)}},
		{42, "entity_type", []kmsg.DescribeClientQuotasRequestComponent{exact, exact}},
		{42, "entity_type", []kmsg.DescribeClientQuotasRequestComponent{exact, of("ip", 2)}},
		{42, "match_type", []kmsg.DescribeClientQuotasRequestComponent{of("user", 3)}},
		{42, "match", []kmsg.DescribeClientQuotasRequestComponent{of("user", 0)}},
		{42, "match", []kmsg.DescribeClientQuotasRequestComponent{{EntityType: "user", MatchType: 2, Match: &name}}},
	} {
		if got := ask(c.bad...); got.ErrorCode != c.code || got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, c.names) {
			t.Errorf("%v: code %d, %v", c.bad, got.ErrorCode, got.ErrorMessage)
		}
	}
}

// The room of the disk is told where it is known.
func TestDescribeLogDirs(t *testing.T) {
	for _, c := range []struct {
		disk          func() (free, total int64)
		total, usable int64
	}{{nil, -1, -1}, {func() (int64, int64) { return 0, 0 }, -1, -1}, {func() (int64, int64) { return 30, 100 }, 100, 30}, {func() (int64, int64) { return 0, 100 }, 100, 0}} {
		r := newRig(t, func(cfg *Config) { cfg.Disk = c.disk })
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = 4
		if got := r.dial().ask(req).(*kmsg.DescribeLogDirsResponse).Dirs[0]; got.TotalBytes != c.total || got.UsableBytes != c.usable {
			t.Errorf("%d of %d bytes, want %d of %d", got.UsableBytes, got.TotalBytes, c.usable, c.total)
		}
	}
}

// A topic that is named without partitions has none in the answer, and what is named twice counts together.
func TestDescribeLogDirsOfNamedPartitions(t *testing.T) {
	r := newRig(t, func(cfg *Config) { cfg.Replicas = someReplicas{} })
	of := func(topic string, partitions ...int32) kmsg.DescribeLogDirsRequestTopic {
		return kmsg.DescribeLogDirsRequestTopic{Topic: topic, Partitions: partitions}
	}
	for _, c := range []struct {
		topics []kmsg.DescribeLogDirsRequestTopic
		want   int
	}{{nil, 3}, {[]kmsg.DescribeLogDirsRequestTopic{}, 0}, {[]kmsg.DescribeLogDirsRequestTopic{of("t")}, 0}, {[]kmsg.DescribeLogDirsRequestTopic{of("t", 0, 5), of("t", 2)}, 2}} {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version, req.Topics = 4, c.topics
		n := 0
		for _, topic := range r.dial().ask(req).(*kmsg.DescribeLogDirsResponse).Dirs[0].Topics {
			n += len(topic.Partitions)
		}
		if n != c.want {
			t.Errorf("%+v: %d partitions, want %d", c.topics, n, c.want)
		}
	}
}

// someReplicas are those of three partitions.
type someReplicas struct{ fakeReplicas }

func (someReplicas) Groups() (list []partition.GroupStatus) {
	for p := range int32(3) {
		list = append(list, partition.GroupStatus{Spec: partition.ReplicaSpec{TopicPartition: record.TopicPartition{Topic: "t", Partition: p}}})
	}
	return list
}
