package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/oncelog/oncelog/internal/firstbytes"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Host is one broker's end of all its Raft groups. Its methods may be called from any goroutine.
type Host struct {
	config  Config
	logger  *slog.Logger
	metrics *metrics
	stable  *stableFiles
	// sending bounds the entries under way to all other brokers.
	sending Allowance

	replay hostReplay
	// refusals are of connections from who is no broker of ours, or does not speak as one.
	refusals firstbytes.Throttle
	// controlLogs are the metrics of the record logs of control groups.
	controlLogs *recordlog.Metrics

	// ctx ends when the host closes its connections, after its groups.
	ctx    context.Context
	cancel context.CancelFunc
	owned  sync.WaitGroup

	// mu guards what follows. Nothing blocks under it; no other lock is taken under it.
	mu       sync.RWMutex
	groups   map[GroupID]*Group
	opening  map[GroupID]bool
	peers    map[int32]*peer
	wires    map[*wire]remote
	sessions map[sessionKey]*wire // the newest connection of each kind from each broker
	closing  bool                 // no new groups
	closed   bool                 // no new goroutines
}

// NewHost opens the stable stores and begins to accept connections.
func NewHost(c Config) (*Host, error) {
	if err := checkFutures(); err != nil {
		return nil, err
	}
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{
		config:   c,
		logger:   c.Logger,
		groups:   make(map[GroupID]*Group),
		opening:  make(map[GroupID]bool),
		peers:    make(map[int32]*peer),
		wires:    make(map[*wire]remote),
		sessions: make(map[sessionKey]*wire),
		sending:  c.Sending,
	}
	if h.sending == nil {
		h.sending = newBudget(c.MaxSendingBytes)
	}
	h.metrics = newMetrics(c.Registerer, h)
	h.controlLogs = recordlog.NewMetricsOf("control_log", c.Registerer)
	if h.stable, err = openStableFiles(c.Dir, c.NoSync, c.BoltFlush, h.logger); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.background(h.accept)
	h.background(h.watch)
	return h, nil
}

// background runs f in a goroutine that Close waits for; false: the host is closed, f does not run.
func (h *Host) background(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.owned.Add(1)
	go func() {
		defer h.owned.Done()
		f()
	}()
	return true
}

// sleep waits; false: the host closed meanwhile.
func (h *Host) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

// CheckLevel refuses a feature level above the one that this program's machines can apply at.
func (h *Host) CheckLevel(level uint16) error {
	if most := h.config.MaxFeatureLevel; most > 0 && level > most {
		return fmt.Errorf("%w: it was written at feature level %d, this program applies up to %d", ErrNewerLevel, level, most)
	}
	return nil
}

func (h *Host) clusterID() string {
	if h.config.ClusterID == nil {
		return ""
	}
	return h.config.ClusterID()
}

// peer gives the connections to a broker, which are made when first used.
func (h *Host) peer(broker int32) *peer {
	h.mu.Lock()
	p := h.peers[broker]
	made := p == nil
	if made {
		p = newPeer(h, broker)
		h.peers[broker] = p
	}
	h.mu.Unlock()
	if made && !h.background(p.beats.run) {
		p.beats.end()
	}
	return p
}

// track notes an open connection; false: the host is closed.
func (h *Host) track(w *wire) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wires[w] = remote{}
	return true
}

func (h *Host) untrack(w *wire) {
	h.mu.Lock()
	delete(h.wires, w)
	h.mu.Unlock()
}

// find gives the engine of the replica a frame is meant for, or the code that refuses the frame.
func (h *Host) find(id GroupID, incarnation uint64) (*engine, uint16) {
	h.mu.RLock()
	g := h.groups[id]
	h.mu.RUnlock()
	switch {
	case g == nil:
		return nil, codeUnknownGroup
	case g.incarnation != incarnation:
		h.metrics.wrongServer.Inc()
		return nil, codeWrongServer
	}
	e := g.engine.Load()
	if e == nil {
		return nil, codeUnavailable
	}
	return e, codeOK
}

// Open starts a group. It reads the entries since the newest snapshot; after that the group runs
// until it is closed or halted by a fault (Status tells).
func (h *Host) Open(c GroupConfig) (*Group, error) {
	if c.SnapshotBytes <= 0 {
		c.SnapshotBytes = defaultSnapshotBytes
	}
	if err := c.validate(h.config.Broker); err != nil {
		return nil, err
	}
	h.mu.Lock()
	switch {
	case h.closing:
		h.mu.Unlock()
		return nil, fmt.Errorf("open group %d: %w", c.ID, ErrHostClosed)
	case h.groups[c.ID] != nil || h.opening[c.ID]:
		h.mu.Unlock()
		return nil, fmt.Errorf("open group %d: it is open already", c.ID)
	}
	h.opening[c.ID] = true
	h.owned.Add(1) // Close waits for the attempt.
	h.mu.Unlock()
	g, err := openGroup(h, c)
	h.mu.Lock()
	delete(h.opening, c.ID)
	if err == nil {
		h.groups[c.ID] = g
	}
	late := h.closing
	h.mu.Unlock()
	if err == nil {
		g.run()
	}
	h.owned.Done()
	if err != nil {
		return nil, fmt.Errorf("open group %d (%s): %w", c.ID, c.Name, err)
	}
	if late {
		return nil, errors.Join(ErrHostClosed, g.Close())
	}
	return g, nil
}

// Group finds an open group; nil: not open here.
func (h *Host) Group(id GroupID) *Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.groups[id]
}

// Groups lists the open groups, in no order.
func (h *Host) Groups() []*Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		list = append(list, g)
	}
	return list
}

func (h *Host) remove(g *Group) {
	h.mu.Lock()
	if h.groups[g.config.ID] == g {
		delete(h.groups, g.config.ID)
	}
	h.mu.Unlock()
}

// LatestSnapshot gives the last index of the newest good state snapshot in a group's directory,
// 0 if there is none. It is what recordlog.Options.SnapshotIndex wants; the group must be closed.
func (h *Host) LatestSnapshot(dir string) (record.Index, error) {
	s, err := openSnapshots(h.config.FS, dir, h.logger, nil)
	if err != nil {
		return 0, err
	}
	return s.newest(), s.settle()
}

// Forget removes a closed replica's term and vote from the stable stores. Its directory is the
// caller's to remove. The replica must never be opened again under the same identity.
func (h *Host) Forget(id GroupID, self ServerID) error {
	if g := h.Group(id); g != nil && g.config.Self == self {
		return fmt.Errorf("forget group %d: it is open", id)
	}
	return h.stable.forget(id, self)
}

// Close stops all groups and connections and waits for every goroutine. The callers' logs and
// listener may be closed after it; the listener is closed by it.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closing {
		h.mu.Unlock()
		h.owned.Wait()
		return nil
	}
	h.closing = true
	groups := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		groups = append(groups, g)
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, g := range groups {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = g.Close()
			<-slots
		}()
	}
	wg.Wait()
	h.cancel()
	err := h.config.Listener.Close()
	h.mu.Lock()
	h.closed = true
	wires := make([]*wire, 0, len(h.wires))
	for w := range h.wires {
		wires = append(wires, w)
	}
	h.mu.Unlock()
	for _, w := range wires {
		w.fail(ErrHostClosed)
	}
	h.owned.Wait()
	return errors.Join(err, h.stable.close())
}
