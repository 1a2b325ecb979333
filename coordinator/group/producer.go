package group

import (
	"cmp"
	"math"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// producer is what a shard remembers of a producer that has had a transaction here. The shard is a partition of that
// transaction like any other (T16), so the rules are those of a partition's producers, without sequences (P17).
// A Raft index stands where a partition has an offset; 0 is none.
type producer struct {
	epoch record.Epoch
	// coordinatorEpoch is that of its last marker, -1 if there was none (P21).
	coordinatorEpoch int32
	// openFrom is the index that opened its transaction here, 0 if none is open.
	openFrom uint64
	// lastMarker is the index of its last marker, voidingMarker of the last one that voids a verification begun before it for
	// the present epoch: any but a TV2 marker of that same epoch (T10). voidingMarker <= lastMarker <= touched.
	lastMarker, voidingMarker uint64
	// touched is the index of its last command.
	touched uint64
	// updatedMS is the largest leader's time of its commands (P25).
	updatedMS int64
	// groups have offsets in the open transaction; sorted. There are never more of them than pending offsets, which are counted. The slice is
	// shared and never written to.
	groups []string
}

// unknownProducer stands for one that is not remembered.
var unknownProducer = producer{epoch: record.NoEpoch, coordinatorEpoch: -1, updatedMS: math.MinInt64}

func (p *producer) open() bool { return p.openFrom != 0 }

// mayWrite says whether a producer may add to its transaction here: epoch before verification (P8, P9).
func (p *producer) mayWrite(c *statev1.CommitOffsetsInTransaction) Code {
	epoch := record.Epoch(c.GetProducerEpoch())
	switch {
	case epoch < p.epoch:
		return InvalidProducerEpoch
	case p.open() && epoch == p.epoch:
		return OK // nobody needs to be asked any more (T9)
	case !c.GetVerified():
		return InvalidTxnState
	case epoch > p.epoch && p.lastMarker > c.GetKnownMarker():
		return InvalidTxnState // every marker so far is of a lower epoch
	case epoch == p.epoch && p.voidingMarker > c.GetKnownMarker():
		return InvalidTxnState
	}
	return OK
}

// write is p after it has added to its transaction.
func (p producer) write(epoch record.Epoch, group string, at stamp) producer {
	p.raise(epoch)
	if !p.open() {
		p.openFrom, p.groups = at.index, nil
	}
	if i, ok := slices.BinarySearch(p.groups, group); !ok {
		p.groups = slices.Insert(slices.Clone(p.groups), i, group)
	}
	p.touch(at)
	return p
}

// forgetGroup takes note that a group has no offsets in the producer's transaction any more.
func (s *State) forgetGroup(pid record.ProducerID, group string) {
	p := s.producers[pid]
	if i, ok := slices.BinarySearch(p.groups, group); ok {
		p.groups = slices.Delete(slices.Clone(p.groups), i, i+1)
		s.producers[pid] = p
	}
}

func (p *producer) raise(epoch record.Epoch) {
	if epoch > p.epoch {
		p.epoch, p.voidingMarker = epoch, p.lastMarker // all markers so far are of lower epochs
	}
}

func (p *producer) touch(at stamp) {
	p.touched, p.updatedMS = at.index, max(p.updatedMS, at.now)
}

// endTransaction is the marker: it ends the producer's transaction in every group of the shard (G25), raises its epoch even
// if nothing is open (P22), and counts as activity (P23).
func (s *State) endTransaction(c *statev1.EndTransactionOfOffsets, at stamp) Result {
	pid := record.ProducerID(c.GetProducerId())
	p, known := s.producers[pid]
	if !known {
		p = unknownProducer
	}
	r := refuse("", p.judge(c))
	if r.StoredEpoch = p.epoch; r.Code == OK && !known && !s.roomForProducer() {
		r.Code = TooManyProducers
	}
	if r.Code != OK {
		return r
	}
	r.Changed = true
	if at.dry {
		return r
	}
	for _, id := range p.groups {
		s.settle(id, pid, c.GetCommit())
	}
	s.setProducer(pid, p.end(c, at))
	return r
}

// ProducerEpochs gives the epoch of a producer and that of the coordinator that sent its last marker; -1: there is none.
func (s *State) ProducerEpochs(id record.ProducerID) (record.Epoch, int32) {
	p, ok := s.producers[id]
	if !ok {
		p = unknownProducer
	}
	return p.epoch, p.coordinatorEpoch
}

// judge decides on a marker: the producer's epoch comes before the coordinator's (P20, P21).
func (p *producer) judge(c *statev1.EndTransactionOfOffsets) Code {
	epoch := record.Epoch(c.GetProducerEpoch())
	switch {
	case epoch < p.epoch:
		return InvalidProducerEpoch
	case c.GetVersion() >= 2 && epoch == p.epoch && p.open() && epoch != math.MaxInt16:
		return InvalidProducerEpoch // TV2 ends a transaction with the next epoch only
	case c.GetCoordinatorEpoch() < p.coordinatorEpoch:
		return CoordinatorFenced
	}
	return OK
}

// end is p after a marker.
func (p producer) end(c *statev1.EndTransactionOfOffsets, at stamp) producer {
	p.raise(record.Epoch(c.GetProducerEpoch()))
	p.coordinatorEpoch = c.GetCoordinatorEpoch()
	p.openFrom, p.groups = 0, nil
	p.lastMarker = at.index
	if c.GetVersion() < 2 {
		p.voidingMarker = at.index
	}
	p.touch(at)
	return p
}

// settle makes the pending offsets of a transaction count, or drops them. One that was committed in another way since keeps
// its place: the log decides, not the end of the transaction (G24).
func (s *State) settle(id string, pid record.ProducerID, commit bool) {
	if s.groups[id] == nil || s.groups[id].pending[pid] == nil {
		return // there is nothing to settle
	}
	g := s.edit(id)
	ended := g.pending[pid]
	delete(g.pending, pid)
	n, bytes := ended.size()
	s.offsets -= n
	s.bytes -= bytes
	if !commit {
		return
	}
	g.offsets = g.offsets.edit(s.owner)
	ended.each(func(topic string, partition int32, value *Offset) {
		if old := g.offsets.get(topic, partition); old == nil || old.Position < value.Position {
			s.put(g.offsets, topic, partition, *value)
		}
	})
}

// roomForProducer says whether one more can be remembered, if need be by forgetting idle ones.
func (s *State) roomForProducer() bool {
	if len(s.producers) < s.limits.MaxProducers {
		return true
	}
	for _, p := range s.producers {
		if !p.open() {
			return true
		}
	}
	return false
}

// setProducer remembers what became of a producer. If there are too many, those go whose last command lies lowest in the log,
// a sixteenth of all at once, never one whose transaction is open. That forgets a fence too: the price of the bound, as
// it is of expiry.
func (s *State) setProducer(id record.ProducerID, p producer) {
	if _, known := s.producers[id]; !known && len(s.producers) >= s.limits.MaxProducers {
		s.evict(len(s.producers) + 1 - s.limits.MaxProducers + s.limits.MaxProducers/16)
	}
	s.producers[id] = p
}

func (s *State) evict(n int) {
	type idle struct {
		id      record.ProducerID
		touched uint64
	}
	var list []idle
	for id, p := range s.producers {
		if !p.open() {
			list = append(list, idle{id, p.touched})
		}
	}
	slices.SortFunc(list, func(a, b idle) int { return cmp.Compare(a.touched, b.touched) })
	for _, one := range list[:min(n, len(list))] {
		delete(s.producers, one.id)
	}
}

// expireProducers forgets those that are idle for long (P25, R5).
func (s *State) expireProducers(c *statev1.ExpireGroupProducers, at stamp) Result {
	r := refuse("", OK)
	for id, p := range s.producers {
		if p.open() || p.updatedMS > c.GetCutoffMs() || c.GetBelowIndex() != 0 && p.touched >= c.GetBelowIndex() {
			continue
		}
		if r.Removed++; !at.dry {
			delete(s.producers, id)
		}
	}
	r.Changed = r.Removed > 0
	return r
}

// LastMarker is the index of the producer's last marker, 0 if there is none. The leader notes it before it asks the
// transaction coordinator (T10).
func (s *State) LastMarker(id record.ProducerID) uint64 { return s.producers[id].lastMarker }

// HasOpen says whether the producer has a transaction open here at exactly this epoch, so that nobody has to be asked (T9).
func (s *State) HasOpen(id record.ProducerID, epoch record.Epoch) bool {
	p, ok := s.producers[id]
	return ok && p.open() && p.epoch == epoch
}
