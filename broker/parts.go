package broker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/oncelog/oncelog/api"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/peer"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/buildinfo"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/mux"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/secure"
	"github.com/oncelog/oncelog/kafka"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// httpListenerName is the name under which brokers advertise their HTTP port.
const httpListenerName = "http"

// parts is everything that runs in a broker. It starts from the peer port up to the listeners and
// stops in reverse: listeners first, so that nothing new comes in; then what is in flight; then the
// replicas, the metadata, Raft, and last the port they all talk through.
type parts struct {
	cfg    Config
	logger *slog.Logger

	mux        *mux.Mux
	cluster    *cluster.Cluster
	peers      *peer.Server
	raft       *raftgroup.Host
	partitions *partition.Host
	// coordinators hosts the shards of coordinators, transactions answers for those of transactional ids,
	coordinators *coordinator.Host
	transactions *coordinator.Transactions
	// groups for those of consumer groups.
	groups *coordinator.Groups
	// guard decides who may come in and what they may do; nil: everybody may do everything.
	guard      *frontdoor.Guard
	reconciler *reconciler
	health     *health
	disk       *disk
	wall       func() time.Time // nil: time.Now
	http       *httpServer
	api        *api.Server
	kafka      *kafka.Server
	memory     memory

	grpcListeners, kafkaListeners map[string]net.Listener
	// secured begins connections of clients as their listener wants it.
	secured func(namedListener, net.Listener) net.Listener
	// dial connects as options say.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// owned are the goroutines started here; cancel ends them.
	owned  sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
	// firstUserDone: the user that the configuration names exists, or another one does, or it cannot be made.
	firstUserDone atomic.Bool
	// failed takes the first failure of a part that the broker cannot do without.
	failed chan error
}

// assemble makes the parts, from the peer port up. On an error the parts made so far are given back to
// be stopped.
func (b *Broker) assemble() (*parts, error) {
	p := &parts{cfg: b.cfg, logger: b.logger, grpcListeners: b.grpc, kafkaListeners: b.kafka, secured: b.secured, wall: b.options.Wall, dial: b.options.Dial, failed: make(chan error, 8)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	reg := b.options.Registry
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfoMetric())
	p.health = newHealth(p)
	b.health.Store(p.health)
	p.http = startHTTP(b.secured(namedListener{port: "http", tls: b.cfg.HTTP.TLS}, b.httpListener), reg, p.health, b.cfg.HTTP.Profiles, p.logger)

	p.memory = newMemory(b.cfg.Limits, reg)
	var err error
	dialer, muxConfig := mux.Dialer{}, mux.Config{Logger: p.logger, Registerer: reg}
	if k := b.certificates.ports["peer"]; k != nil {
		dialer.TLS, muxConfig.TLS = k.Client, k.Server()
	}
	dialer.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return b.options.Dial(ctx, "tcp", addr) }
	p.mux = mux.New(b.peerListener, muxConfig)
	p.background(func() error { b.watchCertificates(p.ctx); return nil })
	if p.cluster, err = cluster.New(p.clusterConfig(b, dialer)); err != nil {
		return p, err
	}
	p.health.waitsFor(p.cluster.Waiting)
	p.peers = peer.NewServer(peer.ServerConfig{Self: p.cluster.Self, Replaced: p.cluster.ReplacedCaller, Handler: peerHandler{p.cluster, p}, Logger: p.logger})
	p.raft, err = raftgroup.NewHost(raftgroup.Config{
		Broker:              b.cfg.BrokerID,
		Dir:                 filepath.Join(b.cfg.DataDir, "raft"),
		FS:                  b.options.FS,
		Listener:            p.mux.Raft(),
		Dial:                dialer.Raft,
		Resolve:             p.cluster.Resolve,
		ClusterID:           p.cluster.ClusterID,
		Node:                p.cluster.Node,
		Replaced:            p.cluster.Replaced,
		OnReplaced:          p.cluster.Doubt,
		FeatureLevel:        p.cluster.FeatureLevel,
		MaxFeatureLevel:     metadata.CurrentLevel,
		HeartbeatTimeout:    b.cfg.Raft.HeartbeatTimeout,
		ElectionTimeout:     b.cfg.Raft.ElectionTimeout,
		LeaderLeaseTimeout:  b.cfg.Raft.LeaderLeaseTimeout,
		CommitTimeout:       b.cfg.Raft.CommitTimeout,
		HeartbeatInterval:   b.cfg.Raft.HeartbeatBatch,
		MaxOutstandingBytes: int64(b.cfg.Raft.MaxInFlightBytes),
		MaxReplayBytes:      int64(b.cfg.Raft.MaxReplayBytes),
		QueueLogs:           b.cfg.Raft.QueueLogs,
		Sending:             p.memory.sending,
		Receiving:           p.memory.receiving,
		MaxEntryBytes:       int(b.cfg.Limits.MaxMessageBytes) + entrySlack,
		TrustNetwork:        muxConfig.TLS != nil,
		NoSync:              b.options.NoSync, BoltFlush: b.options.BoltFlush,
		Logger:     p.logger,
		Registerer: reg,
	})
	if err != nil {
		return p, err
	}
	p.partitions = partition.NewHost(partition.HostConfig{
		Broker:                  b.cfg.BrokerID,
		Dir:                     filepath.Join(b.cfg.DataDir, "partitions"),
		SparesDir:               filepath.Join(b.cfg.DataDir, "spares"),
		FS:                      b.options.FS,
		Raft:                    p.raft,
		Pull:                    p.pull,
		Transactions:            txnGlue{p},
		LeadershipChanged:       p.leadershipChanged,
		Gone:                    p.gone,
		CacheBytes:              cachePerReplica(b.cfg.Limits),
		SnapshotBytes:           int64(b.cfg.Raft.SnapshotBytes),
		MaxReplicas:             b.cfg.Limits.MaxPartitions,
		ExpirationCheckInterval: b.cfg.ProducerIDExpirationCheck,
		RetentionCheckInterval:  b.cfg.RetentionCheck,
		ScrubBytes:              int64(b.cfg.Scrub.BytesPerSecond),
		ScrubInterval:           b.cfg.Scrub.Interval,
		Compare:                 comparer{p},
		CatchUpBytes:            int64(b.cfg.CatchUp.BytesPerSecond),
		CompactionInterval:      b.cfg.Compaction.Interval,
		CompactionBytes:         int64(b.cfg.Compaction.BytesPerSecond),
		CompactionMemory:        int64(b.cfg.Compaction.MemoryBytes),
		Wall:                    b.options.Wall,
		Sabotage:                b.options.Sabotage.Partition,
		Logger:                  p.logger,
		Registerer:              reg,
	})
	p.disk = newDisk(b.options.FS, b.cfg.DataDir, p.partitions.Disk, reg, p.logger)
	p.assembleCoordinators(b)
	p.reconciler = &reconciler{
		broker: b.cfg.BrokerID, host: replicaHosts{p.partitions, p.coordinators}, reports: p.cluster, limits: b.cfg.Limits, logger: p.logger,
		parallel: 8, open: make(map[metadata.GroupID]opened), replaced: p.cluster.ReplacedIn,
	}
	return p, p.assembleDoors(b)
}

// assembleDoors makes the servers that clients talk to. What all clients together may hold, they share.
func (p *parts) assembleDoors(b *Broker) (err error) {
	shared := frontdoor.NewShared(frontdoor.Limits{Memory: p.memory.Memory, ProduceBytes: int64(b.cfg.Limits.ProduceBytes),
		FetchBytes: int64(b.cfg.Limits.FetchBytes), Connections: b.cfg.Limits.MaxConnections})
	p.memory.catchUp = p.memory.kindOfCatchUp()
	if p.guard, err = p.newGuard(b); err != nil {
		return err
	}
	p.api, err = api.New(api.Config{
		Guard: p.guard,
		Log:   p.partitions, Replicas: p.partitions, Cluster: view{p.cluster, p}, Health: p.health, Self: self{p},
		Transactions: p.transactions, Groups: p.groups, Coordinators: p.coordinators,
		HTTPListener: httpListenerName, Reflection: true, Credentials: secure.GRPC{},
		MaxMessageBytes: int(b.cfg.Limits.MaxMessageBytes),
		Shared:          shared, Logger: p.logger, Registerer: b.options.Registry,
	})
	if err != nil {
		return err
	}
	p.kafka, err = kafka.New(kafka.Config{
		Guard: p.guard,
		Log:   p.partitions, Replicas: p.partitions, Cluster: kafkaView{view{p.cluster, p}},
		Transactions: p.transactions, Coordinators: p.coordinators, Groups: p.groups, Markers: txnGlue{p},
		MaxMessageBytes: int(b.cfg.Limits.MaxMessageBytes), Settings: kafkaSettings(&b.cfg),
		Shared: shared, Logger: p.logger, Registerer: b.options.Registry,
		Disk: func() (free, total int64) { now := p.disk.last(); return now.Free, now.Total },
	})
	return err
}

// kafkaSettings are what Kafka's clients are shown of the configuration.
func kafkaSettings(c *Config) kafka.Settings {
	return kafka.Settings{
		MaxConnections:        c.Limits.MaxConnections,
		MaxTransactionTimeout: c.Transactions.MaxTimeout, TransactionTimeoutCheck: c.Transactions.TimeoutCheck, TransactionalIDExpiration: c.Transactions.IDExpiration,
		GroupSession: c.Groups.SessionTimeout, GroupHeartbeat: c.Groups.HeartbeatInterval, GroupMaxSize: c.Groups.MaxSize,
		GroupMinSession: c.Groups.MinSessionTimeout, GroupMaxSession: c.Groups.MaxSessionTimeout, GroupInitialDelay: c.Groups.InitialRebalanceDelay,
		OffsetsRetention: c.Groups.OffsetsRetention, OffsetsRetentionCheck: c.Groups.OffsetsRetentionCheck,
	}
}

// assembleCoordinators makes what coordinates transactions and groups.
func (p *parts) assembleCoordinators(b *Broker) {
	c, reg := b.cfg.Transactions, b.options.Registry
	p.coordinators = coordinator.NewHost(coordinator.HostConfig{
		Broker:            b.cfg.BrokerID,
		Dir:               filepath.Join(b.cfg.DataDir, "coordinators"),
		FS:                b.options.FS,
		Raft:              p.raft,
		FeatureLevel:      p.cluster.FeatureLevel,
		Directory:         directory{p},
		LeadershipChanged: p.leadershipChanged,
		Wall:              b.options.Wall,
		Logger:            p.logger,
		Registerer:        reg,
		Sabotage:          b.options.Sabotage.Coordinator,
	})
	p.transactions = coordinator.NewTransactions(coordinator.TransactionsConfig{
		Host: p.coordinators, Markers: txnGlue{p}, ProducerIDs: p.cluster,
		MaxTimeout: c.MaxTimeout, TimeoutCheck: c.TimeoutCheck, Expiration: c.IDExpiration, ExpirationCheck: c.IDExpirationCheck,
		Limits: txn.Limits{MaxIDs: b.cfg.Limits.MaxTransactionalIDs, MaxPartitions: b.cfg.Limits.MaxTransactionPartitions},
		Logger: p.logger, Registerer: reg,
	})
	gc, limits := b.cfg.Groups, b.cfg.Limits
	p.groups = coordinator.NewGroups(coordinator.GroupsConfig{
		Host: p.coordinators, Topics: groupGlue{p}, Transactions: groupGlue{p},
		SessionTimeout: gc.SessionTimeout, HeartbeatInterval: gc.HeartbeatInterval, Settle: gc.Settle,
		MinSessionTimeout: gc.MinSessionTimeout, MaxSessionTimeout: gc.MaxSessionTimeout, InitialRebalanceDelay: cmp.Or(gc.InitialRebalanceDelay, -1),
		OffsetsRetention: gc.OffsetsRetention, OffsetsRetentionCheck: gc.OffsetsRetentionCheck, ProducerExpiration: b.cfg.ProducerIDExpiration,
		Limits: group.Limits{MaxGroups: limits.MaxGroups, MaxMembers: gc.MaxSize, MaxOffsets: limits.MaxGroupOffsets, MaxBytes: int64(limits.MaxGroupBytes)},
		Logger: p.logger, Registerer: reg,
	})
}

// entrySlack is what a command may hold beside its batch.
const entrySlack = 64 << 10

// cachePerReplica shares the cache budget out. Few replicas are busy at once; the share has a floor
// that holds some batches and a ceiling that one busy partition can use.
func cachePerReplica(l LimitsConfig) int64 {
	return min(max(int64(l.CacheBytes)/int64(max(l.MaxPartitions, 1)), 1<<20), 16<<20)
}

func (p *parts) clusterConfig(b *Broker, dialer mux.Dialer) cluster.Config {
	listeners := []metadata.Listener{
		{Name: metadata.PeerListener, Address: advertised(b.cfg.Peer.Advertise, b.peerListener)},
		{Name: httpListenerName, Address: b.httpListener.Addr().String()},
	}
	for _, name := range b.cfg.ListenerNames() {
		listeners = append(listeners, metadata.Listener{Name: name, Address: advertised(b.cfg.GRPC[name].Advertise, b.grpc[name])})
	}
	for _, name := range b.cfg.KafkaListenerNames() {
		listeners = append(listeners, metadata.Listener{Name: kafkaListenerName(name), Address: advertised(b.cfg.Kafka[name].Advertise, b.kafka[name])})
	}
	return cluster.Config{
		Broker: b.cfg.BrokerID, Dir: filepath.Join(b.cfg.DataDir, "cluster"), FS: b.options.local(),
		Listeners: listeners, Rack: b.cfg.Rack, Version: buildinfo.Get().Version,
		MaxReplicas: b.cfg.Limits.MaxPartitions, Seeds: b.cfg.Seeds, Dial: dialer.Peer,
		Logger: b.logger, Registerer: b.options.Registry,
	}
}

// kafkaListenerName is the name under which brokers advertise a Kafka listener. It is none that a gRPC listener can have.
func kafkaListenerName(name string) string { return "kafka." + name }

// advertised is the address others are told: the configured one, else where we listen.
func advertised(configured string, l net.Listener) string {
	if configured != "" {
		return configured
	}
	return l.Addr().String()
}

// background runs f until it returns; stop waits for it. An error ends the broker.
func (p *parts) background(f func() error) {
	p.owned.Go(func() {
		if err := f(); err != nil && p.ctx.Err() == nil {
			select {
			case p.failed <- err:
			default:
			}
		}
	})
}

// serve starts the broker and returns when ctx or abort ends (nil), or when a part has failed.
func (p *parts) serve(ctx, abort context.Context, ready chan<- struct{}) error {
	p.background(func() error { return p.peers.Serve(p.mux.Peer()) })
	p.cluster.Start(p.raft)
	select {
	case <-p.cluster.Ready():
	case <-p.cluster.Failed():
		return p.cluster.Err()
	case err := <-p.failed:
		return err
	case <-ctx.Done():
		return nil
	case <-abort.Done():
		return nil
	}
	p.firstUserDone.Store(p.cfg.Security.BootstrapUser == "")
	p.background(func() error { p.reconcile(p.ctx); return nil })
	p.background(func() error { p.move(p.ctx); return nil })
	p.background(func() error { p.health.watch(p.ctx); return nil })
	if every := p.cfg.LeaderBalance; every > 0 {
		balance := &balancer{self: p.cfg.BrokerID, interval: every, preferred: p.preferredLeader, heard: p.cluster.LastHeard,
			led: p.led, transfer: p.handOverHere, logger: p.logger}
		p.background(func() error { balance.run(p.ctx); return nil })
	}
	p.background(func() error {
		defer p.health.poke()
		defer p.firstUserDone.Store(true)
		return p.firstUser(p.ctx)
	})
	for name, l := range p.grpcListeners {
		p.background(func() error {
			if err := p.api.Serve(name, p.secured(p.cfg.grpcListener(name), l)); !errors.Is(err, api.ErrStopped) {
				return err
			}
			return nil
		})
	}
	for name, l := range p.kafkaListeners {
		p.background(func() error {
			if err := p.kafka.Serve(kafkaListenerName(name), p.secured(p.cfg.kafkaListener(name), l)); !errors.Is(err, kafka.ErrStopped) {
				return err
			}
			return nil
		})
	}
	if err := p.health.waitReady(ctx, abort); err != nil {
		return nil
	}
	close(ready)
	p.logger.Info("broker is ready", "cluster", p.cluster.ClusterID())
	p.background(func() error { warnOfUnreachable(p.ctx, p.cfg.advertisedAddresses(), p.dial, p.logger); return nil })
	select {
	case err := <-p.failed:
		return err
	case <-p.cluster.Failed():
		return p.cluster.Err()
	case <-ctx.Done():
	case <-abort.Done():
	}
	return nil
}

// reconcile follows the metadata until ctx ends.
func (p *parts) reconcile(ctx context.Context) {
	img := p.cluster.Image()
	for {
		done := p.reconciler.apply(ctx, p.reconciler.plan(img))
		p.reconciler.setSettled(done)
		p.health.poke()
		again := reconcileLook
		if !done {
			again = reconcileRetry
		}
		wait, cancel := context.WithTimeout(ctx, again)
		newer, err := p.cluster.WaitNewer(wait, img.Version())
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			img = newer
		}
	}
}

// leadershipChanged tells the other brokers what this one leads (partition.Host).
func (p *parts) leadershipChanged(group raftgroup.GroupID, term record.Term, ready bool) {
	if ready {
		p.cluster.SetLeading(metadata.GroupID(group), term, true)
	} else {
		p.cluster.ClearLeading(metadata.GroupID(group), term)
	}
	p.health.poke()
}

// gone says that a group's topic has been deleted (partition.Host). The reconciler removes what is left of it when it comes to that; it may
// be opening replicas for a while.
func (p *parts) gone(group raftgroup.GroupID) bool {
	t, _, ok := p.cluster.Image().Group(metadata.GroupID(group))
	return !ok || t.Deleting
}

// preferredLeader is the broker that shall lead a partition's group.
func (p *parts) preferredLeader(group raftgroup.GroupID) (int32, bool) {
	t, number, ok := p.cluster.Image().Group(metadata.GroupID(group))
	if !ok || len(t.Partitions[number].Replicas) == 0 {
		return 0, false
	}
	return t.Partitions[number].Replicas[0].Broker, true
}

// drain hands over everything that this broker leads, so that clients go on elsewhere before
// the listeners close. What cannot be handed over in time is left to the others' election.
func (p *parts) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.ShutdownTimeout/2)
	defer cancel()
	p.health.drain()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.coordinators.TransferLeadership(ctx); err != nil && ctx.Err() == nil {
			p.logger.Warn("leadership of coordinators not handed over", "err", err)
		}
	})
	wg.Go(func() {
		if err := p.cluster.Resign(ctx); err != nil && ctx.Err() == nil {
			p.logger.Warn("leadership of the metadata group not handed over", "err", err)
		}
	})
	slots := make(chan struct{}, 16)
	for _, g := range p.partitions.Groups() {
		if g.Raft.Role != raftgroup.RoleLeader || len(g.Raft.Voters) < 2 {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.partitions.TransferLeadership(ctx, g.Spec.TopicPartition, -1); err != nil && ctx.Err() == nil {
				p.logger.Warn("leadership not handed over", "topic", g.Spec.Topic, "partition", g.Spec.Partition, "err", err)
			}
		})
	}
	wg.Wait()
	p.raft.Rest(ctx)
}

// stopDoors ends the servers that clients talk to. What had to be cut was told to its clients by the cut.
func (p *parts) stopDoors() {
	ctx, cancel := context.WithTimeout(context.Background(), max(p.cfg.ShutdownTimeout/2, 100*time.Millisecond))
	defer cancel()
	if !p.health.isDraining() {
		cancel()
	}
	var wg sync.WaitGroup
	if p.api != nil {
		wg.Go(func() { _ = p.api.Stop(ctx) })
	}
	if p.kafka != nil {
		wg.Go(func() { _ = p.kafka.Stop(ctx) })
	}
	wg.Wait()
}

// stop ends everything, listeners first, and waits.
func (p *parts) stop() error {
	var errs []error
	p.stopDoors()
	p.cancel()
	if p.coordinators != nil {
		errs = append(errs, p.coordinators.Close())
	}
	if p.partitions != nil {
		errs = append(errs, p.partitions.Close())
	}
	if p.cluster != nil {
		errs = append(errs, p.cluster.Close())
	}
	if p.raft != nil {
		errs = append(errs, p.raft.Close())
	}
	if p.peers != nil {
		p.peers.Close()
	}
	if p.mux != nil {
		errs = append(errs, p.mux.Close())
	}
	if p.http != nil {
		errs = append(errs, p.http.close())
	}
	p.owned.Wait()
	return errors.Join(errs...)
}
