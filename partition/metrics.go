package partition

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/partition/producer"
)

// metrics are a host's own; Raft's and the record log's are theirs.
type metrics struct {
	replicas    prometheus.Gauge
	quarantined prometheus.Gauge
	batches     *prometheus.CounterVec
	refusedBusy prometheus.Counter
	timedOut    prometheus.Counter
	inFlight    prometheus.Gauge
	evicted     prometheus.Counter
	expired     prometheus.Counter
	clockJump   prometheus.Gauge
	accepted    prometheus.Counter
	duplicates  prometheus.Counter
	retained    prometheus.Counter
	damaged     prometheus.Counter
	scrubs      prometheus.Counter
	catchingUp  prometheus.Gauge
	catchUps    *prometheus.CounterVec
	compared    *prometheus.CounterVec
	pulled      prometheus.Counter
	markers     *prometheus.CounterVec
	joins       *prometheus.CounterVec

	compacting        prometheus.Gauge
	compactions       *prometheus.CounterVec
	compactionSeconds prometheus.Histogram
	compactedBytes    *prometheus.CounterVec
	compactedRecords  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		replicas:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_replicas", Help: "Replicas hosted by this broker."}),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_replicas_quarantined", Help: "Replicas that could not be opened."}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_producer_batches_total",
			Help: "Batches of idempotent producers decided by apply, on leader and followers alike, by verdict."}, []string{"verdict"}),
		refusedBusy: prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_produce_busy_total", Help: "Produce requests refused because too much was in flight."}),
		timedOut:    prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_produce_timeouts_total", Help: "Produce requests answered REQUEST_TIMED_OUT; they may have happened."}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_produce_in_flight", Help: "Batches proposed and not answered."}),
		evicted:     prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_producer_evicted_total", Help: "Idle producers forgotten because the partition's bound was reached."}),
		expired:     prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_producer_expired_total", Help: "Producers forgotten because they were idle longer than producer.id.expiration.ms."}),
		clockJump:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_clock_jump_seconds", Help: "By how much the clock has jumped forward since the broker started; ages are judged without it. 0: it has not, or is back."}),
	}
	m.retained = prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_retention_records_total", Help: "Offsets that retention put below the log start of partitions led here."})
	m.damaged = prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_replicas_damaged_total", Help: "Replicas in whose log damage was found while they ran."})
	m.scrubs = prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_scrubs_total", Help: "How often all logs of this broker have been read through to look for damage."})
	m.catchingUp = prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_catching_up_replicas", Help: "Replicas that are pulling log entries from a peer, because they lie further behind than Raft's window."})
	m.catchUps = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_catch_ups_total", Help: "Attempts of replicas to pull log entries from a peer, by how they ended: done, failed."}, []string{"end"})
	m.compared = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_replica_comparisons_total", Help: "Ranges of logs led here that were compared with the other replicas, by result: equal; incomplete, not all could be asked; different, the wrong replica was told to stop; undecided, no majority says which is right."}, []string{"result"})
	m.pulled = prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_catch_up_bytes_total", Help: "Bytes of log entries pulled from peers."})
	m.markers = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_partition_markers_total", Help: "Transaction markers that partitions led here decided, by verdict."}, []string{"verdict"})
	m.joins = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_partition_joins_total", Help: "First batches of transactions whose coordinator partitions led here have asked, by its answer."}, []string{"answer"})
	m.compacting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_compaction_running", Help: "Passes of compaction that this broker is carrying out."})
	m.compactions = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_compactions_total", Help: "Passes of compaction that replicas of this broker carried out, by how they ended: done, failed."}, []string{"end"})
	m.compactionSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "brokerd_compaction_seconds", Help: "Time of one pass of compaction on one replica.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10)})
	m.compactedBytes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_compaction_bytes_total", Help: "Bytes of segments that compaction read, and that it wrote in their place."}, []string{"direction"})
	m.compactedRecords = prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_compaction_records_removed_total", Help: "Records that compaction removed from the replicas of this broker."})
	m.accepted = m.batches.WithLabelValues("accepted")
	m.duplicates = m.batches.WithLabelValues("duplicate")
	for _, end := range []string{"done", "failed"} { // shown from the start, at zero
		m.compactions.WithLabelValues(end)
	}
	for _, direction := range []string{"read", "written"} {
		m.compactedBytes.WithLabelValues(direction)
	}
	if reg != nil {
		reg.MustRegister(m.replicas, m.quarantined, m.batches, m.refusedBusy, m.timedOut, m.inFlight, m.evicted, m.expired, m.clockJump, m.retained, m.damaged, m.scrubs,
			m.catchingUp, m.catchUps, m.compared, m.pulled, m.markers, m.joins, m.compacting, m.compactions, m.compactionSeconds, m.compactedBytes, m.compactedRecords)
	}
	return m
}

func (m *metrics) verdict(v producer.Verdict) {
	switch v.Code {
	case producer.Accepted:
		m.accepted.Inc()
	case producer.Duplicate:
		m.duplicates.Inc()
	default:
		m.batches.WithLabelValues(v.Code.String()).Inc()
	}
	m.producersEvicted(len(v.Evicted))
}

// marker counts a marker's verdict.
func (m *metrics) marker(refusal *Error) {
	m.markers.WithLabelValues(verdictOf(refusal, "written")).Inc()
}

// joined counts a coordinator's answer.
func (m *metrics) joined(refusal *Error) { m.joins.WithLabelValues(verdictOf(refusal, "joined")).Inc() }

func verdictOf(refusal *Error, otherwise string) string {
	if refusal == nil {
		return otherwise
	}
	return string(refusal.Code)
}

func (m *metrics) producersEvicted(n int) {
	if n > 0 {
		m.evicted.Add(float64(n))
	}
}
