package partition

import (
	"context"
	"math"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Retention has two halves. The leader decides from its own segments how far the log start may
// rise, and proposes that (R13): what readers see is the same everywhere and never goes back. Each
// replica then frees the disk space below the start in its own segments, which need not be cut
// where the leader's are.

// retention is what a topic keeps (L28); -1: no bound.
type retention struct {
	ms, bytes int64
}

// retainFrom is the log start that retention asks for at a time: whole segments go, the oldest
// first, while what is left holds at least the bytes to keep, or while all of a segment's records
// are older than the time to keep. A record stamped in the future holds its segment. The segment that is
// still written to may go by time as well: its records are then below the start, and it is closed.
// Data of open transactions counts like any other (L27).
//
// newest gives the time of a segment whose records carry none, ms since 1970.
func retainFrom(segments []recordlog.SegmentInfo, start record.Offset, keep retention, now int64,
	newest func(recordlog.SegmentInfo) (int64, error)) (record.Offset, error) {
	var size int64
	for _, s := range segments {
		if s.End > start {
			size += s.Bytes
		}
	}
	for _, s := range segments {
		if s.End <= start {
			continue // gone already, or without records
		}
		expired, err := expiredAt(s, keep.ms, now, newest)
		if err != nil {
			return start, err
		}
		surplus := keep.bytes >= 0 && !s.Active && size-s.Bytes >= keep.bytes
		if !expired && !surplus {
			break
		}
		size -= s.Bytes
		start = s.End
	}
	return start, nil
}

func expiredAt(s recordlog.SegmentInfo, keepMS, now int64, newest func(recordlog.SegmentInfo) (int64, error)) (bool, error) {
	if keepMS < 0 {
		return false, nil
	}
	latest := s.MaxTimestamp
	if untimed(s) {
		var err error
		if latest, err = newest(s); err != nil {
			return false, err
		}
	}
	return now-latest > keepMS, nil
}

// untimed says whether a segment's records carry no time. The log rounds that up to 0, which is no time either: taken for one, it would make
// them the oldest records there can be.
func untimed(s recordlog.SegmentInfo) bool { return s.MaxTimestamp <= 0 }

// retain raises the log start as the topic's configuration asks. A failure is left to the next
// round: nothing depends on when it happens.
func (r *Replica) retain(ctx context.Context, now time.Time) {
	c := r.config.Load()
	keep := retention{ms: c.RetentionMS, bytes: c.RetentionBytes}
	if !c.Deletes || keep.ms < 0 && keep.bytes < 0 {
		return
	}
	start := r.bounds.Load().start
	to, err := retainFrom(r.log.Segments(), start, keep, now.UnixMilli(), r.lastAppend)
	if err != nil {
		r.noticed(err)
		r.logger.Warn("retention could not read the log", "err", err)
		return
	}
	if to <= start {
		return
	}
	if err := r.advanceStart(ctx, to, now); err != nil {
		if ctx.Err() == nil {
			r.logger.Warn("retention did not raise the log start", "to", int64(to), "err", err)
		}
		return
	}
	r.host.metrics.retained.Add(float64(to - start))
	r.logger.Info("retention raised the log start", "from", int64(start), "to", int64(to))
}

// lastAppend is when the leader appended a segment's last entry, ms since 1970. One of unknown time
// holds the segment: it is taken for the last there can be.
func (r *Replica) lastAppend(s recordlog.SegmentInfo) (int64, error) {
	ns, err := r.log.AppendedAt(s.LastIndex)
	if ns == 0 {
		return math.MaxInt64 / 2, err
	}
	return ns / int64(time.Millisecond), err
}

// advanceStart proposes a new log start and waits until it is applied here.
func (r *Replica) advanceStart(ctx context.Context, to record.Offset, now time.Time) error {
	_, err := r.group.Propose(ctx, raftgroup.Command{
		Meta: []byte{commandVersion, cmdAdvanceStart}, Data: encodeOffset(to), AppendTime: now.UnixMilli()})
	return err
}

// DeleteBefore is the offset of DeleteRecords that means the high watermark.
const DeleteBefore record.Offset = -1

// DeleteRecords raises a partition's log start to before, exclusive of what is kept, and gives the
// log start that holds then (L25). DeleteBefore deletes all that is readable. An offset below the
// start changes nothing. It is answered when a majority has it: no replica that leads later knows a
// lower start. Doing it again does no harm, also after a failure that may have happened.
//
// Errors: OFFSET_OUT_OF_RANGE beyond the high watermark or below -1, POLICY_VIOLATION where the
// topic is only compacted, and those of every write.
func (h *Host) DeleteRecords(ctx context.Context, tp record.TopicPartition, before record.Offset) (record.Offset, error) {
	r, refusal := h.leading(tp)
	if refusal != nil {
		return record.NoOffset, refusal
	}
	if !r.config.Load().Deletes {
		return record.NoOffset, refused(CodePolicyViolation, "cleanup.policy of %s is compact: records go by key, not by offset", tp)
	}
	// What is read here is refused or answered without a write: only a leader that is one may do so (R1).
	if refusal := r.confirm(ctx); refusal != nil {
		return record.NoOffset, refusal
	}
	b := r.bounds.Load()
	if before == DeleteBefore {
		before = b.highWatermark
	}
	if before < 0 || before > b.highWatermark {
		return record.NoOffset, refused(CodeOffsetOutOfRange, "before_offset %d of %s: want 0 to %d, or -1 for the high watermark", before, tp, b.highWatermark)
	}
	if before <= b.start {
		return b.start, nil
	}
	if err := r.advanceStart(ctx, before, h.config.Wall()); err != nil {
		return record.NoOffset, r.proposalError(err)
	}
	r.logger.Info("records deleted", "from", int64(b.start), "to", int64(before))
	return r.bounds.Load().start, nil
}

// sweepSpace frees disk space in every replica here, now and then, until the host stops.
func (h *Host) sweepSpace() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ticker := time.NewTicker(h.config.RetentionCheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-h.stopping:
			return
		case now := <-ticker.C:
			for _, r := range h.all() {
				select {
				case <-h.stopping:
					return
				default:
				}
				if err := r.freeSpace(ctx, now); err != nil {
					r.logger.Warn("disk space not freed", "err", err)
				}
			}
		}
	}
}

// freeSpace lets go of what lies below the log start. The log drops whole closed segments that
// neither the newest state snapshot nor Raft's window need; here they are closed in time, and the
// snapshots taken that move the window on, where a quiet partition would not take any.
func (r *Replica) freeSpace(ctx context.Context, now time.Time) error {
	segments := r.log.Segments()
	start := r.bounds.Load().start
	if n := len(segments); n > 0 {
		if active := segments[n-1]; active.Active && active.LastIndex >= active.FirstIndex {
			old, err := r.isOld(active, now)
			if err != nil {
				return err
			}
			// A start at its end alone says nothing of a segment without records.
			if old || active.End <= start && active.Base < active.End {
				if err := r.log.Roll(); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range segments {
		if s.End <= start && s.Base < s.End {
			return r.moveWindow(ctx, now)
		}
	}
	return nil
}

// isOld says whether segment.ms has passed since a segment's first entry (L30).
func (r *Replica) isOld(s recordlog.SegmentInfo, now time.Time) (bool, error) {
	c := r.config.Load()
	ms := c.SegmentMS
	if c.Compacted {
		ms = min(ms, c.MaxCompactionLagMS) // what is written to is not compacted
	}
	if ms <= 0 || s.End == s.Base {
		return false, nil
	}
	first, err := r.firstAppend(s)
	return err == nil && first != math.MaxInt64 && now.UnixMilli()-first > ms, err
}

// moveWindow works towards a raft window above what is to go. Raft keeps the entries since the
// snapshot before the newest, so two snapshots must lie above; the leader's command, which changes
// nothing, gives the second one something new where nothing else happens, here and on followers.
func (r *Replica) moveWindow(ctx context.Context, now time.Time) error {
	if err := r.group.Snapshot(ctx); err != nil {
		return err
	}
	if _, leads := r.group.IsReady(); !leads {
		return nil
	}
	return r.advanceStart(ctx, r.bounds.Load().start, now)
}
