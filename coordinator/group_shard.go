package coordinator

import (
	"context"
	"sync/atomic"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/record"
)

// groupShard is a shard for groups.
type groupShard struct {
	*shard
	machine replicated[*group.State, group.Result]
	// leader is the work of the term in which this replica leads; nil: it does not.
	leader atomic.Pointer[groupLeader]
}

func newGroupShard(s *shard) *groupShard {
	gs := &groupShard{shard: s}
	gs.machine.state, gs.machine.restore = group.New(), group.Restore
	return gs
}

// partition is the shard as a partition of a transaction (T15).
func (s *groupShard) partition() record.TopicPartition {
	return record.TopicPartition{Topic: KindGroups.Topic(), Partition: s.spec.Number}
}

// leading finds the shard of a group, if this broker leads it, and in which term. With create, shards that do not exist yet are made.
func (g *Groups) leading(ctx context.Context, id string, create bool) (*groupShard, record.Term, *Error) {
	at, err := g.host.locate(ctx, KindGroups, id, create)
	if err != nil {
		return nil, 0, err
	}
	s := g.host.find(KindGroups, at.Number)
	if s == nil {
		return nil, 0, at.elsewhere()
	}
	gs := g.shardOf(s)
	if gs == nil {
		return nil, 0, at.elsewhere()
	}
	term, err := s.ready()
	return gs, term, err
}

// execute carries a command to its answer: it looks at the applied state, and proposes if something is to be written. Nothing is
// known here but what is applied, so there is nothing to take back after a proposal whose outcome is unknown (R2).
func (g *Groups) execute(ctx context.Context, s *groupShard, c *statev1.GroupCommand) (group.Result, *Error) {
	term, err := s.ready()
	if err != nil {
		return group.Result{}, err
	}
	var r group.Result
	s.machine.read(func(m *group.State) { r = m.Check(g.host.nowMS(), c) })
	if r.Changed {
		r, err = s.proposeCommand(ctx, term, c)
	} else {
		err = s.confirm(ctx, term)
	}
	if err != nil {
		return r, err
	}
	g.metrics.answered(c, r)
	return r, groupAnswer(c.GetGroupId(), r)
}

// proposeCommand has a command applied in a term.
func (s *groupShard) proposeCommand(ctx context.Context, term record.Term, c *statev1.GroupCommand) (group.Result, *Error) {
	data, invalid := group.EncodeCommand(c)
	if invalid != nil {
		e := refused(CodeInvalidRequest, "%v", invalid)
		e.Cause = invalid
		return group.Result{}, e
	}
	applied, err := s.propose(ctx, term, data)
	if err != nil {
		return group.Result{}, err
	}
	return applied.(group.Result), nil
}

// groupAnswer turns what the machine said into what is told.
func groupAnswer(id string, r group.Result) *Error {
	code := Code(r.Code.String())
	switch r.Code {
	case group.OK:
		return nil
	case group.GroupIDNotFound:
		return refused(code, "there is no group %q", id)
	case group.UnknownMemberID:
		return refused(code, "group %q has no such member: it has left, or its session has ended", id)
	case group.IllegalGeneration:
		return refused(code, "group %q is at another generation", id)
	case group.FencedInstanceID:
		return refused(code, "another member of group %q uses this instance id now", id)
	case group.RebalanceInProgress:
		return refused(code, "group %q is being rebalanced", id)
	case group.StaleMemberEpoch:
		return refused(code, "the member of group %q is at another epoch", id)
	case group.FencedMemberEpoch:
		return refused(code, "the member of group %q shows an epoch that is not its own: it has to join again", id)
	case group.UnreleasedInstanceID:
		return refused(code, "another member of group %q still uses this instance id", id)
	case group.GroupMaxSizeReached:
		return badField(code, "group_id", "groups.max_size", "group %q has as many members as groups.max_size allows", id)
	case group.InconsistentGroupProtocol:
		return refused(code, "the members of group %q speak another protocol", id)
	case group.NonEmptyGroup:
		return refused(code, "group %q has members", id)
	case group.SubscribedToTopic:
		return refused(code, "members of group %q are subscribed to the topic", id)
	case group.InvalidProducerEpoch:
		return refused(code, "a newer producer has the transactional id: epoch %d is known here", r.StoredEpoch)
	case group.InvalidTxnState:
		return refused(code, "the transaction has ended meanwhile, or the shard was never part of it")
	case group.CoordinatorFenced:
		return refused(code, "a later coordinator of the transaction has written a marker already")
	case group.Stale:
		return refused(CodeBusy, "group %q is being changed by others at once: try again", id)
	case group.MemberIDRequired:
		return refused(code, "a member of group %q has to join with the id that it is given", id)
	case group.InvalidSessionTimeout:
		return badField(code, "session_timeout_ms", "groups.min_session_timeout to groups.max_session_timeout", "the session timeout is out of range")
	case group.TooManyGroups:
		return badField(CodePolicyViolation, "group_id", "limits.max_groups", "as many groups are known as limits.max_groups allows; unused ones are forgotten in time")
	case group.TooManyOffsets:
		return badField(CodePolicyViolation, "offsets", "limits.max_group_offsets", "as many offsets are kept as limits.max_group_offsets allows")
	case group.TooManyProducers:
		return refused(CodePolicyViolation, "too many transactions are open that commit offsets: try again")
	case group.TooManyBytes:
		return badField(CodePolicyViolation, "", "limits.max_group_bytes", "the groups of this shard hold as many bytes as limits.max_group_bytes allows")
	}
	return refused(CodeUnknown, "the group machine said %v", r.Code)
}
