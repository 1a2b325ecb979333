package raftgroup

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Group is one replica of one Raft group. Its methods may be called from any goroutine.
//
// One goroutine, the supervisor, owns the group's life: it alone opens, reopens and stops the
// engine, and follows Raft's notices of leadership.
type Group struct {
	host        *Host
	config      GroupConfig
	incarnation uint64
	logger      *slog.Logger

	logs      logStore
	stable    *stableStore
	snapshots *snapshots

	// engine is what runs; nil while it is being opened again and after the group ended.
	engine atomic.Pointer[engine]
	// lead is this replica's leadership, nil while it has none.
	lead atomic.Pointer[leadership]

	proposals *proposals
	confirmer confirmer

	// faults, reopens and the engine's notify are what the supervisor waits for.
	faults  chan *engine
	reopens chan reopenRequest
	closing chan struct{}
	// ended is closed when no engine runs any more and none will.
	ended chan struct{}
	// halted is set when a fault has ended the group.
	halted atomic.Bool

	once sync.Once
	done chan struct{} // closed when the supervisor has ended

	replay replay

	// unsettled: a change of members has an unknown end (reshape.go).
	unsettled atomic.Bool

	// replacing is the term whose dead leader this replica tries to replace.
	replacing atomic.Uint64

	// ownedMu guards owned against new goroutines after the end; final is set then.
	ownedMu sync.Mutex
	owned   sync.WaitGroup
	final   bool

	// eventMu guards events and makes their order that of the changes of lead.
	eventMu sync.Mutex
	events  []LeadershipEvent
	telling bool

	// problemMu guards problem.
	problemMu sync.Mutex
	problem   string
}

type reopenRequest struct {
	engine *engine
	then   func()
}

// openGroup opens the stores and Raft on them.
func openGroup(h *Host, c GroupConfig) (*Group, error) {
	_, incarnation, err := ParseServerID(c.Self)
	if err != nil {
		return nil, err
	}
	g := &Group{
		host: h, config: c, incarnation: incarnation,
		logger:  h.logger.With("group", uint64(c.ID), "name", c.Name),
		faults:  make(chan *engine, 1),
		reopens: make(chan reopenRequest),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		done:    make(chan struct{}),
	}
	g.proposals = newProposals(g)
	g.confirmer.group = g
	g.config.Bootstrap = append([]Server(nil), c.Bootstrap...)
	if g.stable, err = h.stable.open(c.ID, c.Self); err != nil {
		return nil, err
	}
	if g.snapshots, err = openSnapshots(h.config.FS, c.Dir, g.logger, h.metrics.badSnapshots.Inc); err != nil {
		return nil, err
	}
	if c.Log == nil { // else LatestSnapshot has done it, before the log was opened by it
		if err = g.snapshots.settle(); err != nil {
			return nil, err
		}
	}
	if err = g.checkLogExists(); err != nil {
		return nil, err
	}
	if g.logs, err = g.openLog(); err != nil {
		return nil, err
	}
	if err = errors.Join(g.checkStableExists(), checkCovered(g.logs, g.snapshots.newest(), g.snapshots.lost)); err != nil {
		return nil, errors.Join(err, g.logs.close())
	}
	if c.wrapLog != nil {
		g.logs = c.wrapLog(g.logs)
	}
	if err = g.bootstrap(); err != nil {
		return nil, errors.Join(err, g.logs.close())
	}
	e, err := g.startEngine()
	if err != nil {
		return nil, errors.Join(err, g.logs.close())
	}
	g.engine.Store(e)
	return g, nil
}

func (g *Group) openLog() (logStore, error) {
	c, newest := &g.config, g.snapshots.newest()
	if c.Log != nil {
		return newRecordStore(c.Log), nil
	}
	isRecordLog, err := prepareControlLog(g.host, c.Dir, newest, c.RecordLog)
	if err != nil {
		return nil, err
	}
	if isRecordLog {
		return openControlLog(g.host, c.Dir, newest)
	}
	return openBoltLog(c.Dir, g.host.config.NoSync)
}

// run starts the group's goroutines.
func (g *Group) run() {
	e := g.engine.Load()
	e.start()
	go g.supervise(e)
	g.goroutine(g.firstElection)
}

// goroutine runs f in a goroutine that Close waits for; false: the group has ended, f does not run.
func (g *Group) goroutine(f func()) bool {
	g.ownedMu.Lock()
	defer g.ownedMu.Unlock()
	if g.final {
		return false
	}
	g.owned.Add(1)
	go func() {
		defer g.owned.Done()
		f()
	}()
	return true
}

// supervise owns the engine until the group is closed.
func (g *Group) supervise(e *engine) {
	defer close(g.done)
	for e != nil {
		select {
		case leads := <-e.notify:
			g.leaderChanged(e, leads)
		case from := <-g.faults:
			if from == e {
				g.halt(e, e.fault0())
				e = nil
			}
		case r := <-g.reopens:
			if r.engine == e {
				e = g.reopen(e)
			}
			r.then()
		case <-g.closing:
			g.stopEngine(e)
			e = nil
		}
	}
	g.finish()
	<-g.closing
}

// stopEngine ends Raft. What was handed to it and is not resolved is uncertain from here on.
func (g *Group) stopEngine(e *engine) {
	g.engine.Store(nil)
	g.endLeadership()
	e.stop()
}

// Fail ends this replica because its owner has found that it must not go on, such as by damage in
// its log: it halts like after a fault of its own, and Status says why.
func (g *Group) Fail(err error) {
	if e := g.engine.Load(); e != nil {
		e.fault(err)
	}
}

// halt ends the group because of a fault; it stays open and says why.
func (g *Group) halt(e *engine, err error) {
	g.problemMu.Lock()
	g.problem = err.Error()
	g.problemMu.Unlock()
	g.halted.Store(true)
	g.metrics().halts.Inc()
	g.logger.Error("replica is stopped by a fault", "err", err)
	g.stopEngine(e)
	g.dropPending()
}

// reopen closes Raft and opens it again on the same stores.
func (g *Group) reopen(e *engine) *engine {
	g.metrics().reopens.Inc()
	g.stopEngine(e)
	next, err := g.startEngine()
	if err != nil {
		g.problemMu.Lock()
		g.problem = fmt.Sprintf("raft did not open again: %v", err)
		g.problemMu.Unlock()
		g.halted.Store(true)
		g.metrics().halts.Inc()
		g.logger.Error("replica is stopped by a fault", "err", err)
		g.tellDamage(e, err)
		return nil
	}
	next.start()
	g.engine.Store(next)
	return next
}

// finish lets everything end that waits for the group.
func (g *Group) finish() {
	g.proposals.close()
	close(g.ended)
	g.dropPending()
	g.ownedMu.Lock()
	g.final = true
	g.ownedMu.Unlock()
	g.owned.Wait()
}

// Close stops the replica and waits for its goroutines; a callback of the group that is running
// is waited for, so that none may call Close. The log given in GroupConfig stays open.
func (g *Group) Close() error {
	g.once.Do(func() { close(g.closing) })
	<-g.done
	g.host.remove(g)
	var err error
	if g.config.Log == nil {
		err = g.logs.close()
	}
	return err
}

// Destroy closes the replica and removes what raftgroup keeps of it: term, vote, snapshots and, for
// groups without a log of their own, the log. It must never be opened again under this identity.
func (g *Group) Destroy() error {
	err := g.Close()
	fs, dir := g.host.config.FS, g.config.Dir
	err = errors.Join(err, g.host.stable.forget(g.config.ID, g.config.Self), fs.RemoveAll(g.snapshots.dir))
	if g.config.Log == nil {
		err = errors.Join(err, fs.RemoveAll(ControlLogDir(dir)), removeBoltLog(dir, g.host.config.NoSync))
	}
	return err
}

// ID is the group's id.
func (g *Group) ID() GroupID { return g.config.ID }

// Self is this replica.
func (g *Group) Self() ServerID { return g.config.Self }

func (g *Group) metrics() *metrics { return g.host.metrics }

func (h *Host) level() uint16 {
	if h.config.FeatureLevel == nil {
		return 0
	}
	return h.config.FeatureLevel()
}

// snapshotStands tells the log that what a snapshot covers is in the machine, durably.
func (g *Group) snapshotStands(index uint64) {
	if err := g.logs.snapshotAt(index); err != nil {
		// The log then only keeps more than it need.
		g.logger.Warn("log not told of the snapshot", "index", index, "err", err)
	}
}

// firstElection spares a group that starts without a leader the wait for its timeouts: when it
// begins, and when the whole cluster comes back. The first voter, where its owner wants the leader to
// be, stands for election as soon as a majority has opened the group and nobody knows a leader. A group of one
// voter elects that one at once. If it comes to nothing, the timeouts are still there.
func (g *Group) firstElection() {
	e := g.engine.Load()
	if e == nil {
		return
	}
	voters := g.voters(e)
	self := false
	for _, v := range voters {
		self = self || v == g.config.Self
	}
	switch {
	case !self:
		return
	case len(voters) > 1 && voters[0] != g.config.Self:
		return
	case len(voters) > 1 && !g.awaitMembers(e, voters):
		return
	}
	if _, leader := e.raft.LeaderWithID(); leader == "" && e.raft.State() == raft.Follower {
		e.inbox.put(timeoutNow(g), nil, 0, func(any, uint16, error) {})
	}
}

// timeoutNow is what a leader sends to the one it hands over to.
func timeoutNow(g *Group) *raft.TimeoutNowRequest {
	id := []byte(g.config.Self)
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}}
}

const (
	// membersPoll is how long a group that starts waits before it asks its members again, at first;
	// membersPollMax is the longest it waits.
	membersPoll    = 25 * time.Millisecond
	membersPollMax = 200 * time.Millisecond
	// allMembersWait is how long it waits for all of them, once it has a majority.
	allMembersWait = 250 * time.Millisecond
)

// awaitMembers waits until the other voters of a group that starts have opened it: all, or after a
// while a majority. False: there is a leader already, or the wait is over.
func (g *Group) awaitMembers(e *engine, voters []ServerID) bool {
	started := time.Now()
	for poll := membersPoll; time.Since(started) < g.host.config.HeartbeatTimeout; poll = min(2*poll, membersPollMax) {
		open, led := g.countMembers(e, voters, poll)
		if _, leader := e.raft.LeaderWithID(); led || leader != "" {
			return false
		}
		if open == len(voters) || open > len(voters)/2 && time.Since(started) >= allMembersWait {
			return true
		}
		timer := time.NewTimer(poll)
		select {
		case <-timer.C:
		case <-e.stopping:
			timer.Stop()
			return false
		}
	}
	return false
}

// countMembers asks the voters once: how many have opened the group, this one among them, and does
// one know a leader?
func (g *Group) countMembers(e *engine, voters []ServerID, wait time.Duration) (open int, led bool) {
	answers := make(chan termAnswer, len(voters))
	for _, v := range voters {
		if v != g.config.Self {
			e.transport.askTerm(raft.ServerID(v), func(a termAnswer) { answers <- a })
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	open = 1
	for range len(voters) - 1 {
		select {
		case a := <-answers:
			if a.err == nil {
				open++
				led = led || a.led
			}
		case <-timer.C:
			return open, led
		case <-e.stopping:
			return open, led
		}
	}
	return open, led
}

func (g *Group) voters(e *engine) []ServerID {
	var list []ServerID
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			list = append(list, ServerID(s.ID))
		}
	}
	return list
}
