package coordinator

import (
	"cmp"
	"context"
	"slices"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
)

// GroupFilter says which groups are wanted; its zero value: all.
type GroupFilter struct {
	// Phases and Kinds: only these; empty: all.
	Phases []group.Phase
	Kinds  []group.Kind
	// Prefix of the id.
	Prefix string
	// Pass is asked last, of those in the list in their order until it is full, such as for what the caller may see; nil: all may pass.
	Pass func(group.Description) bool
}

func (f *GroupFilter) wants(d *group.Description) bool {
	return (len(f.Phases) == 0 || slices.Contains(f.Phases, d.Phase)) && (len(f.Kinds) == 0 || slices.Contains(f.Kinds, d.Kind)) && strings.HasPrefix(d.ID, f.Prefix)
}

// List gives up to limit groups of the shards that this broker leads, sorted, without members; truncated says that there are more. A shard that
// is still being loaded makes the whole answer COORDINATOR_LOAD_IN_PROGRESS (G31).
func (g *Groups) List(ctx context.Context, f GroupFilter, limit int) (list []group.Description, truncated bool, err error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	for _, s := range g.led() {
		term, err := s.ready()
		if err != nil {
			if err.Code == CodeLoading {
				return nil, false, err
			}
			continue
		}
		var all []group.Description
		s.machine.read(func(m *group.State) { all = m.List() })
		all = s.listClassic(all)
		if err := s.confirm(ctx, term); err != nil {
			continue // another broker has it, and answers for it
		}
		for i := range all {
			if f.wants(&all[i]) {
				list = append(list, all[i])
			}
		}
	}
	slices.SortFunc(list, func(a, b group.Description) int { return cmp.Compare(a.ID, b.ID) })
	list, truncated = firstOf(list, limit, f.Pass)
	return list, truncated, nil
}

// Describe gives all that is known of a group but its offsets.
func (g *Groups) Describe(ctx context.Context, id string) (group.Description, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	if err := checkGroup(id, "", ""); err != nil {
		return group.Description{}, err
	}
	s, term, err := g.leading(ctx, id, false)
	if err != nil {
		return group.Description{}, err
	}
	var d group.Description
	var found bool
	s.machine.read(func(m *group.State) { d, found = m.Describe(id) })
	found = s.describeClassic(id, &d) || found
	for i, m := range d.Members {
		if m.Pattern == noTopic {
			shown := *m
			shown.Pattern = ""
			d.Members[i] = &shown
		}
	}
	if err := s.confirm(ctx, term); err != nil {
		return d, err
	}
	if !found {
		return d, groupAnswer(id, group.Result{Code: group.GroupIDNotFound})
	}
	return d, nil
}

// Delete deletes a group that has no members, with its offsets (G30).
func (g *Groups) Delete(ctx context.Context, id string) error {
	s, term, err := g.leading(ctx, id, false)
	if err == nil && s.classicLive(id) {
		return cmp.Or(s.confirm(ctx, term), groupAnswer(id, group.Result{Code: group.NonEmptyGroup}))
	}
	_, err = g.do(ctx, &statev1.GroupCommand{GroupId: id, Command: &statev1.GroupCommand_DeleteGroup{DeleteGroup: &statev1.DeleteGroup{}}})
	return asError(err)
}

// DeleteOffsets deletes the group's offsets for partitions (G24, G30). Partitions without one are passed over. It gives the topics whose
// offsets stay because members are subscribed to them.
func (g *Groups) DeleteOffsets(ctx context.Context, id string, topics []WantedTopic) (subscribed []string, err error) {
	cmd := &statev1.DeleteOffsets{}
	byName := make(map[string]*statev1.TopicPartitions)
	for _, t := range topics {
		p := byName[t.Topic]
		if p == nil {
			p = &statev1.TopicPartitions{Topic: t.Topic}
			byName[t.Topic] = p
			cmd.Topics = append(cmd.Topics, p)
		}
		p.Partitions = append(p.Partitions, t.Partitions...)
	}
	slices.SortFunc(cmd.Topics, func(a, b *statev1.TopicPartitions) int { return cmp.Compare(a.Topic, b.Topic) })
	for _, p := range cmd.Topics {
		slices.Sort(p.Partitions)
		p.Partitions = slices.Compact(p.Partitions)
	}
	r, refusal := g.do(ctx, &statev1.GroupCommand{GroupId: id, Command: &statev1.GroupCommand_DeleteOffsets{DeleteOffsets: cmd}})
	return r.Subscribed, asError(refusal)
}

// do finds the coordinator of a group and has a command carried out there, if that is this broker.
func (g *Groups) do(ctx context.Context, c *statev1.GroupCommand) (group.Result, *Error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	if err := checkGroup(c.GetGroupId(), "", ""); err != nil {
		return group.Result{}, err
	}
	s, _, err := g.leading(ctx, c.GetGroupId(), false)
	if err != nil {
		return group.Result{}, err
	}
	return g.execute(ctx, s, c)
}
