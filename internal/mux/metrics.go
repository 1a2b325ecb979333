package mux

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	accepted     *prometheus.CounterVec
	rejected     *prometheus.CounterVec
	acceptErrors prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brokerd_mux_connections_total",
			Help: "Connections from other brokers, by what they serve (raft, peer).",
		}, []string{"protocol"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brokerd_mux_rejected_total",
			Help: "Connections to the peer port that were refused, by what they seemed to be.",
		}, []string{"kind"}),
		acceptErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "brokerd_mux_accept_errors_total",
			Help: "Failures to accept on the peer port, such as too many open files.",
		}),
	}
	if r != nil {
		r.MustRegister(m.accepted, m.rejected, m.acceptErrors)
	}
	return m
}
