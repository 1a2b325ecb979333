package raftgroup

import (
	"errors"
	"fmt"
)

// Outcome says what an error leaves behind (R2).
type Outcome int

const (
	// DidNotHappen: the command is not in the log and will not be; it may be proposed again.
	DidNotHappen Outcome = iota
	// MayHaveHappened: the command may be in the log, or get there.
	MayHaveHappened
)

// String gives "did not happen" or "may have happened".
func (o Outcome) String() string {
	if o == DidNotHappen {
		return "did not happen"
	}
	return "may have happened"
}

var (
	// ErrBusy refuses a command because as many wait already as the group's limits allow.
	ErrBusy = errors.New("too many commands wait in this group")
	// ErrStopped refuses a command because the group is closed, or halted by a fault; Status says
	// which.
	ErrStopped = errors.New("group is stopped")
	// ErrTransferring refuses a command because leadership is being handed over.
	ErrTransferring = errors.New("leadership is being transferred")
	// ErrTooLarge refuses a command above MaxEntryBytes.
	ErrTooLarge = errors.New("command is larger than an entry may be")
	// ErrUnknownGroup says that no such group is open on this broker.
	ErrUnknownGroup = errors.New("group is not open on this broker")
	// ErrStateLost says that a part of what this replica must never forget is gone while another
	// part is there. It must not take part in its group again under its identity: it could vote
	// twice in a term, or for a leader that lacks what it acknowledged.
	ErrStateLost = errors.New("the replica has lost what it must not forget")
	// ErrNewerLevel says that a log or a snapshot was written at a feature level that this program
	// does not know: it is older than the cluster.
	ErrNewerLevel = errors.New("the feature level is newer than this program")
	// ErrNotConfirmed says that no majority answered a leadership check.
	ErrNotConfirmed = errors.New("no majority confirmed the leadership")
)

// NotLeaderError refuses what only a ready leader does. It did not happen.
type NotLeaderError struct {
	Group GroupID
	// Leader is the leader as far as this replica knows; empty: unknown. It is this replica
	// itself when it leads but is not ready yet (R1).
	Leader ServerID
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("group %d: this replica is not the leader, and knows none", e.Group)
	}
	return fmt.Sprintf("group %d: this replica is not the ready leader; %s leads", e.Group, e.Leader)
}

// UncertainError says that a command may have happened, and why that is not known.
type UncertainError struct{ Cause error }

func (e *UncertainError) Error() string { return "the command may have happened: " + e.Cause.Error() }

// Unwrap gives the cause.
func (e *UncertainError) Unwrap() error { return e.Cause }

// OutcomeOf sorts an error of Propose, ProposeAsync or a membership change. What it does not know
// may have happened.
func OutcomeOf(err error) Outcome {
	var uncertain *UncertainError
	var notLeader *NotLeaderError
	var refused *refusedError
	switch {
	case errors.As(err, &uncertain):
		return MayHaveHappened
	case err == nil, errors.As(err, &notLeader), errors.As(err, &refused), errors.Is(err, ErrBusy), errors.Is(err, ErrStopped),
		errors.Is(err, ErrTransferring), errors.Is(err, ErrTooLarge), errors.Is(err, ErrUnknownGroup):
		return DidNotHappen
	}
	return MayHaveHappened
}
