package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/oncelog/oncelog/record"
)

// Result is what became of a record.
type Result struct {
	record.TopicPartition
	// Outcome is Written, NotWritten or Unknown.
	Outcome Outcome
	// Offset of the record if it is Written; record.NoOffset if it is not, and in the rare case that
	// it certainly is and the broker no longer knows where.
	Offset record.Offset
	// AppendTime is the broker's time of the append in ms since 1970, on topics with
	// LogAppendTime; else -1.
	AppendTime int64
	// Duplicate says that an earlier attempt had already written it: an answer had been lost.
	Duplicate bool
	// Err says why the record is not written, or why that is unknown; an *Error. Nil if it is
	// Written, and with AcksNone.
	Err error
}

// String says it in words: "orders/3: written at offset 17".
func (r Result) String() string {
	switch {
	case r.Outcome == Written && r.Offset != record.NoOffset:
		return fmt.Sprintf("%v: written at offset %d", r.TopicPartition, r.Offset)
	case r.Err != nil:
		err := r.Err
		if e := (*Error)(nil); errors.As(err, &e) && e.TopicPartition == r.TopicPartition {
			err = e.at(record.TopicPartition{}) // not named twice
		}
		return fmt.Sprintf("%v: %v: %v", r.TopicPartition, r.Outcome, err)
	default:
		return fmt.Sprintf("%v: %v", r.TopicPartition, r.Outcome)
	}
}

// Future is a Result to come.
type Future struct {
	done chan struct{}
	res  Result
}

// Done is closed when the result is there.
func (f *Future) Done() <-chan struct{} { return f.done }

// Result waits for the result. If ctx ends first the outcome is Unknown: the record is still on
// its way, and the future will have its result.
func (f *Future) Result(ctx context.Context) Result {
	select {
	case <-f.done:
		return f.res
	case <-ctx.Done():
		select {
		case <-f.done:
			return f.res
		default:
		}
		return Result{Outcome: Unknown, Offset: record.NoOffset, AppendTime: -1, Err: canceled(ctx, Unknown, "waiting for the result")}
	}
}
