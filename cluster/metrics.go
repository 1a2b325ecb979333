package cluster

import "github.com/prometheus/client_golang/prometheus"

// metrics of one broker's end of the cluster.
type metrics struct {
	version, topics, partitions, brokers, level prometheus.Gauge
	ready, controller, aliveBrokers             prometheus.Gauge
	waiting                                     prometheus.Gauge
	requests                                    *prometheus.CounterVec
	statusFailures, statusResends               prometheus.Counter
	producerIDBlocks                            prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_cluster_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_cluster_" + name, Help: help})
	}
	m := &metrics{
		version:      gauge("metadata_version", "Raft index of the last change of metadata that this broker has applied."),
		topics:       gauge("topics", "Topics, those being deleted not counted."),
		partitions:   gauge("partitions", "Partitions of all topics, those being deleted included."),
		brokers:      gauge("brokers", "Registered brokers."),
		level:        gauge("feature_level", "Feature level of the cluster."),
		ready:        gauge("ready", "1 once this broker is registered and has caught up with its registration."),
		controller:   gauge("controller", "1 while this broker leads the metadata group and does the controller's work."),
		aliveBrokers: gauge("alive_brokers", "Brokers heard from lately, this one included."),
		waiting:      gauge("waiting_requests", "Changes of metadata that wait on this broker."),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_cluster_requests_total",
			Help: "Changes of metadata asked of this broker, by kind and by the code of their end; OK for done."}, []string{"kind", "code"}),
		statusFailures:   counter("status_failures_total", "Reports to peers that got no answer."),
		statusResends:    counter("status_resends_total", "Reports after which a peer asked for the whole table."),
		producerIDBlocks: counter("producer_id_blocks_total", "Blocks of producer ids fetched."),
	}
	if r != nil {
		r.MustRegister(m.version, m.topics, m.partitions, m.brokers, m.level, m.ready, m.controller, m.aliveBrokers,
			m.waiting, m.requests, m.statusFailures, m.statusResends, m.producerIDBlocks)
	}
	return m
}
