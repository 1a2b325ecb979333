package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/oncelog/oncelog/partition/recordlog"
)

// logStore is what a group keeps its log in: boltLog, controlLog or, where it is its owner's, recordStore.
type logStore interface {
	raft.LogStore // StoreLogs returns when the entries are on disk.
	// queueLogs stores entries as StoreLogs does, and may return before they are on disk.
	queueLogs(logs []*raft.Log) error
	// durable is the last index through which the log is on disk.
	durable() uint64
	// awaitDurable has told called once: with nil as soon as the log is on disk through an index,
	// with an error when the entry is cut off first or the log has failed or is closed. It may be
	// called before awaitDurable returns, and must not block.
	awaitDurable(index uint64, told func(error))
	// onFailure has told called when queued entries could not be written; at once if so already.
	onFailure(told func(error))
	// stalled is for how long the write that is under way has been; 0: none is.
	stalled() time.Duration
	// truncateTail removes all entries from index from on: they conflict with the leader's.
	truncateTail(from uint64) error
	// trim lets Raft forget the entries through an index.
	trim(through uint64) error
	// body completes an entry that GetLog gave without its data (lazyData). What it reads is put into
	// what room gives, if that is enough; nil: into memory of its own.
	body(l *raft.Log, room func() []byte) (*raft.Log, error)
	// holdsBatches says whether an entry's data is record batches whose checksums its leader has compared.
	holdsBatches(l *raft.Log) bool
	// refused tells that apply did not show an entry to the machine.
	refused(l *raft.Log) error
	// installing tells that the state of a leader's snapshot is here, and about to be made durable.
	installing(index uint64) error
	// snapshotAt tells that a state snapshot at an index is durable.
	snapshotAt(index uint64) error
	close() error
}

// guardedLog stands between Raft and its log. It satisfies raft.LogStore and
// raft.MonotonicLogStore, sorts Raft's DeleteRange into what is meant, and never returns an error
// that Raft panics on: see engine.
type guardedLog struct {
	engine *engine
	inner  logStore
	// cut is set between a tail removed for conflicting and the entries that replace it. Only
	// Raft's main goroutine touches it.
	cut bool
	// storing is when StoreLogs was called, unix ns; 0: it is not under way.
	storing atomic.Int64
}

var (
	_ raft.LogStore          = (*guardedLog)(nil)
	_ raft.MonotonicLogStore = (*guardedLog)(nil)
)

// IsMonotonic makes Raft empty the log when a snapshot is installed, for either store: what stands
// there conflicts, or is covered by the snapshot.
func (s *guardedLog) IsMonotonic() bool { return true }

// FirstIndex is the first index Raft can read, 0 for an empty log.
func (s *guardedLog) FirstIndex() (uint64, error) { return s.inner.FirstIndex() }

// LastIndex is the last index, 0 for an empty log.
func (s *guardedLog) LastIndex() (uint64, error) { return s.inner.LastIndex() }

// GetLog reads an entry. Outside the window it gives the bare raft.ErrLogNotFound; any other
// failure is a fault of this replica.
func (s *guardedLog) GetLog(index uint64, l *raft.Log) error {
	e := s.engine
	if e.fault0() != nil && !e.opening.Load() && e.isReleased() {
		return pretend(index, l)
	}
	err := s.inner.GetLog(index, l)
	if err == nil {
		return nil
	}
	if errors.Is(err, raft.ErrLogNotFound) {
		if e.opening.Load() || !s.needed(index) {
			return raft.ErrLogNotFound
		}
		err = errors.New("it is missing")
	}
	select {
	case <-e.done:
		return raft.ErrLogNotFound // A gauge of Raft's, whose goroutine nobody waits for.
	default:
	}
	e.damaged(err)
	e.fault(fmt.Errorf("read log entry %d: %w", index, err))
	if e.opening.Load() {
		return err
	}
	e.park()
	return pretend(index, l)
}

// needed says whether Raft is about to apply an entry, and would panic without it.
func (s *guardedLog) needed(index uint64) bool {
	r := s.engine.raft
	return index > r.AppliedIndex() && index <= r.CommitIndex()
}

// pretend gives Raft an entry without effect. It is shut down already: the entry reaches neither
// the state machine nor a peer.
func pretend(index uint64, l *raft.Log) error {
	*l = raft.Log{Index: index, Type: raft.LogNoop}
	return nil
}

// StoreLog stores one entry.
func (s *guardedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, durably or in the log's queue (gate.go). After a failure it is not known
// what is on the disk: Raft steps down at once, and the group halts. Only a disk that was full before
// anything was written is refused and leaves the replica as it is.
func (s *guardedLog) StoreLogs(logs []*raft.Log) error {
	if err := s.engine.fault0(); err != nil {
		return err
	}
	// A log that was empty when a snapshot was installed needed no DeleteRange.
	s.engine.installed.Store(0)
	store := s.inner.StoreLogs
	if s.mayQueue(logs) {
		store = s.inner.queueLogs
	}
	s.storing.Store(time.Now().UnixNano())
	err := store(logs)
	s.storing.Store(0)
	if err == nil {
		s.cut = false
		return nil
	}
	err = fmt.Errorf("store log entries from %d: %w", logs[0].Index, err)
	open := !s.engine.opening.Load()
	leads := open && s.engine.raft.State() == raft.Leader
	if !nothingWritten(err) && !(unwritable(err) && leads) {
		s.engine.fault(err)
	} else if open && (s.cut || leads && changesMembers(logs)) {
		// Raft would go on believing in the tail that was removed before, or in members of which its log knows nothing: with those
		// it could elect itself alone.
		s.engine.reopenSoon()
		s.engine.park()
	}
	return err
}

func changesMembers(logs []*raft.Log) bool {
	return slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type == raft.LogConfiguration })
}

// DeleteRange is called by Raft in three cases, which mean different things:
//   - after a snapshot was installed, with the whole log: entries above the snapshot conflict and
//     go, those below are covered by it. What ends before the log does is not that: a snapshot of this replica's own, taken on
//     another goroutine of Raft's, may be through just then;
//   - after a snapshot was taken, with a prefix no longer than it: some is kept (Group.trimmable);
//   - on a conflict with the leader, with a tail above everything committed.
func (s *guardedLog) DeleteRange(low, high uint64) error {
	if err := s.engine.fault0(); err != nil {
		return err
	}
	err := s.deleteRange(low, high)
	if err != nil {
		err = fmt.Errorf("delete log entries %d to %d: %w", low, high, err)
		s.engine.fault(err)
	}
	return err
}

func (s *guardedLog) deleteRange(low, high uint64) error {
	snapshots := s.engine.group.snapshots
	end, err := s.inner.LastIndex()
	if err != nil {
		return err
	}
	if installed := s.engine.installed.Load(); installed > 0 && high >= end {
		s.engine.installed.CompareAndSwap(installed, 0)
		if high > installed {
			if err := s.inner.truncateTail(max(low, installed+1)); err != nil {
				return err
			}
		}
		return s.inner.trim(min(high, installed))
	}
	if high <= uint64(snapshots.newest()) {
		through := min(high, s.engine.group.trimmable())
		if through < low {
			return nil
		}
		return s.inner.trim(through)
	}
	if high < end {
		return fmt.Errorf("the log ends at %d: neither a prefix below a snapshot nor a tail", end)
	}
	s.cut = true
	return s.inner.truncateTail(low)
}

// whole gives an entry with its data and envelope, read into what room gives if it has to be read, and that is enough.
func (s *guardedLog) whole(l *raft.Log, room func() []byte) (*raft.Log, error) {
	if !isLazy(l) {
		return l, nil
	}
	whole, err := s.inner.body(l, room)
	if err != nil {
		s.engine.damaged(err)
	}
	return whole, err
}

// damaged tells the log's owner of damage. While Raft is being opened, that fails for it.
func (e *engine) damaged(err error) {
	if !e.opening.Load() {
		e.group.tellDamage(e, err)
	}
}

// tellDamage tells the log's owner of an error, if it is damage. The members are as an engine knows them, or knew them at its end.
func (g *Group) tellDamage(e *engine, err error) {
	if told := g.config.OnDamage; told != nil && errors.As(err, new(*recordlog.CorruptionError)) {
		told(err, len(g.voters(e)) <= 1)
	}
}

// lazyData stands for the data of an entry that GetLog left on the disk with its envelope, so that what
// Raft holds for a follower that is far behind stays small. It is told by its address.
var lazyData = []byte{0}

func isLazy(l *raft.Log) bool { return len(l.Data) == 1 && &l.Data[0] == &lazyData[0] }

// guardedStable stands between Raft and its term and vote. Raft panics when it cannot store a
// term, in a goroutine of its own.
type guardedStable struct {
	engine *engine
	inner  *stableStore
}

var _ raft.StableStore = (*guardedStable)(nil)

// Set stores a value durably.
func (s *guardedStable) Set(key, val []byte) error {
	return s.guard(s.inner.Set(key, val))
}

// Get gives a value, or "not found".
func (s *guardedStable) Get(key []byte) ([]byte, error) { return s.inner.Get(key) }

// SetUint64 stores a number durably.
func (s *guardedStable) SetUint64(key []byte, val uint64) error {
	err := s.guard(s.inner.SetUint64(key, val))
	if err != nil && string(key) == string(keyCurrentTerm) && !s.engine.opening.Load() {
		// Raft has been told to shut down. Whatever it does with the term it believes to have
		// stored, no answer leaves this replica any more.
		return nil
	}
	return err
}

// GetUint64 gives a number, or "not found".
func (s *guardedStable) GetUint64(key []byte) (uint64, error) { return s.inner.GetUint64(key) }

func (s *guardedStable) guard(err error) error {
	if err == nil {
		return nil
	}
	s.engine.fault(err)
	if !s.engine.opening.Load() {
		s.engine.park()
	}
	return err
}
