package frontdoor

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/record"
)

// Failure is what a domain answered, in the words that clients know.
type Failure struct {
	// Kind is its line of the table; never nil.
	Kind    *Kind
	Message string
	Outcome raftgroup.Outcome
	// Leader is who leads, or coordinates, instead; nil: not known, or beside the point.
	Leader *partition.Leader
	// Field of the request that is at fault, and the limit it broke; empty: none in particular.
	Field, Limit string
	// Record is the ordinal of the offending record of a batch, -1 for none.
	Record int
	// Permanent: the same request will be refused however often it is sent.
	Permanent bool
	// Event explains a transaction coordinator's refusal; nil: nothing is known.
	Event *txn.Event
	// Unknown: no table knows the error, which is a bug. Kind is that of UNKNOWN_SERVER_ERROR then, and Named what
	// was not known.
	Unknown bool
	Named   string
}

// Retriable says whether sending the same request again can help.
func (f *Failure) Retriable() bool { return f.Kind.Retry != RetryNever && !f.Permanent }

// Explain turns what a domain answered into what a client is told. stopping: the broker is, which explains a context that ended.
func Explain(err error, stopping bool) Failure {
	var (
		partitionErr *partition.Error
		recordErr    *record.Error
		metadataErr  *metadata.Error
		clusterErr   *cluster.Error
		coordErr     *coordinator.Error
	)
	f := Failure{Message: err.Error(), Outcome: raftgroup.DidNotHappen, Record: -1}
	switch {
	case errors.As(err, &partitionErr):
		f.Named, f.Message, f.Outcome, f.Leader = string(partitionErr.Code), partitionErr.Message, partitionErr.Outcome, partitionErr.Leader
		if e, ok := txn.EventFromProto(partitionErr.Event); ok {
			f.Event = &e
		}
	case errors.As(err, &coordErr):
		f.Named, f.Message, f.Outcome = string(coordErr.Code), coordErr.Message, coordErr.Outcome
		f.Field, f.Limit, f.Event = coordErr.Field, coordErr.Limit, coordErr.Event
		if coordErr.Coordinator != nil {
			f.Leader = &partition.Leader{Broker: *coordErr.Coordinator, Epoch: -1}
		}
	case errors.As(err, &recordErr):
		f.Named, f.Message, f.Record, f.Permanent = recordErr.Code.String(), recordErr.Message, recordErr.Record, recordErr.Permanent
		if f.Record >= 0 {
			f.Message = fmt.Sprintf("record %d: %s", f.Record, f.Message)
		}
	case errors.As(err, &metadataErr):
		f.Named, f.Message, f.Field, f.Limit = string(metadataErr.Code), metadataErr.Message, metadataErr.Field, metadataErr.Limit
	case errors.As(err, &clusterErr):
		f.Named, f.Message, f.Outcome = string(clusterErr.Code), clusterErr.Message, clusterErr.Outcome
	default:
		f.explainOthers(err, stopping)
	}
	if f.Kind = KindOf(f.Named); f.Kind == nil {
		f.Unknown, f.Kind = true, KindOf(ReasonUnknown)
		f.Message = "the broker failed in a way that it has no name for; see its log"
	}
	return f
}

// explainOthers names errors that belong to no domain: contexts, and raftgroup's own where a domain passes them on.
func (f *Failure) explainOthers(err error, stopping bool) {
	var notLeader *raftgroup.NotLeaderError
	f.Outcome = raftgroup.OutcomeOf(err)
	switch {
	case errors.As(err, &notLeader), errors.Is(err, raftgroup.ErrTransferring):
		f.Named = ReasonNotLeader
	case errors.Is(err, raftgroup.ErrBusy):
		f.Named = ReasonBusy
	case errors.Is(err, raftgroup.ErrStopped), errors.Is(err, raftgroup.ErrUnknownGroup):
		f.Named = ReasonNotLeader
	case errors.Is(err, context.DeadlineExceeded):
		f.Named, f.Message = ReasonTimedOut, "the call's deadline passed before the outcome was known"
	case errors.Is(err, context.Canceled) && stopping:
		f.Named, f.Message = ReasonStopping, "the broker is stopping; the outcome is not known"
	case errors.Is(err, context.Canceled):
		f.Named, f.Message = ReasonCancelled, "the call was cancelled before the outcome was known"
	}
}

// Refused says that a domain has judged a request, and that asking the same again gives the same answer: nothing has happened.
func Refused(err error) bool {
	var refusal *metadata.Error
	return errors.As(err, &refusal)
}
