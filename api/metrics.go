package api

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the listener counts. Labels are bounded: methods, gRPC codes and reasons are
// fixed sets.
type metrics struct {
	requests        *prometheus.CounterVec
	seconds         *prometheus.HistogramVec
	produceSeconds  prometheus.Histogram
	produceErrors   *prometheus.CounterVec
	unanswered      *prometheus.CounterVec
	produceBytes    prometheus.Counter
	fetchBytes      prometheus.Counter
	produceStreams  prometheus.Gauge
	inFlight        prometheus.Gauge
	stalls          prometheus.Counter
	receivingBytes  prometheus.Gauge
	receivesHeld    prometheus.Counter
	producingBytes  prometheus.Gauge
	fetchingBytes   prometheus.Gauge
	fetchPartitions prometheus.Gauge
	fetchesHeld     prometheus.Counter
	panics          prometheus.Counter
	unknownErrors   prometheus.Counter

	turnedAway         prometheus.Counter
	connections        prometheus.Gauge
	connectionsCut     *prometheus.CounterVec
	cutUntold          prometheus.Counter
	connectionsRefused prometheus.Counter
}

// newMetrics makes and registers the metrics; a nil registerer leaves them unregistered.
func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_grpc_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_grpc_" + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_grpc_" + name, Help: help}, labels)
	}
	buckets := prometheus.ExponentialBuckets(0.0002, 2.5, 14) // 0.2 ms to 30 s
	m := &metrics{
		requests: vec("requests_total", "Calls that have ended, by method and gRPC code. A Produce stream is one call.", "method", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "brokerd_grpc_request_seconds",
			Help: "Time that unary calls took, fetches that wait for data included.", Buckets: buckets}, []string{"method"}),
		produceSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "brokerd_grpc_produce_seconds",
			Help: "Time from the receipt of a produce request to its answer.", Buckets: buckets}),
		produceErrors:   vec("produce_errors_total", "Produce requests answered with an error, by reason.", "reason"),
		unanswered:      vec("produce_unanswered_errors_total", "Produce requests with acks none that failed, by reason. Nobody was told.", "reason"),
		produceBytes:    counter("produce_bytes_total", "Bytes of batches received, refused ones included."),
		fetchBytes:      counter("fetch_bytes_total", "Bytes of batches given to fetches."),
		produceStreams:  gauge("produce_streams", "Produce streams that are open."),
		inFlight:        gauge("produce_in_flight", "Produce requests taken and not yet answered."),
		stalls:          counter("produce_stalls_total", "Times that a Produce stream was not read for being at its bound of requests or bytes under way."),
		receivingBytes:  gauge("reading_bytes", "Bytes of requests that are being received, or, but for those to produce, not answered."),
		receivesHeld:    counter("reads_held_total", "Times that a connection was not read for want of room for requests."),
		producingBytes:  gauge("producing_bytes", "Bytes of batches of all streams that wait for their commit."),
		fetchingBytes:   gauge("fetching_bytes", "Bytes of fetch answers that are being read or on their way to clients."),
		fetchPartitions: gauge("fetch_partitions", "Partitions named by fetches under way, those that wait for data included."),
		fetchesHeld:     counter("fetches_held_total", "Fetches that waited because too many bytes of answers were on their way."),
		panics:          counter("panics_total", "Calls ended by a panic. Each is a bug."),
		unknownErrors:   counter("unknown_errors_total", "Failures that the error table does not know. Each is a bug and has been logged."),

		turnedAway:         counter("calls_turned_away_total", "Calls refused before they were read, since nobody has proven who calls, or not well."),
		connectionsCut:     vec("connections_cut_total", "Connections closed, by reason: nobody has proven who it is, and too_much was sent or it was idle; too many of its calls were turned_away; or requests have no_room, and it holds most.", "reason"),
		cutUntold:          counter("cut_lines_left_out_total", "Connections closed of which the log says nothing, since there were too many in a second."),
		connections:        gauge("connections", "Open client connections."),
		connectionsRefused: counter("connections_refused_total", "Connections closed at once for being above the limit."),
	}
	for _, reason := range []string{cutIdle, cutTooMuch, cutNoRoom, cutTurnedAway} {
		m.connectionsCut.WithLabelValues(reason) // 0 is a figure, too
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.produceSeconds, m.produceErrors, m.unanswered, m.produceBytes, m.fetchBytes,
			m.produceStreams, m.inFlight, m.stalls, m.receivingBytes, m.receivesHeld, m.producingBytes, m.fetchingBytes, m.fetchPartitions, m.fetchesHeld, m.panics, m.unknownErrors,
			m.connections, m.connectionsRefused, m.connectionsCut, m.cutUntold, m.turnedAway)
	}
	return m
}
