package partition

import (
	"fmt"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// state is what applying the log has made. Same entries, same state, on every replica, for ever:
// nothing here reads a clock, a map in its random order or this broker's own configuration.
type state struct {
	applied  record.Index
	level    uint16
	settings settings
	// epochBase is added to a term to give the leader epoch on the wire (R7).
	epochBase int32
	start     record.Offset // log start offset, never falls (L26)
	next      record.Offset // log end offset = high watermark (R8)
	epochs    epochs
	producers *producer.State
	compacted compacted
}

func newState() state {
	s := settings{maxProducers: firstMaxProducers, minIdle: minIdleMS}
	return state{settings: s, producers: producer.New(s.limits())}
}

// lastStable is the offset below which every transaction is decided (L5, L6).
func (s *state) lastStable() record.Offset {
	return max(s.producers.LastStable(s.next), s.start)
}

// appended is the fate of one batch, as apply decided it.
type appended struct {
	base       record.Offset
	logStart   record.Offset
	appendTime int64
	duplicate  bool
	err        *Error
}

// Apply takes committed entries (raftgroup.StateMachine). A command that cannot be read is a
// broken invariant: it panics, and raftgroup stops the replica. Its status can still be asked for.
func (r *Replica) Apply(entries []raftgroup.Entry) []any {
	results, start, moved := r.applyAll(entries)
	// The disk is not waited for under the mutex: what is asked of a replica meanwhile is answered.
	if start > 0 {
		if err := r.log.AdvanceStart(start); err != nil {
			panic(fmt.Sprintf("partition %s: advance log start to %d: %v", r.spec, start, err))
		}
	}
	if moved {
		r.wakeFetches()
	}
	return results
}

// applyAll changes the state. moved: there is more to read. start is what the log is to begin with; 0: as it does.
func (r *Replica) applyAll(entries []raftgroup.Entry) (results []any, start record.Offset, moved bool) {
	results = make([]any, len(entries))
	r.mu.Lock()
	done := false
	defer func() {
		if !done {
			r.broken.Store(true) // nothing is read by this state, and it gets into no snapshot
		}
		r.mu.Unlock()
	}()
	before := r.state.next
	stableBefore := r.state.lastStable()
	for i := range entries {
		results[i] = r.applyEntry(&entries[i])
		r.state.applied = entries[i].Index
	}
	moved = r.state.next != before || r.state.lastStable() != stableBefore
	r.checkInvariants()
	r.publish()
	start, r.advance = r.advance, 0
	done = true
	return results, start, moved
}

func (r *Replica) applyEntry(e *raftgroup.Entry) any {
	s := &r.state
	s.level = max(s.level, e.Level)
	switch e.Kind {
	case raftgroup.KindLeaderStart:
		s.epochs.enter(s.epochBase+int32(e.Term), s.next)
		return nil
	case raftgroup.KindCommand:
	default:
		panic(fmt.Sprintf("partition %s: entry %d of kind %d", r.spec, e.Index, e.Kind))
	}
	kind, meta, err := parseMeta(e.Meta)
	if err == nil {
		switch kind {
		case cmdAppend:
			return r.applyAppend(e, meta)
		case cmdExpireProducers:
			return r.applyExpire(e)
		case cmdAdvanceStart:
			return r.applyAdvanceStart(e)
		case cmdSettings:
			return r.applySettings(e)
		case cmdEndTransaction:
			return r.applyEndTransaction(e, meta)
		case cmdCompact:
			return r.applyCompact(e)
		default:
			err = fmt.Errorf("unknown command kind %d", kind)
		}
	}
	panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
}

// applyAppend decides each batch of the entry (P5-P16) and gives the accepted ones their offsets
// (R4).
func (r *Replica) applyAppend(e *raftgroup.Entry, meta []byte) any {
	knew, err := decodeKnew(meta)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	var one [1]recordlog.Fate
	fates := one[:0]
	var first appended
	var more []appended
	for rest := e.Data; len(rest) > 0; {
		var b record.Batch
		if b, rest, err = record.Parse(rest); err != nil {
			panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
		}
		a := r.applyBatch(b, knew, e.AppendTime)
		fates = append(fates, recordlog.Fate{Base: a.base, Records: b.LastOffsetDelta() + 1, Refused: a.err != nil || a.duplicate})
		if len(fates) == 1 {
			first = a
		} else {
			more = append(more, a)
		}
	}
	r.assign(e.Index, fates)
	if more != nil {
		return append([]appended{first}, more...)
	}
	return first
}

func (r *Replica) applyBatch(b record.Batch, knew producer.Knew, now int64) appended {
	s := &r.state
	a := appended{base: s.next, logStart: s.start, appendTime: now}
	if r.host.config.Sabotage.decides(b) {
		pb := batchOf(b, knew)
		v := s.producers.Append(pb, s.next, now)
		r.host.metrics.verdict(v)
		switch {
		case v.Code == producer.Accepted, r.host.config.Sabotage.admits(v.Code):
		case v.Code == producer.Duplicate:
			a.base, a.appendTime, a.duplicate = v.Base, v.Timestamp, true
			return a
		default:
			a.base = record.NoOffset
			a.err = verdictError(pb, v)
			return a
		}
	}
	s.next += record.Offset(b.LastOffsetDelta()) + 1
	return a
}

func (r *Replica) applyExpire(e *raftgroup.Entry) any {
	cutoff, below, list, err := decodeExpire(e.Data)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	return r.state.producers.Expire(list, cutoff, below)
}

func (r *Replica) applySettings(e *raftgroup.Entry) any {
	s, err := decodeSettings(e.Data)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	r.state.settings = s
	r.state.producers.SetLimits(s.limits())
	return nil
}

// applyAdvanceStart raises the log start (L26): never falls, never passes the high watermark.
func (r *Replica) applyAdvanceStart(e *raftgroup.Entry) any {
	to, err := decodeOffset(e.Data)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	s := &r.state
	to = min(to, s.next)
	if to <= s.start {
		return s.start
	}
	s.start = to
	s.epochs.truncateStart(to)
	s.producers.TruncateStart(to)
	r.advance = to
	return s.start
}

// applyEndTransaction appends a marker, which takes one offset (L2, P20-P24). The payload is the
// control batch itself, so that what is stored is what consumers get.
func (r *Replica) applyEndTransaction(e *raftgroup.Entry, meta []byte) any {
	s := &r.state
	b, marker, err := decodeMarker(meta, e.Data)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	v := s.producers.EndTransaction(marker, s.next, e.AppendTime)
	records := b.LastOffsetDelta() + 1
	if v.Code != producer.Accepted {
		r.assign(e.Index, []recordlog.Fate{{Base: record.NoOffset, Records: records, Refused: true}})
		return appended{base: record.NoOffset, err: markerError(marker, v)}
	}
	a := appended{base: s.next, logStart: s.start, appendTime: e.AppendTime}
	r.assign(e.Index, []recordlog.Fate{{Base: s.next, Records: records}})
	s.next += record.Offset(records)
	return a
}

func (r *Replica) assign(i record.Index, fates []recordlog.Fate) {
	if err := r.log.Assign(i, fates); err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, i, err))
	}
}

// checkInvariants holds what must be true after every apply; it is cheap enough to always run.
func (r *Replica) checkInvariants() {
	s := &r.state
	if stable := s.lastStable(); s.start > s.next || stable > s.next || stable < s.start {
		panic(fmt.Sprintf("partition %s: log start %d, last stable %d, log end %d out of order", r.spec, s.start, stable, s.next))
	}
	if end := r.log.EndOffset(); end != s.next {
		panic(fmt.Sprintf("partition %s: record log ends at %d, state at %d", r.spec, end, s.next))
	}
}
