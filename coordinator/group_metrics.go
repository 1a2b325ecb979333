package coordinator

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// groupMetrics are those of the group coordinator.
type groupMetrics struct {
	// sizes has what each shard holds of what is limited.
	sizes    map[string]*prometheus.GaugeVec
	streams  prometheus.Gauge
	requests *prometheus.CounterVec
	computed prometheus.Histogram
	fenced   prometheus.Counter
	expired  *prometheus.CounterVec
	// joining is what members of the classic protocol, and their requests that wait, hold in memory.
	joining *prometheus.GaugeVec
}

func newGroupMetrics(reg prometheus.Registerer) *groupMetrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"shard"})
	}
	m := &groupMetrics{
		sizes: map[string]*prometheus.GaugeVec{
			"groups":    gauge("brokerd_groups", "Consumer groups in the shards this broker leads."),
			"members":   gauge("brokerd_group_members", "Members of the groups in the shards this broker leads."),
			"offsets":   gauge("brokerd_group_offsets", "Committed and pending offsets in the shards this broker leads."),
			"pending":   gauge("brokerd_group_offsets_pending", "Offsets in open transactions in the shards this broker leads."),
			"producers": gauge("brokerd_group_producers", "Producers that the shards this broker leads remember for their transactions."),
			"open":      gauge("brokerd_group_transactions_open", "Transactions with offsets in the shards this broker leads."),
			"bytes":     gauge("brokerd_group_bytes", "What clients have written into groups in the shards this broker leads, as limits.max_group_bytes counts."),
		},
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "brokerd_group_streams", Help: "Members of groups that are connected to this broker, and questions of members that wait for an answer."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_group_requests_total", Help: "Requests to the group coordinator, by what was asked and the answer."}, []string{"request", "answer"}),
		computed: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "brokerd_group_assignment_seconds", Help: "How long it took to compute an assignment.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
		fenced:   prometheus.NewCounter(prometheus.CounterOpts{Name: "brokerd_group_members_fenced_total", Help: "Members removed because they were silent for too long, or did not give partitions back in time."}),
		joining:  gauge("brokerd_group_joining_bytes", "What members of the classic protocol have said of themselves, and their requests that wait, in the memory of the shards this broker leads; limits.max_group_bytes bounds it, too."),
		expired:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brokerd_group_expired_total", Help: "Offsets and producers forgotten because they were not used, or their topic is gone."}, []string{"what"}),
	}
	if reg != nil {
		for _, g := range m.sizes {
			reg.MustRegister(g)
		}
		reg.MustRegister(m.streams, m.requests, m.computed, m.fenced, m.expired, m.joining)
	}
	return m
}

// answered counts a request.
func (m *groupMetrics) answered(c *statev1.GroupCommand, r group.Result) {
	what := "other"
	switch c.GetCommand().(type) {
	case *statev1.GroupCommand_Commit:
		what = "commit"
	case *statev1.GroupCommand_CommitInTransaction:
		what = "commit_in_transaction"
	case *statev1.GroupCommand_EndTransaction:
		what = "marker"
	case *statev1.GroupCommand_Heartbeat:
		what = "heartbeat"
	case *statev1.GroupCommand_DeleteGroup:
		what = "delete_group"
	case *statev1.GroupCommand_DeleteOffsets:
		what = "delete_offsets"
	case *statev1.GroupCommand_BeginGeneration:
		what = "begin_generation"
	case *statev1.GroupCommand_AssignGeneration:
		what = "assign_generation"
	case *statev1.GroupCommand_ReplaceMember:
		what = "replace_member"
	case *statev1.GroupCommand_LeaveGeneration:
		what = "leave_generation"
	}
	m.requested(what, r.Code)
}

// told counts an answer to a member of the classic protocol.
func (m *groupMetrics) told(what string, a classic.Answer) {
	if a.Err != nil {
		m.requests.WithLabelValues(what, "failed").Inc()
		return
	}
	m.requested(what, a.Code)
}

func (m *groupMetrics) requested(what string, code group.Code) {
	m.requests.WithLabelValues(what, strings.ToLower(code.String())).Inc()
}

// observe shows how full a shard is.
func (m *groupMetrics) observe(s *groupShard) {
	var n group.Sizes
	s.machine.read(func(state *group.State) { n = state.Sizes() })
	name := s.spec.String()
	for what, value := range map[string]int64{
		"groups": int64(n.Groups), "members": int64(n.Members), "offsets": int64(n.Offsets), "pending": int64(n.Pending),
		"producers": int64(n.Producers), "open": int64(n.OpenTransactions), "bytes": n.Bytes,
	} {
		m.sizes[what].WithLabelValues(name).Set(float64(value))
	}
}

// forget ends the showing of a shard that is led by another broker now.
func (m *groupMetrics) forget(s *groupShard) {
	for _, g := range m.sizes {
		g.DeleteLabelValues(s.spec.String())
	}
	m.joining.DeleteLabelValues(s.spec.String())
}
