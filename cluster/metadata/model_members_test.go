package metadata

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// The part of the model that changes members. It is written from the rules in reassign.go, not from the
// code: it thinks in sets, and looks at everything after each command.

type mLeaving struct {
	broker      int32
	incarnation uint64
	removed     bool
}

func (m *model) members(cmd *statev1.MetadataCommand) Code {
	switch cmd := cmd.Command.(type) {
	case *statev1.MetadataCommand_ReassignPartitions:
		return m.reassign(cmd.ReassignPartitions)
	case *statev1.MetadataCommand_CancelReassignments:
		return m.cancel(cmd.CancelReassignments)
	case *statev1.MetadataCommand_ReplaceReplicas:
		if m.cluster == "" {
			return InvalidRequest
		}
		for _, ref := range cmd.ReplaceReplicas.Replicas {
			m.each(func(p *mPartition) { m.replace(p, ref) })
		}
	case *statev1.MetadataCommand_ReportMembers:
		c := cmd.ReportMembers
		if code := m.known(c.BrokerId, c.NodeIncarnation); code != "" {
			return code
		}
		for _, g := range c.Groups {
			m.each(func(p *mPartition) {
				if p.group == g.GroupId && p.phase == "active" {
					m.facts(p, g)
				}
			})
		}
	case *statev1.MetadataCommand_SetDraining:
		c := cmd.SetDraining
		if code := m.known(c.BrokerId, c.NodeIncarnation); code != "" {
			return code
		}
		b := m.brokers[c.BrokerId]
		b.draining = c.Draining
		m.brokers[c.BrokerId] = b
	}
	return ""
}

func (p *mPartition) on(broker int32) *mReplica {
	for i := range p.replicas {
		if p.replicas[i].broker == broker {
			return &p.replicas[i]
		}
	}
	return nil
}

// goes takes a broker's replica out of the partition.
func (p *mPartition) goes(broker int32) {
	for i, r := range p.replicas {
		if r.broker == broker {
			p.leaving = append(p.leaving, mLeaving{r.broker, r.incarnation, false})
			p.replicas = append(slices.Clone(p.replicas[:i]), p.replicas[i+1:]...)
			return
		}
	}
}

func (m *model) reassign(c *statev1.ReassignPartitions) Code {
	t, ok := m.topics[string(c.TopicId)]
	if !ok || t.deleting {
		return UnknownTopicID
	}
	rf := t.rf
	if c.ReplicationFactor != 0 {
		rf = int(c.ReplicationFactor)
	}
	if len(c.Partitions) == 0 {
		return InvalidRequest
	}
	if rf != t.rf {
		if rf != 1 && rf != 3 && rf != 5 || rf > len(m.brokers) {
			return InvalidReplicationFactor
		}
		if len(c.Partitions) != len(t.partitions) {
			return InvalidRequest
		}
		for _, configs := range []map[string]string{t.configs, m.defaults} {
			if v := configs["min.insync.replicas"]; v != "" && int(v[0]-'0') > rf/2+1 {
				return InvalidConfig
			}
		}
	}
	last := -1
	for _, a := range c.Partitions {
		n := int(a.Partition)
		if n >= len(t.partitions) {
			return UnknownTopicOrPartition
		}
		if n <= last {
			return InvalidRequest
		}
		last = n
		p := t.partitions[n]
		if p.phase != "active" || len(a.BrokerIds) != rf {
			return InvalidReplicaAssignment
		}
		seen := map[int32]bool{}
		for _, id := range a.BrokerIds {
			b, known := m.brokers[id]
			if seen[id] || !known || b.draining && p.on(id) == nil {
				return InvalidReplicaAssignment
			}
			seen[id] = true
		}
		out := len(p.leaving)
		for _, r := range p.replicas {
			if !seen[r.broker] {
				out++
			}
		}
		if out > 16 {
			return PolicyViolation
		}
	}
	for _, a := range c.Partitions {
		m.aim(&t.partitions[a.Partition], a.BrokerIds)
	}
	t.rf = rf
	m.topics[string(c.TopicId)] = t
	return ""
}

func (m *model) aim(p *mPartition, target []int32) {
	if p.target == nil {
		var now []int32
		for _, r := range p.replicas {
			now = append(now, r.broker)
		}
		if slices.Equal(now, target) {
			return
		}
	}
	for _, r := range slices.Clone(p.replicas) {
		if r.added && !slices.Contains(target, r.broker) {
			p.goes(r.broker)
		}
	}
	for _, id := range target {
		if p.on(id) == nil {
			p.replicas = append(p.replicas, mReplica{broker: id, incarnation: m.replica, joining: true, added: true})
			m.replica++
		}
	}
	p.target = slices.Clone(target)
	p.finish()
}

// finish ends a reassignment whose brokers can do without the others.
func (p *mPartition) finish() {
	if p.target == nil || p.phase == "deleting" {
		return
	}
	good := 0
	for _, id := range p.target {
		r := p.on(id)
		if r.joining {
			return
		}
		if r.created && !r.lost {
			good++
		}
	}
	if good < len(p.target)/2+1 {
		return
	}
	for _, r := range slices.Clone(p.replicas) {
		if !slices.Contains(p.target, r.broker) {
			p.goes(r.broker)
		}
	}
	var ordered []mReplica
	for _, id := range p.target {
		r := *p.on(id)
		r.added = false
		ordered = append(ordered, r)
	}
	p.replicas, p.target = ordered, nil
}

func (m *model) cancel(c *statev1.CancelReassignments) Code {
	t, ok := m.topics[string(c.TopicId)]
	if !ok || t.deleting {
		return UnknownTopicID
	}
	for i := range t.partitions {
		p := &t.partitions[i]
		named := len(c.Partitions) == 0 || slices.Contains(c.Partitions, uint32(i))
		if !named || p.target == nil {
			continue
		}
		for _, r := range slices.Clone(p.replicas) {
			if r.added {
				p.goes(r.broker)
			}
		}
		p.target = nil
		if len(p.replicas) != t.rf {
			return InvalidRequest
		}
	}
	return ""
}

func (m *model) replace(p *mPartition, ref *statev1.ReplicaRef) {
	if p.group != ref.GroupId || p.phase != "active" || len(p.leaving) >= 16 {
		return
	}
	healthy, voters := 0, 0
	for _, r := range p.replicas {
		if !r.joining {
			voters++
			if r.created && !r.lost {
				healthy++
			}
		}
	}
	if healthy < voters/2+1 {
		return
	}
	for i, r := range p.replicas {
		if r.incarnation == ref.Incarnation && r.lost {
			p.leaving = append(p.leaving, mLeaving{r.broker, r.incarnation, false})
			p.replicas[i] = mReplica{broker: r.broker, incarnation: m.replica, joining: true, added: r.added}
			m.replica++
			return
		}
	}
}

func (m *model) facts(p *mPartition, g *statev1.GroupMembers) {
	told := func(r *mReplica) bool {
		return r.joining && r.created && !r.lost && slices.Contains(g.CaughtUp, r.incarnation)
	}
	together := p.target != nil
	for _, id := range p.target {
		if r := p.on(id); r.joining && !told(r) {
			together = false
		}
	}
	for i := range p.replicas {
		if r := &p.replicas[i]; told(r) && (!r.added || together) {
			r.joining = false
		}
	}
	p.finish()
	var left []mLeaving
	for _, l := range p.leaving {
		new := !l.removed && slices.Contains(g.Removed, l.incarnation)
		if _, known := m.brokers[l.broker]; new && !known {
			continue
		}
		l.removed = l.removed || new
		left = append(left, l)
	}
	p.leaving = left
}

// endChange is what deletion makes of a change under way.
func (p *mPartition) endChange() {
	p.target = nil
	for i := range p.replicas {
		r := &p.replicas[i]
		r.joining, r.added, r.lost = false, false, false
	}
	for i := range p.leaving {
		p.leaving[i].removed = true
	}
}
