package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/assign"
	"github.com/oncelog/oncelog/coordinator/group/session"
	"github.com/oncelog/oncelog/internal/raftgroup"
)

// MemberRequest is what a member says of itself: when it opens a stream, or in one heartbeat of Kafka's protocol (G14).
type MemberRequest struct {
	// Group must not be empty.
	Group string
	// MemberID is made by the client. Empty in a heartbeat that joins: one is made for it.
	MemberID string
	// InstanceID is that of a static member; empty: it is none.
	InstanceID string
	// Epoch is group.JoinEpoch to join, group.LeaveEpoch and group.LeaveStaticEpoch to leave, else the member's.
	Epoch        int32
	Subscription Subscription
	// Owned is what it reads, in any order; nil: it does not say. Empty for whoever joins.
	Owned  []group.Partition
	Client group.Client
	// Sees says which of the topics that its pattern matches the member may be assigned; nil: all. It is called until the member opens
	// a stream or beats again, and must not block.
	Sees func(topic string) bool
}

// Subscription is what a member wants, or what has changed of it: what is nil, or 0, is as before.
type Subscription struct {
	// Topics, at most group.MaxSubscribed; empty, but not nil: none.
	Topics []string
	// MayBeEmpty: a subscription to nothing is one, too. The member is in the group, and reads nothing for now. Otherwise it is taken for a mistake.
	MayBeEmpty bool
	// Pattern of topics' names, RE2; they are matched as a whole.
	Pattern  *string
	Assignor *string
	Rack     *string
	// RebalanceTimeout is how long it may take to give partitions back, 1 ms to 2^31-1 ms.
	RebalanceTimeout time.Duration
}

// maxRebalanceTimeout bounds what a member may ask for: nothing that Kafka's protocol can say is too long, since clients ask for their
// max.poll.interval.ms.
const maxRebalanceTimeout = math.MaxInt32 * time.Millisecond

func (s *Subscription) changes() bool {
	return s.Topics != nil || s.Pattern != nil || s.Assignor != nil || s.Rack != nil || s.RebalanceTimeout != 0
}

// Assigned is what a member has.
type Assigned struct {
	// Version counts what the stream was told; it is said back when it is done (session.Assignment).
	Version uint64
	// Epoch is the member's, from now on.
	Epoch int32
	// Topics are all that it may read, sorted by name. What is missing must be given back.
	Topics []AssignedTopic
}

// AssignedTopic are partitions of one topic, sorted.
type AssignedTopic struct {
	Topic      string
	ID         group.TopicID
	Partitions []int32
}

// HeartbeatAnswer is what a member is told.
type HeartbeatAnswer struct {
	MemberID string
	Assigned
	// Interval is when it should be heard again.
	Interval time.Duration
}

// HeartbeatInterval is how often a member should be heard; SessionTimeout for how long it may be silent.
func (g *Groups) HeartbeatInterval() time.Duration { return g.config.HeartbeatInterval }

// SessionTimeout is for how long a member may be silent.
func (g *Groups) SessionTimeout() time.Duration { return g.config.SessionTimeout }

// Heartbeat is one question of a member, and the answer (G14 to G17): Kafka's ConsumerGroupHeartbeat. The answer has the whole
// assignment. Whoever joins a group that has no assignment yet waits for it.
func (g *Groups) Heartbeat(ctx context.Context, r MemberRequest) (HeartbeatAnswer, error) {
	ctx, cancel := g.bounded(ctx)
	defer cancel()
	if r.MemberID == "" && r.Epoch == group.JoinEpoch {
		r.MemberID = rand.Text()
	}
	m, err := g.openMember(ctx, r)
	if err != nil {
		return HeartbeatAnswer{}, err
	}
	defer m.Close()
	a, failure := m.Next(ctx)
	if errors.Is(failure, ErrLeft) {
		a, failure = Assigned{Epoch: r.Epoch}, nil
	}
	return HeartbeatAnswer{MemberID: r.MemberID, Assigned: a, Interval: g.config.HeartbeatInterval}, failure
}

// ErrLeft says that a member has left, as it wanted to.
var ErrLeft = errors.New("the member has left the group")

// Membership is a member's stream. Its methods may be called from many goroutines, Next from one at a time.
type Membership struct {
	g      *Groups
	l      *groupLeader
	group  string
	ticket session.Ticket
	s      *stream
	closed sync.Once
}

// OpenMembership begins a stream: a member joins, or goes on after its stream broke or the coordinator moved, with its epoch and with
// what it owns. A stream that it had before ends. Whoever opens one closes it.
func (g *Groups) OpenMembership(ctx context.Context, r MemberRequest) (*Membership, error) {
	if r.Epoch < group.JoinEpoch {
		return nil, badField(CodeInvalidRequest, "member_epoch", "0 and more", "a stream begins with member epoch %d; a member leaves by saying so on its stream", r.Epoch)
	}
	m, err := g.openMember(ctx, r)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (g *Groups) openMember(ctx context.Context, r MemberRequest) (*Membership, *Error) {
	if err := checkMember(&r); err != nil {
		return nil, err
	}
	s, _, err := g.leading(ctx, r.Group, true)
	if err != nil {
		return nil, err
	}
	l := s.leader.Load()
	if l == nil {
		return nil, refused(CodeLoading, "this broker has just begun to lead %s", s.spec)
	}
	if r.Epoch == group.JoinEpoch && s.classicLive(r.Group) {
		return nil, cmp.Or(s.confirm(ctx, l.term), refused(CodeGroupIDNotFound, "group %q has members of the classic protocol; it takes another one only when it is empty", r.Group)) // G18
	}
	m := &Membership{g: g, l: l, group: r.Group, ticket: l.ticket(), s: &stream{news: make(chan struct{}, 1)}}
	var refusal *Error
	err = l.talk(r.Group, func(now int64, t *talk) {
		hb, err := heartbeatOf(&r, t.Member(r.MemberID))
		switch {
		case err != nil:
			refusal = err
			return
		case len(t.streams) >= g.config.Limits.MaxMembers:
			refusal = groupAnswer(r.Group, group.Result{Code: group.GroupMaxSizeReached})
			return
		}
		t.streams[m.ticket] = m.s
		g.metrics.streams.Inc()
		t.seesAs(&r)
		t.conv.Open(now, m.ticket, hb)
	})
	if err = cmp.Or(err, refusal); err != nil {
		return nil, err
	}
	return m, nil
}

// Next waits for what the member is to be told next. The newest counts: what was overtaken before it was told is left out. After an error the
// stream is over: ErrLeft, or an *Error that says why.
func (m *Membership) Next(ctx context.Context) (Assigned, error) {
	for {
		next, end := m.s.take()
		switch {
		case next != nil:
			return *next, nil
		case end != nil:
			return Assigned{}, m.ended(ctx, end)
		}
		select {
		case <-m.s.news:
		case <-m.l.ctx.Done():
			e := m.l.s.notLeading(m.l.ctx.Err())
			e.Outcome = raftgroup.MayHaveHappened
			return Assigned{}, e
		case <-ctx.Done():
			e := refused(CodeRequestTimedOut, "group %q had no answer in time", m.group)
			e.Outcome, e.Cause = raftgroup.MayHaveHappened, ctx.Err()
			return Assigned{}, e
		}
	}
}

// with lets f look at the talk, if it is still the one of this stream.
func (m *Membership) with(f func(now int64, t *talk)) {
	m.l.mu.Lock()
	t := m.l.talks[m.group]
	m.l.mu.Unlock()
	if t != nil {
		t.do(func(now int64) { f(now, t) })
	}
}

// ended says why a stream has ended. Refusals that rest on the state alone are told after proof that this broker leads (R1).
func (m *Membership) ended(ctx context.Context, e *session.End) error {
	switch {
	case e.Err != nil:
		return errorOf(e.Err)
	case e.Confirm:
		if err := m.l.s.confirm(ctx, m.l.term); err != nil {
			return err
		}
	}
	if e.Code == group.OK {
		return ErrLeft
	}
	return groupAnswer(m.group, group.Result{Code: e.Code})
}

// MemberMessage is what a member says on its stream; saying nothing else, it is heard.
type MemberMessage struct {
	// Ack is the newest Assigned.Version that it has done. Owned counts only with that.
	Ack   uint64
	Owned []group.Partition
	// Subscription is what has changed of it.
	Subscription Subscription
	// Leave: it leaves; Away: for a while, with an instance id.
	Leave, Away bool
}

// Say takes a message. What comes of it is told by Next.
func (m *Membership) Say(ctx context.Context, msg MemberMessage) error {
	var invalid *Error
	if err := checkSubscription(&msg.Subscription); err != nil {
		return err
	}
	m.with(func(now int64, t *talk) {
		said := session.Said{Ack: msg.Ack, Leave: msg.Leave, Away: msg.Away, Owned: ownedToProto(msg.Owned)}
		if msg.Subscription.changes() {
			said.Subscription, invalid = subscriptionOf(&msg.Subscription, t.memberOf(m.ticket))
		}
		if invalid == nil {
			t.conv.Say(now, m.ticket, said)
		}
	})
	return asError(invalid)
}

// Close ends the stream. The member stays until its session ends.
func (m *Membership) Close() {
	m.closed.Do(func() {
		m.g.metrics.streams.Dec()
		m.with(func(_ int64, t *talk) {
			if t.streams[m.ticket] != nil {
				delete(t.streams, m.ticket)
				t.conv.Gone(m.ticket)
			}
		})
	})
}

// memberOf gives the member of a stream. Held: mu.
func (t *talk) memberOf(ticket session.Ticket) *group.Member {
	return t.Member(t.conv.MemberOf(ticket))
}

// named gives the partitions of an assignment the names of their topics. Held: mu.
func (t *talk) named(a session.Assignment) Assigned {
	out := Assigned{Version: a.Version, Epoch: a.Epoch}
	t.l.s.machine.read(func(m *group.State) {
		for _, h := range a.Partitions { // sorted by topic id
			name, ok := m.TopicName(t.id, h.TopicID)
			if !ok {
				continue // given back since
			}
			if n := len(out.Topics); n == 0 || out.Topics[n-1].ID != h.TopicID {
				out.Topics = append(out.Topics, AssignedTopic{Topic: name, ID: h.TopicID})
			}
			last := &out.Topics[len(out.Topics)-1]
			last.Partitions = append(last.Partitions, h.Number)
		}
	})
	slices.SortFunc(out.Topics, func(a, b AssignedTopic) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// checkMember refuses what cannot be said.
func checkMember(r *MemberRequest) *Error {
	err := checkGroup(r.Group, r.MemberID, r.InstanceID)
	switch {
	case err != nil:
		return err
	case r.Group == "":
		return badField(CodeInvalidGroupID, "group_id", "1 to 1024 bytes", "the group id is empty")
	case r.MemberID == "":
		return badField(CodeInvalidRequest, "member_id", "1 to 1024 bytes", "the member id is empty")
	case strings.HasPrefix(r.MemberID, "\x00"):
		return badField(CodeInvalidRequest, "member_id", "", "the member id begins with a zero byte")
	case r.Epoch < group.LeaveStaticEpoch:
		return badField(CodeInvalidRequest, "member_epoch", "-2 and more", "the member epoch is %d", r.Epoch)
	case r.Epoch == group.LeaveStaticEpoch && r.InstanceID == "":
		return badField(CodeInvalidRequest, "instance_id", "", "a member without an instance id cannot leave for a while")
	case r.Epoch == group.JoinEpoch && len(r.Owned) > 0:
		return badField(CodeInvalidRequest, "owned", "", "a member that joins owns nothing yet, but says that it owns %d partitions", len(r.Owned))
	case len(r.Owned) > group.MaxAssigned:
		return badField(CodeInvalidRequest, "owned", strconv.Itoa(group.MaxAssigned), "%d partitions; at most %d are allowed", len(r.Owned), group.MaxAssigned)
	}
	return checkSubscription(&r.Subscription)
}

func checkSubscription(s *Subscription) *Error {
	if n := len(s.Topics); n > group.MaxSubscribed {
		return badField(CodeInvalidRequest, "topics", strconv.Itoa(group.MaxSubscribed), "%d topics are subscribed to; at most %d are allowed", n, group.MaxSubscribed)
	}
	for _, name := range s.Topics {
		if name == "" || len(name) > group.MaxTopicLength || !utf8.ValidString(name) {
			return badField(CodeInvalidRequest, "topics", fmt.Sprintf("1 to %d bytes", group.MaxTopicLength), "a topic's name has %d bytes, or is not UTF-8", len(name))
		}
	}
	for _, f := range [...]struct {
		field string
		value *string
		max   int
	}{{"pattern", s.Pattern, group.MaxPatternLength}, {"assignor", s.Assignor, group.MaxTextLength}, {"rack", s.Rack, group.MaxTextLength}} {
		if f.value != nil && (len(*f.value) > f.max || !utf8.ValidString(*f.value)) {
			return badField(CodeInvalidRequest, f.field, strconv.Itoa(f.max)+" bytes", "%s has %d bytes, or is not UTF-8; at most %d are allowed", f.field, len(*f.value), f.max)
		}
	}
	if s.Pattern != nil && *s.Pattern != "" {
		if _, err := CompilePattern(*s.Pattern); err != nil {
			e := badField(CodeInvalidRegularExpression, "pattern", "RE2", "the pattern is not one of RE2, or takes too long")
			e.Cause = err
			return e
		}
	}
	if s.Assignor != nil && *s.Assignor != "" {
		if _, ok := assign.ByName(*s.Assignor); !ok {
			return badField(CodeUnsupportedAssignor, "assignor", strings.Join(assign.Names(), ", "), "there is no assignor %q", *s.Assignor)
		}
	}
	if t := s.RebalanceTimeout; t != 0 && (t < time.Millisecond || t > maxRebalanceTimeout) {
		return badField(CodeInvalidRequest, "rebalance_timeout_ms", "1 to 2147483647", "the rebalance timeout is %v", t)
	}
	return nil
}

// heartbeatOf is what a request amounts to for the member as it is; nil: it is none.
func heartbeatOf(r *MemberRequest, now *group.Member) (*statev1.ConsumerHeartbeat, *Error) {
	hb := &statev1.ConsumerHeartbeat{MemberId: r.MemberID, InstanceId: r.InstanceID, MemberEpoch: r.Epoch, Owned: ownedToProto(r.Owned)}
	if r.Epoch == group.JoinEpoch {
		hb.Owned = &statev1.OwnedPartitions{}
		if r.Client != (group.Client{}) {
			hb.Client = &statev1.ClientRef{ClientId: clip(r.Client.ID), Address: clip(r.Client.Address)}
		}
		now = nil // all of it is said anew
	}
	if r.Epoch >= group.JoinEpoch && (r.Epoch == group.JoinEpoch || r.Subscription.changes()) {
		var err *Error
		if hb.Subscription, err = subscriptionOf(&r.Subscription, now); err != nil {
			return nil, err
		}
	}
	return hb, nil
}

// noTopic is a pattern that matches nothing. It stands in the state for a subscription to nothing, which no command can have.
const noTopic = `[^\x00-\x{10FFFF}]`

// subscriptionOf is a member's subscription with what has changed of it.
func subscriptionOf(s *Subscription, now *group.Member) (*statev1.ConsumerSubscription, *Error) {
	p := &statev1.ConsumerSubscription{}
	if now != nil {
		p.Topics, p.Pattern, p.Assignor, p.Rack, p.RebalanceTimeoutMs = now.Topics, now.Pattern, now.Assignor, now.Rack, now.RebalanceTimeoutMS
	}
	if p.Pattern == noTopic {
		p.Pattern = ""
	}
	if s.Topics != nil {
		p.Topics = slices.Clone(s.Topics)
		slices.Sort(p.Topics)
		p.Topics = slices.Compact(p.Topics)
	}
	for to, from := range map[*string]*string{&p.Pattern: s.Pattern, &p.Assignor: s.Assignor, &p.Rack: s.Rack} {
		if from != nil {
			*to = *from
		}
	}
	if s.RebalanceTimeout != 0 {
		p.RebalanceTimeoutMs = int32(s.RebalanceTimeout.Milliseconds())
	}
	if len(p.Topics) == 0 && p.Pattern == "" && s.MayBeEmpty {
		p.Pattern = noTopic
	}
	switch {
	case len(p.Topics) == 0 && p.Pattern == "":
		return nil, badField(CodeInvalidRequest, "topics", "", "neither topics nor a pattern are subscribed to")
	case p.RebalanceTimeoutMs == 0:
		return nil, badField(CodeInvalidRequest, "rebalance_timeout_ms", "1 to 2147483647", "a member that joins has no rebalance timeout")
	}
	return p, nil
}

// ownedToProto sorts what a member says that it reads.
func ownedToProto(list []group.Partition) *statev1.OwnedPartitions {
	if list == nil {
		return nil
	}
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b group.Partition) int {
		return cmp.Or(bytes.Compare(a.TopicID[:], b.TopicID[:]), cmp.Compare(a.Number, b.Number))
	})
	return &statev1.OwnedPartitions{Topics: group.PartitionsToProto(slices.Compact(sorted))}
}
