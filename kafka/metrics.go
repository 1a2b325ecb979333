package kafka

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the listener counts. Labels are bounded: keys, codes and reasons are fixed sets.
type metrics struct {
	requests        *prometheus.CounterVec
	seconds         *prometheus.HistogramVec
	errors          *prometheus.CounterVec
	produceBytes    prometheus.Counter
	fetchBytes      prometheus.Counter
	readingBytes    prometheus.Gauge
	fetchingBytes   prometheus.Gauge
	fetchPartitions prometheus.Gauge
	fetchSessions   prometheus.Gauge
	sessionsEvicted prometheus.Counter
	waits           prometheus.Counter
	fetchesHeld     prometheus.Counter
	closed          *prometheus.CounterVec
	closedUntold    prometheus.Counter
	panics          prometheus.Counter
	unknownErrors   prometheus.Counter

	connections        prometheus.Gauge
	connectionsRefused prometheus.Counter
}

// newMetrics makes and registers the metrics; a nil registerer leaves them unregistered.
func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_kafka_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_kafka_" + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_kafka_" + name, Help: help}, labels)
	}
	m := &metrics{
		requests: vec("requests_total", "Requests answered, by API.", "api"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "brokerd_kafka_request_seconds",
			Help:    "Time from the receipt of a request until its answer is ready, waiting for data included, by API.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 14)}, []string{"api"}),
		errors:          vec("errors_total", "Errors in answers, by API and by the error's name.", "api", "error"),
		produceBytes:    counter("produce_bytes_total", "Bytes of batches received, refused ones included."),
		fetchBytes:      counter("fetch_bytes_total", "Bytes of batches given to fetches."),
		readingBytes:    gauge("reading_bytes", "Bytes of requests that are being read or wait for their commit."),
		fetchingBytes:   gauge("fetching_bytes", "Bytes of fetch answers that are being read or on their way to clients."),
		fetchPartitions: gauge("fetch_partitions", "Partitions named by fetches under way, those that wait for data included."),
		fetchSessions:   gauge("fetch_sessions", "Fetch sessions remembered."),
		sessionsEvicted: counter("fetch_sessions_evicted_total", "Fetch sessions forgotten to make room for others."),
		waits:           counter("reads_held_total", "Times that a connection was not read because too many bytes of requests were under way."),
		fetchesHeld:     counter("fetches_held_total", "Fetches that waited because too many bytes of answers were on their way."),
		closed:          vec("connections_closed_total", "Connections closed by the broker, by reason.", "reason"),
		closedUntold:    counter("closed_lines_left_out_total", "Connections closed by the broker of which the log says nothing, since there were too many in a second."),
		panics:          counter("panics_total", "Requests ended by a panic. Each is a bug."),
		unknownErrors:   counter("unknown_errors_total", "Failures that the error table does not know. Each is a bug and has been logged."),

		connections:        gauge("connections", "Open client connections."),
		connectionsRefused: counter("connections_refused_total", "Connections closed at once for being above the limit."),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.errors, m.produceBytes, m.fetchBytes, m.readingBytes, m.fetchingBytes, m.fetchPartitions,
			m.fetchSessions, m.sessionsEvicted, m.waits, m.fetchesHeld, m.closed, m.closedUntold, m.panics, m.unknownErrors, m.connections, m.connectionsRefused)
	}
	return m
}
