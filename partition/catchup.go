package partition

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// PullFunc brings the entries from..through of a group's log from a peer, in order, to yield; where the
// peer's log begins above from, those from there on. It may end early without an error; the caller asks
// again from where it got.
type PullFunc func(ctx context.Context, from raftgroup.ServerID, group raftgroup.GroupID, first, through record.Index, yield func([]recordlog.Entry) error) error

// catchUp makes the record log whole through a snapshot that a peer installs here, before the
// snapshot becomes visible (raftgroup calls it). Entries that this replica holds already are kept
// where index and term agree: they may be part of a majority. Only from the first conflict on is
// the tail cut, and what conflicts with committed entries was never committed.
func (r *Replica) catchUp(ctx context.Context, info raftgroup.SnapshotInfo, state []byte) (err error) {
	m := r.host.metrics
	m.catchingUp.Inc()
	defer func() {
		m.catchingUp.Dec()
		if err == nil {
			m.catchUps.WithLabelValues("done").Inc()
			return
		}
		m.catchUps.WithLabelValues("failed").Inc()
		// What was pulled beside the log must not meet the next attempt.
		err = errors.Join(err, r.log.DiscardCatchUp())
	}()
	s, err := decodeSnapshot(state)
	if err != nil {
		return fmt.Errorf("catch up %s: %w", r.spec, err)
	}
	p := puller{r: r, next: max(s.layout.StartIndex, r.Applied()+1), start: s.layout.StartOffset}
	p.joined = p.next == r.Applied()+1
	r.logger.Info("catching up", "from", uint64(p.next), "through", uint64(info.Index), "source", string(info.Source))
	if p.next > info.Index && info.Index >= r.log.StartIndex() {
		if err := p.beginBehind(info); err != nil {
			return fmt.Errorf("catch up %s: %w", r.spec, err)
		}
	}
	for p.next <= info.Index {
		at, whole := p.next, p.whole
		err := r.host.config.Pull(ctx, info.Source, r.spec.Group, p.next, info.Index, func(batch []recordlog.Entry) error {
			var bytes int64
			for i := range batch {
				bytes += int64(len(batch[i].Data) + len(batch[i].Ext))
			}
			m.pulled.Add(float64(bytes))
			if err := p.take(batch); err != nil {
				return err
			}
			// Not asking for more holds the peer up, too: it sends no faster than this reads.
			return r.host.pulling.wait(ctx, bytes)
		})
		switch {
		case err == nil:
		case errors.Is(err, errCompacted) && !p.whole:
			if err := p.beginAnew(info, s.layout.StartIndex); err != nil {
				return fmt.Errorf("catch up %s: %w", r.spec, err)
			}
			continue
		case p.next > at && ctx.Err() == nil:
			// The link broke, or the peer has deleted meanwhile what comes next: ask for the rest.
			r.logger.Info("catching up goes on", "from", uint64(p.next), "through", uint64(info.Index), "err", err)
		default:
			return fmt.Errorf("catch up %s from index %d: %w", r.spec, p.next, err)
		}
		if p.next == at && p.whole == whole {
			return fmt.Errorf("catch up %s: %s has no entry %d", r.spec, info.Source, p.next)
		}
	}
	return r.checkEnd(info)
}

// puller puts pulled entries into the log.
type puller struct {
	r *Replica
	// next is the entry that is wanted, start the log start of the snapshot.
	next  record.Index
	start record.Offset
	// joined: what the log holds below next is what the peer has committed there.
	joined bool
	// whole: the peer's log is pulled from its begin, since it is compacted; begun: entries of it have come, and the last one
	// had this mark.
	whole, begun bool
	mark         recordlog.Mark
}

// errCompacted says that the peer has compacted what is wanted.
var errCompacted = errors.New("the peer has compacted its log there")

// beginAnew turns to pulling the peer's log from its begin. A part of this log, which may hold records that are gone there,
// is never joined to a compacted part of the peer's, from which the tombstones may be gone that would tell (R9, F20).
func (p *puller) beginAnew(info raftgroup.SnapshotInfo, first record.Index) error {
	if has, err := p.has(info.Index, info.Term); err != nil || has {
		p.next = info.Index + 1 // it holds all entries itself, as they were written
		return err
	}
	p.r.logger.Info("the peer's log is compacted and pulled anew", "from", uint64(first), "log_ends", uint64(p.r.log.LastIndex()))
	p.next, p.whole, p.mark = first, true, recordlog.Mark{Below: math.MaxInt64, Horizon: math.MaxInt64}
	return nil
}

// beginBehind makes a log ready for a snapshot below which no record is left, and so no entry is wanted. If it does not hold the
// last one that the snapshot covers, a log without entries begins behind that one, beside the present one.
func (p *puller) beginBehind(info raftgroup.SnapshotInfo) error {
	if has, err := p.has(info.Index, info.Term); err != nil || has {
		return err
	}
	p.r.logger.Info("no records are left to be pulled", "log_begins", uint64(info.Index+1), "log_ends", uint64(p.r.log.LastIndex()))
	return p.r.log.Reset(info.Index+1, p.start)
}

// has reports whether the log holds an entry that is committed at the peer. If so it agrees with the peer below it too (Raft's log
// matching). If it holds another one there, nothing from there on was ever committed, and is cut off.
func (p *puller) has(i record.Index, term record.Term) (bool, error) {
	if i > p.r.log.LastIndex() {
		return false, nil
	}
	got, err := p.r.log.Term(i)
	if err != nil || got == term {
		return err == nil, err
	}
	return false, p.r.log.TruncateTail(i)
}

// takeWhole puts entries into a log of their own, beside the present one.
func (p *puller) takeWhole(batch []recordlog.Entry) error {
	for i := range batch {
		m := batch[i].Mark()
		if !p.mark.Reaches(m) {
			return fmt.Errorf("the peer compacts its log while it is pulled: what comes with entry %d is compacted below %d, what came before below %d",
				batch[i].Index, m.Below, p.mark.Below)
		}
		p.mark = m
	}
	if !p.begun {
		if err := p.r.log.Reset(batch[0].Begins(), p.start); err != nil {
			return err
		}
		p.begun = true
	}
	if err := p.r.log.AppendCatchUp(batch); err != nil {
		return err
	}
	p.next = batch[len(batch)-1].Index + 1
	return nil
}

// take puts entries into the log, which skips those that it has and cuts a tail that conflicts.
func (p *puller) take(batch []recordlog.Entry) error {
	if len(batch) == 0 {
		return nil
	}
	want := batch[0].Begins()
	for i := range batch {
		e := &batch[i]
		if e.First != 0 && !p.whole {
			return errCompacted
		}
		// The first may lie above what was asked for: below it the peer has deleted everything. A compacted one may begin below.
		if e.Begins() != want || e.Index < e.Begins() || want < p.next && (p.begun || e.Index < p.next) {
			return fmt.Errorf("peer sent entries %d to %d, want %d", e.Begins(), e.Index, max(want, p.next))
		}
		want = e.Index + 1
	}
	if p.whole {
		return p.takeWhole(batch)
	}
	if !p.joined || batch[0].Index > p.next {
		if err := p.join(&batch[0]); err != nil {
			return err
		}
		p.joined = true
	}
	if err := p.r.log.AppendCatchUp(batch); err != nil {
		return err
	}
	p.next = batch[len(batch)-1].Index + 1
	return nil
}

// join prepares the log for an entry below which it cannot be compared, because the entries there were
// deleted by an agreed command and the peer has them no more. If the log does not hold that very entry,
// what it holds below may be anything: a new log begins with the entry, beside the present
// one, which keeps what a majority may count on until the snapshot is durable.
func (p *puller) join(e *recordlog.Entry) error {
	if has, err := p.has(e.Index, e.Term); err != nil || has {
		return err
	}
	p.r.logger.Info("the records from here on are pulled anew, those before were deleted", "from", uint64(e.Index), "log_ends", uint64(p.r.log.LastIndex()))
	return p.r.log.Reset(e.Index, p.start)
}

// checkEnd makes sure that the log now ends where the snapshot says, in the snapshot's term.
func (r *Replica) checkEnd(info raftgroup.SnapshotInfo) error {
	if info.Index < r.log.StartIndex() || info.Index == 0 {
		return nil
	}
	term, err := r.log.Term(info.Index)
	if err != nil {
		return fmt.Errorf("catch up %s: %w", r.spec, err)
	}
	if term != info.Term {
		return fmt.Errorf("catch up %s: entry %d is of term %d here and of term %d in the snapshot", r.spec, info.Index, term, info.Term)
	}
	return nil
}

// Entries reads log entries of the replica with an incarnation, for a peer that catches up
// (catchup.go). Where from lies below the log's first entry, they begin with that.
func (h *Host) Entries(group raftgroup.GroupID, incarnation uint64, from, through record.Index, maxBytes int) ([]recordlog.Entry, error) {
	h.mu.RLock()
	r := h.byGroup[group]
	h.mu.RUnlock()
	if r == nil || r.spec.Self != raftgroup.MakeServerID(h.config.Broker, incarnation) {
		return nil, fmt.Errorf("group %d has no replica of incarnation %d on broker %d", group, incarnation, h.config.Broker)
	}
	entries, err := r.log.EntriesForPeer(from, through, maxBytes)
	if begin := r.log.StartIndex(); errors.Is(err, recordlog.ErrNotFound) && from < begin && begin <= through {
		entries, err = r.log.EntriesForPeer(begin, through, maxBytes)
	}
	return entries, err
}
