package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// row is one thing that is measured of each system.
type row struct {
	name, what, unit string
	// goal and flushGoal are what the ratio to Kafka is to be; empty: nothing was demanded.
	goal, flushGoal string
	// cpuGoal is what a GiB may cost our brokers: seconds, or, with "of Kafka's" behind it, a share.
	cpuGoal      string
	lessIsBetter bool
	// flushes: Kafka is measured a second time with topics that wait for the disk.
	flushes bool
	// cold: the round that warms up is left out.
	cold       bool
	partitions int32
	batch      int32
	measure    func(ctx context.Context, b *bench, v variant, r *row) (sample, error)
}

// sample is one measurement; p99 is 0 where there is only one figure, cpu where it is not measured, and all where it came to nothing.
type sample struct{ value, p99, cpu float64 }

var rows = []row{
	{name: "produce-1", cpuGoal: "5", what: "produce, 1 partition, franz-go, 128 KiB batches", unit: "MB/s", goal: "2.5", flushGoal: "5", flushes: true, partitions: 1, batch: 128 << 10, measure: produce},
	{name: "produce-8", cpuGoal: "5", what: "produce, 8 partitions, the same", unit: "MB/s", goal: "2.5", flushGoal: "5", flushes: true, partitions: 8, batch: 128 << 10, measure: produce},
	{name: "produce-16k", what: "produce, 8 partitions, franz-go, 16 KiB batches", unit: "MB/s", goal: "3", flushes: true, partitions: 8, batch: 16 << 10, measure: produce},
	{name: "latency", what: "one record at a time, franz-go, p50", unit: "ms", goal: "0.33", lessIsBetter: true, flushes: true, partitions: 1, measure: latency},
	{name: "perf-1", what: "produce, 1 partition, kafka-producer-perf-test, 128 KiB batches", unit: "MB/s", goal: "2", flushGoal: "3", flushes: true, partitions: 1, batch: 128 << 10, measure: perfTest},
	{name: "perf-8", what: "produce, 8 partitions, the same", unit: "MB/s", goal: "2", flushGoal: "3", flushes: true, partitions: 8, batch: 128 << 10, measure: perfTest},
	{name: "perf-16k", what: "produce, 8 partitions, kafka-producer-perf-test, its own batches", unit: "MB/s", goal: "2", flushGoal: "3", flushes: true, partitions: 8, batch: 16 << 10, measure: perfTest},
	{name: "consume", cpuGoal: "0.5 of Kafka's", what: "consume, 8 partitions, franz-go", unit: "MB/s", goal: "1", partitions: 8, measure: consume},
	{name: "consume-java", cpuGoal: "0.5 of Kafka's", what: "consume, 8 partitions, kafka-consumer-perf-test", unit: "MB/s", goal: "1", partitions: 8, measure: consumeJava},
	{name: "consume-kcat", cpuGoal: "0.5 of Kafka's", what: "consume, 8 partitions, kcat (librdkafka), its start included", unit: "MB/s", goal: "1", partitions: 8, measure: consumeKcat},
	{name: "transactions", what: "transactions of 100 records on 4 of 8 partitions, franz-go", unit: "/s", goal: "10", flushes: true, partitions: 8, measure: transactions},
	{name: "gap", what: "a leader is killed: the longest time without an acknowledgement", unit: "s", goal: "0.2", lessIsBetter: true, partitions: 1, cold: true, measure: gap},
	{name: "ready", what: "start of three brokers until a record is acknowledged", unit: "s", goal: "0.1", lessIsBetter: true, partitions: 1, cold: true, measure: ready},
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// choose finds the rows of a comma-separated list.
func choose(list string) ([]row, error) {
	if list == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(rowNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("there is no row %q, but %s", name, strings.Join(rowNames(), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}
