package coordinator

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
)

// JoinRequest asks to be a member of a group of the classic protocol, or of its next generation (JoinGroup).
type JoinRequest struct {
	// Group must not be empty.
	Group string
	// MemberID is empty for a client that has none yet; InstanceID for one that is not a static member.
	MemberID, InstanceID string
	Client               group.Client
	ProtocolType         string
	// Protocols, at most classic.MaxProtocols, the one that the client likes best first.
	Protocols []classic.Protocol
	// SessionTimeout is for how long it may be silent, RebalanceTimeout how long it may take to join again, 1 ms and more.
	SessionTimeout, RebalanceTimeout time.Duration
	// MustKnowID: a client without an id is given one, and has to join with it (KIP-394). MaySkip: it knows SkipAssignment
	// (KIP-814).
	MustKnowID, MaySkip bool
}

// JoinAnswer is what a member is told that has joined.
type JoinAnswer struct {
	// MemberID is set beside MEMBER_ID_REQUIRED, too.
	MemberID                       string
	Generation                     int32
	ProtocolType, Protocol, Leader string
	// Members are for the leader, who assigns. SkipAssignment: it leads, and does not.
	Members        []classic.JoinedMember
	SkipAssignment bool
}

// JoinGroup lets a member join, and waits until the next generation begins: as long as the longest rebalance timeout of the members
// (G1 to G6, G12, G13). It waits for ctx and for no other time.
func (g *Groups) JoinGroup(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
	j := classic.Join{
		MemberID: r.MemberID, InstanceID: r.InstanceID, Client: group.Client{ID: clip(r.Client.ID), Address: clip(r.Client.Address)},
		ProtocolType: r.ProtocolType, Protocols: r.Protocols, MustKnowID: r.MustKnowID, MaySkip: r.MaySkip,
		SessionTimeoutMS: ms(r.SessionTimeout), RebalanceTimeoutMS: ms(r.RebalanceTimeout),
	}
	j.NewID = cmp.Or(clip(r.InstanceID), j.Client.ID) + "-" + rand.Text()
	l, err := g.classicLeader(ctx, r.Group, r.MemberID, r.InstanceID)
	if err == nil && !validText(&j) {
		err = badField(CodeInvalidRequest, "protocols", "", "the protocol type, or the name of a protocol, is not UTF-8")
	}
	if err != nil {
		return JoinAnswer{}, err
	}
	e, err := l.ask(ctx, r.Group, true, func(now int64, t *classicTalk, ticket classic.Ticket) {
		if l.full() {
			t.answer(ticket, classic.Joined{Answer: classic.Answer{Code: group.TooManyBytes}})
			return
		}
		t.conv.Join(now, ticket, j)
		t.count()
	})
	if err != nil {
		return JoinAnswer{}, err
	}
	a := e.(classic.Joined)
	g.metrics.told("join_group", a.Answer)
	out := JoinAnswer{
		MemberID: a.MemberID, Generation: a.Generation, ProtocolType: a.ProtocolType, Protocol: a.Protocol, Leader: a.Leader,
		Members: a.Members, SkipAssignment: a.SkipAssignment,
	}
	return out, l.told(ctx, r.Group, a.Answer)
}

func validText(j *classic.Join) bool {
	return utf8.ValidString(j.ProtocolType) && !slices.ContainsFunc(j.Protocols, func(p classic.Protocol) bool { return !utf8.ValidString(p.Name) })
}

func ms(d time.Duration) int32 { return int32(min(d.Milliseconds(), 1<<31-1)) }

// SyncRequest asks for a member's assignment in a generation (SyncGroup).
type SyncRequest struct {
	Group, MemberID, InstanceID string
	Generation                  int32
	// ProtocolType and Protocol are what the member takes to be the group's; empty: it does not say.
	ProtocolType, Protocol string
	// Assignments are what the leader of the generation assigns.
	Assignments []classic.Assignment
}

// SyncAnswer is what a member is assigned.
type SyncAnswer struct {
	ProtocolType, Protocol string
	Assignment             []byte
}

// SyncGroup gives a member its assignment, once the leader has brought it and it is committed (G7). It waits for ctx and for no other
// time.
func (g *Groups) SyncGroup(ctx context.Context, r SyncRequest) (SyncAnswer, error) {
	l, err := g.classicLeader(ctx, r.Group, r.MemberID, r.InstanceID)
	if err != nil {
		return SyncAnswer{}, err
	}
	s := classic.Sync{MemberID: r.MemberID, InstanceID: r.InstanceID, Generation: r.Generation, ProtocolType: r.ProtocolType, Protocol: r.Protocol, Assignments: r.Assignments}
	e, err := l.ask(ctx, r.Group, false, func(now int64, t *classicTalk, ticket classic.Ticket) {
		if t.conv.Deciding() && l.full() {
			t.answer(ticket, classic.Synced{Answer: classic.Answer{Err: classic.ErrBusy}})
			return
		}
		t.conv.Sync(now, ticket, s)
		if t.conv.Deciding() {
			t.count()
		}
	})
	if err != nil {
		return SyncAnswer{}, err
	}
	a, ok := e.(classic.Synced)
	if !ok { // nobody is a member
		a.Answer = classic.Answer{Code: group.UnknownMemberID, Confirm: true}
	}
	g.metrics.told("sync_group", a.Answer)
	return SyncAnswer{a.ProtocolType, a.Protocol, a.Assignment}, l.told(ctx, r.Group, a.Answer)
}

// ClassicHeartbeat says that a member is there (G8): REBALANCE_IN_PROGRESS has it join again.
func (g *Groups) ClassicHeartbeat(ctx context.Context, id string, by group.Committer) error {
	l, err := g.classicLeader(ctx, id, by.MemberID, by.InstanceID)
	if err != nil {
		return err
	}
	code := group.UnknownMemberID
	l.withClassic(id, func(now int64, t *classicTalk) { code = t.conv.Heartbeat(now, by.MemberID, by.InstanceID, by.Epoch) })
	g.metrics.requested("heartbeat_group", code)
	return l.told(ctx, id, classic.Answer{Code: code, Confirm: code != group.OK})
}

// maxLeaving is how many members one request can have leave.
const maxLeaving = 10_000

// LeaveGroup has members leave, each named by its id, or by its instance id alone; and says of each whether it did (G9).
func (g *Groups) LeaveGroup(ctx context.Context, id string, members []classic.Leaving) ([]error, error) {
	l, err := g.classicLeader(ctx, id, "", "")
	if err == nil && len(members) > maxLeaving {
		err = badField(CodeInvalidRequest, "members", "10000", "%d members leave at once", len(members))
	}
	if err != nil {
		return nil, err
	}
	e, err := l.ask(ctx, id, false, func(now int64, t *classicTalk, ticket classic.Ticket) {
		if t.conv.Deciding() && l.full() {
			t.answer(ticket, classic.Left{Err: classic.ErrBusy})
			return
		}
		t.conv.Leave(now, ticket, members)
		t.count()
	})
	if err != nil {
		return nil, err
	}
	a, ok := e.(classic.Left)
	if !ok { // nobody is a member
		a.Codes = slices.Repeat([]group.Code{group.UnknownMemberID}, len(members))
	}
	errs := make([]error, len(a.Codes))
	refusals := false
	for i, code := range a.Codes {
		errs[i] = asError(groupAnswer(id, group.Result{Code: code}))
		refusals = refusals || code != group.OK
		g.metrics.requested("leave_group", code)
	}
	return errs, l.told(ctx, id, classic.Answer{Err: a.Err, Confirm: refusals})
}

// classicLeader finds the leader of a group of the classic protocol, if this broker is it.
func (g *Groups) classicLeader(ctx context.Context, id, member, instance string) (*groupLeader, *Error) {
	ctx, cancel := context.WithTimeout(ctx, g.config.RequestTimeout)
	defer cancel()
	err := checkGroup(id, member, instance)
	if err == nil && id == "" {
		err = badField(CodeInvalidGroupID, "group_id", "1 to 1024 bytes", "the group id is empty")
	}
	if err != nil {
		return nil, err
	}
	s, _, err := g.leading(ctx, id, true)
	if err != nil {
		return nil, err
	}
	if l := s.leader.Load(); l != nil {
		return l, nil
	}
	return nil, refused(CodeLoading, "this broker has just begun to lead %s", s.spec)
}

// told is what an answer comes to. What rests on the leader's memory alone is told after proof that this broker leads (R1).
func (l *groupLeader) told(ctx context.Context, id string, a classic.Answer) error {
	switch {
	case errors.Is(a.Err, classic.ErrBusy):
		return refused(CodeBusy, "too many requests wait for group %q", id)
	case errors.Is(a.Err, group.ErrInvalidCommand):
		e := refused(CodeInvalidRequest, "%s", strings.TrimPrefix(a.Err.Error(), group.ErrInvalidCommand.Error()+": "))
		e.Cause = a.Err
		return e
	case a.Err != nil:
		return errorOf(a.Err)
	case a.Confirm:
		if err := l.s.confirm(ctx, l.term); err != nil {
			return err
		}
	}
	return asError(groupAnswer(id, group.Result{Code: a.Code}))
}

// full: those who join, or wait to, hold as much memory as there may be in all groups of a shard.
func (l *groupLeader) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.classicBytes > l.g.config.Limits.MaxBytes
}

// mayCommit refuses commits that the leader knows more of than the applied state does: of members of the classic protocol that have left, or are on
// the way to the next generation (G19). Members that commit are heard.
func (g *Groups) mayCommit(ctx context.Context, s *groupShard, id string, by group.Committer, transactional bool) *Error {
	l := s.leader.Load()
	if l == nil {
		return nil // nothing is known but what is applied
	}
	code := group.OK
	l.withClassic(id, func(now int64, t *classicTalk) { code = t.conv.MayCommit(now, by, transactional) })
	if code == group.OK {
		return nil
	}
	return cmp.Or(s.confirm(ctx, l.term), groupAnswer(id, group.Result{Code: code}))
}

// classicLive says that members of the classic protocol have the group, or are about to (G18, G30).
func (s *groupShard) classicLive(id string) (live bool) {
	if l := s.leader.Load(); l != nil {
		l.withClassic(id, func(_ int64, t *classicTalk) { live = t.conv.Live() })
	}
	return live
}

// classicGathers says that members of the classic protocol are on the way to a generation: the applied state does not have all of them, or not as
// they are now.
func (s *groupShard) classicGathers(id string) (gathers bool) {
	if l := s.leader.Load(); l != nil {
		l.withClassic(id, func(_ int64, t *classicTalk) { gathers = t.conv.Live() && !t.conv.Settled() })
	}
	return gathers
}

// describeClassic is the group as its leader knows it: with those who join, before the applied state has them.
func (s *groupShard) describeClassic(id string, d *group.Description) (found bool) {
	if l := s.leader.Load(); l != nil {
		l.withClassic(id, func(_ int64, t *classicTalk) {
			var now group.Description
			if now, found = t.conv.Describe(); found {
				*d = now
			}
		})
	}
	return found
}

// listClassic puts what the leader knows of groups of the classic protocol into a sorted list of those that are applied.
func (s *groupShard) listClassic(list []group.Description) []group.Description {
	l := s.leader.Load()
	if l == nil {
		return list
	}
	l.mu.Lock()
	ids := make([]string, 0, len(l.classics))
	for id := range l.classics {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	for _, id := range ids {
		var d group.Description
		if !s.describeClassic(id, &d) {
			continue
		}
		d.Classic = nil
		if at, ok := slices.BinarySearchFunc(list, id, func(d group.Description, id string) int { return cmp.Compare(d.ID, id) }); ok {
			list[at] = d
		} else {
			list = slices.Insert(list, at, d)
		}
	}
	return list
}
