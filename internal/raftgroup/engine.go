package raftgroup

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/record"
)

// engine is one life of a group's raft.Raft: a group gets another one when Raft has to be closed
// and opened again in place. What Raft is given, and what comes from it, is an
// engine's: after stop nothing of it reaches the outside.
//
// Raft panics in its own goroutines when it cannot read its log or write its term. No panic there
// can be caught, so the stores of an engine never let it see such a failure: they report the fault
// (fault), the caller is parked (park), the group stops the engine, and only then do the parked
// calls return, with an answer that keeps Raft from panicking and that is seen by nobody any more.
type engine struct {
	group     *Group
	raft      *raft.Raft
	transport *transport
	inbox     *inbox
	log       *guardedLog
	notify    chan bool
	heartbeat atomic.Pointer[func(raft.RPC)]

	// stopping is closed first when the engine ends: the transport fails, nothing comes in.
	stopping chan struct{}
	// released is closed when Raft has been told to shut down: parked calls return.
	released chan struct{}
	// done is closed when Raft's goroutines have ended. Futures end with it (futures.go).
	done chan struct{}

	// faulted holds the first fault.
	faulted atomic.Pointer[error]
	// opening is true while NewRaft runs: it returns errors, and its panics can be caught.
	opening atomic.Bool
	// unrestored holds why the newest snapshot could not be restored while opening; Raft keeps it to itself.
	// Only open's goroutine touches it.
	unrestored error
	// muted is set while this replica's disk does not answer (gate.go).
	muted atomic.Bool
	// taken is set once this life has taken an append: until then it knows no commit index.
	taken atomic.Bool
	// installed is the index of the snapshot whose installation has not emptied the log yet.
	installed atomic.Uint64

	responder sync.WaitGroup

	// progress is how far the followers are, while this replica leads.
	progress progress

	// headers caches the names of peers. Guarded by headerMu.
	headerMu sync.Mutex
	headers  map[serverKey]raft.RPCHeader
}

type serverKey struct {
	broker      int32
	incarnation uint64
}

// startEngine opens Raft on the group's stores.
func (g *Group) startEngine() (*engine, error) {
	e := &engine{
		group:    g,
		notify:   make(chan bool, 16),
		stopping: make(chan struct{}),
		released: make(chan struct{}),
		done:     make(chan struct{}),
		headers:  make(map[serverKey]raft.RPCHeader),
	}
	e.inbox = newInbox(e.stopping, g.host.config.Receiving)
	e.transport = newTransport(e)
	e.log = &guardedLog{engine: e, inner: g.logs}
	e.opening.Store(true)
	r, err := e.open()
	if err != nil {
		close(e.stopping)
		close(e.released)
		close(e.done)
		return nil, err
	}
	e.raft = r
	e.opening.Store(false) // From here on others may read e.raft.
	g.logs.onFailure(e.fault)
	return e, nil
}

// open checks that log and snapshots fit together and starts Raft. It reads all entries since the
// snapshot; what Raft would panic over comes back as an error.
func (e *engine) open() (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft: %v", p)
		}
		if cause := e.fault0(); cause != nil {
			err = cause // what Raft says of it has only its text
		}
		if err != nil && e.unrestored != nil {
			err = fmt.Errorf("%w: %w", err, e.unrestored)
		}
	}()
	g := e.group
	if err := checkCovered(g.logs, g.snapshots.newest(), g.snapshots.lost); err != nil {
		return nil, err
	}
	last, err := g.logs.LastIndex()
	if err != nil {
		return nil, err
	}
	snapshot := uint64(g.snapshots.newest())
	if last > 0 && last < snapshot {
		// We died after a snapshot was installed and before the log it replaces was emptied.
		if err := g.logs.trim(last); err != nil {
			return nil, err
		}
	}
	stable := &guardedStable{engine: e, inner: g.stable}
	conf := g.raftConfig(e.notify)
	// Raft hands its goroutines the config by value: the engine must be complete before.
	r, err = raft.NewRaft(conf, &fsm{engine: e, group: g}, e.log, stable, &guardedSnapshots{engine: e, store: g.snapshots}, e.transport)
	if err == nil && r.LastIndex() < snapshot {
		// Raft has taken the one before, and the log does not make up for it.
		err = fmt.Errorf("the newest snapshot, of index %d, was not restored, and without it the replica ends at %d", snapshot, r.LastIndex())
		return nil, errors.Join(err, r.Shutdown().Error())
	}
	return r, err
}

// raftConfig is what Raft runs with.
func (g *Group) raftConfig(notify chan<- bool) *raft.Config {
	h := g.host.config
	return &raft.Config{
		ProtocolVersion:    raft.ProtocolVersionMax,
		LocalID:            raft.ServerID(g.config.Self),
		HeartbeatTimeout:   h.HeartbeatTimeout,
		ElectionTimeout:    h.ElectionTimeout,
		LeaderLeaseTimeout: h.LeaderLeaseTimeout,
		CommitTimeout:      cmp.Or(g.config.CommitTimeout, h.CommitTimeout),
		// One trigger sends at most this many; the rest would wait for CommitTimeout. So fewer
		// are kept outstanding (propose.go).
		MaxAppendEntries: maxAppendEntries,
		// One goroutine proposes for a group. Without the buffer Raft would find at most one
		// entry waiting, and group commit would be gone.
		BatchApplyCh: true,
		// Snapshots are taken by bytes and the log is trimmed by bytes (snapshots.go, guard.go).
		SnapshotInterval:  24 * time.Hour,
		SnapshotThreshold: math.MaxUint64,
		TrailingLogs:      0,
		NotifyCh:          notify,
		Logger:            newRaftLogger(g.logger, g.metrics()),
		NoLegacyTelemetry: true,
	}
}

// maxAppendEntries bounds the entries that Raft sends, and applies, at once. It makes room for as many with every request and every
// commit, however few there are.
const maxAppendEntries = 256

// start begins to pass on what comes from peers.
func (e *engine) start() {
	e.responder.Add(1)
	go func() {
		defer e.responder.Done()
		e.inbox.respond(e.answerInstall, e.holdAnswer)
	}()
}

// stop ends the engine and waits for every goroutine of it.
func (e *engine) stop() {
	close(e.stopping)
	f := e.raft.Shutdown()
	close(e.released)
	if err := f.Error(); err != nil {
		e.group.logger.Error("raft did not shut down cleanly", "err", err)
	}
	close(e.done)
	e.responder.Wait()
}

// fault reports that this replica cannot go on. The group halts.
func (e *engine) fault(err error) {
	if e.faulted.CompareAndSwap(nil, &err) {
		select {
		case e.group.faults <- e:
		default: // The group is being told already.
		}
	}
}

// fault0 gives the first fault, nil while there is none.
func (e *engine) fault0() error {
	if p := e.faulted.Load(); p != nil {
		return *p
	}
	return nil
}

// park holds one of Raft's goroutines after a fault until Raft has been told to shut down.
func (e *engine) park() { <-e.released }

// isStopping says whether the engine is being stopped, or has been.
func (e *engine) isStopping() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// isReleased says whether Raft has been told to shut down.
func (e *engine) isReleased() bool {
	select {
	case <-e.released:
		return true
	default:
		return false
	}
}

// headerOf is the header Raft wants on what replica from of a peer sent.
func (e *engine) headerOf(broker int32, incarnation uint64) raft.RPCHeader {
	key := serverKey{broker, incarnation}
	e.headerMu.Lock()
	defer e.headerMu.Unlock()
	h, ok := e.headers[key]
	if !ok {
		if len(e.headers) >= 64 { // Replaced members; the next few messages fill it again.
			clear(e.headers)
		}
		id := []byte(MakeServerID(broker, incarnation))
		h = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
		e.headers[key] = h
	}
	return h
}

// fastHeartbeat answers a heartbeat without waiting for Raft's own goroutine, which may be inside
// an fsync. Only a heartbeat that changes neither term nor role is answered so; the rest goes
// through the inbox.
func (e *engine) fastHeartbeat(req *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, bool) {
	handle := e.heartbeat.Load()
	if handle == nil {
		return nil, false
	}
	term := e.raft.CurrentTerm()
	if req.Term > term || req.Term == term && e.raft.State() != raft.Follower {
		return nil, false
	}
	answer := make(chan raft.RPCResponse, 1)
	(*handle)(raft.RPC{Command: req, RespChan: answer})
	select {
	case r := <-answer:
		if resp, ok := r.Response.(*raft.AppendEntriesResponse); ok && r.Error == nil {
			return resp, true
		}
	default: // Raft is shutting down.
	}
	return nil, false
}

// reopenSoon has Raft opened again once its goroutine that asks for it is free.
func (e *engine) reopenSoon() {
	e.group.goroutine(func() {
		select {
		case e.group.reopens <- reopenRequest{engine: e, then: func() {}}:
		case <-e.stopping:
		}
	})
}

// bootstrap writes the first configuration if this replica has no state. A crash in the middle
// leaves term 1 and an empty log, from where it starts over: nothing but this makes that state.
func (g *Group) bootstrap() error {
	if len(g.config.Bootstrap) == 0 {
		return nil
	}
	last, err := g.logs.LastIndex()
	if err != nil {
		return err
	}
	_, active, err := g.remembered()
	if err != nil || active || last > 0 || g.snapshots.newest() > 0 {
		return err
	}
	c, err := bootstrapConfiguration(g.config)
	if err != nil {
		return err
	}
	if err := g.stable.SetUint64(keyCurrentTerm, 1); err != nil {
		return err
	}
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
	return g.logs.StoreLogs([]*raft.Log{entry})
}

// remembered says what the stable store knows of this replica: anything, and whether it has been
// in contact with its group, more than bootstrap leaves behind.
func (g *Group) remembered() (known, active bool, err error) {
	term, err := g.stable.GetUint64(keyCurrentTerm)
	if err != nil && !errors.Is(err, errNotFound) {
		return false, false, err
	}
	vote, err := g.stable.GetUint64(keyLastVoteTerm)
	if err != nil && !errors.Is(err, errNotFound) {
		return false, false, err
	}
	return term > 0 || vote > 0, term > 1 || vote > 0, nil
}

// checkLogExists refuses a replica that remembers its group and whose log is gone. Starting it empty
// could elect a leader without what this replica acknowledged. A log of its owner's is checked there.
func (g *Group) checkLogExists() error {
	if g.config.Log != nil {
		return nil
	}
	_, active, err := g.remembered()
	if err != nil || !active {
		return err
	}
	dir := g.config.Dir
	bolt, err := boltLogExists(dir)
	if err != nil || bolt {
		return err
	}
	found, err := vfs.Exists(g.host.config.FS, ControlLogDir(dir))
	if err == nil && !found {
		err = fmt.Errorf("%w: term and vote are there, the log in %s is not", ErrStateLost, dir)
	}
	return err
}

// checkCovered refuses a replica of which entries are missing between its newest good snapshot and its log, or whose log ends below a snapshot that
// is damaged: what lies between them was acknowledged, and the snapshot before knows nothing of it. lost is the index of the damaged one.
func checkCovered(logs raft.LogStore, newest, lost record.Index) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	if record.Index(first) > newest+1 {
		return fmt.Errorf("%w: its log begins at entry %d, and its newest good snapshot ends at %d: entries are missing", ErrStateLost, first, newest)
	}
	if end := max(record.Index(last), newest); lost > end {
		return fmt.Errorf("%w: its snapshot of entry %d is damaged, and what else it has ends at entry %d", ErrStateLost, lost, end)
	}
	return nil
}

// checkStableExists refuses a replica that has a log or a snapshot and knows no term: without its
// vote it could vote a second time in a term. Raft stores the term before the first entry. One that has
// nothing at all is new, unless its owner knows better.
func (g *Group) checkStableExists() error {
	last, err := g.logs.LastIndex()
	if err != nil {
		return err
	}
	if last == 0 && g.snapshots.newest() == 0 {
		if g.config.MustExist {
			return fmt.Errorf("%w: it has applied entries once, and there is neither a log nor a snapshot in %s", ErrStateLost, g.config.Dir)
		}
		return nil
	}
	if known, _, err := g.remembered(); known || err != nil {
		return err
	}
	return fmt.Errorf("%w: it has a log up to entry %d and a snapshot of entry %d, and the stable store %s knows neither term nor vote",
		ErrStateLost, last, g.snapshots.newest(), g.stable.file.path)
}

func bootstrapConfiguration(c GroupConfig) (raft.Configuration, error) {
	var conf raft.Configuration
	seen := make(map[ServerID]bool)
	voters := 0
	for _, s := range c.Bootstrap {
		if _, _, err := ParseServerID(s.ID); err != nil {
			return conf, err
		}
		if seen[s.ID] {
			return conf, fmt.Errorf("bootstrap names %s twice", s.ID)
		}
		seen[s.ID] = true
		member := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.ID)}
		if s.Learner {
			member.Suffrage = raft.Nonvoter
		} else {
			voters++
		}
		conf.Servers = append(conf.Servers, member)
	}
	if voters == 0 || !seen[c.Self] {
		return conf, fmt.Errorf("bootstrap of %s needs a voter and this replica, %s", c.Name, c.Self)
	}
	return conf, nil
}

// raftIndex and raftTerm keep Raft's bare numbers out of what others see.
func raftIndex(i uint64) record.Index { return record.Index(i) }
func raftTerm(t uint64) record.Term   { return record.Term(t) }
