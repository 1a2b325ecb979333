package main

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oncelog/oncelog/record"
)

// Every value lies in its bucket, buckets rise, and their width is below 1.6% of their values.
func TestHistogramBuckets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := []int64{0, 1, 63, 64, 65, 127, 128, 129, 1<<62 - 1, 1<<63 - 1}
	for range 100000 {
		values = append(values, rng.Int64()>>rng.IntN(63))
	}
	for _, v := range values {
		b := bucketOf(v)
		if b < 0 || b >= buckets {
			t.Fatalf("%d is in bucket %d of %d", v, b, buckets)
		}
		low := int64(-1)
		if b > 0 {
			low = upper(b - 1)
		}
		if v > upper(b) || v <= low {
			t.Fatalf("%d is in bucket %d, which holds %d to %d", v, b, low+1, upper(b))
		}
		if width := upper(b) - low; float64(width) > 1+float64(v)*0.016 {
			t.Fatalf("bucket %d of %d is %d wide", b, v, width)
		}
	}
}

// Quantiles are those of the sorted values, within the width of a bucket.
func TestHistogramQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var h histogram
	var all []time.Duration
	for range 20000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(0, int(q*float64(len(all))+0.5)-1)]
		if got := h.quantile(q); got < want || float64(got) > 1.02*float64(want)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if h.quantile(1) != all[len(all)-1] {
		t.Errorf("the largest is %v, want %v", h.quantile(1), all[len(all)-1])
	}
	if (&histogram{}).quantile(0.5) != 0 || (&histogram{}).mean() != 0 {
		t.Error("an empty histogram is not zero")
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "100": 100, "64k": 64 << 10, "64K": 64 << 10, "1MiB": 1 << 20, "2.5M": 5 << 19, "1 gb": 1 << 30, "7b": 7} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "-1", "1x", "1kk", "1.2.3", "99999999999999999G"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d", s, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 1 << 40: "1.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 999: "999ns", 123456: "123.5µs", 1234567: "1.235ms", 12345678: "12.35ms", 1234567890: "1.235s"} {
		if got := brief(d).String(); got != want {
			t.Errorf("brief(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestParseTopicPartition(t *testing.T) {
	if got, err := parseTopicPartition("a/b/12"); err != nil || got != (record.TopicPartition{Topic: "a/b", Partition: 12}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "a", "/1", "a/", "a/-1", "a/x", "a/1x", "a/01", "a/99999999999"} {
		if got, err := parseTopicPartition(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

// The benchmarks run, count, and leave nothing behind.
func TestBenchmarksRun(t *testing.T) {
	f := startFake(t)
	for _, line := range []string{
		"bench produce -n 5000 --size 100 --partitions 3 --producers 2 -o json",
		"bench consume --bytes 300k --size 100 --partitions 2 -o json",
		"bench consume --bytes 300k --size 100 --partitions 2 --decode -o json",
		"bench latency -d 50ms --clients 3 -o json",
		"bench latency -d 50ms --rate 1000 -o json",
		"bench produce -d 50ms --acks none --rate 1000 -o json",
	} {
		stdout, stderr, code := f.run(t, "", strings.Fields(line)...)
		var r struct {
			Records int64       `json:"records"`
			Bytes   int64       `json:"bytes"`
			Latency latencyJSON `json:"latency"`
		}
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 0 {
			t.Errorf("%s: %v, exit %d, %s%s", line, err, code, stdout, stderr)
		}
		switch {
		case strings.Contains(line, "5000") && (r.Records != 5000 || r.Bytes != 500000 || r.Latency.Count != 5000):
			t.Errorf("%s: %s", line, stdout)
		case strings.Contains(line, "consume") && r.Records != 3072:
			t.Errorf("%s: %s", line, stdout)
		case strings.Contains(line, "latency") && (r.Latency.Count == 0 || r.Latency.P50 <= 0):
			t.Errorf("%s: %s", line, stdout)
		}
		f.mu.Lock()
		if len(f.topics) > 0 {
			t.Errorf("%s: left %d topics behind", line, len(f.topics))
		}
		f.mu.Unlock()
	}
	for _, line := range []string{"bench produce -n 100", "bench consume --bytes 10k", "bench latency -d 20ms"} {
		if stdout, stderr, code := f.run(t, "", strings.Fields(line)...); code != 0 || !strings.Contains(stdout, "RECORDS/S") {
			t.Errorf("%s: exit %d, %s%s", line, code, stdout, stderr)
		}
	}
}

// What is typed at a shell's completion key is answered from the cluster.
func TestCompletion(t *testing.T) {
	f := startFake(t)
	if _, stderr, code := f.run(t, "", "topic", "create", "orders", "-q"); code != 0 {
		t.Fatal(stderr)
	}
	for line, want := range map[string]string{
		"__complete topic describe ": "orders", "__complete consume ": "orders", "__complete -o ": "json", "__complete produce x --acks ": "leader",
		"__complete cluster drain ": "2\tb2.example:9095", "__complete cluster transfer orders/0 --to ": "3", "completion bash": "__start_brokerctl",
	} {
		args := strings.Fields(line)
		if strings.HasSuffix(line, " ") {
			args = append(args, "")
		}
		if stdout, stderr, code := f.run(t, "", args...); code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("%s: exit %d, %s%s", line, code, stdout, stderr)
		}
	}
}

// Every command teaches: a short sentence, and an example if it does anything.
func TestHelpTeaches(t *testing.T) {
	p := &program{environ: func(string) string { return "" }}
	root := p.rootCommand()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		for _, sub := range append(cmd.Commands(), cmd) {
			if sub.Short == "" {
				t.Errorf("%s has no short description", sub.CommandPath())
			}
			if sub.Runnable() && !sub.HasSubCommands() && sub.Example == "" && sub.Name() != "help" {
				t.Errorf("%s has no example", sub.CommandPath())
			}
			for line := range strings.SplitSeq(sub.UsageString(), "\n") {
				if len(line) > 100 {
					t.Errorf("%s: line of %d columns in its usage: %s", sub.CommandPath(), len(line), line)
				}
			}
			for line := range strings.SplitSeq(sub.Long, "\n") {
				if len(line) > 90 {
					t.Errorf("%s: line of %d columns in its help: %s", sub.CommandPath(), len(line), line)
				}
			}
		}
	}
}
