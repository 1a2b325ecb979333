package metadata

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/oncelog/oncelog/internal/nearest"
)

// Config is one setting as it was given, in canonical form.
type Config struct{ Name, Value string }

// ConfigKind is the type of a setting.
type ConfigKind uint8

const (
	// Integer is a whole number within a range.
	Integer ConfigKind = iota + 1
	// Ratio is a number from 0 to 1.
	Ratio
	// Choice is one of some words.
	Choice
	// Choices is a comma separated list of some words, at least one, none twice.
	Choices
)

// ConfigDef describes one topic config. The names, units and, unless the doc says otherwise, the
// defaults are Kafka's.
type ConfigDef struct {
	Name    string
	Kind    ConfigKind
	Default string
	// Min and Max bound an Integer, both inclusive.
	Min, Max int64
	// Values are what Choice and Choices allow.
	Values []string
	Doc    string
	// Since is the feature level from which on it can be set. Brokers below would refuse what others
	// accept, so a key, a value or a wider range comes only with a level.
	Since uint16
	// PerTopic: it cannot be set as the cluster's default.
	PerTopic bool

	// refused are values known from Kafka that cannot be had, each with the reason.
	refused map[string]string
}

const noLimit = math.MaxInt64

// configDefs is the one table of topic configs, sorted by name.
var configDefs = []ConfigDef{
	{Name: "cleanup.policy", Kind: Choices, Default: "delete", Values: []string{"compact", "delete"}, Since: 1,
		Doc: "What happens to old records: delete removes them by time and size, compact keeps the last of each key, and demands keys."},
	{Name: "compression.type", Kind: Choice, Default: "producer", Values: []string{"producer"}, Since: 1,
		Doc:     "Batches are stored as the producer compressed them.",
		refused: recompressions("gzip", "lz4", "snappy", "uncompressed", "zstd")},
	{Name: "delete.retention.ms", Kind: Integer, Default: "86400000", Max: noLimit, Since: 1,
		Doc: "How long a compacted topic keeps tombstones and transaction markers after they were compacted first."},
	{Name: "file.delete.delay.ms", Kind: Integer, Default: "60000", Max: noLimit, Since: 1,
		Doc: "Accepted for Kafka's tools. Files are removed at once."},
	{Name: "flush.messages", Kind: Integer, Default: "9223372036854775807", Min: 1, Max: noLimit, Since: 1,
		Doc: "Accepted for Kafka's tools. flush.policy decides: by default each batch is synced before it is acknowledged."},
	{Name: "flush.ms", Kind: Integer, Default: "9223372036854775807", Max: noLimit, Since: 1,
		Doc: "Accepted for Kafka's tools. flush.policy decides: by default each batch is synced before it is acknowledged."},
	{Name: "flush.policy", Kind: Choice, Default: "fsync", Values: []string{"fsync"}, Since: 1, PerTopic: true,
		Doc: "When a replica counts a batch as written: fsync, when it is on disk. Not a Kafka setting.",
		refused: map[string]string{
			"write": "it acknowledges what is only in the page cache; a replica that may have lost such bytes must be rebuilt under a new identity, which this version cannot do",
		}},
	{Name: "index.interval.bytes", Kind: Integer, Default: "4096", Max: math.MaxInt32, Since: 1,
		Doc: "Accepted for Kafka's tools. The index's density is chosen by the log."},
	{Name: "max.compaction.lag.ms", Kind: Integer, Default: "9223372036854775807", Min: 1, Max: noLimit, Since: 1,
		Doc: "How long a record may stay uncompacted; segments are closed that early."},
	{Name: "max.message.bytes", Kind: Integer, Default: "1048588", Max: 64 << 20, Since: 1,
		Doc: "The largest batch that is accepted, in bytes, as it is compressed."},
	{Name: "message.timestamp.after.max.ms", Kind: Integer, Default: "3600000", Max: noLimit, Since: 1,
		Doc: "How far a record's timestamp may lie after the broker's clock."},
	{Name: "message.timestamp.before.max.ms", Kind: Integer, Default: "9223372036854775807", Max: noLimit, Since: 1,
		Doc: "How far a record's timestamp may lie before the broker's clock."},
	{Name: "message.timestamp.type", Kind: Choice, Default: "CreateTime", Values: []string{"CreateTime", "LogAppendTime"}, Since: 1,
		Doc: "Whose clock a record's timestamp is: the producer's or the broker's."},
	{Name: "min.cleanable.dirty.ratio", Kind: Ratio, Default: "0.5", Since: 1,
		Doc: "How much of a log must be uncompacted before it is compacted again."},
	{Name: "min.compaction.lag.ms", Kind: Integer, Default: "0", Max: noLimit, Since: 1,
		Doc: "How long a record stays uncompacted at least."},
	{Name: "min.insync.replicas", Kind: Integer, Default: "1", Min: 1, Max: 5, Since: 1, PerTopic: true,
		Doc: "How many replicas must have a batch before it is acknowledged. A majority always has it, so values up to the majority hold by themselves, and higher ones are refused (R12)."},
	{Name: "preallocate", Kind: Choice, Default: "false", Values: []string{"false", "true"}, Since: 1,
		Doc: "Accepted for Kafka's tools. The log reserves space as it needs it."},
	{Name: "producer.id.expiration.ms", Kind: Integer, Default: "86400000", Min: 1, Max: noLimit, Since: 1,
		Doc: "How long an idle producer is remembered, so that what it sends again is recognised. In Kafka a setting of the broker."},
	{Name: "retention.bytes", Kind: Integer, Default: "-1", Min: -1, Max: noLimit, Since: 1,
		Doc: "How much of a partition is kept, in bytes; -1: no limit. For cleanup.policy delete."},
	{Name: "retention.ms", Kind: Integer, Default: "604800000", Min: -1, Max: noLimit, Since: 1,
		Doc: "How long records are kept; -1: for ever. For cleanup.policy delete."},
	{Name: "segment.bytes", Kind: Integer, Default: "67108864", Min: 64 << 10, Max: math.MaxInt32, Since: 1,
		Doc: "Size of a segment file. Kafka's default is 1 GiB."},
	{Name: "segment.index.bytes", Kind: Integer, Default: "10485760", Min: 4, Max: math.MaxInt32, Since: 1,
		Doc: "Accepted for Kafka's tools. Indexes take what they need."},
	{Name: "segment.jitter.ms", Kind: Integer, Default: "0", Max: noLimit, Since: 1,
		Doc: "Accepted for Kafka's tools. Segments are not rolled by time at once everywhere."},
	{Name: "segment.ms", Kind: Integer, Default: "604800000", Min: 1, Max: noLimit, Since: 1,
		Doc: "After how long a segment is closed even if it is not full, so that retention can remove it."},
	{Name: "unclean.leader.election.enable", Kind: Choice, Default: "false", Values: []string{"false"}, Since: 1,
		Doc:     "Whether a replica that lacks acknowledged records may lead: never.",
		refused: map[string]string{"true": "a leader is always elected by a majority and has all acknowledged records"}},
}

func recompressions(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for _, n := range names {
		m[n] = "the broker does not compress again what the producer sent; set the compression at the producer"
	}
	return m
}

// ConfigDefs lists the topic configs there are, by name. The caller must not change it.
func ConfigDefs() []ConfigDef { return configDefs }

// LookupConfig finds a config's definition.
func LookupConfig(name string) (*ConfigDef, bool) {
	i, ok := slices.BinarySearchFunc(configDefs, name, func(d ConfigDef, n string) int { return strings.Compare(d.Name, n) })
	if !ok {
		return nil, false
	}
	return &configDefs[i], true
}

// Range says in words what values are allowed.
func (d *ConfigDef) Range() string {
	switch d.Kind {
	case Integer:
		if d.Max == noLimit {
			return fmt.Sprintf("%d or more", d.Min)
		}
		return fmt.Sprintf("%d to %d", d.Min, d.Max)
	case Ratio:
		return "0 to 1"
	case Choice:
		return strings.Join(d.Values, " or ")
	default:
		return "a list of " + strings.Join(d.Values, ", ")
	}
}

// parse gives the value in canonical form.
func (d *ConfigDef) parse(value string) (string, *Error) {
	v := strings.TrimSpace(value)
	if reason, ok := d.refused[v]; ok {
		return "", refuse(InvalidConfig, d.Name, "%s=%s cannot be had: %s", d.Name, v, reason).limit(d.Range())
	}
	switch d.Kind {
	case Integer:
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && d.Min <= n && n <= d.Max {
			return strconv.FormatInt(n, 10), nil
		}
	case Ratio:
		f, err := strconv.ParseFloat(v, 64)
		if err == nil && 0 <= f && f <= 1 {
			return strconv.FormatFloat(f+0, 'g', -1, 64), nil // -0 becomes 0
		}
	case Choice:
		if slices.Contains(d.Values, v) {
			return v, nil
		}
	case Choices:
		if s, ok := d.parseList(v); ok {
			return s, nil
		}
	}
	return "", refuse(InvalidConfig, d.Name, "%s=%q is not %s", d.Name, clip(value), d.Range()).limit(d.Range())
}

func (d *ConfigDef) parseList(v string) (string, bool) {
	words := strings.Split(v, ",")
	for i, w := range words {
		words[i] = strings.TrimSpace(w)
		if !slices.Contains(d.Values, words[i]) || slices.Contains(words[:i], words[i]) {
			return "", false
		}
	}
	slices.Sort(words)
	return strings.Join(words, ","), true
}

// checkConfig gives the definition and the canonical value, or the refusal, at a feature level.
func checkConfig(name, value string, level uint16) (*ConfigDef, string, *Error) {
	d, err := checkConfigName(name, level)
	if err != nil {
		return nil, "", err
	}
	if len(value) > MaxConfigValueLength {
		return nil, "", refuse(InvalidConfig, name, "the value of %s has %d bytes; at most %d are allowed",
			name, len(value), MaxConfigValueLength).limit(MaxConfigValueLength)
	}
	v, err := d.parse(value)
	return d, v, err
}

func checkConfigName(name string, level uint16) (*ConfigDef, *Error) {
	d, ok := LookupConfig(name)
	if !ok {
		meant := ""
		if n := nearestConfig(name); n != "" {
			meant = fmt.Sprintf(": did you mean %s?", n)
		}
		return nil, refuse(InvalidConfig, clip(name), "unknown topic config %q%s", clip(name), meant)
	}
	if d.Since > level {
		return nil, refuse(InvalidConfig, name, "%s needs feature level %d; the cluster is at %d", name, d.Since, level)
	}
	return d, nil
}

// nearestConfig is the known name that was meant, or "".
func nearestConfig(name string) string {
	names := make([]string, len(configDefs))
	for i := range configDefs {
		names[i] = configDefs[i].Name
	}
	return nearest.Of(clip(name), names)
}

// clip makes what a client sent fit to be repeated in a message: short, and valid UTF-8.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
