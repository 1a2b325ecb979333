package partition

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/oncelog/oncelog/partition/compaction"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// What the leader has proposed and apply agreed to, each replica carries out here: one log at a time, at most so many
// bytes a second, in rounds that its memory suffices for. Whatever ends a pass, the next one goes on with what it left
// (docs/decisions/0011).

// wakeCompactor lets the compactor look again.
func (h *Host) wakeCompactor() {
	select {
	case h.compact <- struct{}{}:
	default:
	}
}

// runCompactor compacts the logs of this host, until it stops.
func (h *Host) runCompactor() {
	ticker := time.NewTicker(h.config.CompactionInterval)
	defer ticker.Stop()
	for {
		select {
		case <-h.stopping:
			return
		case <-h.compact:
		case <-ticker.C:
		}
		for _, r := range h.all() {
			if err := r.compact(h.ctx); err != nil && h.ctx.Err() == nil && !errors.Is(err, recordlog.ErrClosed) {
				h.metrics.compactions.WithLabelValues("failed").Inc()
				r.noticed(err)
				r.logger.Warn("compaction is put off", "err", err)
			}
		}
	}
}

// agreedCompaction is what the log should be like.
func (r *Replica) agreedCompaction() compacted {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.compacted
}

// hasCompacted says whether the log is as was agreed. Where all that was to be compacted has been deleted, it is, although no pass has left a mark.
func (r *Replica) hasCompacted(c *compacted) bool {
	if c.below <= r.log.StartOffset() {
		return true
	}
	m, err := r.lookCleaned()
	return err == nil && m.Reaches(c.mark())
}

// cleanedTo is below which offset a log is compacted. Catch-up may put another log in its place, of another generation.
type cleanedTo struct {
	generation uint32
	below      record.Offset
}

// lookCleaned looks how far the log is compacted, and remembers it.
func (r *Replica) lookCleaned() (recordlog.Mark, error) {
	c := cleanedTo{generation: r.log.Generation()} // before the look: what is noted of a log that was replaced meanwhile counts for none
	m, _, err := r.log.Cleaned()
	if err != nil {
		return m, err
	}
	c.below = m.Below
	r.cleaned.Store(&c)
	return m, nil
}

// cleanedBelow is below which the log is compacted for sure, as far as was looked.
func (r *Replica) cleanedBelow() record.Offset {
	if c := r.cleaned.Load(); c != nil && c.generation == r.log.Generation() {
		return c.below
	}
	return 0
}

// readableFrom says whether readers of committed data may be given what lies at an offset: the state names the aborted
// transactions from the horizon on, so those below it must be gone from this log.
func (r *Replica) readableFrom(o, horizon record.Offset) bool {
	if o >= horizon || r.cleanedBelow() >= horizon {
		return true
	}
	m, err := r.lookCleaned()
	return err == nil && m.Below >= horizon
}

// compact brings the log to what was agreed, if it is not, and if Raft lets go of the entries.
func (r *Replica) compact(ctx context.Context) error {
	c := r.agreedCompaction()
	if r.hasCompacted(&c) {
		return nil
	}
	if err := r.log.Reachable(c.below); err != nil {
		if errors.Is(err, recordlog.ErrNotClosed) {
			r.logger.Debug("compaction waits", "reason", err)
			return r.makeReachable(ctx, c.below)
		}
		return err
	}
	p := pass{replica: r, agreed: c, began: time.Now(), total: r.toRead(c.below), pace: throttle{perSecond: r.host.config.CompactionBytes}}
	r.passing.Store(&p)
	defer r.passing.Store(nil)
	m := r.host.metrics
	m.compacting.Inc()
	defer m.compacting.Dec()
	for !r.hasCompacted(&c) {
		if err := p.round(ctx); err != nil {
			return err
		}
	}
	m.compactions.WithLabelValues("done").Inc()
	m.compactionSeconds.Observe(time.Since(p.began).Seconds())
	r.lastPass.Store(&LastPass{Ended: r.host.config.Wall(), Took: time.Since(p.began), Read: p.done.Read, Written: p.done.Written})
	r.looks.Store(0)
	r.logger.Info("compacted", "below", int64(c.below), "horizon", int64(c.horizon), "bytes_before", p.done.Read, "bytes_after", p.done.Written,
		"records", p.stats.Records, "kept", p.stats.Kept, "rounds", p.rounds, "took", time.Since(p.began))
	return nil
}

// toRead is about how much a pass reads: what is there, and once more what is not compacted; another time from the first transaction on.
func (r *Replica) toRead(below record.Offset) (bytes int64) {
	for _, s := range r.log.Segments() {
		if s.Base < below {
			bytes += s.Bytes
			if s.End > r.cleanedBelow() {
				bytes += s.Bytes
			}
		}
	}
	return bytes
}

// makeReachable closes the segment that is written to and moves Raft's window, as freeSpace does.
func (r *Replica) makeReachable(ctx context.Context, below record.Offset) error {
	segments := r.log.Segments()
	if n := len(segments); n > 0 && segments[n-1].Active && segments[n-1].Base < below {
		if err := r.log.Roll(); err != nil {
			return err
		}
	}
	return r.moveWindow(ctx, r.host.config.Wall())
}

// pass is one that is being carried out.
type pass struct {
	replica *Replica
	agreed  compacted
	began   time.Time
	done    recordlog.Compacted
	stats   compaction.Stats
	rounds  int
	// read is how much has been read of about total bytes.
	read  atomic.Int64
	total int64
	// pace is at which it may read, unpaid what was read since the last look at the clock.
	pace   throttle
	unpaid int64
}

// round does as much of the pass as the memory for keys suffices for; mostly that is all.
func (p *pass) round(ctx context.Context) error {
	r := p.replica
	generation := r.log.Generation()
	from, raw, err := r.log.Cleaned()
	if err != nil {
		return err
	}
	throttle := func(n int64) error { return p.throttle(ctx, n) }
	cleaner := compaction.New(compaction.Pass{Below: p.agreed.below, Horizon: p.agreed.horizon, Last: p.agreed.last}, r.host.config.CompactionMemory)
	if err := r.log.EachBatch(from.Below, throttle, func(b record.Batch, head bool) (bool, error) {
		return cleaner.Take(b, head, b.BaseOffset() < raw)
	}); err != nil {
		return err
	}
	if cleaner.Unsettled() {
		return errors.New("a transaction that begins below the last stable offset has no end in the log")
	}
	if next, more := cleaner.Rest(); more {
		if err := r.log.EachBatch(max(next, from.Below), throttle, func(b record.Batch, head bool) (bool, error) { return cleaner.Index(b, head), nil }); err != nil {
			return err
		}
	}
	bound := cleaner.Bound()
	if bound < p.agreed.below && bound <= from.Below {
		return errors.New("a round of the pass gets nowhere")
	}
	done, err := r.log.Compact(recordlog.Compaction{Generation: generation,
		Below: bound, Mark: recordlog.Mark{Below: bound, Horizon: min(p.agreed.horizon, bound)}, Clean: cleaner.Clean, Throttle: throttle})
	p.rounds++
	p.done.Read += done.Read
	p.done.Written += done.Written
	p.done.Segments += done.Segments
	p.done.Results += done.Results
	s := cleaner.Stats()
	p.stats.Records += s.Records
	p.stats.Kept += s.Kept
	m := r.host.metrics
	m.compactedBytes.WithLabelValues("read").Add(float64(done.Read))
	m.compactedBytes.WithLabelValues("written").Add(float64(done.Written))
	m.compactedRecords.Add(float64(s.Records - s.Kept))
	return err
}

// throttleStep is how much is read between two looks at the clock.
const throttleStep = 1 << 20

// throttle makes the pass wait where it reads faster than it may. What the work itself takes counts.
func (p *pass) throttle(ctx context.Context, n int64) error {
	p.read.Add(n)
	if p.unpaid += n; p.unpaid < throttleStep {
		return nil
	}
	paid := p.unpaid
	p.unpaid = 0
	return p.pace.wait(ctx, paid)
}
