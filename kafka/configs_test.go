package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Configs are shown of topics, groups and brokers; a list of names that is empty means all, as in Kafka.
func TestDescribeConfigs(t *testing.T) {
	r := newRig(t, nil)
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
		{kmsg.ConfigResourceTypeBroker, "1", "log.retention.ms", shown{"604800000", "LONG", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "socket.request.max.bytes", shown{"104857600", "INT", "DEFAULT_CONFIG", true}},
		{kmsg.ConfigResourceTypeBroker, "1", "offsets.topic.replication.factor", shown{"3", "SHORT", "STATIC_BROKER_CONFIG", true}},
	} {
		got := describe(c.kind, c.name, c.what)
		if got.ErrorCode != 0 || len(got.Configs) != 1 {
			t.Errorf("%s of %s: code %d, %d configs", c.what, c.name, got.ErrorCode, len(got.Configs))
			continue
		}
		one := got.Configs[0]
		if is := (shown{*one.Value, one.ConfigType.String(), one.Source.String(), one.ReadOnly}); is != c.want || len(one.ConfigSynonyms) == 0 {
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
