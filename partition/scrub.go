package partition

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/internal/vfs"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Bits rot where nobody looks. Every replica's log is read through once in a while, slowly, so that
// damage is found while other replicas still have what it destroyed.

// scrubStep is how much is read between two pauses.
const scrubStep = 256 << 10

// firstScrub is how long after the start the first look begins, at the latest: a broker that is
// restarted every day has its logs read, too.
const firstScrub = 10 * time.Minute

// scrub reads all logs of this host, at most ScrubBytes in a second, and begins again when
// ScrubInterval has passed since the last look ended, until the host stops.
func (h *Host) scrub() {
	for wait := min(h.config.ScrubInterval, firstScrub); h.sleep(wait); wait = h.config.ScrubInterval {
		for _, r := range h.all() {
			if !r.scrub() || !r.compare() || h.ctx.Err() != nil {
				return
			}
		}
		h.metrics.scrubs.Inc()
	}
}

// sleep waits; false: the host stops.
func (h *Host) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-h.stopping:
		return false
	}
}

// scrub reads one log through; false: the host stops.
func (r *Replica) scrub() bool {
	pause := time.Duration(float64(time.Second) * scrubStep / float64(r.host.config.ScrubBytes))
	for from := record.Index(1); from != 0; {
		if from > 1 && !r.host.sleep(pause) {
			return false
		}
		next, err := r.log.Scrub(from, scrubStep)
		if err != nil {
			r.noticed(err)
			return true
		}
		from = next
	}
	return true
}

// noticed looks at an error of reading the log. Damage ends this replica: it has lost what it
// acknowledged, and may not vote for a leader that lacks that too. The others have it; before,
// leadership goes to one of them. The only replica goes on with what it has, and says so.
func (r *Replica) noticed(err error) {
	r.condemn(err, func() bool { return len(r.group.Status().Voters) <= 1 })
}

// onDamage is told of damage that Raft has met (raftgroup). It has stopped this replica by now, if it could not do without.
func (r *Replica) onDamage(err error, only bool) {
	r.host.background(func() {
		select {
		case <-r.opened:
			r.condemn(err, func() bool { return only })
		case <-r.host.stopping:
		}
	})
}

// condemn ends this replica if an error is damage and there are others.
func (r *Replica) condemn(err error, only func() bool) {
	var damage *recordlog.CorruptionError
	if !errors.As(err, &damage) || !r.damaged.CompareAndSwap(nil, &err) {
		return
	}
	r.host.metrics.damaged.Inc()
	r.logger.Error("the log is damaged", "segment", damage.Segment, "position", damage.Position, "index", uint64(damage.Index), "err", err)
	if only() {
		return
	}
	r.host.background(func() { r.leave(err) })
}

// leaveTimeout is how long a damaged leader looks for a successor.
const leaveTimeout = 2 * time.Second

// leave ends a damaged replica for good.
func (r *Replica) leave(err error) {
	if _, leads := r.group.IsReady(); leads {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		if e := r.group.TransferLeadership(ctx, ""); e != nil {
			r.logger.Warn("a damaged leader found no successor", "err", e)
		}
		cancel()
	}
	// Without the mark, which names the damage to whoever opens it again, the next reader or the next
	// scrub would find it anew: nothing else depends on it.
	if e := r.mark(err); e != nil {
		r.logger.Warn("damage not noted", "err", e)
	}
	r.group.Fail(err)
	r.left.Store(true)
}

// damageFile is in the directory of a replica whose log was found to be damaged; it says how. Such a
// replica is not opened again.
const damageFile = "damaged"

// ErrReplicaDamaged says that damage was found in a replica's log earlier.
var ErrReplicaDamaged = errors.New("the replica's log was found to be damaged: it must be replaced by a new replica")

func (r *Replica) mark(damage error) error {
	dir := r.host.replicaDir(r.spec)
	return vfs.WriteFileAtomic(r.host.config.FS, filepath.Join(dir, damageFile), []byte(damage.Error()+"\n"))
}

// checkUndamaged refuses a replica that was marked.
func checkUndamaged(fsys vfs.FS, dir string, self raftgroup.ServerID) error {
	found, err := vfs.Exists(fsys, filepath.Join(dir, damageFile))
	if err != nil || !found {
		return err
	}
	text, err := vfs.ReadFile(fsys, filepath.Join(dir, damageFile))
	return errors.Join(fmt.Errorf("replica %s: %w: %s", self, ErrReplicaDamaged, text), err)
}
