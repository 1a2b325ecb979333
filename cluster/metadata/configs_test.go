package metadata

import (
	"slices"
	"strings"
	"testing"
)

func TestConfigTable(t *testing.T) {
	defs := ConfigDefs()
	if !slices.IsSortedFunc(defs, func(a, b ConfigDef) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not sorted")
	}
	for i := range defs {
		d := &defs[i]
		if found, ok := LookupConfig(d.Name); !ok || found != d {
			t.Errorf("%s is not found", d.Name)
		}
		if v, err := d.parse(d.Default); err != nil || v != d.Default {
			t.Errorf("the default of %s, %q, is parsed as %q, %v", d.Name, d.Default, v, err)
		}
		if d.Doc == "" || !strings.HasSuffix(d.Doc, ".") || d.Since < BaseLevel || d.Since > CurrentLevel {
			t.Errorf("%s: doc %q, since level %d", d.Name, d.Doc, d.Since)
		}
		for v, reason := range d.refused {
			if slices.Contains(d.Values, v) || reason == "" {
				t.Errorf("%s=%s is both allowed and refused", d.Name, v)
			}
		}
		for _, v := range d.Values {
			if _, err := d.parse(v); err != nil {
				t.Errorf("%s=%s: %v", d.Name, v, err)
			}
		}
		if d.Kind == Integer {
			checkRange(t, d)
		}
	}
}

func checkRange(t *testing.T, d *ConfigDef) {
	t.Helper()
	for _, v := range []int64{d.Min, d.Max} {
		if _, err := d.parse(itoa(v)); err != nil {
			t.Errorf("%s=%d: %v", d.Name, v, err)
		}
	}
	if _, err := d.parse(itoa(d.Min - 1)); err == nil || err.Code != InvalidConfig || err.Field != d.Name || err.Limit == "" {
		t.Errorf("%s=%d: %v", d.Name, d.Min-1, err)
	}
	if d.Max != noLimit {
		if _, err := d.parse(itoa(d.Max + 1)); err == nil {
			t.Errorf("%s=%d is accepted", d.Name, d.Max+1)
		}
	}
}

func itoa(n int64) string {
	var b []byte
	if n < 0 {
		return "-" + itoa(-n)
	}
	for ; n > 9; n /= 10 {
		b = append(b, byte('0'+n%10))
	}
	b = append(b, byte('0'+n))
	slices.Reverse(b)
	return string(b)
}

// The defaults that clients of Kafka rely on.
func TestDefaultSettings(t *testing.T) {
	s := emptyImage().DefaultSettings()
	want := Settings{
		CleanupDelete: true, RetentionMS: 604800000, RetentionBytes: -1, SegmentBytes: 64 << 20, SegmentMS: 604800000,
		MaxMessageBytes: 1048588, TimestampBeforeMaxMS: noLimit, TimestampAfterMaxMS: 3600000, MinInsyncReplicas: 1,
		FlushPolicy: "fsync", ProducerIDExpirationMS: 86400000, DeleteRetentionMS: 86400000, MaxCompactionLagMS: noLimit,
		MinCleanableDirtyRatio: 0.5,
	}
	if s != want {
		t.Fatalf("%+v, want %+v", s, want)
	}
}

// A key that comes with a later feature level is refused below it: brokers that do not know it would.
func TestConfigOfALaterLevel(t *testing.T) {
	d, _ := LookupConfig("retention.ms")
	defer func(since uint16) { d.Since = since }(d.Since)
	d.Since = 2
	if _, err := alterConfigs(nil, []Config{{"retention.ms", "5"}}, nil, 1); err == nil || err.Code != InvalidConfig {
		t.Fatal(err)
	}
	if _, err := alterConfigs(nil, []Config{{"retention.ms", "5"}}, nil, 2); err != nil {
		t.Fatal(err)
	}
}

func TestConfigsOf(t *testing.T) {
	img := sample(t)
	topic, _ := img.Topic("a")
	got := map[string]HeldConfig{}
	for _, c := range img.ConfigsOf(topic) {
		got[c.Def.Name] = c
	}
	if len(got) != len(ConfigDefs()) {
		t.Fatalf("%d configs", len(got))
	}
	for name, want := range map[string]HeldConfig{
		"min.insync.replicas": {Value: "2", Source: FromTopic},
		"retention.ms":        {Value: "5", Source: FromCluster},
		"segment.ms":          {Value: "604800000", Source: FromTable},
	} {
		if got[name].Value != want.Value || got[name].Source != want.Source {
			t.Errorf("%s is %q from %d", name, got[name].Value, got[name].Source)
		}
	}
	for _, c := range img.ConfigsOf(nil) {
		if c.Source == FromTopic {
			t.Errorf("%s is set on no topic", c.Def.Name)
		}
	}
}

func TestNearestConfig(t *testing.T) {
	for asked, want := range map[string]string{
		"retention.mss": "retention.ms", "RETENTION.MS": "retention.ms", "max.message.byte": "max.message.bytes",
		"min.insync.replica": "min.insync.replicas", "cleanup": "cleanup.policy",
	} {
		if got := nearestConfig(asked); got != want {
			t.Errorf("nearest to %s is %s, not %s", asked, got, want)
		}
	}
}
