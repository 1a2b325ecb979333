package metadata

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// reportReplicas enters what a broker says of its replicas. A report about what is no longer there is
// passed over: the topic may have gone meanwhile, and the report may have been sent twice.
func (s *State) reportReplicas(c *statev1.ReportReplicas, r *Result) {
	broker := c.GetBrokerId()
	if r.Err = s.checkBroker(broker, c.GetNodeIncarnation()); r.Err != nil {
		return
	}
	if n := len(c.GetCreated()) + len(c.GetDeleted()) + len(c.GetLost()); n > MaxReportedReplicas {
		r.Err = refuse(InvalidRequest, "created", "%d replicas in one report; at most %d are allowed", n, MaxReportedReplicas).limit(MaxReportedReplicas)
		return
	}
	e := &topicEdits{s: s}
	for _, ref := range c.GetCreated() {
		e.replica(ref, broker, func(p *Partition, i int) bool {
			changed := p.Phase != Deleting && !p.Replicas[i].Created
			if changed {
				p.Replicas = slices.Clone(p.Replicas)
				p.Replicas[i].Created = true
			}
			return changed
		})
	}
	for _, ref := range c.GetDeleted() {
		e.replica(ref, broker, func(p *Partition, i int) bool {
			changed := p.Phase == Deleting && !p.Replicas[i].Deleted
			if changed {
				p.Replicas = slices.Clone(p.Replicas)
				p.Replicas[i].Deleted = true
			}
			return changed
		})
		e.partition(GroupID(ref.GetGroupId()), func(p *Partition) bool { return p.gone(broker, ref.GetIncarnation()) })
	}
	for _, ref := range c.GetLost() {
		e.replica(ref, broker, func(p *Partition, i int) bool {
			changed := p.Phase != Deleting && p.Replicas[i].Created && !p.Replicas[i].Lost
			if changed {
				p.Replicas = slices.Clone(p.Replicas)
				p.Replicas[i].Lost = true
			}
			return changed
		})
	}
	for _, ref := range c.GetCreated() {
		e.partition(GroupID(ref.GetGroupId()), (*Partition).settle)
	}
	r.Changed = e.finish()
}

// activatePartitions ends the phase in which a group may be bootstrapped. It demands a majority of
// created replicas, since without one there was no leader.
func (s *State) activatePartitions(c *statev1.ActivatePartitions, r *Result) {
	if r.Err = s.checkInitialised(); r.Err != nil {
		return
	}
	if n := len(c.GetGroupIds()); n > MaxReportedReplicas {
		r.Err = refuse(InvalidRequest, "group_ids", "%d groups at once; at most %d are allowed", n, MaxReportedReplicas).limit(MaxReportedReplicas)
		return
	}
	e := &topicEdits{s: s}
	for _, id := range c.GetGroupIds() {
		e.partition(GroupID(id), func(p *Partition) bool {
			changed := p.Phase == Creating && p.Created()
			if changed {
				p.Phase = Active
			}
			return changed
		})
	}
	r.Changed = e.finish()
}

// topicEdits changes partitions of some topics, copying each topic once.
type topicEdits struct {
	s *State
	// topics that have been copied, by id.
	topics []*Topic
}

// partition lets change see a copy of a group's partition; the copy is kept if it says true.
func (e *topicEdits) partition(id GroupID, change func(*Partition) bool) {
	i, ok := e.s.img.findGroup(id)
	if !ok {
		return
	}
	entry := e.s.img.groups[i]
	at, copied := slices.BinarySearchFunc(e.topics, entry.topic, func(t *Topic, id TopicID) int { return slices.Compare(t.ID[:], id[:]) })
	var t *Topic
	if copied {
		t = e.topics[at]
	} else {
		t, _ = e.s.img.TopicByID(entry.topic)
	}
	p := t.Partitions[entry.partition]
	if !change(&p) {
		return
	}
	if !copied {
		c := *t
		c.Partitions = slices.Clone(t.Partitions)
		t = &c
		e.topics = slices.Insert(e.topics, at, t)
	}
	t.Partitions[entry.partition] = p
}

// replica is partition for one replica on a broker, which must have the incarnation.
func (e *topicEdits) replica(ref *statev1.ReplicaRef, broker int32, change func(p *Partition, i int) bool) {
	e.partition(GroupID(ref.GetGroupId()), func(p *Partition) bool {
		i := slices.IndexFunc(p.Replicas, func(r Replica) bool { return r.Broker == broker && r.Incarnation == ref.GetIncarnation() })
		return i >= 0 && change(p, i)
	})
}

// finish puts the copies in place and removes topics whose replicas are all gone.
func (e *topicEdits) finish() (changed bool) {
	for _, t := range e.topics {
		if t.Deleting && allDeleted(t) {
			e.s.removeTopic(t)
		} else {
			e.s.replaceTopic(t)
		}
	}
	return len(e.topics) > 0
}

func allDeleted(t *Topic) bool {
	for i := range t.Partitions {
		if len(t.Partitions[i].Leaving) > 0 {
			return false
		}
		for _, r := range t.Partitions[i].Replicas {
			if !r.Deleted {
				return false
			}
		}
	}
	return true
}

// removeTopic forgets a topic that is being deleted. Its ids are not given out again: the allocators
// only count up.
func (s *State) removeTopic(t *Topic) {
	img := s.editTopics()
	i, _ := img.findTopicID(t.ID)
	img.byID = slices.Delete(img.byID, i, i+1)
	img = s.editGroups()
	img.groups = slices.DeleteFunc(img.groups, func(e groupEntry) bool { return e.topic == t.ID })
}
