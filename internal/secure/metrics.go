package secure

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all ports of a broker. A nil one counts nothing.
type Metrics struct {
	reloads    *prometheus.CounterVec
	handshakes *prometheus.CounterVec
	pending    *prometheus.GaugeVec

	// mu guards keepers.
	mu      sync.Mutex
	keepers []*Keeper
}

var (
	certificateExpiry = prometheus.NewDesc("brokerd_tls_certificate_not_after_seconds",
		"When the certificate of a port expires, in seconds since 1970.", []string{"port"}, nil)
	authorityExpiry = prometheus.NewDesc("brokerd_tls_authority_not_after_seconds",
		"When the first of a port's authorities expires, in seconds since 1970.", []string{"port"}, nil)
)

// NewMetrics makes and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_tls_reloads_total",
			Help: "Changed certificate files by whether they were taken or refused."}, []string{"port", "result"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_tls_handshakes_total",
			Help: "Connections by what came of their beginning."}, []string{"port", "result"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "brokerd_tls_pending_connections",
			Help: "Connections that have not finished their handshake."}, []string{"port"}),
	}
	if reg != nil {
		reg.MustRegister(m.reloads, m.handshakes, m.pending, m)
	}
	return m
}

// Describe is prometheus.Collector's.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- certificateExpiry
	ch <- authorityExpiry
}

// Collect tells when certificates expire.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.keepers {
		l := k.current.Load()
		ch <- prometheus.MustNewConstMetric(certificateExpiry, prometheus.GaugeValue, float64(l.notAfter.Unix()), k.c.Port)
		if !l.authority.IsZero() {
			ch <- prometheus.MustNewConstMetric(authorityExpiry, prometheus.GaugeValue, float64(l.authority.Unix()), k.c.Port)
		}
	}
}

func (m *Metrics) keeps(k *Keeper) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepers = append(m.keepers, k)
}

func (m *Metrics) reloaded(port, result string) {
	if m != nil {
		m.reloads.WithLabelValues(port, result).Inc()
	}
}

func (m *Metrics) began(port string, n float64) {
	if m != nil {
		m.pending.WithLabelValues(port).Add(n)
	}
}

func (m *Metrics) ended(port, result string) {
	if m != nil {
		m.handshakes.WithLabelValues(port, result).Inc()
	}
}
