package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/timeofday"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// HostConfig is what a broker's shards share.
type HostConfig struct {
	Broker int32
	// Dir holds one directory for each replica, on FS. Logs that are Bolt files are on the real disk.
	Dir string
	// FS holds the replicas; it is that of Raft. Nil: the real disk.
	FS vfs.FS
	// Raft runs the groups.
	Raft *raftgroup.Host
	// FeatureLevel is that of the cluster: no broker below it can come. Nil: the highest.
	FeatureLevel func() uint16
	// Directory tells where shards are.
	Directory Directory
	// LeadershipChanged is told when a replica here becomes ready to lead or stops leading; nil for nobody. It must not
	// block.
	LeadershipChanged func(group raftgroup.GroupID, term record.Term, ready bool)
	// SnapshotBytes is how much log is applied between two snapshots of a shard. 0: 4 MiB.
	SnapshotBytes int64
	// Wall gives the time of day, for stamps and ages; nil: time.Now. What waits goes by the process's own time.
	Wall       func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Sabotage breaks promises, for tests that prove that they would be noticed.
	Sabotage Sabotage
}

// The feature levels from which on there is what older brokers cannot read.
const (
	// recordLogLevel: logs are record logs. A Bolt file is converted when its shard is opened (docs/decisions/0013).
	recordLogLevel = 3
	// nextLevel: completions carry adds (docs/decisions/0014).
	nextLevel = 3
)

// defaultSnapshotBytes is lower than for partitions: a shard's state is small.
const defaultSnapshotBytes = 4 << 20

// service is what a kind of shards is for.
type service interface {
	// open makes the machine of a shard whose group is about to be opened.
	open(s *shard) raftgroup.StateMachine
	// lead does what only the leader of a shard does. It returns when ctx has ended, which is when the term has.
	lead(ctx context.Context, s *shard, term record.Term)
	// closed forgets a shard.
	closed(s *shard)
}

// Host holds this broker's replicas of shards. Its methods may be called from many goroutines.
type Host struct {
	config  HostConfig
	logger  *slog.Logger
	metrics *hostMetrics
	fs      vfs.FS
	clock   *timeofday.Clock

	// mu guards what follows. Nothing blocks under it.
	mu       sync.RWMutex
	services map[Kind]service
	shards   map[shardKey]*shard
	problems map[shardKey]problem
	closed   bool
}

type shardKey struct {
	kind   Kind
	number int32
}

// problem is why a replica that should be here is not served.
type problem struct {
	spec Spec
	err  error
}

// NewHost makes a host without shards.
func NewHost(c HostConfig) *Host {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.FeatureLevel == nil {
		c.FeatureLevel = func() uint16 { return math.MaxUint16 }
	}
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	c.SnapshotBytes = cmp.Or(c.SnapshotBytes, defaultSnapshotBytes)
	return &Host{
		config: c, logger: c.Logger, metrics: newHostMetrics(c.Registerer), fs: c.FS, clock: timeofday.NewClock(c.Wall),
		services: make(map[Kind]service),
		shards:   make(map[shardKey]*shard),
		problems: make(map[shardKey]problem),
	}
}

// serve makes s answer for a kind of shards, before any of them is opened.
func (h *Host) serve(k Kind, s service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.services[k] = s
}

// Create makes a replica's directory, durably. Only after that has been reported and agreed may the replica be opened.
func (h *Host) Create(spec Spec) error {
	return identityOf(spec).CreateDir(h.fs, h.dir(spec), nil)
}

func identityOf(s Spec) raftgroup.Identity {
	return raftgroup.Identity{Topic: s.TopicID, Partition: s.Number, Group: s.Group, Self: s.Self}
}

// Open starts a replica whose directory exists. One that cannot be opened is remembered with its reason (Groups shows it) and
// stays closed.
func (h *Host) Open(spec Spec) error {
	key := shardKey{spec.Kind, spec.Number}
	h.mu.RLock()
	closed, open, service := h.closed, h.shards[key] != nil, h.services[spec.Kind]
	h.mu.RUnlock()
	switch {
	case closed:
		return errStopping
	case open:
		return nil
	case service == nil:
		return fmt.Errorf("open %s: this broker has no service for it", spec)
	}
	s, err := h.openShard(spec, service)
	if err == nil {
		return h.adopt(key, s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problems[key] = problem{spec, err}
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.logger.Error("replica is quarantined", "shard", spec.String(), "group", uint64(spec.Group), "err", err)
	return fmt.Errorf("open %s: %w", spec, err)
}

// errStopping refuses a replica because the host is being closed.
var errStopping = errors.New("the broker is stopping")

// adopt lets a shard that is open be found.
func (h *Host) adopt(key shardKey, s *shard) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return errors.Join(errStopping, s.close())
	}
	delete(h.problems, key)
	h.shards[key] = s
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.metrics.shards.Set(float64(len(h.shards)))
	h.mu.Unlock()
	s.isOpen()
	return nil
}

func (h *Host) openShard(spec Spec, svc service) (*shard, error) {
	dir := h.dir(spec)
	if err := identityOf(spec).CheckDir(h.fs, dir); err != nil {
		return nil, err
	}
	s := &shard{
		host: h, spec: spec, service: svc, opened: make(chan struct{}),
		logger: h.logger.With("shard", spec.String(), "group", uint64(spec.Group)),
	}
	group, err := h.config.Raft.Open(raftgroup.GroupConfig{
		ID:            spec.Group,
		Name:          spec.String(),
		Self:          spec.Self,
		Dir:           dir,
		RecordLog:     h.config.FeatureLevel() >= recordLogLevel,
		Machine:       svc.open(s),
		Bootstrap:     spec.Voters,
		SnapshotBytes: h.config.SnapshotBytes,
		OnLeadership:  s.onLeadership,
		OnDamage:      s.onDamage,
	})
	if err != nil {
		svc.closed(s)
		return nil, err
	}
	s.group = group
	return s, nil
}

// CloseShard stops a replica; with destroy its directory goes too. A successor of it in the same group is left
// alone.
func (h *Host) CloseShard(spec Spec, destroy bool) error {
	key := shardKey{spec.Kind, spec.Number}
	h.mu.Lock()
	s := h.shards[key]
	if s != nil && s.spec.Self != spec.Self {
		s = nil
	}
	if s != nil {
		delete(h.shards, key)
	}
	if h.problems[key].spec.Self == spec.Self {
		delete(h.problems, key)
	}
	h.metrics.quarantined.Set(float64(len(h.problems)))
	h.metrics.shards.Set(float64(len(h.shards)))
	h.mu.Unlock()
	var err error
	if s != nil {
		err = s.close()
	}
	if destroy {
		err = errors.Join(err, h.config.Raft.Forget(spec.Group, spec.Self), h.fs.RemoveAll(h.dir(spec)))
	}
	return err
}

// Close stops every shard and waits for those who lead them. Listeners stop before it.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	var list []*shard
	for _, s := range h.shards {
		list = append(list, s)
	}
	h.mu.Unlock()
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() { errs[i] = s.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Lost lists the replicas that have lost what they acknowledged: they can only be replaced.
func (h *Host) Lost() []Spec {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var list []Spec
	for _, p := range h.problems {
		if errors.Is(p.err, raftgroup.ErrReplicaMissing) || errors.Is(p.err, raftgroup.ErrStateLost) {
			list = append(list, p.spec)
		}
	}
	for _, s := range h.shards {
		if s.lost.Load() {
			list = append(list, s.spec)
		}
	}
	return list
}

// nowMS is the time of day, ms since 1970.
func (h *Host) nowMS() int64 { return h.config.Wall().UnixMilli() }

// find gives this broker's replica of a shard; nil: it has none.
func (h *Host) find(k Kind, number int32) *shard {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.shards[shardKey{k, number}]
}

// GroupStatus is one replica as an operator sees it.
type GroupStatus struct {
	Spec Spec
	Raft raftgroup.Status
	// Problem is why the replica is stopped or quarantined; empty for a healthy one.
	Problem string
}

// Groups lists this broker's replicas, quarantined ones too.
func (h *Host) Groups() []GroupStatus {
	h.mu.RLock()
	var list []GroupStatus
	for _, p := range h.problems {
		list = append(list, GroupStatus{Spec: p.spec, Problem: p.err.Error()})
	}
	var shards []*shard
	for _, s := range h.shards {
		shards = append(shards, s)
	}
	h.mu.RUnlock()
	for _, s := range shards {
		st := s.group.Status()
		list = append(list, GroupStatus{Spec: s.spec, Raft: st, Problem: st.Problem})
	}
	slices.SortFunc(list, func(a, b GroupStatus) int {
		return cmp.Or(cmp.Compare(a.Spec.Kind, b.Spec.Kind), cmp.Compare(a.Spec.Number, b.Spec.Number))
	})
	return list
}

// HandOver hands a shard that this broker leads to another replica.
func (h *Host) HandOver(ctx context.Context, k Kind, number, to int32) error {
	s := h.find(k, number)
	if s == nil {
		return location{kind: k, Number: number, host: h}.elsewhere()
	}
	for _, v := range s.group.Status().Voters {
		if b, _, err := raftgroup.ParseServerID(v); err == nil && b == to {
			return s.group.TransferLeadership(ctx, v)
		}
	}
	return refused(CodeInvalidRequest, "broker %d holds no voting replica of %s", to, s.spec)
}

// TransferLeadership hands every shard that this broker leads to another one, as far as that can be done before ctx ends.
func (h *Host) TransferLeadership(ctx context.Context) error {
	h.mu.RLock()
	var led []*shard
	for _, s := range h.shards {
		if _, ok := s.group.IsReady(); ok {
			led = append(led, s)
		}
	}
	h.mu.RUnlock()
	errs := make([]error, len(led))
	var wg sync.WaitGroup
	for i, s := range led {
		wg.Go(func() { errs[i] = s.group.TransferLeadership(ctx, "") })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (h *Host) dir(s Spec) string {
	_, incarnation, _ := raftgroup.ParseServerID(s.Self)
	return filepath.Join(h.config.Dir, fmt.Sprintf("%d-%d", s.Group, incarnation))
}
