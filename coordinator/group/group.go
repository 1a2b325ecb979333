package group

import (
	"maps"

	"github.com/oncelog/oncelog/record"
)

// group is one group. A group that is shared with a clone is copied before it is changed (State.edit).
type group struct {
	owner *token
	id    string
	// epoch is the group epoch of KIP-848 or the generation; 0: nobody was ever a member. It never goes back, whatever kind of group it
	// is from time to time.
	epoch int32
	// consumer is set if the group is one of KIP-848, or was the last time that it had members.
	consumer *consumer
	// classic is set if it is one of the classic protocol, or was. At most one of the two is set.
	classic *classic
	// offsets are the committed ones.
	offsets *offsets
	// pending are those that wait for the end of their producer's transaction (G23). None of them is empty.
	pending map[record.ProducerID]*offsets
}

// groupBytes is what a group counts beside its name.
const groupBytes = 256

func (g *group) bytes() int64 { return groupBytes + int64(len(g.id)) }

// edit gives a group that may be written to, and makes it if it does not exist.
func (s *State) edit(id string) *group {
	g := s.groups[id]
	switch {
	case g == nil:
		g = &group{owner: s.owner, id: id, pending: make(map[record.ProducerID]*offsets)}
		s.bytes += g.bytes()
	case g.owner == s.owner:
		return g
	default:
		c := *g
		c.owner, c.pending, c.consumer, c.classic = s.owner, maps.Clone(g.pending), g.consumer.clone(), g.classic.clone()
		g = &c
	}
	s.groups[id] = g
	return g
}

// drop forgets a group with all its offsets.
func (s *State) drop(id string) {
	g := s.groups[id]
	n, bytes := g.offsets.size()
	for pid, o := range g.pending {
		more, moreBytes := o.size()
		n, bytes = n+more, bytes+moreBytes
		s.forgetGroup(pid, id)
	}
	s.offsets -= n
	s.bytes -= bytes + g.bytes() + g.consumer.bytes() + g.classic.bytes()
	delete(s.groups, id)
}

// empty: nobody is a member.
func (g *group) empty() bool {
	return len(g.consumers().members) == 0 && len(g.classics().members) == 0
}

// subscribes says whether a member reads the topic, and so its offsets must stay.
func (g *group) subscribes(topic string) bool {
	return g.consumers().subscribes(topic) || g.classics().subscribes(topic)
}

// isPending says whether an offset of the partition waits for the end of a transaction.
func (g *group) isPending(topic string, partition int32) bool {
	for _, o := range g.pending {
		if o.get(topic, partition) != nil {
			return true
		}
	}
	return false
}

// put sets an offset of a table that belongs to one of the groups, and counts.
func (s *State) put(o *offsets, topic string, partition int32, value Offset) {
	s.uncount(topic, o.get(topic, partition))
	o.put(s.owner, topic, partition, value)
	s.offsets++
	s.bytes += value.bytes(topic)
}

// remove forgets an offset, and counts.
func (s *State) remove(o *offsets, topic string, partition int32) {
	s.uncount(topic, o.get(topic, partition))
	o.remove(s.owner, topic, partition)
}

func (s *State) uncount(topic string, o *Offset) {
	if o != nil {
		s.offsets--
		s.bytes -= o.bytes(topic)
	}
}
