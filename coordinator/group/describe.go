package group

import (
	"cmp"
	"maps"
	"slices"

	"github.com/oncelog/oncelog/record"
)

// Phase is where a group is in its life, by Kafka's names.
type Phase string

// The phases. Those of groups with members are told apart by Kafka for each protocol in its own way.
const (
	// PhaseEmpty: nobody is a member.
	PhaseEmpty Phase = "Empty"
	// PhaseAssigning: members or subscriptions have changed, and new targets are not there yet.
	PhaseAssigning Phase = "Assigning"
	// PhaseReconciling: some members are still on their way to their targets.
	PhaseReconciling Phase = "Reconciling"
	// PhasePreparingRebalance: members of the classic protocol are to join again. Only the leader knows.
	PhasePreparingRebalance Phase = "PreparingRebalance"
	// PhaseCompletingRebalance: a generation has begun, and its leader has not assigned yet.
	PhaseCompletingRebalance Phase = "CompletingRebalance"
	// PhaseStable: everyone has what it is to have.
	PhaseStable Phase = "Stable"
)

// state is the group's phase.
func (g *group) state() Phase {
	c := g.consumers()
	switch {
	case g.empty():
		return PhaseEmpty
	case g.classic != nil && g.classic.assigned:
		return PhaseStable
	case g.classic != nil:
		return PhaseCompletingRebalance
	case c.assignmentEpoch < g.epoch:
		return PhaseAssigning
	}
	for _, m := range c.members {
		if m.Status != Stable || m.Epoch != c.assignmentEpoch {
			return PhaseReconciling
		}
	}
	return PhaseStable
}

// Kind tells apart the protocols that groups speak.
type Kind string

// The kinds of groups, by Kafka's names.
const (
	// KindSimple: nobody was ever a member; the group is a place for offsets.
	KindSimple Kind = "Simple"
	// KindConsumer: members of KIP-848.
	KindConsumer Kind = "Consumer"
	// KindClassic: members of the classic protocol.
	KindClassic Kind = "Classic"
)

// Description is one group as it is.
type Description struct {
	ID    string
	Kind  Kind
	Phase Phase
	// Epoch is the group epoch or generation, AssignmentEpoch the group epoch that targets were computed for.
	Epoch, AssignmentEpoch int32
	// Members are those of KIP-848, sorted by id, Classic those of the classic protocol.
	Members []*Member
	Classic []*ClassicMember
	// ProtocolType, Protocol and Leader are those of a group of the classic protocol; empty: it has, or had, no members.
	ProtocolType, Protocol, Leader string
	// Left: members of the generation have left, and everyone is to join again.
	Left bool
	// Topics names what members' partitions are of.
	Topics map[TopicID]string
	// Matched are the topics that members' patterns matched when targets were computed.
	Matched []string
	// Offsets counts committed offsets, Transactions the producers with offsets in open transactions.
	Offsets, Transactions int
	// Pending are the offsets in open transactions, by the age of these, at most MaxPendingDescribed; only Describe gives them.
	Pending []Pending
}

// MaxPendingDescribed bounds the producers of a description, MaxPendingPartitions the partitions of each of them.
const (
	MaxPendingDescribed  = 100
	MaxPendingPartitions = 1000
)

// Pending are a group's offsets in the open transaction of a producer.
type Pending struct {
	ProducerID record.ProducerID
	Epoch      record.Epoch
	// Partitions are sorted.
	Partitions []record.TopicPartition
}

// Describe tells what is known of a group.
func (s *State) Describe(id string) (Description, bool) {
	g := s.groups[id]
	if g == nil {
		return Description{}, false
	}
	d := g.summary()
	c := g.consumers()
	d.Classic = g.classics().sorted()
	d.Pending = s.pendingIn(g)
	d.AssignmentEpoch, d.Members, d.Topics, d.Matched = c.assignmentEpoch, c.sorted(), maps.Clone(c.topics), c.matched
	return d, true
}

// pendingIn lists the offsets of a group in open transactions.
func (s *State) pendingIn(g *group) []Pending {
	ids := slices.Collect(maps.Keys(g.pending))
	slices.SortFunc(ids, func(a, b record.ProducerID) int {
		return cmp.Or(cmp.Compare(s.producers[a].openFrom, s.producers[b].openFrom), cmp.Compare(a, b))
	})
	list := make([]Pending, 0, min(len(ids), MaxPendingDescribed))
	for _, id := range ids[:cap(list)] {
		p := Pending{ProducerID: id, Epoch: s.producers[id].epoch}
		g.pending[id].each(func(topic string, partition int32, _ *Offset) {
			if len(p.Partitions) < MaxPendingPartitions {
				p.Partitions = append(p.Partitions, record.TopicPartition{Topic: topic, Partition: partition})
			}
		})
		list = append(list, p)
	}
	return list
}

// Member gives a member of a group of KIP-848; nil: there is none.
func (s *State) Member(id, member string) *Member { return s.groups[id].consumers().members[member] }

// Epochs gives a group's epoch and that of the members' targets; 0: there is no such group.
func (s *State) Epochs(id string) (epoch, assignment int32) {
	if g := s.groups[id]; g != nil {
		return g.epoch, g.consumers().assignmentEpoch
	}
	return 0, 0
}

// TopicName gives the name of a topic that members of a group have partitions of.
func (s *State) TopicName(id string, topic TopicID) (string, bool) {
	name, ok := s.groups[id].consumers().topics[topic]
	return name, ok
}

// Summarize tells of a group what List does, without looking at every member.
func (s *State) Summarize(id string) (Description, bool) {
	g := s.groups[id]
	if g == nil {
		return Description{}, false
	}
	return g.summary(), true
}

// List tells of every group, sorted by id, all but members and topics.
func (s *State) List() []Description {
	list := make([]Description, 0, len(s.groups))
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		list = append(list, s.groups[id].summary())
	}
	return list
}

func (g *group) summary() Description {
	d := Description{ID: g.id, Kind: KindSimple, Phase: g.state(), Epoch: g.epoch, Transactions: len(g.pending)}
	if g.consumer != nil {
		d.Kind = KindConsumer
	}
	if c := g.classic; c != nil {
		d.Kind, d.ProtocolType, d.Protocol, d.Leader, d.Left = KindClassic, c.protocolType, c.protocol, c.leader, c.left
	}
	d.Offsets, _ = g.offsets.size()
	return d
}
