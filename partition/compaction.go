package partition

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// compactionLevel is the feature level from which on leaders propose to compact: brokers below cannot apply that, nor
// read what it leaves.
const compactionLevel = 2

// compacted is what was agreed about compaction (docs/decisions/0011). Both offsets only rise.
type compacted struct {
	// below bounds what is compacted, horizon which tombstones and markers go (L31, L33).
	below, horizon record.Offset
	// reached says when earlier bounds above the horizon were agreed, in order: one of them is the next horizon. The last one, which is
	// below, stays when the horizon has come to it: no later one may seem to have been agreed before.
	reached []reached
	// last holds the last batches of the producers that were remembered when below was agreed (L35). Elements are never changed.
	last []record.Offset
}

// reached is a bound and when it was agreed, ms since 1970, by the leaders' clocks. Neither falls.
type reached struct {
	below record.Offset
	at    int64
}

// maxReached bounds what a horizon can be chosen from. A bound that finds no room takes the place of the one before, and
// of what lies between the horizon comes later than it could.
const maxReached = 64

// mark is what a log that did the pass is marked with.
func (c *compacted) mark() recordlog.Mark { return recordlog.Mark{Below: c.below, Horizon: c.horizon} }

// horizonAt is the horizon that a pass may have at a time: what was reached long enough ago, in ms.
func (c *compacted) horizonAt(now, retention int64) record.Offset {
	h := c.horizon
	for _, r := range c.reached {
		if now-r.at >= retention {
			h = r.below
		}
	}
	return h
}

// agree takes a pass in. It refuses one that does not go on from what was agreed, as of a leader that knew less.
func (c *compacted) agree(below, horizon record.Offset, at int64) bool {
	if below < c.below || horizon < c.horizon || horizon > c.below || (below == c.below && horizon == c.horizon) {
		return false
	}
	list := slices.Clone(c.reached)
	if below > c.below {
		if n := len(list); n > 0 {
			at = max(at, list[n-1].at)
		}
		if len(list) == maxReached {
			list = list[:maxReached-1]
		}
		list = append(list, reached{below, at})
	}
	c.reached = slices.DeleteFunc(list, func(r reached) bool { return r.below <= horizon && r.below < below })
	c.below, c.horizon = below, horizon
	return true
}

// applyCompact agrees on a pass. It is carried out later, by each replica in its own time.
func (r *Replica) applyCompact(e *raftgroup.Entry) any {
	m, err := decodeCompact(e.Data)
	if err != nil {
		panic(fmt.Sprintf("partition %s: entry %d: %v", r.spec, e.Index, err))
	}
	agreed := r.state.compact(m, e.AppendTime)
	if agreed {
		r.host.wakeCompactor()
	}
	return agreed
}

// compact takes in a pass, as of a time in ms, and says whether it did.
func (s *state) compact(m recordlog.Mark, at int64) bool {
	if m.Below > s.lastStable() || !s.compacted.agree(m.Below, m.Horizon, at) {
		return false
	}
	s.compacted.last = s.producers.LastOffsets(m.Below)
	// Their records are gone wherever a pass got to what is the horizon now; a replica whose passes did not does not
	// let readers see (read.go).
	s.producers.ForgetAborted(m.Horizon)
	return true
}

func encodeCompact(m recordlog.Mark) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(m.Below))
	return binary.BigEndian.AppendUint64(b, uint64(m.Horizon))
}

func decodeCompact(p []byte) (recordlog.Mark, error) {
	if len(p) != 16 {
		return recordlog.Mark{}, fmt.Errorf("compact command of %d bytes, want 16", len(p))
	}
	m := recordlog.Mark{Below: record.Offset(binary.BigEndian.Uint64(p)), Horizon: record.Offset(binary.BigEndian.Uint64(p[8:]))}
	if m.Below <= 0 || m.Horizon < 0 || m.Horizon > m.Below {
		return recordlog.Mark{}, fmt.Errorf("compact command with below %d and horizon %d", m.Below, m.Horizon)
	}
	return m, nil
}

// compactedHeader is below, horizon, and the numbers of what follows.
const compactedHeader = 8 + 8 + 4 + 4

func (c *compacted) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(c.below))
	b = binary.BigEndian.AppendUint64(b, uint64(c.horizon))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.reached)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.last)))
	for _, r := range c.reached {
		b = binary.BigEndian.AppendUint64(b, uint64(r.below))
		b = binary.BigEndian.AppendUint64(b, uint64(r.at))
	}
	for _, o := range c.last {
		b = binary.BigEndian.AppendUint64(b, uint64(o))
	}
	return b
}

func decodeCompacted(b []byte) (compacted, error) {
	if len(b) < compactedHeader {
		return compacted{}, fmt.Errorf("compaction of %d bytes, want at least %d", len(b), compactedHeader)
	}
	c := compacted{below: record.Offset(binary.BigEndian.Uint64(b)), horizon: record.Offset(binary.BigEndian.Uint64(b[8:]))}
	passes, last := int(binary.BigEndian.Uint32(b[16:])), int(binary.BigEndian.Uint32(b[20:]))
	b = b[compactedHeader:]
	if c.below <= 0 || c.horizon < 0 || c.horizon > c.below || passes > maxReached || len(b) != passes*16+last*8 {
		return compacted{}, fmt.Errorf("compaction below %d with horizon %d, %d passes and %d producers in %d bytes", c.below, c.horizon, passes, last, len(b))
	}
	for range passes {
		c.reached = append(c.reached, reached{record.Offset(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))})
		b = b[16:]
	}
	for range last {
		c.last = append(c.last, record.Offset(binary.BigEndian.Uint64(b)))
		b = b[8:]
	}
	if !slices.IsSorted(c.last) {
		return compacted{}, fmt.Errorf("compaction names producers' batches out of order")
	}
	return c, nil
}
