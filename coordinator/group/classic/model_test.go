package classic

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// model is a second, dumb implementation of G1 to G13, for a leader whose proposals all succeed at once: one list of members, everything
// looked for anew, no queue, no effects but the text of the answers.
type model struct {
	config                 Config
	now                    int64
	phase                  string
	initial, more          bool
	delay, left            int64
	joinBy, syncBy         int64
	generation             int32
	kind, protocol, leader string
	list                   []*mMember
	pending                map[string]int64
	said                   []string
	// written: the last generation has members.
	written bool
}

type mMember struct {
	id, instance       string
	speaks             []Protocol
	session, rebalance int64
	join, sync         Ticket
	fresh, synced      bool
	expires            int64
	assignment         string
}

const (
	mEmpty      = "Empty"
	mPreparing  = "PreparingRebalance"
	mCompleting = "CompletingRebalance"
	mStable     = "Stable"
)

func newModel(c Config) *model {
	return &model{config: c, phase: mEmpty, joinBy: Never, syncBy: Never, pending: map[string]int64{}}
}

func (m *model) say(format string, args ...any) {
	m.said = append(m.said, fmt.Sprintf(format, args...))
}

func (m *model) by(id string) *mMember {
	for _, x := range m.list {
		if x.id == id {
			return x
		}
	}
	return nil
}

func (m *model) byInstance(instance string) *mMember {
	for _, x := range m.list {
		if instance != "" && x.instance == instance {
			return x
		}
	}
	return nil
}

func (m *model) identify(id, instance string) (*mMember, string) {
	if instance != "" {
		x := m.byInstance(instance)
		if x == nil {
			return nil, "UNKNOWN_MEMBER_ID"
		}
		if x.id != id {
			return nil, "FENCED_INSTANCE_ID"
		}
	}
	if x := m.by(id); x != nil {
		return x, ""
	}
	return nil, "UNKNOWN_MEMBER_ID"
}

func (m *model) longest() int64 {
	n := int64(0)
	for _, x := range m.list {
		n = max(n, x.rebalance)
	}
	return n
}

// common are the protocols that all members speak, in the order of those who speak them first.
func (m *model) common() []string {
	var names []string
	for _, x := range m.list {
		for _, p := range x.speaks {
			n := 0
			for _, y := range m.list {
				for _, q := range y.speaks {
					if q.Name == p.Name {
						n++
					}
				}
			}
			if n == len(m.list) && !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}

func (m *model) vote() string {
	common, votes := m.common(), map[string]int{}
	var first []string
	for _, x := range m.list {
		for _, p := range x.speaks {
			if slices.Contains(common, p.Name) {
				votes[p.Name]++
				if !slices.Contains(first, p.Name) {
					first = append(first, p.Name)
				}
				break
			}
		}
	}
	slices.SortStableFunc(first, func(a, b string) int { return votes[b] - votes[a] })
	return first[0]
}

func (m *model) join(t Ticket, j Join) {
	refuse := func(code string) {
		as := ""
		if j.MemberID != "" {
			as = " as " + j.MemberID
		}
		m.say("%d joined %s%s", t, code, as)
	}
	waiting := 0
	for _, x := range m.list {
		if x.join != 0 {
			waiting++
		}
	}
	me := m.by(j.MemberID)
	taking := j.MemberID == "" && m.byInstance(j.InstanceID) != nil
	full := false
	switch m.phase {
	case mPreparing:
		full = !(me != nil && me.join != 0) && waiting >= m.config.MaxMembers && !taking
	case mCompleting, mStable:
		full = me == nil && len(m.list) >= m.config.MaxMembers && !taking
	}
	if j.MemberID == "" && j.InstanceID == "" && j.MustKnowID && len(m.pending) >= m.config.MaxMembers {
		full = true
	}
	if j.SessionTimeoutMS < m.config.MinSessionMS || j.SessionTimeoutMS > m.config.MaxSessionMS {
		refuse("INVALID_SESSION_TIMEOUT")
		return
	}
	if full {
		delete(m.pending, j.MemberID)
		if me != nil {
			m.drop(me, "GROUP_MAX_SIZE_REACHED")
		}
		m.check()
		refuse("GROUP_MAX_SIZE_REACHED")
		return
	}
	if j.MemberID != "" && len(m.list)+len(m.pending) == 0 {
		refuse("UNKNOWN_MEMBER_ID")
		return
	}
	speaks := len(j.Protocols) > 0 && j.ProtocolType != ""
	if m.phase != mEmpty {
		shared := len(m.list) == 0
		for _, p := range j.Protocols {
			shared = shared || slices.Contains(m.common(), p.Name)
		}
		speaks = speaks && shared && j.ProtocolType == m.kind
	}
	if !speaks {
		refuse("INCONSISTENT_GROUP_PROTOCOL")
		return
	}
	_, isPending := m.pending[j.MemberID]
	switch {
	case taking:
		m.takeOver(t, j)
		return
	case j.MemberID == "" && j.InstanceID == "" && j.MustKnowID:
		m.pending[j.NewID] = m.now + int64(j.SessionTimeoutMS)
		m.say("%d joined MEMBER_ID_REQUIRED as %s", t, j.NewID)
		return
	case j.MemberID == "":
		m.enter(t, j, j.NewID)
		return
	case isPending && j.InstanceID == "":
		m.enter(t, j, j.MemberID)
		return
	}
	me, code := m.identify(j.MemberID, j.InstanceID)
	if code != "" {
		refuse(code)
		return
	}
	unchanged := fmt.Sprint(me.speaks) == fmt.Sprint(j.Protocols)
	if unchanged && (m.phase == mCompleting || m.phase == mStable && m.leader != me.id) {
		m.tell(t, me, "")
		return
	}
	if me.join != 0 {
		m.say("%d joined REBALANCE_IN_PROGRESS", me.join)
	}
	me.join = t
	me.speaks, me.session, me.rebalance = j.Protocols, int64(j.SessionTimeoutMS), int64(j.RebalanceTimeoutMS)
	m.everyoneJoins()
}

func (m *model) enter(t Ticket, j Join, id string) {
	delete(m.pending, id)
	if len(m.list) == 0 {
		m.kind, m.leader = j.ProtocolType, id
	}
	m.list = append(m.list, &mMember{id: id, instance: j.InstanceID, speaks: j.Protocols, session: int64(j.SessionTimeoutMS), rebalance: int64(j.RebalanceTimeoutMS),
		join: t, fresh: true, expires: m.now + m.config.NewMemberMS})
	m.more = true
	m.everyoneJoins()
}

func (m *model) tell(t Ticket, x *mMember, instead string) {
	leader := m.leader
	if instead != "" {
		leader = instead
	}
	out := fmt.Sprintf("%d joined as %s: generation %d, %s/%s, led by %s", t, x.id, m.generation, m.kind, m.protocol, leader)
	if leader == x.id {
		for _, y := range m.list {
			out += "\n     " + y.id
			if y.instance != "" {
				out += "/" + y.instance
			}
			for _, p := range y.speaks {
				if p.Name == m.protocol && len(p.Metadata) > 0 {
					out += " says " + string(p.Metadata)
				}
			}
		}
	}
	m.said = append(m.said, out)
}

// takeOver is G12.
func (m *model) takeOver(t Ticket, j Join) {
	old := m.byInstance(j.InstanceID)
	if old.join != 0 {
		m.say("%d joined FENCED_INSTANCE_ID as %s", old.join, old.id)
	}
	if old.sync != 0 {
		m.say("%d synced FENCED_INSTANCE_ID", old.sync)
	}
	led := m.leader
	if led == old.id {
		m.leader = j.NewID
	}
	old.id, old.join, old.sync, old.fresh = j.NewID, 0, 0, false
	old.speaks, old.session, old.rebalance = j.Protocols, int64(j.SessionTimeoutMS), int64(j.RebalanceTimeoutMS)
	old.expires = m.now + old.session
	if m.phase != mStable || m.vote() != m.protocol {
		old.join = t
		m.everyoneJoins()
		return
	}
	if led == m.leader || j.MaySkip {
		m.tell(t, old, "")
		if m.leader == old.id {
			last := &m.said[len(m.said)-1]
			*last = strings.Replace(*last, "led by "+old.id, "led by "+old.id+", assigns nothing", 1)
		}
		return
	}
	m.tell(t, old, led)
}

func (m *model) drop(x *mMember, code string) {
	if x.join != 0 {
		m.say("%d joined %s", x.join, code)
	}
	if x.sync != 0 {
		m.say("%d synced %s", x.sync, code)
	}
	m.list = slices.DeleteFunc(m.list, func(y *mMember) bool { return x == y })
	if m.leader == x.id {
		m.leader = ""
		if len(m.list) > 0 {
			m.leader = m.list[0].id
		}
	}
}

func (m *model) everyoneJoins() {
	switch m.phase {
	case mEmpty:
		m.initial, m.more, m.delay, m.left = true, false, m.config.InitialDelayMS, max(0, m.longest()-m.config.InitialDelayMS)
		m.joinBy = m.now + m.delay
	case mCompleting, mStable:
		for _, x := range m.list {
			if x.sync != 0 {
				m.say("%d synced REBALANCE_IN_PROGRESS", x.sync)
				x.sync = 0
			}
		}
		m.initial, m.joinBy = false, m.now+m.longest()
	}
	m.phase, m.syncBy = mPreparing, Never
	m.check()
}

// check ends the join phase when everyone is there.
func (m *model) check() {
	if m.phase != mPreparing || m.initial || len(m.pending) > 0 {
		return
	}
	for _, x := range m.list {
		if x.join == 0 {
			return
		}
	}
	m.next()
}

func (m *model) next() {
	for _, x := range slices.Clone(m.list) {
		if x.join == 0 && x.instance == "" {
			m.drop(x, "UNKNOWN_MEMBER_ID")
		}
	}
	if len(m.list) == 0 {
		if m.phase, m.joinBy, m.protocol, m.initial = mEmpty, Never, "", false; m.written {
			m.generation++ // unless it is that of an empty group already
		}
		m.written = false
		clear(m.pending)
		return
	}
	there := slices.IndexFunc(m.list, func(x *mMember) bool { return x.join != 0 })
	if there < 0 {
		m.joinBy = m.now + m.longest()
		return
	}
	if m.by(m.leader).join == 0 {
		m.leader = m.list[there].id
	}
	m.generation++
	m.written = true
	m.protocol = m.vote()
	m.phase, m.initial, m.joinBy, m.syncBy = mCompleting, false, Never, m.now+m.longest()
	for _, x := range m.list {
		x.assignment, x.fresh, x.synced, x.expires = "", false, false, m.now+x.session
		if x.join != 0 {
			m.tell(x.join, x, "")
			x.join = 0
		}
	}
}

func (m *model) sync(t Ticket, s Sync) {
	x, code := m.identify(s.MemberID, s.InstanceID)
	switch {
	case code != "":
	case s.Generation != m.generation:
		code = "ILLEGAL_GENERATION"
	case s.ProtocolType != "" && s.ProtocolType != m.kind, s.Protocol != "" && s.Protocol != m.protocol:
		code = "INCONSISTENT_GROUP_PROTOCOL"
	case m.phase == mPreparing:
		code = "REBALANCE_IN_PROGRESS"
	}
	if code != "" {
		m.say("%d synced %s", t, code)
		return
	}
	x.synced = true
	if m.phase == mStable {
		x.expires = m.now + x.session
		m.say("%d synced: %s/%s %q", t, m.kind, m.protocol, x.assignment)
		return
	}
	if x.sync != 0 {
		m.say("%d synced REBALANCE_IN_PROGRESS", x.sync)
	}
	if x.sync = t; m.leader != x.id {
		return
	}
	m.phase = mStable
	for _, y := range m.list {
		for _, a := range s.Assignments {
			if a.MemberID == y.id {
				y.assignment = string(a.Assignment)
			}
		}
		if y.sync != 0 {
			m.say("%d synced: %s/%s %q", y.sync, m.kind, m.protocol, y.assignment)
			y.sync, y.expires = 0, m.now+y.session
		}
	}
}

func (m *model) heartbeat(id, instance string, generation int32) string {
	x, code := m.identify(id, instance)
	switch {
	case code != "":
		return code
	case generation != m.generation:
		return "ILLEGAL_GENERATION"
	case !x.fresh:
		x.expires = m.now + x.session
	}
	if m.phase == mPreparing {
		return "REBALANCE_IN_PROGRESS"
	}
	return "NONE"
}

func (m *model) leave(t Ticket, list []Leaving) {
	var codes []string
	gone := false
	for _, l := range list {
		id := l.MemberID
		if x := m.byInstance(l.InstanceID); id == "" && x != nil {
			id = x.id
		}
		if _, ok := m.pending[id]; ok {
			delete(m.pending, id)
			codes = append(codes, "NONE")
			continue
		}
		x, code := m.identify(id, l.InstanceID)
		if code == "" {
			code, gone = "NONE", true
			m.drop(x, "UNKNOWN_MEMBER_ID")
		}
		codes = append(codes, code)
	}
	m.say("%d left: %v", t, codes)
	if gone {
		m.everyoneJoins()
	} else {
		m.check()
	}
}

func (m *model) tick() {
	gone := false
	maps.DeleteFunc(m.pending, func(_ string, until int64) bool { return until <= m.now })
	for _, x := range slices.Clone(m.list) {
		if x.expires <= m.now && (x.fresh || x.join == 0 && x.sync == 0) {
			m.drop(x, "UNKNOWN_MEMBER_ID")
			gone = true
		}
	}
	if gone {
		m.everyoneJoins()
	}
	m.check()
	if m.joinBy <= m.now {
		if m.initial && m.more && m.left > 0 {
			d := min(m.config.InitialDelayMS, m.left)
			m.left, m.delay, m.more, m.joinBy = max(0, m.left-m.delay), d, false, m.now+d
		} else {
			m.next()
		}
	}
	if m.syncBy <= m.now {
		m.syncBy, gone = Never, false
		for _, x := range slices.Clone(m.list) {
			if !x.synced {
				m.drop(x, "UNKNOWN_MEMBER_ID")
				gone = true
			}
		}
		if gone {
			m.everyoneJoins()
		}
	}
}

func (m *model) due() int64 {
	next := min(m.joinBy, m.syncBy)
	for _, until := range m.pending {
		next = min(next, until)
	}
	for _, x := range m.list {
		if x.fresh || x.join == 0 && x.sync == 0 {
			next = min(next, x.expires)
		}
	}
	return next
}

// show tells everything that a conversation shows, too.
func (m *model) show() string {
	out := fmt.Sprintf("%s %d", m.phase, m.generation)
	if len(m.list) > 0 {
		out += fmt.Sprintf(" %s led by %s", m.kind, m.leader)
	}
	for _, x := range m.list {
		out += fmt.Sprintf("\n  %s/%s join %d sync %d fresh %t expires %d", x.id, x.instance, x.join, x.sync, x.fresh, x.expires)
		if m.phase == mStable {
			out += fmt.Sprintf(" %q", x.assignment)
		}
	}
	return out + fmt.Sprintf("\n  pending %v next %d", m.pending, m.due())
}
