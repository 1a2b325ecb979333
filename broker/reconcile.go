package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// replicas is what the reconciler asks of partition.Host.
type replicas interface {
	Create(partition.ReplicaSpec) error
	Open(partition.ReplicaSpec) error
	Configure(record.TopicPartition, partition.Config)
	CloseReplica(spec partition.ReplicaSpec, destroy bool) error
	// Lost lists replicas that can only be replaced.
	Lost() []metadata.ReplicaRef
}

// replicaHosts are the hosts of both kinds of replicas: those of topics, and the shards of coordinators, which the metadata
// has as partitions of internal topics.
type replicaHosts struct {
	partitions   *partition.Host
	coordinators *coordinator.Host
}

// shardSpec says which shard a replica is of, if it is of one.
func shardSpec(s partition.ReplicaSpec) (coordinator.Spec, bool) {
	kind, ok := coordinator.KindOf(s.Topic)
	return coordinator.Spec{Kind: kind, Number: s.Partition, TopicID: s.TopicID, Group: s.Group, Self: s.Self, Voters: s.Voters}, ok
}

func (h replicaHosts) Create(s partition.ReplicaSpec) error {
	if shard, ok := shardSpec(s); ok {
		return h.coordinators.Create(shard)
	}
	return h.partitions.Create(s)
}

func (h replicaHosts) Open(s partition.ReplicaSpec) error {
	if shard, ok := shardSpec(s); ok {
		return h.coordinators.Open(shard)
	}
	return h.partitions.Open(s)
}

// Configure passes on what concerns topics; shards have no settings of their own.
func (h replicaHosts) Configure(tp record.TopicPartition, c partition.Config) {
	if !record.InternalTopic(tp.Topic) {
		h.partitions.Configure(tp, c)
	}
}

func (h replicaHosts) CloseReplica(s partition.ReplicaSpec, destroy bool) error {
	if shard, ok := shardSpec(s); ok {
		return h.coordinators.CloseShard(shard, destroy)
	}
	return h.partitions.CloseReplica(s, destroy)
}

// Lost lists what both hosts have lost.
func (h replicaHosts) Lost() []metadata.ReplicaRef {
	var refs []metadata.ReplicaRef
	for _, s := range h.partitions.Lost() {
		refs = append(refs, refOf(s))
	}
	for _, s := range h.coordinators.Lost() {
		refs = append(refs, refOf(partition.ReplicaSpec{Group: s.Group, Self: s.Self}))
	}
	return refs
}

// reports is how the reconciler tells the cluster what it has done. All wait until it is agreed.
type reports interface {
	ReportCreated(ctx context.Context, refs []metadata.ReplicaRef) error
	ReportDeleted(ctx context.Context, refs []metadata.ReplicaRef) error
	ReportLost(ctx context.Context, refs []metadata.ReplicaRef) error
}

// reconciler makes this broker's replicas what the metadata says they are. It runs only once the
// metadata here has caught up, so that an old image never opens or deletes anything.
type reconciler struct {
	broker   int32
	host     replicas
	reports  reports
	limits   LimitsConfig
	logger   *slog.Logger
	parallel int

	// open holds what has been opened, with the configuration it has now. Only run touches it.
	open map[metadata.GroupID]opened
	// lost are leaving replicas here that have been found to have lost what they held. Only run touches it.
	lost map[metadata.ReplicaRef]bool
	// replaced says whether an image is no longer about this directory, but about one in its place; nil: none is.
	replaced func(*metadata.Image) bool
	// mu guards settled.
	mu      sync.Mutex
	settled bool
}

type opened struct {
	spec     partition.ReplicaSpec
	settings metadata.Settings
}

const (
	// reconcileRetry is how long the reconciler waits before it tries again what failed.
	reconcileRetry = 500 * time.Millisecond
	// reconcileLook is how often it looks although the metadata is the same: a replica may have been found
	// to be damaged.
	reconcileLook = 2 * time.Second
)

// work is what one image asks of this broker, in this order.
type work struct {
	// stop are open replicas in whose place another one serves; their directories stay until their group has
	// removed them.
	stop           []partition.ReplicaSpec
	open           []opened
	configure      []opened
	create, remove []partition.ReplicaSpec
	lost           []metadata.ReplicaRef
}

func (r *reconciler) setSettled(done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = r.settled || done
}

// isSettled says whether the first image has been dealt with.
func (r *reconciler) isSettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settled
}

// plan compares an image with what is open here.
func (r *reconciler) plan(img *metadata.Image) work {
	var w work
	if r.replaced != nil && r.replaced(img) {
		return w
	}
	seen := make(map[metadata.GroupID]bool)
	lost, before := make(map[metadata.ReplicaRef]bool), r.lost
	for _, ref := range r.host.Lost() {
		lost[ref] = true
	}
	r.lost = make(map[metadata.ReplicaRef]bool)
	for _, t := range img.AllTopics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			for _, l := range p.Leaving {
				if ref := (metadata.ReplicaRef{Group: p.Group, Incarnation: l.Incarnation}); l.Broker == r.broker && (lost[ref] || before[ref]) {
					r.lost[ref] = true
				}
			}
			if r.planPartition(&w, t, int32(i), lost) {
				seen[p.Group] = true
			}
		}
	}
	for group, o := range r.open {
		if !seen[group] {
			w.remove = append(w.remove, o.spec)
		}
	}
	return w
}

// planPartition is about all that is here of a partition; false: nothing is to be.
func (r *reconciler) planPartition(w *work, t *metadata.Topic, number int32, lost map[metadata.ReplicaRef]bool) (here bool) {
	p := &t.Partitions[number]
	serves, some := r.serving(p)
	have, isOpen := r.open[p.Group]
	if isOpen && some && have.spec.Self != raftgroup.MakeServerID(r.broker, serves) {
		w.stop = append(w.stop, have.spec)
		isOpen = false
	}
	if replica, ok := p.Replica(r.broker); ok {
		here = true
		if replica.Incarnation == serves {
			r.planReplica(w, t, r.spec(t, number, p, replica), p.Phase, replica, isOpen, lost)
		}
	}
	for _, l := range p.Leaving {
		if l.Broker != r.broker {
			continue
		}
		here = true
		spec := r.spec(t, number, p, metadata.Replica{Broker: l.Broker, Incarnation: l.Incarnation})
		switch {
		case l.Removed:
			w.remove = append(w.remove, spec)
		case l.Incarnation == serves && !isOpen:
			w.open = append(w.open, opened{spec, t.Settings})
		}
	}
	return here
}

// serving is which of a partition's replicas on this broker, of which one can be open, is to be open; false: none. One that
// leaves may still have a vote, without which the group has no majority to remove it with: it serves until it is removed, and
// one that a reassignment has put here meanwhile is not begun before. It gives way at once where it has lost what it held, or
// to one that has caught up: the group had a majority without it then.
func (r *reconciler) serving(p *metadata.Partition) (incarnation uint64, ok bool) {
	replica, here := p.Replica(r.broker)
	if here && !(replica.Joining && replica.Added) {
		// One that joins without having been added replaces one that is lost.
		return replica.Incarnation, true
	}
	for _, l := range p.Leaving {
		if l.Broker == r.broker && !l.Removed && !r.lost[metadata.ReplicaRef{Group: p.Group, Incarnation: l.Incarnation}] {
			return l.Incarnation, true
		}
	}
	return replica.Incarnation, here
}

// planReplica is about the replica that is to be here.
func (r *reconciler) planReplica(w *work, t *metadata.Topic, spec partition.ReplicaSpec, phase metadata.Phase, replica metadata.Replica, isOpen bool, lost map[metadata.ReplicaRef]bool) {
	switch {
	case phase == metadata.Deleting:
		if !replica.Deleted {
			w.remove = append(w.remove, spec)
		}
	case replica.Lost:
		// The controller puts another in its place.
	case !replica.Created:
		w.create = append(w.create, spec)
	case lost[refOf(spec)]:
		w.lost = append(w.lost, refOf(spec))
	case !isOpen:
		w.open = append(w.open, opened{spec, t.Settings})
	case r.open[metadata.GroupID(spec.Group)].settings != t.Settings:
		w.configure = append(w.configure, opened{spec, t.Settings})
	}
}

// apply does the work and says whether all of it succeeded.
func (r *reconciler) apply(ctx context.Context, w work) bool {
	ok := true
	for _, spec := range w.stop {
		if err := r.host.CloseReplica(spec, false); err != nil {
			r.logger.Warn("a replica that is replaced was not closed well", "topic", spec.Topic, "partition", spec.Partition, "err", err)
		}
		delete(r.open, metadata.GroupID(spec.Group))
	}
	r.openAll(w.open)
	for _, o := range w.configure {
		r.host.Configure(o.spec.TopicPartition, o.spec.Config)
		r.open[metadata.GroupID(o.spec.Group)] = o
	}
	var created, removed []metadata.ReplicaRef
	for _, spec := range w.create {
		if err := r.host.Create(spec); err != nil {
			r.logger.Error("replica not created", "topic", spec.Topic, "partition", spec.Partition, "err", err)
			ok = false
			continue
		}
		created = append(created, refOf(spec))
	}
	for _, spec := range w.remove {
		if err := r.host.CloseReplica(spec, true); err != nil {
			r.logger.Error("replica not removed", "topic", spec.Topic, "partition", spec.Partition, "err", err)
			ok = false
			continue
		}
		if r.open[metadata.GroupID(spec.Group)].spec.Self == spec.Self {
			delete(r.open, metadata.GroupID(spec.Group))
		}
		removed = append(removed, refOf(spec))
	}
	if !r.report(ctx, w.lost, r.reports.ReportLost) {
		ok = false
	}
	return r.report(ctx, created, r.reports.ReportCreated) && r.report(ctx, removed, r.reports.ReportDeleted) && ok
}

func (r *reconciler) report(ctx context.Context, refs []metadata.ReplicaRef, say func(context.Context, []metadata.ReplicaRef) error) bool {
	if len(refs) == 0 {
		return true
	}
	err := say(ctx, refs)
	if err != nil && ctx.Err() == nil {
		r.logger.Warn("replicas not reported yet", "replicas", len(refs), "err", err)
	}
	return err == nil
}

// openAll opens replicas, some at a time: recovery reads the disk. One that cannot be opened stays
// so until an operator acts: the host lists it as quarantined and /readyz says so; the rest goes on.
func (r *reconciler) openAll(list []opened) {
	slots := make(chan struct{}, r.parallel)
	var wg sync.WaitGroup
	for _, o := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_ = r.host.Open(o.spec)
		})
	}
	wg.Wait()
	for _, o := range list {
		r.open[metadata.GroupID(o.spec.Group)] = o
	}
}

// spec turns what the metadata says into what the host opens.
func (r *reconciler) spec(t *metadata.Topic, number int32, p *metadata.Partition, self metadata.Replica) partition.ReplicaSpec {
	s := partition.ReplicaSpec{
		TopicPartition: record.TopicPartition{Topic: t.Name, Partition: number},
		TopicID:        partition.TopicID(t.ID),
		Group:          raftgroup.GroupID(p.Group),
		Self:           raftgroup.MakeServerID(self.Broker, self.Incarnation),
		Config:         configOf(t.Settings, r.limits),
	}
	if p.Phase == metadata.Creating {
		for _, v := range p.Replicas {
			s.Voters = append(s.Voters, raftgroup.Server{ID: raftgroup.MakeServerID(v.Broker, v.Incarnation)})
		}
	}
	return s
}

func refOf(s partition.ReplicaSpec) metadata.ReplicaRef {
	_, incarnation, _ := raftgroup.ParseServerID(s.Self)
	return metadata.ReplicaRef{Group: metadata.GroupID(s.Group), Incarnation: incarnation}
}

// configOf is a topic's settings as its partitions act on them.
func configOf(s metadata.Settings, limits LimitsConfig) partition.Config {
	return partition.Config{
		MaxMessageBytes:    min(s.MaxMessageBytes, int(limits.MaxMessageBytes)),
		LogAppendTime:      s.LogAppendTime,
		TimestampBeforeMax: s.TimestampBeforeMaxMS,
		TimestampAfterMax:  s.TimestampAfterMaxMS,
		Compacted:          s.CleanupCompact,
		DirtyRatio:         s.MinCleanableDirtyRatio,
		MinCompactionLagMS: s.MinCompactionLagMS,
		MaxCompactionLagMS: s.MaxCompactionLagMS,
		DeleteRetentionMS:  s.DeleteRetentionMS,
		Deletes:            s.CleanupDelete,
		RetentionMS:        s.RetentionMS,
		RetentionBytes:     s.RetentionBytes,
		SegmentMS:          s.SegmentMS,
		SegmentBytes:       s.SegmentBytes,
		ProducerExpiration: time.Duration(s.ProducerIDExpirationMS) * time.Millisecond,
		MaxProducers:       limits.MaxProducers,
	}
}
