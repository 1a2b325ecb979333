package group

import (
	"maps"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// deleteOffsets deletes committed and pending offsets of topics that nobody is subscribed to (G24, G30). Partitions without
// an offset are passed over.
func (s *State) deleteOffsets(id string, c *statev1.DeleteOffsets, at stamp) Result {
	g := s.groups[id]
	if g == nil {
		return refuse(id, GroupIDNotFound)
	}
	if c := g.classics(); len(c.members) > 0 && c.protocolType != ConsumerProtocolType {
		return refuse(id, NonEmptyGroup)
	}
	r := refuse(id, OK)
	asked := make(map[record.TopicPartition]bool)
	for _, t := range c.GetTopics() {
		if g.subscribes(t.GetTopic()) {
			r.Subscribed = append(r.Subscribed, t.GetTopic())
			continue
		}
		for _, p := range t.GetPartitions() {
			asked[record.TopicPartition{Topic: t.GetTopic(), Partition: p}] = true
		}
	}
	r.Removed = s.prune(id, at, func(tp record.TopicPartition, _ *Offset) bool { return asked[tp] })
	r.Changed = r.Removed > 0
	return r
}

// deleteGroup deletes a group that nobody is in. Offsets in open transactions go with it, and the commit of these brings
// nothing back (G30).
func (s *State) deleteGroup(id string, at stamp) Result {
	g := s.groups[id]
	switch {
	case g == nil:
		return refuse(id, GroupIDNotFound)
	case !g.empty():
		return refuse(id, NonEmptyGroup)
	}
	if !at.dry {
		s.drop(id)
	}
	return changed(id)
}

// forgetTopics deletes the offsets of topics that exist no more (G30).
func (s *State) forgetTopics(c *statev1.ForgetTopics, at stamp) Result {
	gone := make(map[TopicID]bool)
	for _, id := range c.GetTopicIds() {
		gone[TopicID(id)] = true
	}
	r := refuse("", OK)
	for id := range s.groups {
		r.Removed += s.prune(id, at, func(_ record.TopicPartition, value *Offset) bool { return gone[value.TopicID] })
	}
	r.Changed = r.Removed > 0
	return r
}

// prune deletes the offsets of a group, committed and pending, that are said to be gone. It counts them.
func (s *State) prune(id string, at stamp, gone func(record.TopicPartition, *Offset) bool) int {
	g := s.groups[id]
	n := 0
	if found := g.offsets.filter(gone); len(found) > 0 {
		n += len(found)
		if !at.dry {
			g = s.edit(id)
			g.offsets = g.offsets.edit(s.owner)
			s.removeAll(g.offsets, found)
		}
	}
	for _, pid := range slices.Collect(maps.Keys(g.pending)) {
		found := g.pending[pid].filter(gone)
		if n += len(found); len(found) == 0 || at.dry {
			continue
		}
		g = s.edit(id)
		o := g.pending[pid].edit(s.owner)
		g.pending[pid] = o
		if s.removeAll(o, found); o.empty() {
			delete(g.pending, pid)
			s.forgetGroup(pid, id)
		}
	}
	return n
}

func (s *State) removeAll(o *offsets, list []record.TopicPartition) {
	for _, tp := range list {
		s.remove(o, tp.Topic, tp.Partition)
	}
}

// filter lists the partitions whose offsets fulfil a condition.
func (o *offsets) filter(condition func(record.TopicPartition, *Offset) bool) []record.TopicPartition {
	var found []record.TopicPartition
	o.each(func(topic string, partition int32, value *Offset) {
		if tp := (record.TopicPartition{Topic: topic, Partition: partition}); condition(tp, value) {
			found = append(found, tp)
		}
	})
	return found
}

// TopicIDs lists the topics that offsets are held of, sorted: what a leader compares with the topics there are.
func (s *State) TopicIDs() []TopicID {
	seen := make(map[TopicID]bool)
	note := func(_ string, _ int32, value *Offset) { seen[value.TopicID] = true }
	for _, g := range s.groups {
		g.offsets.each(note)
		for _, o := range g.pending {
			o.each(note)
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b TopicID) int { return slices.Compare(a[:], b[:]) })
}
