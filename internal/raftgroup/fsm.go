package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/hashicorp/raft"
)

// fsm is the group's state machine as Raft sees it. Raft calls all but the snapshot's Persist from
// one goroutine. After a fault nothing reaches the machine any more.
type fsm struct {
	engine *engine
	group  *Group
}

var _ raft.BatchingFSM = (*fsm)(nil)

// refusal is the result of an entry that the machine was not shown. Its proposer is told.
type refusal struct{ err error }

// Apply is never called: Raft uses ApplyBatch.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch shows the machine the next entries, all but those it must not see: what it applied
// before a restart, Raft's own, and commands that landed in another term than they were admitted
// in. Every replica finds the same.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	if err := f.engine.fault0(); err != nil {
		return fill(results, refusal{&UncertainError{err}})
	}
	// A follower learns what a majority has on disk before it has so itself. What the machine has seen
	// must not vanish with a crash of this replica: a snapshot of it could be all that is left.
	if err := f.engine.awaitDurable(logs[len(logs)-1].Index); err != nil {
		return fill(results, refusal{&UncertainError{err}})
	}
	err := f.apply(logs, results)
	if err != nil {
		f.engine.fault(err)
		return fill(results, refusal{&UncertainError{err}})
	}
	return results
}

func fill(results []any, v any) []any {
	for i := range results {
		results[i] = v
	}
	return results
}

func (f *fsm) apply(logs []*raft.Log, results []any) (err error) {
	g := f.group
	last := logs[len(logs)-1].Index
	defer func() {
		if p := recover(); p != nil {
			g.metrics().applyPanics.Inc()
			err = fmt.Errorf("apply of entries %d to %d panicked: %v\n%s", logs[0].Index, last, p, debug.Stack())
		}
	}()
	b := applyBatch{group: g, results: results}
	b.free = b.rest
	defer b.release()
	applied := uint64(g.config.Machine.Applied())
	var bytes int64
	for i, l := range logs {
		bytes += entryOverhead
		if l.Type != raft.LogCommand || l.Index <= applied {
			continue
		}
		size, err := f.collect(&b, i, l)
		if err != nil {
			return fmt.Errorf("entry %d: %w", l.Index, err)
		}
		bytes += size
	}
	if err := b.flush(); err != nil {
		return err
	}
	g.applied(bytes)
	return nil
}

// collect takes the next log entry for the machine, or finds that the machine must not see it. It gives
// the entry's bytes.
func (f *fsm) collect(b *applyBatch, i int, l *raft.Log) (int64, error) {
	if isLazy(l) && b.bytes >= applyBytes {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	l, err := f.engine.log.whole(l, b.free)
	if err != nil {
		return 0, err
	}
	size := int64(len(l.Data) + len(l.Extensions))
	e, refused, err := f.entry(l)
	if err != nil {
		return size, err
	}
	if refused {
		// The log learns of it in its turn.
		if err := b.flush(); err != nil {
			return size, err
		}
		b.results[i] = refusal{&NotLeaderError{Group: b.group.config.ID}}
		return size, b.group.logs.refused(l)
	}
	b.add(i, e, size)
	return size, nil
}

// applyBytes is about how much of the log the machine is shown at once where it has to be read for that:
// after a start Raft holds all entries without their data.
const applyBytes = 1 << 20

// applyRooms are the buffers that such entries are read into.
var applyRooms = sync.Pool{New: func() any { b := make([]byte, 2*applyBytes); return &b }}

// applyBatch collects neighbours for one call of the machine.
type applyBatch struct {
	group   *Group
	results []any
	entries []Entry
	at      []int // where each entry's result goes
	bytes   int64 // of the entries
	room    *[]byte
	free    func() []byte // rest
}

// rest is what is left of the room, which there is from the first entry on that does not lie in the log's cache.
func (b *applyBatch) rest() []byte {
	if b.room == nil {
		b.room = applyRooms.Get().(*[]byte)
	}
	return (*b.room)[min(b.bytes, int64(len(*b.room))):]
}

func (b *applyBatch) release() {
	if b.room != nil {
		applyRooms.Put(b.room)
	}
}

func (b *applyBatch) add(i int, e Entry, size int64) {
	b.entries = append(b.entries, e)
	b.at = append(b.at, i)
	b.bytes += size
}

func (b *applyBatch) flush() error {
	if len(b.entries) == 0 {
		return nil
	}
	out := b.group.config.Machine.Apply(b.entries)
	if len(out) != len(b.entries) {
		return fmt.Errorf("machine gave %d results for %d entries", len(out), len(b.entries))
	}
	for i, r := range out {
		b.results[b.at[i]] = r
		if e := &b.entries[i]; e.Kind == KindLeaderStart {
			b.group.leaderStarted(e.Term, e.Index)
		}
	}
	clear(b.entries)
	b.entries, b.at, b.bytes = b.entries[:0], b.at[:0], 0
	return nil
}

// entryOverhead is what an entry costs in the log beside its bytes; it makes many small entries
// lead to a snapshot, too.
const entryOverhead = 64

// entry takes a whole log entry apart; refused: the machine must not see it.
func (f *fsm) entry(l *raft.Log) (e Entry, refused bool, err error) {
	env, err := decodeEnvelope(l.Extensions)
	if err != nil {
		return e, false, err
	}
	if err := f.group.host.CheckLevel(env.level); err != nil {
		return e, false, err
	}
	if env.admission != raftTerm(l.Term) {
		f.group.metrics().staleTerm.Inc()
		return e, true, nil
	}
	return Entry{
		Index: raftIndex(l.Index), Term: raftTerm(l.Term), AppendTime: env.appendTime,
		Level: env.level, Kind: env.kind, Meta: env.meta, Data: l.Data,
	}, false, nil
}

// Snapshot captures the machine's state.
func (f *fsm) Snapshot() (s raft.FSMSnapshot, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("snapshot panicked: %v\n%s", p, debug.Stack())
			f.engine.fault(err)
		}
	}()
	if err := f.engine.fault0(); err != nil {
		return nil, err
	}
	state, err := f.group.config.Machine.Snapshot()
	if err != nil {
		return nil, err
	}
	// Apply runs on this goroutine: these are exactly the bytes that the snapshot covers.
	f.group.replay.captured.Store(f.group.replay.pending.Load())
	return &fsmSnapshot{state: state, engine: f.engine}, nil
}

// Restore replaces the machine's state. A machine that failed half way must not go on: the group
// halts, unless it is just starting and an older snapshot can be tried.
func (f *fsm) Restore(source io.ReadCloser) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("restore panicked: %v\n%s", p, debug.Stack())
		}
		switch {
		case err == nil:
		case !f.engine.opening.Load():
			f.engine.fault(fmt.Errorf("restore an installed snapshot: %w", err))
		case f.engine.unrestored == nil:
			f.engine.unrestored = err
		}
	}()
	if err := f.engine.fault0(); err != nil {
		return err
	}
	inner := source
	for {
		w, ok := inner.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		inner = w.WrappedReadCloser()
	}
	r, ok := inner.(*snapshotReader)
	if !ok {
		return fmt.Errorf("snapshot comes from a %T", inner)
	}
	if err := f.group.config.Machine.Restore(r.index, source); err != nil {
		return err
	}
	if got := f.group.config.Machine.Applied(); got > r.index {
		return fmt.Errorf("machine restored to index %d says it is at %d", r.index, got)
	}
	// Only now: what an installed snapshot refers to is in the log's place since Restore.
	f.group.snapshotStands(uint64(r.index))
	f.group.dropPending()
	return nil
}

// fsmSnapshot writes a captured state.
type fsmSnapshot struct {
	state  StateSnapshot
	engine *engine
}

// Persist writes the state to the sink.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("writing a snapshot panicked: %v\n%s", p, debug.Stack())
			s.engine.fault(err)
		}
	}()
	k, ok := sink.(*raftSink)
	if !ok {
		return fmt.Errorf("snapshot goes to a %T", sink)
	}
	k.local = true
	_, err = s.state.WriteTo(k)
	return err
}

// Release lets go of the state.
func (s *fsmSnapshot) Release() { s.state.Release() }

// guardedSnapshots is the group's snapshots as Raft sees them.
type guardedSnapshots struct {
	engine *engine
	store  *snapshots
}

var _ raft.SnapshotStore = (*guardedSnapshots)(nil)

// Create begins a snapshot, taken here or installed by a leader.
func (s *guardedSnapshots) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if err := s.engine.fault0(); err != nil {
		return nil, err
	}
	k, err := s.store.create(snapshotHead{index: index, term: term, configuration: c.Clone(), configurationIndex: ci})
	if err != nil {
		return nil, err
	}
	return &raftSink{snapshotSink: k, engine: s.engine}, nil
}

// List gives the good snapshots, newest first.
func (s *guardedSnapshots) List() ([]*raft.SnapshotMeta, error) { return s.store.metas(), nil }

// Open gives a snapshot for reading.
func (s *guardedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.store.open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, r, nil
}

// raftSink is a snapshot being written by Raft: by Persist if it is taken here, else from a leader.
type raftSink struct {
	*snapshotSink
	engine *engine
	local  bool
}

// ID names the snapshot.
func (k *raftSink) ID() string { return k.name }

// Cancel removes it.
func (k *raftSink) Cancel() error { return k.cancel() }

// Close makes the snapshot durable and visible. For an installed one, what it only refers to is
// pulled first; if that fails the snapshot is never seen and the leader tries again, less and less
// often.
func (k *raftSink) Close() error {
	g := k.engine.group
	if err := k.engine.fault0(); err != nil {
		return errors.Join(err, k.cancel())
	}
	if k.local {
		// An installed snapshot may have overtaken this one.
		if newest := uint64(g.snapshots.newest()); newest > k.head.index {
			return errors.Join(fmt.Errorf("a snapshot of index %d is there already", newest), k.cancel())
		}
		// Raft's index may lie above what was applied, by entries that the machine is not shown.
		if err := k.engine.awaitDurable(k.head.index); err != nil {
			return errors.Join(err, k.cancel())
		}
		if err := k.finish(nil); err != nil {
			return err
		}
		g.snapshotTaken(k.head.index)
		g.snapshotStands(k.head.index)
		return nil
	}
	before, err := g.logs.LastIndex()
	if err != nil {
		return errors.Join(err, k.cancel())
	}
	if err := k.finish(k.catchUp); err != nil {
		g.metrics().snapshots.WithLabelValues("failed").Inc()
		if errors.Is(err, errMayBeThere) {
			// A start that finds it needs the log as it is now.
			k.engine.fault(err)
		} else {
			k.failed(before, err)
		}
		return err
	}
	k.engine.installed.Store(k.head.index)
	g.snapshotInstalled(k.head.index)
	return nil
}

// failed looks at the log after an installation came to nothing: what conflicted with the leader's entries may be cut off
// already. Raft, which looks at the log only when it is opened, goes on believing in it: it would stand for election with
// entries that are gone, and refuse what the leader sends behind those that are left. Opening it again is the cure.
func (k *raftSink) failed(before uint64, cause error) {
	g := k.engine.group
	switch last, err := g.logs.LastIndex(); {
	case err != nil:
		k.engine.fault(fmt.Errorf("look at the log after a snapshot was not installed (%w): %w", cause, err))
	case last != before:
		g.logger.Warn("log was cut for a snapshot that was not installed; opening raft again", "last_index", last, "before", before, "snapshot_index", k.head.index, "err", cause)
		k.engine.reopenSoon()
	}
}

func (k *raftSink) catchUp(state func() ([]byte, error)) error {
	g := k.engine.group
	if err := g.logs.installing(k.head.index); err != nil {
		return fmt.Errorf("make room for a snapshot of index %d: %w", k.head.index, err)
	}
	if g.config.CatchUp == nil {
		return nil
	}
	b, err := state()
	if err != nil {
		return err
	}
	_, leader := k.engine.raft.LeaderWithID()
	info := SnapshotInfo{Index: raftIndex(k.head.index), Term: raftTerm(k.head.term), Source: ServerID(leader)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	watch := func() {
		select {
		case <-k.engine.stopping:
			cancel()
		case <-ended:
		}
	}
	g.goroutine(watch)
	g.metrics().catchUps.Inc()
	if err := protect(func() error { return g.config.CatchUp(ctx, info, b) }); err != nil {
		g.logger.Warn("catching up failed; the leader will try again", "index", k.head.index, "source", string(leader), "err", err)
		return fmt.Errorf("catch up through index %d: %w", k.head.index, err)
	}
	return nil
}

// protect turns a panic into an error.
func protect(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
