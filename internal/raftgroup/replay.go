package raftgroup

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// A start applies again what was applied since the last snapshot. SnapshotBytes bounds that in each
// group, MaxReplayBytes in all groups of a host together: beyond it, those with most of it take their
// snapshot early.

const (
	defaultReplayBytes = 256 << 20

	// leastReplay is how much a group must have applied to take a snapshot early: one costs a few syncs.
	leastReplay = 4 << 20
)

// replay is what one group would apply again.
type replay struct {
	// pending is how many bytes have been applied since the last snapshot; snapshotting is set
	// while one is taken.
	pending      atomic.Int64
	captured     atomic.Int64 // pending when the snapshot under way was captured
	snapshotting atomic.Bool
	retry        atomic.Int64 // pending must reach this before the next attempt

	// mu guards what follows.
	mu sync.Mutex
	// taken are the snapshots taken since the start, oldest first, as far as they say what may be trimmed.
	taken []takenSnapshot
	// trim: the next snapshot lets the log be trimmed behind the one before it, however little that leaves.
	trim bool
}

// takenSnapshot is a snapshot and how many bytes of log lie between it and the one before.
type takenSnapshot struct {
	index uint64
	bytes int64
}

// hostReplay is what all groups of a host would apply again.
type hostReplay struct {
	pending atomic.Int64
	// relieving is set while snapshots are taken early; the next ones are taken once pending reaches next.
	relieving atomic.Bool
	next      atomic.Int64
}

// addPending counts bytes applied, or covered by a snapshot where it is negative.
func (g *Group) addPending(bytes int64) int64 {
	g.host.replay.pending.Add(bytes)
	return g.replay.pending.Add(bytes)
}

// dropPending counts out what the group has: it ends, or its state comes from elsewhere.
func (g *Group) dropPending() {
	g.replay.captured.Store(0)
	g.host.replay.pending.Add(-g.replay.pending.Swap(0))
}

// applied is told how many bytes of log a batch that has been applied took.
func (g *Group) applied(bytes int64) {
	h := g.host
	switch {
	case g.addPending(bytes) < max(g.config.SnapshotBytes, g.replay.retry.Load()):
		if h.replay.pending.Load() > max(h.config.MaxReplayBytes, h.replay.next.Load()) {
			h.relieveSoon()
		}
	case !g.replay.snapshotting.Load():
		g.goroutine(func() { g.takeSnapshot() })
	}
}

// takeSnapshot takes a snapshot, unless one is being taken; false: there is none.
func (g *Group) takeSnapshot() bool {
	if !g.replay.snapshotting.CompareAndSwap(false, true) {
		return false
	}
	defer g.replay.snapshotting.Store(false)
	e := g.engine.Load()
	if e == nil {
		return false
	}
	if err := e.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		// Nothing is lost: the log stays as long as it is. A later attempt may work, after
		// as many bytes again as a tenth of the interval.
		g.replay.retry.Store(g.replay.pending.Load() + g.config.SnapshotBytes/10 + 1)
		if !errors.Is(err, raft.ErrRaftShutdown) {
			g.metrics().snapshots.WithLabelValues("failed").Inc()
			g.logger.Warn("state snapshot failed", "err", err)
		}
		return false
	}
	g.replay.retry.Store(0)
	g.addPending(-g.replay.captured.Swap(0))
	return true
}

// Snapshot takes a state snapshot now, after which Raft keeps no more of the log than the entries since the
// one before. It returns nil, too, when nothing is new since the last.
func (g *Group) Snapshot(ctx context.Context) error {
	return g.await(ctx, func(e *engine) error {
		g.replay.mu.Lock()
		g.replay.trim = true
		g.replay.mu.Unlock()
		err := e.raft.Snapshot().Error()
		if errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return nil
		}
		if err != nil {
			return &UncertainError{err}
		}
		g.addPending(-g.replay.captured.Swap(0))
		return nil
	})
}

// snapshotTaken is told when a snapshot that was taken here is durable.
func (g *Group) snapshotTaken(index uint64) {
	g.metrics().snapshots.WithLabelValues("taken").Inc()
	g.logger.Debug("state snapshot taken", "index", index)
	g.replay.mu.Lock()
	defer g.replay.mu.Unlock()
	g.replay.taken = append(g.replay.taken, takenSnapshot{index, g.replay.captured.Load()})
}

// snapshotInstalled is told when a leader's snapshot is durable.
func (g *Group) snapshotInstalled(index uint64) {
	g.metrics().snapshots.WithLabelValues("installed").Inc()
	g.logger.Info("state snapshot installed", "index", index)
	g.replay.mu.Lock()
	defer g.replay.mu.Unlock()
	g.replay.taken = nil
}

// trimmable says through which entry Raft may forget its log after a snapshot; 0: nothing. The entries since
// the snapshot before the newest are kept, in case the newest is bad, and so are SnapshotBytes of log, for
// followers that were away: they are spared a snapshot.
func (g *Group) trimmable() uint64 {
	previous := uint64(g.snapshots.previous())
	r := &g.replay
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trim {
		r.trim, r.taken = false, nil
		return previous
	}
	behind := int64(0)
	for i, s := range slices.Backward(r.taken) {
		if behind >= g.config.SnapshotBytes {
			r.taken = slices.Delete(r.taken, 0, i)
			return min(previous, s.index)
		}
		behind += s.bytes
	}
	return 0
}

// relieveSoon takes snapshots early, in a goroutine of the host's, if that is not going on.
func (h *Host) relieveSoon() {
	if h.replay.relieving.CompareAndSwap(false, true) && !h.background(h.relieve) {
		h.replay.relieving.Store(false)
	}
}

// relieve takes snapshots, of the groups first that have most to replay, until all together are within the
// bound.
func (h *Host) relieve() {
	defer h.replay.relieving.Store(false)
	for h.replay.pending.Load() > h.config.MaxReplayBytes {
		g := h.mostPending()
		if g == nil || !g.takeSnapshot() {
			break
		}
	}
	h.replay.next.Store(h.replay.pending.Load() + leastReplay)
}

// mostPending is the group with most to replay, if that is worth a snapshot.
func (h *Host) mostPending() *Group {
	var most *Group
	bytes := int64(leastReplay - 1)
	for _, g := range h.Groups() {
		if p := g.replay.pending.Load(); p > bytes && p >= g.replay.retry.Load() && !g.replay.snapshotting.Load() {
			most, bytes = g, p
		}
	}
	return most
}

// restBytes is how much a group must have applied to take a snapshot before a stop.
const restBytes = 1 << 20

// Rest takes the snapshots that spare the next start what would take time to apply again. It returns when
// they are taken or ctx ends; closing the groups ends what is left.
func (h *Host) Rest(ctx context.Context) {
	groups := h.Groups()
	slots, done := make(chan struct{}, 16), make(chan struct{}, len(groups))
	left := 0
	for _, g := range groups {
		if g.replay.pending.Load() < restBytes {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if g.goroutine(func() {
			g.takeSnapshot()
			<-slots
			done <- struct{}{}
		}) {
			left++
		} else {
			<-slots
		}
	}
	for range left {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}
