package metadata

import (
	"slices"
	"strconv"
	"strings"
)

// Settings are the configs that hold for one topic: its own over the cluster's defaults over the
// table's. Two Settings can be compared with ==.
type Settings struct {
	// CleanupDelete and CleanupCompact are the parts of cleanup.policy; at least one is set.
	CleanupDelete, CleanupCompact bool
	// RetentionMS and RetentionBytes bound what is kept; -1: no bound.
	RetentionMS, RetentionBytes int64
	// SegmentBytes and SegmentMS say when a segment is closed.
	SegmentBytes, SegmentMS int64
	// MaxMessageBytes is the largest batch.
	MaxMessageBytes int
	// LogAppendTime: the broker's clock stamps records, not the producer's.
	LogAppendTime bool
	// TimestampBeforeMaxMS and TimestampAfterMaxMS bound a record's distance to the broker's clock;
	// the largest int64 means no bound.
	TimestampBeforeMaxMS, TimestampAfterMaxMS int64
	// MinInsyncReplicas is never above the majority.
	MinInsyncReplicas int
	// FlushPolicy is "fsync".
	FlushPolicy string
	// ProducerIDExpirationMS is how long an idle producer is remembered.
	ProducerIDExpirationMS int64
	// The cleaner's settings.
	DeleteRetentionMS, MinCompactionLagMS, MaxCompactionLagMS int64
	MinCleanableDirtyRatio                                    float64
}

// valueOf gives what holds for one config. The lists are sorted by name.
func valueOf(name string, configs, defaults []Config) (value string, source ConfigSource) {
	if v, ok := lookup(configs, name); ok {
		return v, FromTopic
	}
	if v, ok := lookup(defaults, name); ok {
		return v, FromCluster
	}
	d, ok := LookupConfig(name)
	if !ok {
		panic("metadata: no config " + name)
	}
	return d.Default, FromTable
}

func lookup(configs []Config, name string) (string, bool) {
	i, ok := slices.BinarySearchFunc(configs, name, func(c Config, n string) int { return strings.Compare(c.Name, n) })
	if !ok {
		return "", false
	}
	return configs[i].Value, true
}

// resolve parses what holds. The values have been checked when they were set, or when the snapshot
// that holds them was read.
func resolve(configs, defaults []Config) Settings {
	text := func(name string) string { v, _ := valueOf(name, configs, defaults); return v }
	number := func(name string) int64 {
		n, err := strconv.ParseInt(text(name), 10, 64)
		if err != nil {
			panic("metadata: unchecked value of " + name)
		}
		return n
	}
	ratio, err := strconv.ParseFloat(text("min.cleanable.dirty.ratio"), 64)
	if err != nil {
		panic("metadata: unchecked value of min.cleanable.dirty.ratio")
	}
	policy := strings.Split(text("cleanup.policy"), ",")
	return Settings{
		CleanupDelete:          slices.Contains(policy, "delete"),
		CleanupCompact:         slices.Contains(policy, "compact"),
		RetentionMS:            number("retention.ms"),
		RetentionBytes:         number("retention.bytes"),
		SegmentBytes:           number("segment.bytes"),
		SegmentMS:              number("segment.ms"),
		MaxMessageBytes:        int(number("max.message.bytes")),
		LogAppendTime:          text("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMaxMS:   number("message.timestamp.before.max.ms"),
		TimestampAfterMaxMS:    number("message.timestamp.after.max.ms"),
		MinInsyncReplicas:      int(number("min.insync.replicas")),
		FlushPolicy:            text("flush.policy"),
		ProducerIDExpirationMS: number("producer.id.expiration.ms"),
		DeleteRetentionMS:      number("delete.retention.ms"),
		MinCompactionLagMS:     number("min.compaction.lag.ms"),
		MaxCompactionLagMS:     number("max.compaction.lag.ms"),
		MinCleanableDirtyRatio: ratio,
	}
}

// ConfigSource says where a value comes from.
type ConfigSource uint8

const (
	// FromTable is the program's default.
	FromTable ConfigSource = iota
	// FromCluster is the cluster's default.
	FromCluster
	// FromTopic was set on the topic.
	FromTopic
)

// HeldConfig is a config that holds for a topic, and why.
type HeldConfig struct {
	Def    *ConfigDef
	Value  string
	Source ConfigSource
}

// ConfigsOf lists all configs with the values that hold for a topic, by name. A nil topic gives what
// a topic without configs of its own would get.
func (img *Image) ConfigsOf(t *Topic) []HeldConfig {
	var own []Config
	if t != nil {
		own = t.Configs
	}
	held := make([]HeldConfig, len(configDefs))
	for i := range configDefs {
		v, source := valueOf(configDefs[i].Name, own, img.defaults)
		held[i] = HeldConfig{Def: &configDefs[i], Value: v, Source: source}
	}
	return held
}

// alterConfigs applies sets and unsets to a sorted list and gives a new sorted one. An unset of what
// is not set changes nothing, as in Kafka.
func alterConfigs(have, set []Config, unset []string, level uint16) ([]Config, *Error) {
	out := slices.Clone(have)
	find := func(name string) (int, bool) {
		return slices.BinarySearchFunc(out, name, func(c Config, n string) int { return strings.Compare(c.Name, n) })
	}
	for _, name := range unset {
		if _, err := checkConfigName(name, level); err != nil {
			return nil, err
		}
		if i, ok := find(name); ok {
			out = slices.Delete(out, i, i+1)
		}
	}
	for j, c := range set {
		if slices.ContainsFunc(set[:j], func(o Config) bool { return o.Name == c.Name }) || slices.Contains(unset, c.Name) {
			return nil, refuse(InvalidRequest, clip(c.Name), "%s is given more than once", clip(c.Name))
		}
		_, v, err := checkConfig(c.Name, c.Value, level)
		if err != nil {
			return nil, err
		}
		if i, ok := find(c.Name); ok {
			out[i].Value = v
		} else {
			out = slices.Insert(out, i, Config{Name: c.Name, Value: v})
		}
	}
	return out, nil
}

// checkSettings refuses what can only be judged when all configs and the replication are known.
func checkSettings(s Settings, replication int) *Error {
	if majority := replication/2 + 1; s.MinInsyncReplicas > majority {
		return refuse(InvalidConfig, "min.insync.replicas",
			"min.insync.replicas=%d is above the majority of %d replica(s); a batch is acknowledged when a majority, here %d, has it on disk",
			s.MinInsyncReplicas, replication, majority).limit(majority)
	}
	if s.MinCompactionLagMS > s.MaxCompactionLagMS {
		return refuse(InvalidConfig, "min.compaction.lag.ms", "min.compaction.lag.ms=%d is above max.compaction.lag.ms=%d",
			s.MinCompactionLagMS, s.MaxCompactionLagMS).limit(s.MaxCompactionLagMS)
	}
	return nil
}
