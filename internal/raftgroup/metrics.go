package raftgroup

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a host's, over all its groups. What belongs to one group is read when asked for
// (groupCollector).
type metrics struct {
	leaderChanges prometheus.Counter
	proposals     *prometheus.CounterVec
	queuedBytes   prometheus.Gauge
	outstanding   prometheus.Gauge
	sendingBytes  prometheus.Gauge
	confirms      *prometheus.CounterVec
	confirmTime   prometheus.Histogram
	bytes         *prometheus.CounterVec
	rpcTime       *prometheus.HistogramVec
	rpcErrors     *prometheus.CounterVec
	dials         *prometheus.CounterVec
	badFrames     prometheus.Counter
	wrongServer   prometheus.Counter
	replaced      prometheus.Counter
	beats         prometheus.Counter
	beatFrames    prometheus.Counter
	snapshots     *prometheus.CounterVec
	badSnapshots  prometheus.Counter
	catchUps      prometheus.Counter
	reopens       prometheus.Counter
	halts         prometheus.Counter
	applyPanics   prometheus.Counter
	staleTerm     prometheus.Counter
	deadBrokers   prometheus.Counter
	stalls        prometheus.Counter
	leases        prometheus.Counter
	timeouts      prometheus.Counter

	// Looked up once: these are touched for every message.
	sentBytes, receivedBytes [2]prometheus.Counter
	rpcTimes                 map[frameKind]prometheus.Observer
	outcomes                 [2]prometheus.Counter
	succeeded                prometheus.Counter
}

var rpcNames = map[frameKind]string{
	frameHeartbeats: "heartbeat", frameVote: "vote", framePreVote: "pre_vote", frameTimeoutNow: "timeout_now", frameAppend: "append",
}

func newMetrics(reg prometheus.Registerer, h *Host) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "brokerd", Subsystem: "raft", Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "brokerd", Subsystem: "raft", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "brokerd", Subsystem: "raft", Name: name, Help: help})
	}
	buckets := prometheus.ExponentialBuckets(0.0001, 2.5, 12) // 0.1 ms to 2.4 s
	m := &metrics{
		leaderChanges: counter("leader_changes_total", "Elections that a replica of this broker won."),
		proposals:     counters("proposals_total", "Commands proposed here, by outcome: applied, did_not_happen, may_have_happened.", "outcome"),
		queuedBytes:   gauge("queued_bytes", "Bytes of commands that wait to be handed to Raft, over all groups."),
		outstanding:   gauge("outstanding", "Commands handed to Raft and not resolved, over all groups."),
		sendingBytes:  gauge("sending_bytes", "Bytes of entries sent to other brokers and not answered."),
		confirms:      counters("confirm_rounds_total", "Leadership checks, by result: confirmed, failed.", "result"),
		confirmTime:   prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "brokerd", Subsystem: "raft", Name: "confirm_seconds", Help: "Time of a leadership check.", Buckets: buckets}),
		bytes:         counters("bytes_total", "Bytes on connections between brokers, by class (bulk, control) and direction.", "class", "direction"),
		rpcTime:       prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "brokerd", Subsystem: "raft", Name: "rpc_seconds", Help: "Time from a request to its answer, by request.", Buckets: buckets}, []string{"rpc"}),
		rpcErrors:     counters("rpc_errors_total", "Requests to other brokers that were not answered, by request.", "rpc"),
		dials:         counters("dials_total", "Attempts to connect to another broker, by result: connected, failed.", "result"),
		badFrames:     counter("bad_frames_total", "Frames from other brokers that could not be understood; each cost its connection."),
		wrongServer:   counter("wrong_server_total", "Messages refused because they were meant for another incarnation of a replica."),
		replaced:      counter("replaced_directories_total", "Connections refused or ended because their broker runs on a directory in whose place another was registered."),
		beats:         counter("heartbeats_total", "Heartbeats sent, one for each group and follower."),
		beatFrames:    counter("heartbeat_frames_total", "Messages they were sent in."),
		snapshots:     counters("snapshots_total", "State snapshots, by what happened: taken, installed, sent, failed; unneeded: sent by a leader although the log held it all.", "what"),
		badSnapshots:  counter("bad_snapshots_total", "Snapshot files found damaged and skipped."),
		catchUps:      counter("catch_ups_total", "Times that an installed snapshot was completed from a peer."),
		reopens:       counter("reopens_total", "Times that Raft was opened again in place because it counted on a tail that is gone."),
		halts:         counter("halted_groups_total", "Replicas stopped by a fault. Each needs an operator."),
		applyPanics:   counter("apply_panics_total", "Panics in a state machine's apply."),
		deadBrokers:   counter("dead_brokers_total", "Brokers found dead because their port refused connections; the groups they led held elections at once."),
		stalls:        counter("disk_stalls_total", "Times that a replica gave up leading, or standing for election, because its disk did not answer for 2 s."),
		leases:        counter("lease_losses_total", "Times that a leader here gave up because it had not heard of a majority for raft.leader_lease_timeout."),
		timeouts:      counter("heartbeat_timeouts_total", "Times that a follower here asked for votes because it had not heard of its leader for raft.heartbeat_timeout."),
		staleTerm:     counter("stale_term_entries_total", "Entries that apply refused because they landed in another term than they were admitted in."),
	}
	for _, c := range []class{classBulk, classControl} {
		m.sentBytes[c] = m.bytes.WithLabelValues(c.String(), "sent")
		m.receivedBytes[c] = m.bytes.WithLabelValues(c.String(), "received")
	}
	m.rpcTimes = make(map[frameKind]prometheus.Observer)
	for k, name := range rpcNames {
		m.rpcTimes[k] = m.rpcTime.WithLabelValues(name)
	}
	m.succeeded = m.proposals.WithLabelValues("applied")
	m.outcomes[DidNotHappen] = m.proposals.WithLabelValues("did_not_happen")
	m.outcomes[MayHaveHappened] = m.proposals.WithLabelValues("may_have_happened")
	if reg != nil {
		reg.MustRegister(m.leaderChanges, m.proposals, m.queuedBytes, m.outstanding, m.sendingBytes, m.confirms, m.confirmTime, m.bytes,
			m.rpcTime, m.rpcErrors, m.dials, m.badFrames, m.wrongServer, m.replaced, m.beats, m.beatFrames, m.snapshots, m.badSnapshots,
			m.catchUps, m.reopens, m.halts, m.applyPanics, m.staleTerm, m.deadBrokers, m.stalls, m.leases, m.timeouts, newGroupCollector(h))
	}
	return m
}

func (m *metrics) sent(c class, n int64)     { m.sentBytes[c].Add(float64(n)) }
func (m *metrics) received(c class, n int64) { m.receivedBytes[c].Add(float64(n)) }

func (m *metrics) rpc(kind frameKind, started time.Time, err error) {
	if err != nil {
		m.rpcErrors.WithLabelValues(rpcNames[kind]).Inc()
		return
	}
	m.rpcTimes[kind].Observe(time.Since(started).Seconds())
}

func (m *metrics) outcome(err error) {
	if err == nil {
		m.succeeded.Inc()
		return
	}
	m.outcomes[OutcomeOf(err)].Inc()
}

func (m *metrics) confirmed(started time.Time, err error) {
	result := "confirmed"
	if err != nil {
		result = "failed"
	}
	m.confirms.WithLabelValues(result).Inc()
	m.confirmTime.Observe(time.Since(started).Seconds())
}

// groupCollector gives what belongs to single groups.
type groupCollector struct {
	host                                  *Host
	term, commit, applied, leads, problem *prometheus.Desc
}

func newGroupCollector(h *Host) *groupCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("brokerd_raft_"+name, help, []string{"group", "id"}, nil)
	}
	return &groupCollector{
		host:    h,
		term:    desc("term", "A replica's term."),
		commit:  desc("commit_index", "The last index a replica knows to be committed."),
		applied: desc("applied_index", "The last index a replica has applied."),
		leads:   desc("leader", "1 where this broker leads the group, else 0."),
		problem: desc("halted", "1 where the replica is stopped by a fault, else 0."),
	}
}

// Describe satisfies prometheus.Collector.
func (c *groupCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.term, c.commit, c.applied, c.leads, c.problem} {
		out <- d
	}
}

// Collect satisfies prometheus.Collector.
func (c *groupCollector) Collect(out chan<- prometheus.Metric) {
	for _, g := range c.host.Groups() {
		name, id := g.config.Name, strconv.FormatUint(uint64(g.config.ID), 10)
		emit := func(d *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name, id)
		}
		one := func(b bool) float64 {
			if b {
				return 1
			}
			return 0
		}
		emit(c.problem, one(g.halted.Load()))
		emit(c.applied, float64(g.config.Machine.Applied()))
		_, ready := g.IsReady()
		emit(c.leads, one(ready))
		if e := g.engine.Load(); e != nil {
			emit(c.term, float64(e.raft.CurrentTerm()))
			emit(c.commit, float64(e.raft.CommitIndex()))
		}
	}
}
