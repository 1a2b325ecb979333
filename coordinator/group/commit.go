package group

import (
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// NoEpochShown is what a committer shows who is no member of the group.
const NoEpochShown int32 = -1

// Committer is who commits or fetches offsets.
type Committer struct {
	// MemberID and InstanceID are empty if there are none.
	MemberID, InstanceID string
	// Epoch is the generation, or the member's epoch; below 0: none.
	Epoch int32
}

func committerOf(c *statev1.Committer) Committer {
	return Committer{MemberID: c.GetMemberId(), InstanceID: c.GetInstanceId(), Epoch: c.GetEpoch()}
}

// anonymous: it does not say who it is. Old transactional producers do not (G22).
func (c Committer) anonymous() bool { return c.MemberID == "" && c.InstanceID == "" && c.Epoch < 0 }

// commit takes offsets (G19 to G21).
func (s *State) commit(id string, c *statev1.CommitOffsets, at stamp) Result {
	g := s.groups[id]
	if code := g.mayCommit(committerOf(c.GetCommitter()), c.GetTopics(), false); code != OK {
		return refuse(id, code)
	}
	if len(c.GetTopics()) == 0 {
		return refuse(id, OK) // no group is made for that
	}
	if code := s.roomFor(id, g.committed(), c.GetTopics()); code != OK {
		return refuse(id, code)
	}
	if at.dry {
		return changed(id)
	}
	g = s.edit(id)
	g.offsets = g.offsets.edit(s.owner)
	s.take(g.offsets, c.GetTopics(), c.GetExpireMs(), at)
	return changed(id)
}

// commitInTransaction takes offsets that count when the transaction is committed (G22 to G24). The producer's epoch fences
// zombies of the producer, the member's epoch those of the task; the first comes first, for it is the one that tells a zombie
// to stop for good.
func (s *State) commitInTransaction(id string, c *statev1.CommitOffsetsInTransaction, at stamp) Result {
	g, pid := s.groups[id], record.ProducerID(c.GetProducerId())
	p, known := s.producers[pid]
	if !known {
		p = unknownProducer
	}
	refused := func(code Code) Result {
		r := refuse(id, code)
		r.StoredEpoch = p.epoch
		return r
	}
	if code := p.mayWrite(c); code != OK {
		return refused(code)
	}
	if by := committerOf(c.GetCommitter()); !by.anonymous() {
		if code := g.mayCommit(by, c.GetTopics(), true); code != OK {
			return refused(code)
		}
	}
	if len(c.GetTopics()) == 0 {
		return refused(OK)
	}
	if code := s.roomFor(id, g.pendingOf(pid), c.GetTopics()); code != OK {
		return refused(code)
	}
	if !known && !s.roomForProducer() {
		return refused(TooManyProducers)
	}
	r := changed(id)
	r.StoredEpoch = p.epoch
	if at.dry {
		return r
	}
	g = s.edit(id)
	g.pending[pid] = g.pending[pid].edit(s.owner)
	s.take(g.pending[pid], c.GetTopics(), NoExpiry, at)
	s.setProducer(pid, p.write(record.Epoch(c.GetProducerEpoch()), id, at))
	return r
}

// take stores the offsets of a command.
func (s *State) take(into *offsets, topics []*statev1.TopicOffsets, expire int64, at stamp) {
	for _, t := range topics {
		for _, p := range t.GetPartitions() {
			s.put(into, t.GetTopic(), p.GetPartition(), Offset{
				Offset: record.Offset(p.GetOffset()), LeaderEpoch: p.GetLeaderEpoch(), Metadata: p.GetMetadata(),
				TopicID: TopicID(t.GetTopicId()), CommittedMS: at.now, ExpireMS: expire, Position: at.index,
			})
		}
	}
}

// mayCommit says whether a committer may (G19, G20). g is nil if the group does not exist: whoever is in no group makes
// one by committing. Transactional commits do not wait for the end of a rebalance (G22, KIP-447).
func (g *group) mayCommit(by Committer, topics []*statev1.TopicOffsets, transactional bool) Code {
	switch {
	case by.Epoch < 0 && (g == nil || g.empty()):
		return OK
	case g == nil:
		return GroupIDNotFound
	case g.consumer != nil:
		return g.consumer.mayCommit(by, topics)
	case g.classic != nil:
		return g.mayCommitClassic(by, transactional)
	}
	return UnknownMemberID
}

func (g *group) committed() *offsets {
	if g == nil {
		return nil
	}
	return g.offsets
}

func (g *group) pendingOf(id record.ProducerID) *offsets {
	if g == nil {
		return nil
	}
	return g.pending[id]
}

// roomFor says whether the offsets of a command fit into the shard, beside or instead of those that are there.
func (s *State) roomFor(id string, have *offsets, topics []*statev1.TopicOffsets) Code {
	added, bytes := 0, int64(0)
	if s.groups[id] == nil {
		if len(s.groups) >= s.limits.MaxGroups {
			return TooManyGroups
		}
		bytes += groupBytes + int64(len(id))
	}
	for _, t := range topics {
		for _, p := range t.GetPartitions() {
			bytes += bytesOf(t.GetTopic(), p.GetMetadata())
			if old := have.get(t.GetTopic(), p.GetPartition()); old != nil {
				bytes -= old.bytes(t.GetTopic())
			} else {
				added++
			}
		}
	}
	switch {
	case added > 0 && s.offsets+added > s.limits.MaxOffsets:
		return TooManyOffsets
	case bytes > 0 && s.bytes+bytes > s.limits.MaxBytes:
		return TooManyBytes
	}
	return OK
}
