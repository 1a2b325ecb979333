package partition

import (
	"time"

	"github.com/oncelog/oncelog/record"
)

// CompactionStatus is how far a replica's log is compacted.
type CompactionStatus struct {
	// Agreed is below which it is to be, Horizon below which tombstones and markers go; Compacted is how far it is.
	Agreed, Horizon, Compacted record.Offset
	// CleanBytes are in segments that are compacted, DirtyBytes in those that could be.
	CleanBytes, DirtyBytes int64
	// DirtyRatio is that of the latter among both at which the next pass is agreed (min.cleanable.dirty.ratio). Due: it is to
	// be agreed at the leader's next look.
	DirtyRatio float64
	Due        bool
	// Done: the log is as was agreed.
	Done bool
	// Running: a pass is under way, and has read so many of about Total bytes.
	Running     bool
	Read, Total int64
	// Last is the last pass since the replica was opened; nil: none.
	Last *LastPass
}

// LastPass is a pass that was done.
type LastPass struct {
	Ended time.Time
	Took  time.Duration
	// Read and Written are bytes of segments before and after.
	Read, Written int64
}

func (r *Replica) compactionStatus() *CompactionStatus {
	c := r.config.Load()
	if !c.Compacted && r.agreedCompaction().below == 0 {
		return nil // nothing is read of the many logs that are not compacted
	}
	d, agreed, err := r.dirt(r.host.config.Wall())
	if err != nil {
		return nil // a log that cannot be read shows itself elsewhere
	}
	done := r.hasCompacted(&agreed)
	s := &CompactionStatus{Agreed: agreed.below, Horizon: agreed.horizon, Compacted: r.cleanedBelow(),
		CleanBytes: d.clean, DirtyBytes: d.dirty, DirtyRatio: c.DirtyRatio, Due: d.due && c.Compacted, Done: done, Last: r.lastPass.Load()}
	if p := r.passing.Load(); p != nil {
		s.Running, s.Read, s.Total = true, p.read.Load(), p.total
	}
	return s
}
