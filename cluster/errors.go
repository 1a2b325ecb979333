package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// The reasons of an Error. What metadata itself refuses is a *metadata.Error.
const (
	// NotController: no leader of the metadata group could be reached, or it changed. Did not happen.
	NotController metadata.Code = "NOT_CONTROLLER"
	// RequestTimedOut: the answer did not come in time, or was lost. May have happened.
	RequestTimedOut metadata.Code = "REQUEST_TIMED_OUT"
	// LoadInProgress: this broker is not ready to answer yet (I1). Did not happen.
	LoadInProgress metadata.Code = "COORDINATOR_LOAD_IN_PROGRESS"
	// Throttled: too many changes wait. Did not happen.
	Throttled metadata.Code = "THROTTLING_QUOTA_EXCEEDED"
)

// Error is a change that was not made, or is not known to be made, for a reason that passes. Asking
// again may succeed.
type Error struct {
	Code    metadata.Code
	Message string
	// Outcome says whether it did not happen or may have happened.
	Outcome raftgroup.Outcome
	// Cause, if there is more to know.
	Cause error

	// leader is where to ask instead.
	leader *leaderHint
}

// Error gives code, message and outcome.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s (%v)", e.Code, e.Message, e.Outcome)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is tells whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// OutcomeOf sorts an error of this package's changes. A refusal by metadata did not happen; what is
// not known may have happened.
func OutcomeOf(err error) raftgroup.Outcome {
	var refusal *metadata.Error
	var e *Error
	switch {
	case errors.As(err, &e): // it may wrap a refusal of a second attempt
		return e.Outcome
	case errors.As(err, &refusal):
		return raftgroup.DidNotHappen
	default:
		return raftgroup.OutcomeOf(err)
	}
}

// proposeError sorts what the metadata group says of a command.
func (c *Cluster) proposeError(err error) error {
	outcome := raftgroup.OutcomeOf(err)
	code := NotController
	switch {
	case errors.Is(err, raftgroup.ErrTooLarge):
		return &metadata.Error{Code: metadata.PolicyViolation, Message: err.Error()}
	case errors.Is(err, raftgroup.ErrBusy):
		code = Throttled
	case outcome == raftgroup.MayHaveHappened:
		code = RequestTimedOut
	}
	return &Error{Code: code, Message: err.Error(), Outcome: outcome, Cause: err, leader: c.leaderHint()}
}

func notController(hint *leaderHint, format string, args ...any) *Error {
	return &Error{Code: NotController, Message: fmt.Sprintf(format, args...), Outcome: raftgroup.DidNotHappen, leader: hint}
}

// gaveUp is what a caller is told whose context ended while it waited for something that has not
// been begun.
func gaveUp(ctx context.Context, last error) error {
	if last != nil {
		return last
	}
	return &Error{Code: NotController, Message: "gave up waiting: " + context.Cause(ctx).Error(), Outcome: raftgroup.DidNotHappen, Cause: ctx.Err()}
}
