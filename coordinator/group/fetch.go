package group

import "slices"

// Want is what is asked of one topic.
type Want struct {
	Topic string
	// TopicID is the topic that has this name now; offsets of another one do not exist (G27).
	TopicID    TopicID
	Partitions []int32
}

// Fetched is one offset as it is found.
type Fetched struct {
	Topic     string
	Partition int32
	// Found: there is a committed offset, which is in Offset.
	Found  bool
	Offset Offset
	// Unstable: a transaction may yet change it, and only what is stable was asked for. Offset is not set (G26).
	Unstable bool
}

// Fetch finds committed offsets, in the order of the question. A group that does not exist has none (G27).
func (s *State) Fetch(id string, wanted []Want, requireStable bool) []Fetched {
	g := s.groups[id]
	var out []Fetched
	for _, w := range wanted {
		for _, partition := range w.Partitions {
			f := Fetched{Topic: w.Topic, Partition: partition}
			if o := g.committed().get(w.Topic, partition); o != nil && o.TopicID == w.TopicID {
				f.Found, f.Offset = true, *o
			}
			if requireStable && g.unstable(w.Topic, partition, w.TopicID) {
				f = Fetched{Topic: w.Topic, Partition: partition, Unstable: true}
			}
			out = append(out, f)
		}
	}
	return out
}

// OfAnotherTopic says that the group holds an offset, committed or pending, of a wanted partition for a topic with the same name and another
// id: either that topic is gone, or the asker has not heard of the present one.
func (s *State) OfAnotherTopic(id string, wanted []Want) bool {
	g := s.groups[id]
	if g == nil {
		return false
	}
	for _, w := range wanted {
		for _, partition := range w.Partitions {
			if o := g.committed().get(w.Topic, partition); o != nil && o.TopicID != w.TopicID {
				return true
			}
			for _, pending := range g.pending {
				if o := pending.get(w.Topic, partition); o != nil && o.TopicID != w.TopicID {
					return true
				}
			}
		}
	}
	return false
}

// FetchAll finds every committed offset of a group, by topic and partition. A partition that only a transaction has an
// offset for is not among them (G26).
func (s *State) FetchAll(id string, requireStable bool) []Fetched {
	g := s.groups[id]
	var out []Fetched
	g.committed().each(func(topic string, partition int32, o *Offset) {
		if requireStable && g.unstable(topic, partition, o.TopicID) {
			out = append(out, Fetched{Topic: topic, Partition: partition, Unstable: true})
			return
		}
		out = append(out, Fetched{Topic: topic, Partition: partition, Found: true, Offset: *o})
	})
	return slices.Clip(out)
}

// unstable: a transaction holds an offset for the partition of that very topic.
func (g *group) unstable(topic string, partition int32, id TopicID) bool {
	if g == nil {
		return false
	}
	for _, o := range g.pending {
		if p := o.get(topic, partition); p != nil && p.TopicID == id {
			return true
		}
	}
	return false
}

// MayFetch says whether a member may fetch: it must show exactly its epoch. Who says nothing is not asked for anything
// (G20).
func (s *State) MayFetch(id string, by Committer) Code {
	if g := s.groups[id]; g != nil && g.consumer != nil {
		return g.consumer.mayFetch(by)
	}
	return OK
}
