package group

import (
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/record"
)

// expireOffsets deletes the committed offsets of a group whose time is up, and the group once nothing is left of it (G29,
// G30). Apply finds again what has expired, by the leader's cutoff; whatever has been committed since stays (R5).
func (s *State) expireOffsets(id string, c *statev1.ExpireOffsets, at stamp) Result {
	g := s.groups[id]
	if g == nil {
		return refuse(id, GroupIDNotFound)
	}
	r := refuse(id, OK)
	expired := g.offsets.filter(g.expired(c, at.now))
	r.Removed = len(expired)
	count, _ := g.offsets.size()
	useless := g.empty() && len(g.pending) == 0 && count == len(expired)
	if r.Changed = r.Removed > 0 || useless; !r.Changed || at.dry {
		return r
	}
	if useless {
		s.drop(id)
		return r
	}
	g = s.edit(id)
	g.offsets = g.offsets.edit(s.owner)
	s.removeAll(g.offsets, expired)
	return r
}

// expired is the condition under which a committed offset of the group expires. One that a member needs, or that a
// transaction is about to replace, never does.
func (g *group) expired(c *statev1.ExpireOffsets, now int64) func(record.TopicPartition, *Offset) bool {
	if c.GetNowMs() != 0 {
		now = c.GetNowMs()
	}
	return func(tp record.TopicPartition, o *Offset) bool {
		switch {
		case g.subscribes(tp.Topic) || g.classics().retains() || g.isPending(tp.Topic, tp.Partition):
			return false
		case c.GetBelowIndex() != 0 && o.Position >= c.GetBelowIndex():
			return false
		case o.ExpireMS != NoExpiry:
			return o.ExpireMS <= now
		}
		return g.classics().since(o) <= c.GetCutoffMs()
	}
}

// Expirable lists up to max groups, by id, in which a command would change something at a time. It looks at all offsets.
func (s *State) Expirable(c *statev1.ExpireOffsets, now int64, max int) []string {
	var found []string
	for id := range s.groups {
		if s.expireOffsets(id, c, stamp{now: now, dry: true}).Changed {
			found = append(found, id)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), max)]
}
