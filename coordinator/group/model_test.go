package group

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// model is a second, dumb implementation of offsets and their transactions: flat maps, everything counted anew, every
// command on a deep copy.
type model struct {
	limits    Limits
	groups    map[string]bool
	committed map[place]mOffset
	pending   map[mPending]mOffset
	producers map[int64]mProducer
	classic   map[string]mClassic
}

type place struct {
	group, topic string
	partition    int32
}

type mPending struct {
	producer int64
	place
}

type mOffset struct {
	offset            int64
	metadata          string
	leader            int32
	topicID           string
	committed, expire int64
	position          uint64
}

type mProducer struct {
	epoch, coordinator     int32
	open                   uint64
	marker, voids, touched uint64
	updated                int64
}

func newModel() *model {
	return &model{limits: DefaultLimits(), groups: map[string]bool{}, committed: map[place]mOffset{}, pending: map[mPending]mOffset{}, producers: map[int64]mProducer{}, classic: map[string]mClassic{}}
}

// mResult is what a command comes to.
type mResult struct {
	code    string
	changed bool
	removed int
}

func (m *model) clone() *model {
	c := *m
	c.groups, c.committed, c.pending, c.producers = maps.Clone(m.groups), maps.Clone(m.committed), maps.Clone(m.pending), maps.Clone(m.producers)
	c.classic = maps.Clone(m.classic)
	return &c
}

func (m *model) apply(index uint64, now int64, c *statev1.GroupCommand) mResult {
	was := m.clone()
	r := m.run(index, now, c)
	if r.code != "NONE" && !m.equal(was) {
		panic("the model changes what it refuses")
	}
	r.changed = !m.equal(was) || r.changed
	return r
}

func (m *model) equal(other *model) bool {
	return m.limits == other.limits && maps.Equal(m.groups, other.groups) && maps.Equal(m.committed, other.committed) &&
		maps.Equal(m.pending, other.pending) && maps.Equal(m.producers, other.producers) && maps.EqualFunc(m.classic, other.classic, mClassic.equal)
}

func (m *model) run(index uint64, now int64, c *statev1.GroupCommand) mResult {
	switch cmd := c.Command.(type) {
	case *statev1.GroupCommand_Commit:
		return m.commit(index, now, c.GroupId, cmd.Commit)
	case *statev1.GroupCommand_CommitInTransaction:
		return m.commitInTransaction(index, now, c.GroupId, cmd.CommitInTransaction)
	case *statev1.GroupCommand_EndTransaction:
		return m.marker(index, now, cmd.EndTransaction)
	case *statev1.GroupCommand_BeginGeneration:
		return m.begin(now, c.GroupId, cmd.BeginGeneration)
	case *statev1.GroupCommand_AssignGeneration:
		return m.give(c.GroupId, cmd.AssignGeneration)
	case *statev1.GroupCommand_LeaveGeneration:
		return m.leave(c.GroupId, cmd.LeaveGeneration)
	case *statev1.GroupCommand_ReplaceMember:
		return m.replace(c.GroupId, cmd.ReplaceMember)
	case *statev1.GroupCommand_DeleteOffsets:
		if !m.groups[c.GroupId] {
			return mResult{code: "GROUP_ID_NOT_FOUND"}
		}
		if g := m.classic[c.GroupId]; len(g.members) > 0 && g.protocolType != "consumer" {
			return mResult{code: "NON_EMPTY_GROUP"}
		}
		n := 0
		for _, t := range cmd.DeleteOffsets.Topics {
			for _, p := range t.Partitions {
				n += m.forget(func(at place, _ mOffset) bool {
					subscribed, _ := m.keeps(at)
					return at == place{c.GroupId, t.Topic, p} && !subscribed
				})
			}
		}
		return mResult{code: "NONE", removed: n}
	case *statev1.GroupCommand_DeleteGroup:
		if !m.groups[c.GroupId] {
			return mResult{code: "GROUP_ID_NOT_FOUND"}
		}
		if len(m.classic[c.GroupId].members) > 0 {
			return mResult{code: "NON_EMPTY_GROUP"}
		}
		delete(m.classic, c.GroupId)
		m.forget(func(at place, _ mOffset) bool { return at.group == c.GroupId })
		delete(m.groups, c.GroupId)
		return mResult{code: "NONE"}
	case *statev1.GroupCommand_ExpireOffsets:
		return m.expire(now, c.GroupId, cmd.ExpireOffsets)
	case *statev1.GroupCommand_ForgetTopics:
		n := m.forget(func(_ place, o mOffset) bool {
			return slices.ContainsFunc(cmd.ForgetTopics.TopicIds, func(id []byte) bool { return string(id) == o.topicID })
		})
		return mResult{code: "NONE", removed: n}
	case *statev1.GroupCommand_ExpireProducers:
		n := len(m.producers)
		maps.DeleteFunc(m.producers, func(_ int64, p mProducer) bool {
			return p.open == 0 && p.updated <= cmd.ExpireProducers.CutoffMs && below(p.touched, cmd.ExpireProducers.BelowIndex)
		})
		return mResult{code: "NONE", removed: n - len(m.producers)}
	case *statev1.GroupCommand_Limits:
		m.limits = limitsOf(cmd.Limits)
		return mResult{code: "NONE", changed: true}
	}
	panic("no such command")
}

func (m *model) mayCommit(group string, by *statev1.Committer, transactional bool) string {
	c, classic := m.classic[group]
	switch {
	case by.Epoch < 0 && len(c.members) == 0:
		return "NONE"
	case !m.groups[group]:
		return "GROUP_ID_NOT_FOUND"
	case classic:
		return c.mayCommit(by, transactional)
	}
	return "UNKNOWN_MEMBER_ID"
}

// fits tries what a command does, and measures.
func (m *model) fits(do func(*model)) string {
	after := m.clone()
	do(after)
	n, bytes := m.size()
	moreN, moreBytes := after.size()
	switch {
	case len(after.groups) > len(m.groups) && len(after.groups) > m.limits.MaxGroups:
		return "TOO_MANY_GROUPS"
	case moreN > n && moreN > m.limits.MaxOffsets:
		return "TOO_MANY_OFFSETS"
	case moreBytes > bytes && moreBytes > m.limits.MaxBytes:
		return "TOO_MANY_BYTES"
	}
	return "NONE"
}

func (m *model) size() (n int, bytes int64) {
	for at, o := range m.committed {
		bytes += int64(96 + len(at.topic) + len(o.metadata))
	}
	for at, o := range m.pending {
		bytes += int64(96 + len(at.topic) + len(o.metadata))
	}
	for id := range m.groups {
		bytes += int64(256 + len(id))
	}
	for _, c := range m.classic {
		bytes += c.bytes()
	}
	return len(m.committed) + len(m.pending), bytes
}

func each(group string, topics []*statev1.TopicOffsets, index uint64, now, expire int64, f func(place, mOffset)) {
	for _, t := range topics {
		for _, p := range t.Partitions {
			f(place{group, t.Topic, p.Partition}, mOffset{p.Offset, p.Metadata, p.LeaderEpoch, string(t.TopicId), now, expire, index})
		}
	}
}

func (m *model) commit(index uint64, now int64, group string, c *statev1.CommitOffsets) mResult {
	if code := m.mayCommit(group, c.Committer, false); code != "NONE" || len(c.Topics) == 0 {
		return mResult{code: code}
	}
	do := func(m *model) {
		m.groups[group] = true
		each(group, c.Topics, index, now, c.ExpireMs, func(at place, o mOffset) { m.committed[at] = o })
	}
	code := m.fits(do)
	if code == "NONE" {
		do(m)
	}
	return mResult{code: code}
}

func (m *model) producer(id int64) (mProducer, bool) {
	p, ok := m.producers[id]
	if !ok {
		p = mProducer{epoch: -1, coordinator: -1, updated: -1 << 62}
	}
	return p, ok
}

func (m *model) commitInTransaction(index uint64, now int64, group string, c *statev1.CommitOffsetsInTransaction) mResult {
	p, known := m.producer(c.ProducerId)
	if c.ProducerEpoch < p.epoch {
		return mResult{code: "INVALID_PRODUCER_EPOCH"}
	}
	if p.open == 0 || c.ProducerEpoch != p.epoch {
		seen := p.voids
		if c.ProducerEpoch > p.epoch {
			seen = p.marker
		}
		if !c.Verified || seen > c.KnownMarker {
			return mResult{code: "INVALID_TXN_STATE"}
		}
	}
	if by := c.Committer; by.MemberId != "" || by.InstanceId != "" || by.Epoch >= 0 {
		if code := m.mayCommit(group, by, true); code != "NONE" {
			return mResult{code: code}
		}
	}
	do := func(m *model) {
		m.groups[group] = true
		each(group, c.Topics, index, now, -1, func(at place, o mOffset) { m.pending[mPending{c.ProducerId, at}] = o })
	}
	if code := m.fits(do); code != "NONE" && len(c.Topics) > 0 {
		return mResult{code: code}
	}
	if len(c.Topics) == 0 {
		return mResult{code: "NONE"}
	}
	if !known && !m.room() {
		return mResult{code: "TOO_MANY_PRODUCERS"}
	}
	do(m)
	p.raise(c.ProducerEpoch)
	if p.open == 0 {
		p.open = index
	}
	p.touched, p.updated = index, max(p.updated, now)
	m.remember(c.ProducerId, p)
	return mResult{code: "NONE"}
}

func (p *mProducer) raise(epoch int32) {
	if epoch > p.epoch {
		p.epoch, p.voids = epoch, p.marker
	}
}

func (m *model) room() bool {
	idle := 0
	for _, p := range m.producers {
		if p.open == 0 {
			idle++
		}
	}
	return len(m.producers) < m.limits.MaxProducers || idle > 0
}

func (m *model) remember(id int64, p mProducer) {
	if _, known := m.producers[id]; !known && len(m.producers) >= m.limits.MaxProducers {
		var idle []int64
		for id, p := range m.producers {
			if p.open == 0 {
				idle = append(idle, id)
			}
		}
		sort.Slice(idle, func(i, k int) bool { return m.producers[idle[i]].touched < m.producers[idle[k]].touched })
		for i := range min(len(idle), len(m.producers)+1-m.limits.MaxProducers+m.limits.MaxProducers/16) {
			delete(m.producers, idle[i])
		}
	}
	m.producers[id] = p
}

func (m *model) marker(index uint64, now int64, c *statev1.EndTransactionOfOffsets) mResult {
	p, known := m.producer(c.ProducerId)
	switch {
	case c.ProducerEpoch < p.epoch, c.Version == 2 && c.ProducerEpoch == p.epoch && p.open != 0 && c.ProducerEpoch != 32767:
		return mResult{code: "INVALID_PRODUCER_EPOCH"}
	case c.CoordinatorEpoch < p.coordinator:
		return mResult{code: "TRANSACTION_COORDINATOR_FENCED"}
	case !known && !m.room():
		return mResult{code: "TOO_MANY_PRODUCERS"}
	}
	for at, o := range m.pending {
		if at.producer != c.ProducerId {
			continue
		}
		if old, ok := m.committed[at.place]; c.Commit && (!ok || old.position < o.position) {
			m.committed[at.place] = o
		}
		delete(m.pending, at)
	}
	p.raise(c.ProducerEpoch)
	p.open, p.coordinator, p.marker, p.touched, p.updated = 0, c.CoordinatorEpoch, index, index, max(p.updated, now)
	if c.Version == 1 {
		p.voids = index
	}
	m.remember(c.ProducerId, p)
	return mResult{code: "NONE"}
}

func (m *model) forget(gone func(place, mOffset) bool) int {
	n := len(m.committed) + len(m.pending)
	maps.DeleteFunc(m.committed, gone)
	maps.DeleteFunc(m.pending, func(at mPending, o mOffset) bool { return gone(at.place, o) })
	return n - len(m.committed) - len(m.pending)
}

func (m *model) isPending(at place) bool {
	for p := range m.pending {
		if p.place == at {
			return true
		}
	}
	return false
}

func below(index, bound uint64) bool { return bound == 0 || index < bound }

func (m *model) expire(now int64, group string, c *statev1.ExpireOffsets) mResult {
	if !m.groups[group] {
		return mResult{code: "GROUP_ID_NOT_FOUND"}
	}
	n := len(m.committed)
	emptySince := int64(0)
	if k := m.classic[group]; len(k.members) == 0 {
		emptySince = k.began
	}
	maps.DeleteFunc(m.committed, func(at place, o mOffset) bool {
		late := max(o.committed, emptySince) <= c.CutoffMs
		if o.expire >= 0 {
			late = o.expire <= cmp.Or(c.NowMs, now)
		}
		late = late && below(o.position, c.BelowIndex)
		subscribed, live := m.keeps(at)
		return at.group == group && late && !m.isPending(at) && !subscribed && !live
	})
	left := len(m.classic[group].members) > 0
	for at := range m.committed {
		left = left || at.group == group
	}
	for at := range m.pending {
		left = left || at.group == group
	}
	if !left {
		delete(m.groups, group)
		delete(m.classic, group)
	}
	return mResult{code: "NONE", removed: n - len(m.committed)}
}

// String shows everything, in an order.
func (m *model) String() string {
	var out []string
	for id := range m.groups {
		out = append(out, fmt.Sprintf("group %q", id))
	}
	for id, c := range m.classic {
		out = append(out, fmt.Sprintf("classic %q %+v", id, c))
	}
	for at, o := range m.committed {
		out = append(out, fmt.Sprintf("offset %+v %+v", at, o))
	}
	for at, o := range m.pending {
		out = append(out, fmt.Sprintf("pending %+v %+v", at, o))
	}
	for id, p := range m.producers {
		out = append(out, fmt.Sprintf("producer %d %+v", id, p))
	}
	slices.Sort(out)
	return fmt.Sprintf("%+v\n%s", m.limits, strings.Join(out, "\n"))
}

// modelOf shows a shard as the model would have it.
func modelOf(s *State) *model {
	m := newModel()
	m.limits = s.limits
	offset := func(o *Offset) mOffset {
		return mOffset{int64(o.Offset), o.Metadata, o.LeaderEpoch, string(o.TopicID[:]), o.CommittedMS, o.ExpireMS, o.Position}
	}
	for id, g := range s.groups {
		m.groups[id] = true
		if c, ok := classicOf(g); ok {
			m.classic[id] = c
		}
		g.offsets.each(func(topic string, n int32, o *Offset) { m.committed[place{id, topic, n}] = offset(o) })
		for pid, pending := range g.pending {
			pending.each(func(topic string, n int32, o *Offset) {
				m.pending[mPending{int64(pid), place{id, topic, n}}] = offset(o)
			})
		}
	}
	for id, p := range s.producers {
		m.producers[int64(id)] = mProducer{int32(p.epoch), p.coordinatorEpoch, p.openFrom, p.lastMarker, p.voidingMarker, p.touched, p.updatedMS}
	}
	return m
}
