package partition

import (
	"context"
	"errors"

	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// FetchPartition asks for records of one partition from an offset on.
type FetchPartition struct {
	record.TopicPartition
	// TopicID is the topic that is meant; zero: whichever has the name.
	TopicID  TopicID
	Offset   record.Offset
	MaxBytes int
	// LeaderEpoch is the epoch of the leader the client believes in, -1 not to check (L24).
	LeaderEpoch int32
}

// FetchedPartition is the answer for one partition.
type FetchedPartition struct {
	record.TopicPartition
	Err *Error
	// Batches holds whole batches, one after the other, in runs; the first may begin below the
	// asked offset (L26). The bytes belong to the caller.
	Batches [][]byte
	Bytes   int
	// HighWatermark, LastStable and LogStart are -1 with an error that knows none.
	HighWatermark, LastStable, LogStart record.Offset
	// Aborted is nil unless committed data only was asked for (L10).
	Aborted []producer.Aborted
}

// read answers one partition of a fetch from what is applied now. A positive answer below the
// applied high watermark is harmless even from a deposed leader; a refusal is confirmed first.
func (r *Replica) read(ctx context.Context, q FetchPartition, committed bool, maxBytes int) FetchedPartition {
	f := FetchedPartition{TopicPartition: q.TopicPartition, HighWatermark: -1, LastStable: -1, LogStart: -1}
	if _, err := r.ready(); err != nil {
		f.Err = err
		return f
	}
	if f.Err = r.checkEpoch(q.LeaderEpoch); f.Err != nil {
		return f
	}
	b := r.bounds.Load()
	f.HighWatermark, f.LastStable, f.LogStart = b.highWatermark, b.lastStable, b.start
	limit := b.highWatermark
	if committed {
		limit = b.lastStable
	}
	if q.Offset < b.start || q.Offset > b.highWatermark {
		f.Err = r.outOfRange(ctx, q.Offset)
		return f
	}
	if q.Offset >= limit || maxBytes <= 0 {
		return f
	}
	if committed && !r.readableFrom(q.Offset, b.horizon) {
		f.Err = refused(CodeOffsetNotAvailable, "this replica of %s has not compacted yet what lies below offset %d: try again", q.TopicPartition, b.horizon)
		return f
	}
	r.take(ctx, &f, q, b, committed, maxBytes)
	return f
}

// take reads what the bounds b allow.
func (r *Replica) take(ctx context.Context, f *FetchedPartition, q FetchPartition, b *bounds, committed bool, maxBytes int) {
	limit := b.highWatermark
	if committed {
		limit = b.lastStable
	}
	chunk, err := r.log.Read(q.Offset, limit, min(maxBytes, q.MaxBytes))
	switch {
	case errors.Is(err, recordlog.ErrOffsetOutOfRange):
		// The log start moved between the bounds and the read.
		f.Err = r.outOfRange(ctx, q.Offset)
		return
	case err != nil:
		r.logger.Error("read failed", "offset", int64(q.Offset), "err", err)
		r.noticed(err)
		f.Err = refused(CodeStorage, "reading %s at offset %d failed; the replica's disk needs a look", q.TopicPartition, q.Offset)
		f.Err.Cause = err
		return
	}
	if committed {
		aborted, known := r.aborted(q.Offset, chunk.End)
		// Apply may have forgotten aborted transactions whose records were read before that, or does not know of them yet again: Raft was
		// opened anew, and the state set back to its snapshot.
		if now := r.bounds.Load(); !known || q.Offset < now.start || q.Offset < now.horizon && now.horizon != b.horizon || r.broken.Load() {
			f.Err = refused(CodeOffsetNotAvailable, "what lies at offset %d of %s was let go of while it was read: try again", q.Offset, q.TopicPartition)
			return
		}
		f.Aborted = aborted
	}
	f.Batches, f.Bytes = chunk.Batches, chunk.Bytes
}

// aborted lists the aborted transactions that go with [from, upTo) (L9); never nil (L10) if they are known, which they are below the
// last stable offset.
func (r *Replica) aborted(from, upTo record.Offset) (list []producer.Aborted, known bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if upTo > r.host.config.Sabotage.stable(&r.state) {
		return nil, false
	}
	if a := r.state.producers.Aborted(from, upTo); a != nil {
		return a, true
	}
	return []producer.Aborted{}, true
}

// checkEpoch compares the client's idea of the leader epoch with ours (L18, L24).
func (r *Replica) checkEpoch(asked int32) *Error {
	if asked < 0 {
		return nil
	}
	switch current := r.bounds.Load().epoch; {
	case asked < current:
		return refused(CodeFencedLeaderEpoch, "leader epoch %d of %s is over; it is %d now: refresh metadata", asked, r.spec.TopicPartition, current)
	case asked > current:
		return refused(CodeUnknownLeaderEpoch, "leader epoch %d of %s is newer than this broker's %d: try again", asked, r.spec.TopicPartition, current)
	}
	return nil
}

// outOfRange says so only after proving that this replica still leads: a client that hears it
// resets its position, and skips or repeats records (L12).
func (r *Replica) outOfRange(ctx context.Context, o record.Offset) *Error {
	if err := r.confirm(ctx); err != nil {
		return err
	}
	b := r.bounds.Load()
	if o >= b.start && o <= b.highWatermark {
		return refused(CodeOffsetNotAvailable, "offset %d of %s has just become available: try again", o, r.spec.TopicPartition)
	}
	return refused(CodeOffsetOutOfRange, "offset %d of %s lies outside %d to %d", o, r.spec.TopicPartition, b.start, b.highWatermark)
}
