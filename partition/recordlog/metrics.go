package recordlog

import "github.com/prometheus/client_golang/prometheus"

// Metrics are shared by all logs of a broker.
type Metrics struct {
	fsync       prometheus.Histogram
	written     prometheus.Counter
	ahead       prometheus.Counter
	entries     prometheus.Histogram
	cacheHits   prometheus.Counter
	cacheMisses prometheus.Counter
	bytes       prometheus.Gauge
	cacheBytes  prometheus.Gauge
	queued      prometheus.Gauge
	refused     prometheus.Gauge
	failures    prometheus.Counter
	noSpace     prometheus.Counter
	corruptions prometheus.Counter
	tornTails   prometheus.Counter
}

// NewMetrics makes the metrics and registers them, if there is a registerer.
func NewMetrics(r prometheus.Registerer) *Metrics { return NewMetricsOf("log", r) }

// NewMetricsOf names them for logs of another kind.
func NewMetricsOf(subsystem string, r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "brokerd", Subsystem: subsystem, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "brokerd", Subsystem: subsystem, Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "brokerd", Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		fsync:       histogram("fsync_seconds", "Time of one fdatasync of a segment.", prometheus.ExponentialBuckets(20e-6, 2, 18)),
		written:     counter("written_bytes_total", "Bytes written to segments, frame headers included."),
		ahead:       counter("ahead_bytes_total", "Zeros written ahead of small appends, so that their flushes need no journal."),
		entries:     histogram("append_entries", "Raft entries written with one fdatasync.", prometheus.ExponentialBuckets(1, 2, 12)),
		cacheHits:   counter("cache_hits_total", "Entries and reads served from the tail cache."),
		cacheMisses: counter("cache_misses_total", "Entries and reads that went to disk."),
		bytes:       gauge("bytes", "Bytes of all segments on disk."),
		cacheBytes:  gauge("cache_bytes", "Bytes of entries that the tail caches refer to."),
		queued:      gauge("queued_bytes", "Bytes of entries that are appended and not on disk yet."),
		refused:     gauge("refused_batches", "Refused batches above the log starts, remembered so that readers skip them."),
		failures:    counter("failures_total", "Logs that stopped because a write or sync failed."),
		noSpace:     counter("no_space_total", "Appends refused because the disk is full."),
		corruptions: counter("corruptions_total", "Damage found on opening or reading."),
		tornTails:   counter("torn_tails_total", "Unsynced tails cut off on opening."),
	}
	if r != nil {
		r.MustRegister(m.fsync, m.written, m.ahead, m.entries, m.cacheHits, m.cacheMisses, m.bytes, m.cacheBytes, m.queued, m.refused,
			m.failures, m.noSpace, m.corruptions, m.tornTails)
	}
	return m
}
