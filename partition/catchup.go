package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// PullFunc brings the entries from..through of a group's log from a peer, in order, to yield. It
// may end early without an error; the caller asks again from where it got.
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
	begin := s.layout.StartIndex
	if last := r.log.LastIndex(); last+1 < begin {
		// All we hold lies below the peer's log start: deleted by an agreed command.
		if err := r.log.Reset(begin, s.layout.StartOffset); err != nil {
			return fmt.Errorf("catch up %s: %w", r.spec, err)
		}
	}
	next := max(begin, r.Applied()+1)
	r.logger.Info("catching up", "from", uint64(next), "through", uint64(info.Index), "source", string(info.Source))
	for next <= info.Index {
		at := next
		err := r.host.config.Pull(ctx, info.Source, r.spec.Group, next, info.Index, func(batch []recordlog.Entry) error {
			for i := range batch {
				m.pulled.Add(float64(len(batch[i].Data)))
			}
			n, err := r.merge(batch, next)
			next = n
			return err
		})
		if err != nil {
			return fmt.Errorf("catch up %s from index %d: %w", r.spec, next, err)
		}
		if next == at {
			return fmt.Errorf("catch up %s: %s has no entry %d", r.spec, info.Source, next)
		}
	}
	return r.checkEnd(info)
}

// merge takes pulled entries: skips what the log has, cuts a conflicting tail, appends the rest.
func (r *Replica) merge(batch []recordlog.Entry, next record.Index) (record.Index, error) {
	for i := range batch {
		e := &batch[i]
		if e.Index != next {
			return next, fmt.Errorf("peer sent entry %d, want %d", e.Index, next)
		}
		if e.Index > r.log.LastIndex() {
			if err := r.log.AppendCatchUp(batch[i:]); err != nil {
				return next, err
			}
			return batch[len(batch)-1].Index + 1, nil
		}
		term, err := r.log.Term(e.Index)
		if err != nil {
			return next, err
		}
		if term != e.Term {
			if err := r.log.TruncateTail(e.Index); err != nil {
				return next, err
			}
			if err := r.log.AppendCatchUp(batch[i:]); err != nil {
				return next, err
			}
			return batch[len(batch)-1].Index + 1, nil
		}
		next++
	}
	return next, nil
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
