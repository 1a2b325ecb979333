package partition

import (
	"context"

	"github.com/oncelog/oncelog/record"
)

// EpochEnd answers OffsetForLeaderEpoch (L21): the largest known epoch at or below the asked one, and where it ends; (-1, -1) for
// an epoch that is newer than all. current is what the client takes for the leader's epoch, -1 not to check it. What a
// deposed leader could get wrong is confirmed first: the end of the newest epoch, and that an epoch is not known.
func (h *Host) EpochEnd(ctx context.Context, tp record.TopicPartition, current, epoch int32) (known int32, end record.Offset, err error) {
	r, refusal := h.leading(tp)
	if refusal == nil {
		refusal = r.checkEpoch(current)
	}
	if refusal != nil {
		return -1, record.NoOffset, refusal
	}
	known, end, newest := r.endOf(epoch)
	if !newest {
		return known, end, nil
	}
	if refusal := r.confirm(ctx); refusal != nil {
		return -1, record.NoOffset, refusal
	}
	known, end, _ = r.endOf(epoch)
	return known, end, nil
}

// endOf looks an epoch up; newest: the answer rests on there being no newer one.
func (r *Replica) endOf(epoch int32) (known int32, end record.Offset, newest bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	known, end = r.state.epochs.endOf(epoch, r.bounds.Load().highWatermark)
	return known, end, epoch >= r.state.epochs.latest()
}

// CheckEpoch compares what a client takes for the leader's epoch with what it is (L18, L24); -1 passes.
func (h *Host) CheckEpoch(tp record.TopicPartition, epoch int32) error {
	if epoch < 0 {
		return nil
	}
	r, refusal := h.leading(tp)
	if refusal == nil {
		refusal = r.checkEpoch(epoch)
	}
	if refusal != nil {
		return refusal
	}
	return nil
}
