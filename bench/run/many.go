package main

import "context"

// manyPartitions measures small batches on 500 partitions that are all written to: one record of 1 KiB to a request, one request under way
// on each. Ours waits in the producer's buffer before that, which the p99 counts.
func manyPartitions(ctx context.Context, b *bench) ([]figure, error) {
	r := &row{name: "1k-500", partitions: 500,
		ours:  []string{"produce", "--batch", "1024", "--size", "1024", "--linger", "0", "--buffer", "524288", "--in-flight", "1"},
		limit: []string{"-partitions", "500", "-in-flight", "1", "-batch-bytes", "1024"}}
	var l limitReport
	if !b.options.alone {
		var err error
		if l, err = b.limit(ctx, r); err != nil {
			return nil, err
		}
		settle()
	}
	out, burned, err := b.ours(ctx, r)
	if err != nil {
		return nil, err
	}
	figures := []figure{
		{what: "produce, 500 partitions, one 1 KiB record, one in flight on each", unit: "MB/s", ours: out.MBPerSecond, limit: l.MBPerSecond, goal: "-"},
		{what: "the same, p99", unit: "us", ours: out.Latency.P99, limit: l.P99Micros, goal: "-"},
	}
	if out.Bytes > 0 {
		figures = append(figures, figure{what: "the same, brokers' CPU for each GiB", unit: "s", ours: burned / (out.Bytes / (1 << 30)), goal: "-"})
	}
	return figures, nil
}
