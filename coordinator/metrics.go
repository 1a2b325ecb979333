package coordinator

import (
	"github.com/prometheus/client_golang/prometheus"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/txn"
)

// hostMetrics are those of all shards.
type hostMetrics struct {
	shards      prometheus.Gauge
	quarantined prometheus.Gauge
	damaged     prometheus.Counter
}

func newHostMetrics(reg prometheus.Registerer) *hostMetrics {
	m := &hostMetrics{
		shards:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_coordinator_shards", Help: "Coordinator shards with a replica on this broker."}),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_coordinator_shards_quarantined", Help: "Coordinator shards whose replica could not be opened."}),
		damaged:     prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_coordinator_shards_damaged_total", Help: "Replicas of coordinator shards in whose log damage was found while they ran."}),
	}
	if reg != nil {
		reg.MustRegister(m.shards, m.quarantined, m.damaged)
	}
	return m
}

// txnMetrics are those of the transaction coordinator.
type txnMetrics struct {
	ids        *prometheus.GaugeVec
	open       *prometheus.GaugeVec
	partitions *prometheus.GaugeVec
	ending     prometheus.Gauge
	requests   *prometheus.CounterVec
	ended      *prometheus.CounterVec
	markers    *prometheus.CounterVec
	timedOut   prometheus.Counter
	expired    prometheus.Counter
}

func newTxnMetrics(reg prometheus.Registerer) *txnMetrics {
	perShard := []string{"shard"}
	m := &txnMetrics{
		ids:        prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "brokerd_transactional_ids", Help: "Transactional ids known to the shards this broker leads."}, perShard),
		open:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "brokerd_transactions_open", Help: "Transactions open or ending in the shards this broker leads."}, perShard),
		partitions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "brokerd_transaction_partitions", Help: "Partitions in the open transactions of the shards this broker leads."}, perShard),
		ending:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_transactions_ending", Help: "Decided transactions whose markers this broker is writing."}),
		requests:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_transaction_requests_total", Help: "Requests to the transaction coordinator, by what was asked and the answer."}, []string{"request", "answer"}),
		ended:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_transactions_completed_total", Help: "Transactions whose markers this broker has written, by outcome."}, []string{"outcome"}),
		markers:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_transaction_markers_total", Help: "Attempts to write a marker, by what came of them."}, []string{"result"}),
		timedOut:   prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_transactions_timed_out_total", Help: "Transactions aborted because they were open for longer than their timeout."}),
		expired:    prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_transactional_ids_expired_total", Help: "Transactional ids forgotten because they were not used."}),
	}
	if reg != nil {
		reg.MustRegister(m.ids, m.open, m.partitions, m.ending, m.requests, m.ended, m.markers, m.timedOut, m.expired)
	}
	return m
}

// answered counts a request.
func (m *txnMetrics) answered(c *statev1.TransactionCommand, r txn.Result) {
	what := "other"
	switch c.GetCommand().(type) {
	case *statev1.TransactionCommand_Init:
		what = "init"
	case *statev1.TransactionCommand_Add:
		what = "add"
	case *statev1.TransactionCommand_End:
		what = "end"
	case *statev1.TransactionCommand_Abort:
		what = "abort"
	}
	m.requests.WithLabelValues(what, r.Code.String()).Inc()
}

// completed counts a transaction that is over.
func (m *txnMetrics) completed(t *txn.Transaction) {
	outcome := "abort"
	if t.Status == txn.PrepareCommit {
		outcome = "commit"
	}
	m.ended.WithLabelValues(outcome).Inc()
}

// observe shows how full a shard is.
func (m *txnMetrics) observe(s *txnShard) {
	name := s.spec.String()
	s.machine.read(func(state *txn.State) {
		m.ids.WithLabelValues(name).Set(float64(state.Len()))
		m.open.WithLabelValues(name).Set(float64(state.OpenLen()))
		m.partitions.WithLabelValues(name).Set(float64(state.OpenPartitions()))
	})
}

// forget ends the showing of a shard that is led by another broker now.
func (m *txnMetrics) forget(s *txnShard) {
	name := s.spec.String()
	for _, g := range []*prometheus.GaugeVec{m.ids, m.open, m.partitions} {
		g.DeleteLabelValues(name)
	}
}
