package group

import (
	"fmt"
	"maps"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

const (
	// MaxSnapshotBytes bounds what Restore reads.
	MaxSnapshotBytes = 1 << 30
	// MaxStateBytes is the highest MaxBytes there can be, so that every state can be written and read again.
	MaxStateBytes = MaxSnapshotBytes / 2
)

// snapshotFormat is that of a shard's snapshot: one oncelog.state.v1.GroupShardState.
var snapshotFormat = statev1.Format{Magic: "OLGR", Version: 1, MaxBytes: MaxSnapshotBytes}

func damaged(format string, args ...any) error {
	return fmt.Errorf("group shard: snapshot: %w: %s", statev1.ErrDamaged, fmt.Sprintf(format, args...))
}

// AppendSnapshot appends the shard's snapshot. Equal states give equal bytes (R6).
func (s *State) AppendSnapshot(buf []byte) ([]byte, error) {
	p := &statev1.GroupShardState{Limits: LimitsToProto(s.limits)}
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		p.Groups = append(p.Groups, s.groups[id].toProto())
	}
	for _, id := range slices.Sorted(maps.Keys(s.producers)) {
		p.Producers = append(p.Producers, producerToProto(id, s.producers[id]))
	}
	buf, err := snapshotFormat.Append(buf, p)
	if err != nil {
		return nil, fmt.Errorf("group shard: %w", err)
	}
	return buf, nil
}

func (g *group) toProto() *statev1.GroupState {
	p := &statev1.GroupState{GroupId: g.id, Offsets: g.offsets.toProto(), Epoch: g.epoch, Consumer: g.consumer.toProto(), Classic: g.classic.toProto()}
	for _, id := range slices.Sorted(maps.Keys(g.pending)) {
		p.Pending = append(p.Pending, &statev1.PendingOffsets{ProducerId: int64(id), Topics: g.pending[id].toProto()})
	}
	return p
}

func (o *offsets) toProto() []*statev1.CommittedTopic {
	var topics []*statev1.CommittedTopic
	for _, name := range o.names() {
		t := &statev1.CommittedTopic{Topic: name}
		for _, p := range o.topics[name].list {
			t.Partitions = append(t.Partitions, &statev1.CommittedOffset{
				Partition: p.partition, Offset: int64(p.Offset.Offset), LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata,
				TopicId: slices.Clone(p.TopicID[:]), CommittedMs: p.CommittedMS, ExpireMs: p.ExpireMS, Position: p.Position,
			})
		}
		topics = append(topics, t)
	}
	return topics
}

func producerToProto(id record.ProducerID, p producer) *statev1.GroupProducerState {
	return &statev1.GroupProducerState{
		ProducerId: int64(id), ProducerEpoch: int32(p.epoch), CoordinatorEpoch: p.coordinatorEpoch,
		OpenFrom: p.openFrom, LastMarker: p.lastMarker, VoidingMarker: p.voidingMarker, Touched: p.touched, UpdatedMs: p.updatedMS,
	}
}

// Restore reads what AppendSnapshot gives, and checks every invariant that Apply keeps. Any other bytes give an error that is
// statev1.ErrDamaged or statev1.ErrNewer.
func Restore(b []byte) (*State, error) {
	p := new(statev1.GroupShardState)
	if err := snapshotFormat.Read(b, p); err != nil {
		return nil, fmt.Errorf("group shard: snapshot: %w", err)
	}
	if p.GetLimits() == nil || checkLimits(p.GetLimits()) != nil {
		return nil, damaged("limits %v", p.GetLimits())
	}
	s := New()
	s.limits = limitsOf(p.GetLimits())
	if err := s.restoreProducers(p.GetProducers()); err != nil {
		return nil, err
	}
	previous := ""
	for i, in := range p.GetGroups() {
		if i > 0 && in.GetGroupId() <= previous {
			return nil, damaged("groups are not sorted")
		}
		previous = in.GetGroupId()
		if err := s.restoreGroup(in); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *State) restoreProducers(list []*statev1.GroupProducerState) error {
	previous := int64(record.NoProducerID)
	for _, in := range list {
		p := producer{
			epoch: record.Epoch(in.GetProducerEpoch()), coordinatorEpoch: in.GetCoordinatorEpoch(), openFrom: in.GetOpenFrom(),
			lastMarker: in.GetLastMarker(), voidingMarker: in.GetVoidingMarker(), touched: in.GetTouched(), updatedMS: in.GetUpdatedMs(),
		}
		switch {
		case in.GetProducerId() <= previous:
			return damaged("producers are not sorted")
		case checkProducer(in.GetProducerId(), in.GetProducerEpoch()) != nil || p.coordinatorEpoch < -1:
			return damaged("producer %d: epoch %d, coordinator epoch %d", in.GetProducerId(), in.GetProducerEpoch(), p.coordinatorEpoch)
		case p.voidingMarker > p.lastMarker || p.lastMarker > p.touched || p.touched == 0 ||
			p.open() && (p.openFrom <= p.lastMarker || p.openFrom > p.touched) || (p.lastMarker == 0) != (p.coordinatorEpoch == -1):
			return damaged("producer %d: open from %d, markers at %d and %d, touched at %d", in.GetProducerId(), p.openFrom, p.lastMarker, p.voidingMarker, p.touched)
		}
		previous = in.GetProducerId()
		s.producers[record.ProducerID(previous)] = p
	}
	return nil
}

func (s *State) restoreGroup(in *statev1.GroupState) error {
	if checkID("group id", in.GetGroupId()) != nil {
		return damaged("group id of %d bytes", len(in.GetGroupId()))
	}
	if in.GetEpoch() < 0 {
		return damaged("group %.100q: epoch %d", in.GetGroupId(), in.GetEpoch())
	}
	g := s.edit(in.GetGroupId())
	g.epoch = in.GetEpoch()
	if in.GetConsumer() != nil {
		if err := s.restoreConsumer(g, in.GetConsumer()); err != nil {
			return err
		}
	}
	if in.GetClassic() != nil {
		if err := s.restoreClassic(g, in.GetClassic()); err != nil {
			return err
		}
	}
	if len(in.GetOffsets()) > 0 {
		g.offsets = g.offsets.edit(s.owner)
		if err := s.restoreOffsets(g.offsets, in.GetOffsets()); err != nil {
			return fmt.Errorf("%w: group %.100q", err, g.id)
		}
	}
	previous := int64(record.NoProducerID)
	for _, in := range in.GetPending() {
		id := record.ProducerID(in.GetProducerId())
		p, known := s.producers[id]
		if !known || !p.open() || in.GetProducerId() <= previous || len(in.GetTopics()) == 0 {
			return damaged("group %.100q: pending offsets of producer %d, who has no transaction", g.id, id)
		}
		previous = in.GetProducerId()
		g.pending[id] = g.pending[id].edit(s.owner)
		if err := s.restoreOffsets(g.pending[id], in.GetTopics()); err != nil {
			return fmt.Errorf("%w: group %.100q", err, g.id)
		}
		p.groups = append(slices.Clip(p.groups), g.id) // groups come sorted
		s.producers[id] = p
	}
	return nil
}

func (s *State) restoreOffsets(into *offsets, topics []*statev1.CommittedTopic) error {
	previous := ""
	for _, t := range topics {
		if checkTopic(t.GetTopic()) != nil || t.GetTopic() <= previous || len(t.GetPartitions()) == 0 {
			return damaged("topic %.100q with %d offsets", t.GetTopic(), len(t.GetPartitions()))
		}
		previous = t.GetTopic()
		last := int32(-1)
		for _, p := range t.GetPartitions() {
			if p.GetPartition() <= last || p.GetLeaderEpoch() < -1 || MetadataUnits(p.GetMetadata()) > MaxMetadataUnits ||
				len(p.GetTopicId()) != len(TopicID{}) || p.GetExpireMs() < NoExpiry || p.GetPosition() == 0 {
				return damaged("offset of %.100q/%d", t.GetTopic(), p.GetPartition())
			}
			last = p.GetPartition()
			s.put(into, t.GetTopic(), last, Offset{
				Offset: record.Offset(p.GetOffset()), LeaderEpoch: p.GetLeaderEpoch(), Metadata: p.GetMetadata(), TopicID: TopicID(p.GetTopicId()),
				CommittedMS: p.GetCommittedMs(), ExpireMS: p.GetExpireMs(), Position: p.GetPosition(),
			})
		}
	}
	return nil
}
