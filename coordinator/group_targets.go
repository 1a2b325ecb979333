package coordinator

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/assign"
	"github.com/oncelog/oncelog/record"
)

// targets computes what the members of the group are to have in the end; nil: that cannot be computed.
func (t *talk) targets() *statev1.AssignPartitions {
	var d group.Description
	t.l.s.machine.read(func(m *group.State) { d, _ = m.Describe(t.id) })
	t.mu.Lock()
	p := &question{at: make(map[group.TopicID]int), sees: maps.Clone(t.sees)}
	t.mu.Unlock()
	p.find(d.Members, t.l.g.config.Topics)
	total := 0
	for _, topic := range p.topics {
		total += int(topic.Partitions)
	}
	if total > group.MaxAssigned {
		t.l.s.logger.Error("a group has too many partitions to be assigned", "group", t.id, "partitions", total, "limit", group.MaxAssigned)
		return nil
	}
	return p.solve(&d)
}

// question is what an assignor is asked.
type question struct {
	// topics are those that somebody is subscribed to, by id; at has their places.
	topics []Topic
	at     map[group.TopicID]int
	// matched are those that patterns matched.
	matched map[string]bool
	members []assign.Member
	// sees is what members may be assigned of what their patterns match (talk.sees).
	sees map[string]func(topic string) bool
}

// find collects what the members are subscribed to. Names that there are no topics for are passed over until there are.
func (p *question) find(members []*group.Member, topics Topics) {
	p.matched = make(map[string]bool)
	byPattern := make(map[string][]Topic)
	var all []Topic
	wanted := make([][]Topic, len(members))
	for i, m := range members {
		for _, name := range m.Topics {
			if topic, ok := topics.Topic(name); ok {
				wanted[i] = append(wanted[i], topic)
			}
		}
		if m.Pattern == "" {
			continue
		}
		if all == nil {
			all = topics.All()
		}
		found, known := byPattern[m.Pattern]
		if !known {
			found = matching(m.Pattern, all)
			byPattern[m.Pattern] = found
		}
		sees := p.sees[m.ID]
		for _, topic := range found {
			if sees == nil || sees(topic.Name) {
				p.matched[topic.Name] = true
				wanted[i] = append(wanted[i], topic)
			}
		}
	}
	p.place(wanted)
	for i, m := range members {
		p.members = append(p.members, p.member(m, wanted[i]))
	}
}

// place gives each topic its place.
func (p *question) place(wanted [][]Topic) {
	for _, list := range wanted {
		for _, topic := range list {
			if _, ok := p.at[topic.ID]; !ok {
				p.at[topic.ID] = 0
				p.topics = append(p.topics, topic)
			}
		}
	}
	slices.SortFunc(p.topics, func(a, b Topic) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for i, topic := range p.topics {
		p.at[topic.ID] = i
	}
}

func (p *question) member(m *group.Member, wanted []Topic) assign.Member {
	a := assign.Member{Name: cmp.Or(m.InstanceID, m.ID)}
	for _, topic := range wanted {
		a.Topics = append(a.Topics, p.at[topic.ID])
	}
	slices.Sort(a.Topics)
	a.Topics = slices.Compact(a.Topics)
	for _, has := range m.Target {
		if i, ok := p.at[has.TopicID]; ok {
			a.Current = append(a.Current, assign.Partition{Topic: i, Number: has.Number})
		}
	}
	return a
}

// matching are the topics whose whole name a pattern matches. Internal ones are for nobody who did not name them.
func matching(pattern string, all []Topic) []Topic {
	re, err := wholeName(pattern)
	if err != nil {
		return nil // it was checked when it came
	}
	var found []Topic
	for _, topic := range all {
		if !record.InternalTopic(topic.Name) && re.MatchString(topic.Name) {
			found = append(found, topic)
		}
	}
	return found
}

// solve asks the assignor that most members would like.
func (p *question) solve(d *group.Description) *statev1.AssignPartitions {
	counts := make([]int32, len(p.topics))
	c := &statev1.AssignPartitions{GroupEpoch: d.Epoch}
	for i, topic := range p.topics {
		counts[i] = topic.Partitions
		c.Topics = append(c.Topics, &statev1.AssignedTopic{TopicId: topic.ID[:], Topic: topic.Name})
	}
	assignor, _ := assign.ByName(preferred(d.Members))
	for i, list := range assignor(counts, p.members) {
		target := &statev1.MemberTarget{MemberId: d.Members[i].ID}
		for _, one := range list { // sorted
			if n := len(target.Topics); n == 0 || target.Topics[n-1].Topic != uint32(one.Topic) {
				target.Topics = append(target.Topics, &statev1.TargetPartitions{Topic: uint32(one.Topic)})
			}
			last := target.Topics[len(target.Topics)-1]
			last.Partitions = append(last.Partitions, one.Number)
		}
		c.Members = append(c.Members, target)
	}
	for name := range p.matched {
		c.Matched = append(c.Matched, name)
	}
	slices.Sort(c.Matched)
	return c
}

// preferred is the assignor that most members name; the server's own if none does.
func preferred(members []*group.Member) string {
	votes := make(map[string]int)
	for _, m := range members {
		if _, ok := assign.ByName(m.Assignor); ok {
			votes[m.Assignor]++
		}
	}
	best := assign.Default
	for _, name := range assign.Names() { // the default one first: it wins a draw
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}
