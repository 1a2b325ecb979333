package partition

import (
	"context"
	"math"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// cleaning is how a topic wants to be compacted, times in ms.
type cleaning struct {
	// dirtyRatio is how much of the log must be uncompacted, minLag how long a record stays so at least, maxLag at most.
	dirtyRatio     float64
	minLag, maxLag int64
	// deleteRetention is how long tombstones and markers stay after they were compacted first.
	deleteRetention int64
}

// dirt is what a leader sees of a log that may be compacted.
type dirt struct {
	// clean and dirty are bytes of what is compacted and what can be.
	clean, dirty int64
	// below is up to where, and due whether it should be now. horizon goes with it. If below lies inside of an entry, the pass ends
	// at base, where an entry begins, or where the last one did.
	below, horizon, base record.Offset
	due                  bool
}

func (d *dirt) ratio() float64 {
	if d.dirty == 0 {
		return 0
	}
	return float64(d.dirty) / float64(d.clean+d.dirty)
}

// findDirt says what of a log can be compacted at a time, ms since 1970, and whether that is worth it: segments that are closed,
// below the last stable offset, whose records are all older than the least lag (L31). What lies below the log start is of no
// interest. age gives when a segment's first entry was appended.
func findDirt(segments []recordlog.SegmentInfo, start, stable record.Offset, c *compacted, want cleaning, now int64, age func(recordlog.SegmentInfo) (int64, error)) (dirt, error) {
	d := dirt{below: c.below, base: c.below, horizon: c.horizonAt(now, want.deleteRetention)}
	oldest := int64(math.MaxInt64)
	for _, s := range segments {
		if s.End <= c.below {
			d.clean += s.Bytes
			continue
		}
		if s.Active || s.Base >= stable || want.minLag > 0 && s.MaxTimestamp > now-want.minLag {
			break
		}
		if s.End == s.Base || s.End <= start {
			continue
		}
		if oldest == math.MaxInt64 {
			var err error
			if oldest, err = age(s); err != nil {
				return d, err
			}
		}
		d.dirty += s.Bytes
		d.below = max(d.below, min(s.End, stable))
		if s.Base >= start { // else it is only about there
			d.base = max(d.base, s.Base)
		}
	}
	d.due = d.below > c.below && (d.ratio() >= want.dirtyRatio || now-oldest > want.maxLag) ||
		d.horizon > c.horizon && d.horizon == c.below && start < c.below // a last look, after which no tombstone is left that could go
	return d, nil
}

func (c *Config) cleaning() cleaning {
	return cleaning{dirtyRatio: c.DirtyRatio, minLag: c.MinCompactionLagMS, maxLag: c.MaxCompactionLagMS, deleteRetention: c.DeleteRetentionMS}
}

// dirt looks at the log as its leader.
func (r *Replica) dirt(now time.Time) (dirt, compacted, error) {
	r.mu.RLock()
	c, start, stable := r.state.compacted, r.state.start, r.state.lastStable()
	r.mu.RUnlock()
	want, segments := r.config.Load().cleaning(), r.log.Segments()
	for i := range segments {
		if s := &segments[i]; want.minLag > 0 && untimed(*s) {
			var err error
			if s.MaxTimestamp, err = r.lastAppend(*s); err != nil {
				return dirt{}, c, err
			}
		}
	}
	d, err := findDirt(segments, start, stable, &c, want, now.UnixMilli(), r.firstAppend)
	return d, c, err
}

// firstAppend is when a segment's first entry was appended, ms since 1970.
func (r *Replica) firstAppend(s recordlog.SegmentInfo) (int64, error) {
	// The first entry of a group, its first configuration, has no time.
	for index := s.FirstIndex; index <= min(s.LastIndex, s.FirstIndex+1); index++ {
		if ns, err := r.log.AppendedAt(index); ns != 0 || err != nil {
			return ns / int64(time.Millisecond), err
		}
	}
	return math.MaxInt64, nil
}

// proposeCompaction proposes the next pass, if one is due and this replica has done the one before. A failure is
// left to the next round.
func (r *Replica) proposeCompaction(ctx context.Context, now time.Time) {
	if !r.config.Load().Compacted {
		return
	}
	r.mu.RLock()
	able := r.state.level >= compactionLevel
	r.mu.RUnlock()
	d, c, err := r.dirt(now)
	switch {
	case err != nil:
	case able && d.due && r.hasCompacted(&c):
		err = r.proposeCompact(ctx, d, &c, now)
	default:
		err = r.nudge(ctx, &c, now)
	}
	if err != nil && ctx.Err() == nil {
		r.noticed(err)
		r.logger.Warn("compaction was not proposed", "err", err)
	}
}

// nudge gives followers something new to make a snapshot of: what is compacted must lie below Raft's window, which moves on with
// snapshots, of which each needs an entry. Where nothing else is written, the leader proposes one that changes nothing, more and
// more rarely, since it does not know who needs it.
func (r *Replica) nudge(ctx context.Context, c *compacted, now time.Time) error {
	const rarest = 256
	if n := r.looks.Add(1); c.below == 0 || n&(n-1) != 0 && n%rarest != 0 {
		return nil
	}
	return r.advanceStart(ctx, r.bounds.Load().start, now)
}

// boundOf is what to propose. A transaction that is open may begin inside of an entry, at which no pass can end: the one before the
// segment's begin is taken then. It may be that of the last pass.
func (r *Replica) boundOf(d dirt, c *compacted) (recordlog.Mark, error) {
	m := recordlog.Mark{Below: d.below, Horizon: d.horizon}
	if m.Below == c.below {
		return m, nil // which began an entry when it was agreed
	}
	begins, err := r.log.Begins(d.below)
	if err == nil && !begins {
		m.Below = d.base
	}
	return m, err
}

func (r *Replica) proposeCompact(ctx context.Context, d dirt, c *compacted, now time.Time) error {
	m, err := r.boundOf(d, c)
	if err != nil || m == c.mark() {
		return err
	}
	agreed, err := r.group.Propose(ctx, raftgroup.Command{
		Meta: []byte{commandVersion, cmdCompact}, Data: encodeCompact(m), AppendTime: now.UnixMilli()})
	switch {
	case err != nil:
		return err
	case agreed == true:
		r.logger.Info("compaction is agreed", "below", int64(m.Below), "horizon", int64(m.Horizon), "dirty_bytes", d.dirty, "clean_bytes", d.clean)
	default:
		r.logger.Info("compaction is refused: it does not go on from what was agreed meanwhile", "below", int64(m.Below), "horizon", int64(m.Horizon))
	}
	return nil
}
