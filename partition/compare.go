package partition

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition/recordlog"
	"github.com/oncelog/oncelog/record"
)

// Replicas that applied the same entries hold the same bytes. What a disk, a memory or a bug changed beneath checksums that
// still fit is seen by nobody who reads one replica; so leaders compare. Each range of committed entries is summed by
// every replica, and who differs from a majority of the voters is condemned: it stops as one whose log is damaged, and is
// rebuilt from the others.

// EntrySum is what a range of a replica's committed entries adds up to.
type EntrySum struct {
	// SHA256 is over index, term, type, envelope and data of each entry. It is no CRC: what has slipped through one slips
	// through another of the same polynomial.
	SHA256 [sha256.Size]byte
	// Sound: every batch's own checksum fits.
	Sound bool
}

// Comparer asks the replicas of a group on other brokers.
type Comparer interface {
	SumEntries(ctx context.Context, of raftgroup.ServerID, group raftgroup.GroupID, from, through record.Index) (EntrySum, error)
	// Condemn tells a replica that it differs from a majority at an index.
	Condemn(ctx context.Context, of raftgroup.ServerID, group raftgroup.GroupID, at record.Index, reason string) error
}

// compareTimeout bounds one question to another broker.
const compareTimeout = 10 * time.Second

// ErrNotComparable: the replica does not hold all of the range, or has not applied it yet.
var ErrNotComparable = errors.New("entries are not there, or not applied yet")

// summer adds entries up.
type summer struct {
	hash  hash.Hash
	sound bool
}

func newSummer() *summer { return &summer{hash: sha256.New(), sound: true} }

func (s *summer) add(e *recordlog.Entry) {
	var head [25]byte
	binary.BigEndian.PutUint64(head[0:], uint64(e.Index))
	binary.BigEndian.PutUint64(head[8:], uint64(e.Term))
	binary.BigEndian.PutUint64(head[16:], uint64(len(e.Ext)))
	head[24] = e.Type
	for _, b := range [][]byte{head[:], e.Ext, e.Data} {
		s.hash.Write(b) // never fails
	}
	if e.Records == 0 {
		return
	}
	for rest := e.Data; len(rest) > 0 && s.sound; {
		b, r, err := record.Parse(rest)
		s.sound = err == nil && b.CheckCRC() == nil
		rest = r
	}
}

func (s *summer) sum() EntrySum {
	sum := EntrySum{Sound: s.sound}
	s.hash.Sum(sum.SHA256[:0])
	return sum
}

// String shows enough of it to tell it from others.
func (s EntrySum) String() string {
	if !s.Sound {
		return fmt.Sprintf("%x, and checksums of batches do not fit", s.SHA256[:6])
	}
	return fmt.Sprintf("%x", s.SHA256[:6])
}

// sumUpTo sums entries from an index on, about maxBytes of them, at most through another. It gives the last one. Entries that
// compaction has been at are not summed, since replicas do that in their own time: errCompacted, and the last of these.
func (r *Replica) sumUpTo(from, through record.Index, maxBytes int) (s EntrySum, last record.Index, err error) {
	entries, err := r.log.EntriesForPeer(from, through, maxBytes)
	if err != nil {
		r.noticed(err)
		return s, 0, err
	}
	all := newSummer()
	for i := range entries {
		if entries[i].First != 0 {
			return EntrySum{}, entries[i].Index, errCompacted
		}
		all.add(&entries[i])
		last = entries[i].Index
	}
	return all.sum(), last, nil
}

// SumEntries sums entries of the replica with an incarnation, for a leader that compares.
func (h *Host) SumEntries(group raftgroup.GroupID, incarnation uint64, from, through record.Index) (EntrySum, error) {
	r := h.incarnation(group, incarnation)
	if r == nil {
		return EntrySum{}, fmt.Errorf("group %d has no replica of incarnation %d on broker %d", group, incarnation, h.config.Broker)
	}
	if through > r.Applied() || from < r.log.StartIndex() || r.damaged.Load() != nil {
		return EntrySum{}, ErrNotComparable
	}
	all := newSummer()
	for next := from; next <= through; {
		entries, err := r.log.EntriesForPeer(next, through, scrubStep)
		if err != nil {
			r.noticed(err)
			return EntrySum{}, err
		}
		if len(entries) == 0 {
			return EntrySum{}, ErrNotComparable
		}
		for i := range entries {
			if entries[i].First != 0 {
				return EntrySum{}, ErrNotComparable // compaction has been there
			}
			all.add(&entries[i])
		}
		next = entries[len(entries)-1].Index + 1
	}
	return all.sum(), nil
}

// Condemn ends the replica with an incarnation: a majority of its group holds something else at an index.
func (h *Host) Condemn(group raftgroup.GroupID, incarnation uint64, at record.Index, reason string) {
	if r := h.incarnation(group, incarnation); r != nil {
		r.condemned(at, reason)
	}
}

// condemned ends this replica as one whose log is damaged.
func (r *Replica) condemned(at record.Index, reason string) {
	r.noticed(&recordlog.CorruptionError{Segment: "no segment in particular", Index: at, Expected: "what a majority of the group holds", Found: reason})
}

// incarnation finds an open replica by group and incarnation.
func (h *Host) incarnation(group raftgroup.GroupID, incarnation uint64) *Replica {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r := h.byGroup[group]; r != nil && r.spec.Self == raftgroup.MakeServerID(h.config.Broker, incarnation) {
		return r
	}
	return nil
}

// compare compares the log with the other replicas', if this one leads; false: the host stops. It reads no faster than a
// search for damage.
func (r *Replica) compare() bool {
	if r.host.config.Compare == nil {
		return true
	}
	pause := time.Duration(float64(time.Second) * scrubStep / float64(r.host.config.ScrubBytes))
	through := r.Applied()
	begin := r.log.StartIndex()
	for from := begin; from <= through; {
		if from > begin && !r.host.sleep(pause) {
			return false
		}
		if _, leads := r.group.IsReady(); !leads || r.damaged.Load() != nil {
			return true
		}
		own, last, err := r.sumUpTo(from, through, scrubStep)
		switch begin := r.log.StartIndex(); {
		case errors.Is(err, recordlog.ErrNotFound) && from < begin:
			from = begin // retention has passed
			continue
		case errors.Is(err, errCompacted):
			from = last + 1
			continue
		case err != nil || last < from:
			return true
		}
		r.compareRange(from, last, own)
		from = last + 1
	}
	return true
}

// compareRange asks all other voters for the same range and does what follows.
func (r *Replica) compareRange(from, through record.Index, own EntrySum) {
	sums := map[raftgroup.ServerID]EntrySum{r.spec.Self: own}
	voters := r.group.Status().Voters
	for _, v := range voters {
		if v == r.spec.Self {
			continue
		}
		ctx, cancel := context.WithTimeout(r.host.ctx, compareTimeout)
		sum, err := r.host.config.Compare.SumEntries(ctx, v, r.spec.Group, from, through)
		cancel()
		if err == nil {
			sums[v] = sum
		}
	}
	m := r.host.metrics.compared
	wrong, differ := whoIsWrong(sums, len(voters))
	switch {
	case !differ && len(sums) < len(voters):
		m.WithLabelValues("incomplete").Inc()
	case !differ:
		m.WithLabelValues("equal").Inc()
	case len(wrong) == 0:
		m.WithLabelValues("undecided").Inc()
		r.logger.Error("replicas differ, and no majority says which is right", "from", uint64(from), "through", uint64(through), "sums", fmt.Sprint(sums))
	default:
		m.WithLabelValues("different").Inc()
	}
	for _, v := range wrong {
		reason := fmt.Sprintf("entries %d to %d add up to %s", from, through, sums[v])
		r.logger.Error("a replica differs from the others", "replica", string(v), "from", uint64(from), "through", uint64(through), "sums", fmt.Sprint(sums))
		if v == r.spec.Self {
			r.condemned(from, reason)
			continue
		}
		ctx, cancel := context.WithTimeout(r.host.ctx, compareTimeout)
		if err := r.host.config.Compare.Condemn(ctx, v, r.spec.Group, from, reason); err != nil {
			r.logger.Warn("a replica that differs was not told", "replica", string(v), "err", err) // the next comparison finds it again
		}
		cancel()
	}
}

// whoIsWrong judges sums of the same range. Those whose own checksums do not fit are wrong if another's do; else those that
// differ from what more than half of all voters hold. Never are so many wrong that, with those that did not answer, no majority is
// left: these may be the ones that were condemned a moment ago.
func whoIsWrong(sums map[raftgroup.ServerID]EntrySum, voters int) (wrong []raftgroup.ServerID, differ bool) {
	count := map[[sha256.Size]byte]int{}
	sound := map[[sha256.Size]byte]bool{}
	for _, s := range sums {
		count[s.SHA256]++
		sound[s.SHA256] = s.Sound
	}
	if len(count) < 2 {
		return nil, false
	}
	var right [sha256.Size]byte
	found := false
	for sum, n := range count {
		if n > voters/2 {
			right, found = sum, true
		}
	}
	if !found {
		// No majority: if one sum alone is of entries whose own checksums fit, it is right.
		for sum, ok := range sound {
			if ok && found {
				return nil, true
			}
			if ok {
				right, found = sum, true
			}
		}
	}
	if !found || !sound[right] {
		return nil, true
	}
	for v, s := range sums {
		if s.SHA256 != right {
			wrong = append(wrong, v)
		}
	}
	if len(wrong)+voters-len(sums) > (voters-1)/2 {
		return nil, true
	}
	return wrong, true
}
