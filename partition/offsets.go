package partition

import (
	"context"
	"math"

	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// Special timestamps of ListOffsets (L16).
const (
	TimestampLatest   int64 = -1
	TimestampEarliest int64 = -2
	TimestampMax      int64 = -3
)

// ListedOffset answers ListOffsets. Offset and Timestamp are -1 where there is no such record.
type ListedOffset struct {
	Offset      record.Offset
	Timestamp   int64
	LeaderEpoch int32
}

// ListOffsets finds the ends of a partition, or the first record at or after a time (L16-L20).
// Whatever a deposed leader could get wrong is confirmed first, so that the latest offset never
// goes back.
func (h *Host) ListOffsets(ctx context.Context, tp record.TopicPartition, timestamp int64, committed bool) (ListedOffset, error) {
	none := ListedOffset{Offset: record.NoOffset, Timestamp: -1, LeaderEpoch: -1}
	r, refusal := h.leading(tp)
	if refusal != nil {
		return none, refusal
	}
	if timestamp < TimestampMax {
		return none, refused(CodeInvalidRequest, "timestamp_ms %d: want ms since 1970, -1 latest, -2 earliest or -3 largest timestamp", timestamp)
	}
	if timestamp == TimestampEarliest {
		return r.earliest(), nil
	}
	if refusal := r.confirm(ctx); refusal != nil {
		return none, refusal
	}
	b := r.bounds.Load()
	limit := b.highWatermark
	if committed {
		limit = b.lastStable
	}
	if timestamp == TimestampLatest {
		return ListedOffset{Offset: limit, Timestamp: -1, LeaderEpoch: b.epoch}, nil
	}
	return r.lookUpTime(timestamp, limit)
}

func (r *Replica) earliest() ListedOffset {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return ListedOffset{Offset: r.state.start, Timestamp: -1, LeaderEpoch: r.state.epochs.at(r.state.start)}
}

func (r *Replica) lookUpTime(timestamp int64, limit record.Offset) (ListedOffset, error) {
	none := ListedOffset{Offset: record.NoOffset, Timestamp: -1, LeaderEpoch: -1}
	find := r.log.OffsetForTime
	if timestamp == TimestampMax {
		find = func(_ int64, limit record.Offset) (record.Offset, int64, record.Term, bool, error) {
			return r.log.MaxTimestamp(limit)
		}
	}
	offset, at, term, found, err := find(timestamp, limit)
	if err != nil {
		r.logger.Error("time look-up failed", "timestamp", timestamp, "err", err)
		r.noticed(err)
		e := refused(CodeStorage, "looking up time %d in %s failed", timestamp, r.spec.TopicPartition)
		e.Cause = err
		return none, e
	}
	if !found {
		return none, nil
	}
	return ListedOffset{Offset: offset, Timestamp: at, LeaderEpoch: r.leaderEpoch(term)}, nil
}

// DescribeProducers shows what the partition remembers of its producers; ids empty: all, at most
// max of them, smallest ids first.
func (h *Host) DescribeProducers(ctx context.Context, tp record.TopicPartition, ids []record.ProducerID, limit int) (list []producer.Description, truncated bool, err error) {
	r, refusal := h.leading(tp)
	if refusal != nil {
		return nil, false, refusal
	}
	if refusal := r.confirm(ctx); refusal != nil {
		return nil, false, refusal
	}
	r.mu.RLock()
	list, truncated = r.state.producers.Describe(ids, limit)
	r.mu.RUnlock()
	r.admission.addRefused(list)
	return list, truncated, nil
}

// Checksum covers the stored batches of a local replica, leader or not.
type Checksum struct {
	From, UpTo record.Offset
	CRC32C     uint32
	Batches    int64
}

// Checksums sums the records of this broker's replica up to an offset, exclusive, so that
// replicas can be compared; upTo below 0: up to its own high watermark.
func (h *Host) Checksums(tp record.TopicPartition, upTo record.Offset) (Checksum, error) {
	r := h.replica(tp)
	if r == nil {
		return Checksum{}, h.unknown(tp)
	}
	b := r.bounds.Load()
	if upTo < 0 {
		upTo = math.MaxInt64
	}
	c := Checksum{From: b.start, UpTo: max(min(upTo, b.highWatermark), b.start)}
	crc, n, err := r.log.Checksum(c.From, c.UpTo)
	if err != nil {
		r.noticed(err)
		e := refused(CodeStorage, "summing %s from %d to %d failed", tp, c.From, c.UpTo)
		e.Cause = err
		return Checksum{}, e
	}
	c.CRC32C, c.Batches = crc, n
	return c, nil
}
