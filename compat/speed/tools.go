package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// java runs one of Kafka's tools and gives what it printed.
func (b *bench) java(ctx context.Context, tool string, args ...string) (string, error) {
	if b.classpath == "" {
		return "", errors.New("Kafka's tools are not there: -alone was given")
	}
	cmd := exec.CommandContext(ctx, "java", append([]string{"-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", b.classpath, "org.apache.kafka.tools." + tool}, args...)...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", tool, err, out, said.String())
	}
	return string(out), nil
}

var perfRate = regexp.MustCompile(`\(([0-9.]+) MB/sec\)`)

// perfTest is Kafka's own producer test. Its first records pay for the start of its JVM, which a longer run would spread.
func perfTest(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		records := b.share(250_000)
		linger := "5"
		if r.batch <= 16<<10 {
			records, linger = b.share(120_000), "5" // what it has when nothing is said, since Kafka 4
		}
		if v.flush {
			records /= 3
		}
		burned := cpuSeconds(v.pids())
		profiled := b.profile(v, r)
		out, err := b.java(ctx, "ProducerPerformance", "--topic", topic, "--num-records", strconv.Itoa(records), "--record-size", strconv.Itoa(recordBytes), "--throughput", "-1",
			"--bootstrap-server", strings.Join(v.addrs, ","), "--command-property", "acks=all", "--command-property", "linger.ms="+linger,
			"--command-property", fmt.Sprintf("batch.size=%d", r.batch))
		profiled()
		if err != nil {
			return sample{}, err
		}
		all := perfRate.FindAllStringSubmatch(out, -1)
		if len(all) == 0 {
			return sample{}, fmt.Errorf("no rate in %q", out)
		}
		mib, err := strconv.ParseFloat(all[len(all)-1][1], 64)
		return sample{value: mib * (1 << 20) / 1e6, cpu: (cpuSeconds(v.pids()) - burned) / (float64(records) * recordBytes / (1 << 30))}, err
	})
}

// consumeJava is Kafka's own consumer test; what counts is the time of its fetches, without its start.
func consumeJava(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		if err := b.fill(ctx, v, topic); err != nil {
			return sample{}, err
		}
		burned := cpuSeconds(v.pids())
		profiled := b.profile(v, r)
		out, err := b.java(ctx, "ConsumerPerformance", "--topic", topic, "--num-records", strconv.Itoa(b.filled()), "--bootstrap-server", strings.Join(v.addrs, ","),
			"--timeout", "30000")
		profiled()
		if err != nil {
			return sample{}, err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		head, values := strings.Split(lines[0], ", "), strings.Split(lines[len(lines)-1], ", ")
		for i, name := range head {
			if name == "fetch.MB.sec" && i < len(values) {
				mib, err := strconv.ParseFloat(values[i], 64)
				return sample{value: mib * (1 << 20) / 1e6, cpu: (cpuSeconds(v.pids()) - burned) / (float64(b.filled()) * recordBytes / (1 << 30))}, err
			}
		}
		return sample{}, fmt.Errorf("no fetch.MB.sec in %q", out)
	})
}

// consumeKcat reads to the end with kcat, which is librdkafka.
func consumeKcat(ctx context.Context, b *bench, v variant, r *row) (sample, error) {
	return withTopic(ctx, v, r, func(topic string) (sample, error) {
		if err := b.fill(ctx, v, topic); err != nil {
			return sample{}, err
		}
		burned, began := cpuSeconds(v.pids()), time.Now()
		profiled := b.profile(v, r)
		cmd := exec.CommandContext(ctx, "kcat", "-b", strings.Join(v.addrs, ","), "-t", topic, "-C", "-e", "-q", "-o", "beginning", "-f", "%o\n")
		var count lines
		cmd.Stdout = &count
		err := cmd.Run()
		seconds, cpu := time.Since(began).Seconds(), cpuSeconds(v.pids())-burned
		profiled()
		if err == nil && int(count) < b.filled() {
			err = fmt.Errorf("kcat read %d records, %d were written", count, b.filled())
		}
		return sample{value: float64(b.filled()) * recordBytes / 1e6 / seconds, cpu: cpu / (float64(b.filled()) * recordBytes / (1 << 30))}, err
	})
}

// lines counts what it is written.
type lines int

func (l *lines) Write(b []byte) (int, error) {
	*l += lines(bytes.Count(b, []byte("\n")))
	return len(b), nil
}
