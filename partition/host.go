package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/timeofday"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// HostConfig is what a broker's replicas share.
type HostConfig struct {
	Broker int32
	// Dir holds one directory for each replica.
	Dir string
	// SparesDir holds the files of dropped segments that are to be written over, on the file system of Dir; its parent exists. Empty: none
	// are kept.
	SparesDir string
	FS        vfs.FS
	// Raft runs the groups.
	Raft *raftgroup.Host
	// Pull brings log entries from a peer, for replicas that lie behind its Raft window.
	Pull PullFunc
	// Transactions answers for transaction coordinators; nil: batches of transactions are refused.
	Transactions Transactions
	// LeadershipChanged is told when a replica here becomes ready to lead or stops leading; nil
	// for nobody. It must not block.
	LeadershipChanged func(group raftgroup.GroupID, term record.Term, ready bool)
	// Gone says that a group's topic has been deleted: nothing is written to or read from what is left of it any more, whatever
	// still has the topic's name; nil: none has.
	Gone func(raftgroup.GroupID) bool
	// CacheBytes bounds the tail cache of each replica.
	CacheBytes int64
	// SnapshotBytes is how much log is applied between two state snapshots of a replica.
	SnapshotBytes int64
	// MaxReplicas bounds the replicas this broker hosts.
	MaxReplicas int
	// ExpirationCheckInterval is how often a leader looks for idle producers (P25).
	ExpirationCheckInterval time.Duration
	// RetentionCheckInterval is how often a leader looks for records to delete, and every replica
	// for disk space to free. Default 5 min.
	RetentionCheckInterval time.Duration
	// ScrubBytes is how much of the logs is read in a second to look for damage, default 8 MiB;
	// ScrubInterval is how long from one look at all of them to the next, default 1 day.
	ScrubBytes    int64
	ScrubInterval time.Duration
	// Compare asks other brokers' replicas, so that leaders compare with them; nil: they do not.
	Compare Comparer
	// CatchUpBytes is how much all replicas here together pull from peers in a second, because they lie behind
	// Raft's window or are new; 0: no bound.
	CatchUpBytes int64
	// CompactionInterval is how often a leader looks for logs to compact, and every replica for passes to carry out, default
	// 15 s. CompactionBytes is how much of a log is read for that in a second, default 64 MiB, CompactionMemory what the
	// table of keys may take, default 64 MiB.
	CompactionInterval                time.Duration
	CompactionBytes, CompactionMemory int64
	// Wall gives the time of day, for stamps and ages; nil: time.Now. What waits goes by the
	// process's own time.
	Wall       func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Sabotage breaks promises, for tests that prove that they would be noticed.
	Sabotage Sabotage
}

// Host holds this broker's replicas. Its methods may be called from many goroutines.
type Host struct {
	config  HostConfig
	logger  *slog.Logger
	metrics *metrics
	logs    *recordlog.Metrics
	spares  *recordlog.Spares // nil: none are kept
	clock   *timeofday.Clock
	jump    atomic.Int64 // what clock said last, ns

	// compact says that a pass was agreed.
	compact chan struct{}

	stopping chan struct{}
	owned    sync.WaitGroup
	// ctx ends with stopping.
	ctx    context.Context
	cancel context.CancelFunc
	// pulling is shared by all that catch up.
	pulling throttle
	// telling bounds the refusals that coordinators are being told of.
	telling chan struct{}

	// mu guards what follows. Nothing blocks under it.
	mu       sync.RWMutex
	byName   map[record.TopicPartition]*Replica
	byGroup  map[raftgroup.GroupID]*Replica
	problems map[raftgroup.GroupID]problem
	closed   bool
}

// problem is why a replica that should be here is not served.
type problem struct {
	spec ReplicaSpec
	err  error
}

// NewHost makes a host without replicas and starts its clock.
func NewHost(c HostConfig) *Host {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ExpirationCheckInterval <= 0 {
		c.ExpirationCheckInterval = 10 * time.Minute
	}
	if c.RetentionCheckInterval <= 0 {
		c.RetentionCheckInterval = 5 * time.Minute
	}
	if c.ScrubBytes <= 0 {
		c.ScrubBytes = 8 << 20
	}
	if c.ScrubInterval <= 0 {
		c.ScrubInterval = 24 * time.Hour
	}
	if c.CompactionInterval <= 0 {
		c.CompactionInterval = 15 * time.Second
	}
	if c.CompactionBytes <= 0 {
		c.CompactionBytes = 64 << 20
	}
	if c.CompactionMemory <= 0 {
		c.CompactionMemory = 64 << 20
	}
	if c.MaxReplicas <= 0 {
		c.MaxReplicas = 4000
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	h := &Host{
		config:   c,
		logger:   c.Logger,
		metrics:  newMetrics(c.Registerer),
		logs:     recordlog.NewMetrics(c.Registerer),
		clock:    timeofday.NewClock(c.Wall),
		compact:  make(chan struct{}, 1),
		stopping: make(chan struct{}),
		pulling:  throttle{perSecond: c.CatchUpBytes},
		telling:  make(chan struct{}, maxTelling),
		byName:   make(map[record.TopicPartition]*Replica),
		byGroup:  make(map[raftgroup.GroupID]*Replica),
		problems: make(map[raftgroup.GroupID]problem),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.openSpares()
	if c.Registerer != nil {
		c.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "brokerd_producers",
			Help: "Idempotent producers remembered by the replicas of this broker, all partitions together; each is bounded by limits.max_producers_per_partition."}, h.producers))
		c.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "brokerd_last_stable_lag_max",
			Help: "Offsets between last stable offset and high watermark of the partition led here where readers of committed data lag most behind others."}, h.stableLag))
	}
	h.background(h.sweepTimeouts)
	h.background(h.sweepSpace)
	h.background(h.scrub)
	h.background(h.runCompactor)
	return h
}

// judge gives the time to judge ages by, and tells of jumps.
func (h *Host) judge() time.Time {
	now, jump := h.clock.Judge(h.logger)
	h.metrics.clockJump.Set(jump.Seconds())
	h.jump.Store(int64(jump))
	return now
}

// background runs f in a goroutine that Close waits for. f ends when stopping is closed or with
// what it was given to end on.
func (h *Host) background(f func()) {
	h.owned.Add(1)
	go func() {
		defer h.owned.Done()
		f()
	}()
}

// Create makes a replica's directory, durably. Only after that has been reported and agreed may
// the replica be opened: whoever finds an agreed replica without its directory knows that data
// was lost, and never starts it empty under the same identity.
func (h *Host) Create(spec ReplicaSpec) error {
	return h.createReplicaDir(spec)
}

// Open starts a replica whose directory exists. A replica that cannot be opened is remembered
// with its reason (Groups shows it) and stays closed.
func (h *Host) Open(spec ReplicaSpec) error {
	h.mu.RLock()
	closed, open, hosted := h.closed, h.byGroup[spec.Group] != nil, len(h.byGroup)
	h.mu.RUnlock()
	if open {
		return nil
	}
	var r *Replica
	err := fmt.Errorf("this broker hosts %d replicas already, as many as limits.max_partitions allows", hosted)
	switch {
	case closed:
		return errStopping
	case hosted < h.config.MaxReplicas:
		r, err = h.openReplica(spec)
	}
	if err == nil {
		if h.adopt(r) {
			return nil
		}
		return errors.Join(errStopping, r.close())
	}
	if errors.Is(err, raftgroup.ErrHostClosed) {
		return errStopping // nothing is wrong with the replica
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problems[spec.Group] = problem{spec, err}
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.logger.Error("replica is quarantined", "topic", spec.Topic, "partition", spec.Partition, "group", uint64(spec.Group), "err", err)
	return fmt.Errorf("open %s: %w", spec, err)
}

// errStopping refuses a replica because the host is being closed.
var errStopping = errors.New("the broker is stopping")

// adopt lets a replica that is open be found; false: the host has been closed meanwhile.
func (h *Host) adopt(r *Replica) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	delete(h.problems, r.spec.Group)
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.byGroup[r.spec.Group] = r
	h.byName[r.spec.TopicPartition] = r
	h.metrics.replicas.Set(float64(len(h.byGroup)))
	return true
}

func (h *Host) openReplica(spec ReplicaSpec) (*Replica, error) {
	dir := h.replicaDir(spec)
	if err := identityOf(spec).CheckDir(h.config.FS, dir); err != nil {
		return nil, err
	}
	if err := checkUndamaged(h.config.FS, dir, spec.Self); err != nil {
		return nil, err
	}
	snapshot, err := h.config.Raft.LatestSnapshot(dir)
	if err != nil {
		return nil, err
	}
	r := &Replica{
		host:   h,
		spec:   spec,
		logger: h.logger.With("topic", spec.Topic, "partition", spec.Partition, "group", uint64(spec.Group)),
		state:  newState(),
		opened: make(chan struct{}),
	}
	r.config.Store(&spec.Config)
	r.admission.init(r)
	r.publish()
	r.log, err = recordlog.Open(recordlog.Options{
		FS:            h.config.FS,
		Dir:           filepath.Join(dir, logDirName),
		SegmentBytes:  spec.Config.SegmentBytes,
		CacheBytes:    h.config.CacheBytes,
		SnapshotIndex: snapshot,
		MustExist:     true,
		Classify:      Classify,
		LeaderEpoch:   r.leaderEpoch,
		Logger:        r.logger,
		Metrics:       h.logs,
		Spares:        h.spares,
	})
	if err != nil {
		return nil, err
	}
	r.group, err = h.config.Raft.Open(raftgroup.GroupConfig{
		ID:            spec.Group,
		Name:          spec.TopicPartition.String(),
		Self:          spec.Self,
		Dir:           dir,
		Log:           r.log,
		Machine:       r,
		Bootstrap:     spec.Voters,
		SnapshotBytes: h.config.SnapshotBytes,
		CatchUp:       r.catchUp,
		OnLeadership:  r.onLeadership,
		OnDamage:      r.onDamage,
	})
	if err != nil {
		return nil, errors.Join(err, r.log.Close())
	}
	close(r.opened)
	return r, nil
}

// Configure gives a replica a new topic configuration.
func (h *Host) Configure(tp record.TopicPartition, c Config) {
	r := h.replica(tp)
	if r == nil {
		return
	}
	r.config.Store(&c)
	r.log.SetSegmentBytes(c.SegmentBytes)
	r.admission.reconfigured()
}

// CloseReplica stops a replica; with destroy its directory goes too. A successor of it in the same group is
// left alone.
func (h *Host) CloseReplica(spec ReplicaSpec, destroy bool) error {
	h.mu.Lock()
	r := h.byGroup[spec.Group]
	if r != nil && r.spec.Self != spec.Self {
		r = nil
	}
	if r != nil {
		delete(h.byGroup, spec.Group)
	}
	if h.problems[spec.Group].spec.Self == spec.Self {
		delete(h.problems, spec.Group)
	}
	if r != nil && h.byName[spec.TopicPartition] == r {
		delete(h.byName, spec.TopicPartition)
	}
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.metrics.replicas.Set(float64(len(h.byGroup)))
	h.mu.Unlock()
	var err error
	if r != nil {
		err = r.close()
		r.wakeFetches()
	}
	if destroy {
		if e := h.config.Raft.Forget(spec.Group, spec.Self); err == nil {
			err = e
		}
		if e := h.config.FS.RemoveAll(h.replicaDir(spec)); err == nil {
			err = e
		}
	}
	return err
}

func (r *Replica) close() error {
	err := r.group.Close()
	r.admission.discard()
	if e := r.log.Close(); err == nil {
		err = e
	}
	return err
}

// Close stops every replica and waits for all goroutines. Listeners stop before it.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	list := make([]*Replica, 0, len(h.byGroup))
	for _, r := range h.byGroup {
		list = append(list, r)
	}
	h.mu.Unlock()
	close(h.stopping)
	h.cancel()
	var first error
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, r := range list {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			err := r.close()
			<-slots
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
		}()
	}
	wg.Wait()
	h.owned.Wait()
	return first
}

// replica finds a replica by name; nil: not here, or what is here is of a deleted topic, the name of which may be another one's by now.
func (h *Host) replica(tp record.TopicPartition) *Replica {
	h.mu.RLock()
	r := h.byName[tp]
	h.mu.RUnlock()
	if r != nil && h.config.Gone != nil && h.config.Gone(r.spec.Group) {
		return nil
	}
	return r
}

// all lists the open replicas.
func (h *Host) all() []*Replica {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Collect(maps.Values(h.byGroup))
}

// leading finds a replica that leads and is ready.
func (h *Host) leading(tp record.TopicPartition) (*Replica, *Error) {
	r := h.replica(tp)
	if r == nil {
		return nil, h.unknown(tp)
	}
	if _, err := r.ready(); err != nil {
		return nil, err
	}
	return r, nil
}

// meant finds the replica of a partition, if it is of the topic with this id; zero: of whichever has the name.
func (h *Host) meant(tp record.TopicPartition, id TopicID) (*Replica, *Error) {
	r := h.replica(tp)
	switch {
	case r == nil:
		return nil, h.unknown(tp)
	case id != (TopicID{}) && id != r.spec.TopicID:
		return nil, refused(CodeUnknownTopicID, "topic %s is not the one that was meant: that was deleted, or is not known here yet", tp.Topic)
	}
	return r, nil
}

// unknown is the answer for a partition without a replica here. Whether the partition exists at
// all only the metadata knows: the listener, which has it, turns this into UNKNOWN_TOPIC_OR_PARTITION.
func (h *Host) unknown(tp record.TopicPartition) *Error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.problems {
		if p.spec.TopicPartition == tp {
			e := refused(CodeNotLeader, "this broker's replica of %s is quarantined", tp)
			e.Cause = p.err
			return e
		}
	}
	return refused(CodeNotLeader, "this broker holds no replica of %s: ask for metadata", tp)
}

// Limits are what the listener validates a batch for this partition with.
func (h *Host) Limits(tp record.TopicPartition) (record.Limits, error) {
	r := h.replica(tp)
	if r == nil {
		return record.Limits{}, h.unknown(tp)
	}
	c := r.config.Load()
	return record.Limits{
		MaxBatchBytes:      c.MaxMessageBytes,
		SegmentBytes:       int(c.SegmentBytes),
		Compacted:          c.Compacted,
		LogAppendTime:      c.LogAppendTime,
		TimestampBeforeMax: c.TimestampBeforeMax,
		TimestampAfterMax:  c.TimestampAfterMax,
		Now:                h.config.Wall().UnixMilli(),
	}, nil
}

// TransferLeadership hands a partition's leadership to another replica; to below 0: to any.
func (h *Host) TransferLeadership(ctx context.Context, tp record.TopicPartition, to int32) error {
	r, refusal := h.leading(tp)
	if refusal != nil {
		return refusal
	}
	if to == h.config.Broker {
		return nil
	}
	var target raftgroup.ServerID
	if to >= 0 {
		for _, v := range r.group.Status().Voters {
			if b, _, err := raftgroup.ParseServerID(v); err == nil && b == to {
				target = v
			}
		}
		if target == "" {
			return refused(CodeInvalidRequest, "to_broker %d holds no voting replica of %s", to, tp)
		}
	}
	return r.group.TransferLeadership(ctx, target)
}

// GroupStatus is one replica as an operator sees it.
type GroupStatus struct {
	Spec      ReplicaSpec
	Raft      raftgroup.Status
	LogStart  record.Offset
	HighWater record.Offset
	Stable    record.Offset
	// LogBytes is the size of the log; of one that is being pulled from a peer, how much is there.
	LogBytes  int64
	Producers int
	// Compaction is nil for a log that is not compacted, and was not.
	Compaction *CompactionStatus
	// Problem is why the replica is stopped or quarantined; empty for a healthy one.
	Problem string
}

// producers counts what all replicas remember.
func (h *Host) producers() float64 {
	n := 0
	for _, r := range h.all() {
		r.mu.RLock()
		n += r.state.producers.Len()
		r.mu.RUnlock()
	}
	return float64(n)
}

// stableLag is how far open transactions hold back readers of committed data, at the most.
func (h *Host) stableLag() float64 {
	var most record.Offset
	for _, r := range h.all() {
		if _, ok := r.group.IsReady(); ok {
			b := r.bounds.Load()
			most = max(most, b.highWatermark-b.lastStable)
		}
	}
	return float64(most)
}

// Groups lists this broker's replicas, quarantined ones too, by topic and partition.
func (h *Host) Groups() []GroupStatus {
	h.mu.RLock()
	list := make([]GroupStatus, 0, len(h.byGroup)+len(h.problems))
	for _, p := range h.problems {
		list = append(list, GroupStatus{Spec: p.spec, Problem: p.err.Error(), LogStart: -1, HighWater: -1, Stable: -1})
	}
	replicas := make([]*Replica, 0, len(h.byGroup))
	for _, r := range h.byGroup {
		replicas = append(replicas, r)
	}
	h.mu.RUnlock()
	for _, r := range replicas {
		list = append(list, r.status())
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i].Spec.TopicPartition, list[j].Spec.TopicPartition
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	return list
}

func (r *Replica) status() GroupStatus {
	b := r.bounds.Load()
	s := GroupStatus{Spec: r.spec, Raft: r.group.Status(), LogStart: b.start, HighWater: b.highWatermark,
		Stable: b.lastStable, LogBytes: r.log.PulledBytes()}
	s.Problem = r.problem()
	r.mu.RLock()
	s.Producers = r.state.producers.Len()
	r.mu.RUnlock()
	s.Compaction = r.compactionStatus()
	return s
}

// leadershipChanged passes an event on to the broker.
func (h *Host) leadershipChanged(r *Replica, e raftgroup.LeadershipEvent) {
	if h.config.LeadershipChanged != nil {
		h.config.LeadershipChanged(r.spec.Group, e.Term, e.Ready)
	}
}

func (h *Host) replicaDir(s ReplicaSpec) string {
	_, incarnation, _ := raftgroup.ParseServerID(s.Self)
	return filepath.Join(h.config.Dir, fmt.Sprintf("%d-%d", s.Group, incarnation))
}
