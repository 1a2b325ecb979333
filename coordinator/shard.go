package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/record"
)

// shard is this broker's replica of one coordinator group.
type shard struct {
	host    *Host
	spec    Spec
	service service
	logger  *slog.Logger
	group   *raftgroup.Group
	// opened is closed once group is set and the host has the shard: its first term can begin before that.
	opened chan struct{}
	// owned are the goroutines that lead, one for each term.
	owned sync.WaitGroup
	// damaged is set once damage was found in its log since it was opened. lost: it is not the only replica, and is to be replaced.
	damaged, lost atomic.Bool
}

// errDamaged ends a replica in whose log damage was found.
var errDamaged = errors.New("the log of this replica of a coordinator is damaged: it is to be replaced by a new replica")

// onDamage is told of damage that was met in the log (raftgroup). It ends this replica: others have what it has lost, and another takes its
// place. The only one is left as it is: nobody has more. Nothing need be noted on the disk: damage above the newest snapshot is found by
// whoever opens the replica again, and what the snapshot covers is not lost.
func (s *shard) onDamage(err error, only bool) {
	if !s.damaged.CompareAndSwap(false, true) {
		return
	}
	s.host.metrics.damaged.Inc()
	s.logger.Error("the log is damaged", "err", err)
	if only {
		return
	}
	s.lost.Store(true)
	select {
	case <-s.opened:
		s.group.Fail(err)
	default: // isOpen comes after, and sees it.
	}
}

// isOpen is called once the group is set and the host has the shard.
func (s *shard) isOpen() {
	close(s.opened)
	if s.lost.Load() {
		s.group.Fail(errDamaged)
	}
}

// onLeadership is told of every change, in order (raftgroup).
func (s *shard) onLeadership(e raftgroup.LeadershipEvent) {
	if tell := s.host.config.LeadershipChanged; tell != nil {
		tell(s.spec.Group, e.Term, e.Ready)
	}
	if !e.Ready {
		return
	}
	s.logger.Info("leads coordinator", "term", uint64(e.Term))
	s.owned.Go(func() {
		select {
		case <-s.opened:
		case <-e.Context.Done():
			return
		}
		s.service.lead(e.Context, s, e.Term)
	})
}

func (s *shard) close() error {
	err := s.group.Close() // ends the last term
	s.owned.Wait()
	s.service.closed(s)
	return err
}

// ready gives the term in which this replica leads and has applied its own leader-start (R1), or whom to ask instead.
func (s *shard) ready() (record.Term, *Error) {
	term, ok := s.group.IsReady()
	if !ok {
		return 0, s.notLeading(nil)
	}
	return term, nil
}

// confirm proves by a quorum round sent after the call that this replica still leads in a term: it comes before every answer that
// was found, in that term, without a proposal (R1).
func (s *shard) confirm(ctx context.Context, term record.Term) *Error {
	if err := s.group.ConfirmTerm(ctx, term); err != nil {
		return s.notLeading(err)
	}
	return nil
}

// notLeading says who leads, or that we do and are not ready.
func (s *shard) notLeading(cause error) *Error {
	e := refused(CodeNotCoordinator, "this broker does not lead %s", s.spec)
	e.Cause = cause
	if id, _ := s.group.Leader(); id != "" {
		switch broker, _, err := raftgroup.ParseServerID(id); {
		case err != nil:
		case broker == s.host.config.Broker && cause == nil:
			e.Code, e.Message = CodeLoading, "this broker has just begun to lead "+s.spec.String()
		case broker != s.host.config.Broker:
			e.Coordinator = &broker
		}
	}
	return e
}

// propose has a command applied in a term and gives what the machine said. An error says whether the command may have been
// applied all the same (R2).
func (s *shard) propose(ctx context.Context, term record.Term, command []byte) (any, *Error) {
	r, err := s.group.Propose(ctx, raftgroup.Command{Data: command, AppendTime: s.host.nowMS(), Term: term})
	if err != nil {
		return nil, s.proposeError(err)
	}
	return r, nil
}

// proposeError names a failed proposal. The outcome is raftgroup's word and stays as it is.
func (s *shard) proposeError(err error) *Error {
	var e *Error
	switch outcome := raftgroup.OutcomeOf(err); {
	case errors.Is(err, raftgroup.ErrBusy):
		e = refused(CodeBusy, "too much is in flight on %s: try again", s.spec)
	case outcome == raftgroup.DidNotHappen:
		return s.notLeading(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = refused(CodeRequestTimedOut, "%s did not commit in time; it may still happen", s.spec)
	default:
		e = refused(CodeNotCoordinator, "leadership of %s was lost while the request was in flight; it may have happened", s.spec)
	}
	e.Outcome, e.Cause = raftgroup.OutcomeOf(err), err
	return e
}
