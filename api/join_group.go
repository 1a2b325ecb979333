package api

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
)

// defaultRebalanceTimeoutMS is Kafka's, which is its max.poll.interval.ms.
const defaultRebalanceTimeoutMS = 300_000

// JoinGroup serves one member's stream. One goroutine takes what the member says, the handler tells it what it is to have. The stream ends
// when the member has left, may not read the group any more, when the coordinator says that it is none, and when the broker stops or leads no
// more: then it comes again, elsewhere.
func (s *service) JoinGroup(stream grpc.BidiStreamingServer[clientv1.JoinGroupRequest, clientv1.JoinGroupResponse]) error {
	ctx, cancel := s.untilStop(stream.Context())
	defer cancel()
	first, opened, said := make(chan firstMessage, 1), make(chan *coordinator.Membership, 1), make(chan error, 1)
	defer close(opened)
	// It may sit in Recv until this call has returned, so Stop waits for it, not the call.
	s.owned.Go(func() {
		said <- s.listen(ctx, stream, first, opened)
		cancel()
	})
	m, err := s.openMember(ctx, first)
	if err != nil {
		return err
	}
	defer m.Close()
	opened <- m
	for {
		a, err := m.Next(ctx)
		switch {
		case errors.Is(err, coordinator.ErrLeft):
			return nil
		case err != nil && s.stopping.Err() != nil:
			return s.failed(refused(reasonStopping, "", "", "the broker is stopping: go on with the group at its new coordinator"))
		case err != nil && ctx.Err() != nil: // listen has cancelled, or the client is gone
			select {
			case err = <-said:
			default:
			}
			return err
		case err != nil:
			return s.failed(s.ofDomain(err))
		}
		if err := stream.Send(s.protoAssignment(a)); err != nil {
			return err
		}
	}
}

// firstMessage is what a stream begins with, or why it does not.
type firstMessage struct {
	msg *clientv1.JoinGroupRequest
	err error
}

// openMember begins the membership that the first message asks for.
func (s *service) openMember(ctx context.Context, first <-chan firstMessage) (*coordinator.Membership, error) {
	var f firstMessage
	select {
	case f = <-first:
	case <-ctx.Done():
		return nil, s.failed(refused(reasonStopping, "", "", "the broker is stopping, or the call has ended"))
	}
	if f.err != nil {
		return nil, f.err
	}
	req, refusal := memberRequest(ctx, f.msg)
	if refusal == nil {
		refusal = s.refuseMember(ctx, req.Group, f.msg.Subscription)
	}
	if refusal != nil {
		return nil, s.failed(refusal)
	}
	if s.c.Guard.Enforces() {
		who := s.rights(ctx)
		req.Sees = func(topic string) bool { return who.sees(acl.Describe, acl.Topic, topic) }
	}
	m, err := s.c.Groups.OpenMembership(ctx, req)
	if err != nil {
		return nil, s.failed(s.ofDomain(err))
	}
	return m, nil
}

// listen hands on what a member says, until the stream ends. The error is what the stream is to end with; nil: nothing more will be said.
func (s *service) listen(ctx context.Context, stream grpc.BidiStreamingServer[clientv1.JoinGroupRequest, clientv1.JoinGroupResponse],
	first chan<- firstMessage, opened <-chan *coordinator.Membership) (failure error) {
	defer func() {
		if r := recover(); r != nil {
			failure = s.panicked(clientv1.GroupService_JoinGroup_FullMethodName, r)
		}
	}()
	msg, err := stream.Recv()
	first <- firstMessage{msg, err}
	m := <-opened
	if m == nil {
		return nil
	}
	group := msg.GroupId
	for {
		msg, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			// Nothing more will be said. The session goes on for as long as sessions do; so does the stream, until the client cancels it.
			<-ctx.Done()
			return nil
		case err != nil:
			return err
		}
		said := coordinator.MemberMessage{Ack: msg.Ack, Leave: msg.Leave, Away: msg.Away}
		var refusal *clientv1.Error
		if said.Owned, refusal = ownedOf(msg.Owned); refusal == nil && msg.Subscription != nil {
			said.Subscription = subscriptionOf(msg.Subscription)
		}
		if refusal == nil {
			refusal = s.refuseMember(ctx, group, msg.Subscription)
		}
		if refusal != nil {
			return s.failed(refusal)
		}
		if err := m.Say(ctx, said); err != nil {
			return s.failed(s.ofDomain(err))
		}
	}
}

// refuseMember says why who calls may not be a member, or subscribe to what it names. It is asked for each message, of which there are as many
// as heartbeats.
func (s *service) refuseMember(ctx context.Context, group string, sub *clientv1.Subscription) *clientv1.Error {
	who := s.rights(ctx)
	if refusal := who.refuse(acl.Read, acl.Group, group); refusal != nil {
		return refusal
	}
	seen := s.topics(who, acl.Describe)
	for _, topic := range sub.GetTopics() {
		if refusal := seen.refuse(topic); refusal != nil {
			return refusal
		}
	}
	return nil
}

// memberRequest reads the first message.
func memberRequest(ctx context.Context, msg *clientv1.JoinGroupRequest) (coordinator.MemberRequest, *clientv1.Error) {
	r := coordinator.MemberRequest{Group: msg.GroupId, MemberID: msg.MemberId, InstanceID: msg.InstanceId, Epoch: msg.MemberEpoch}
	if msg.Leave || msg.Away {
		return r, refused(reasonInvalidRequest, "leave, away", "", "the first message leaves the group; leave by a later one")
	}
	var refusal *clientv1.Error
	if r.Owned, refusal = ownedOf(msg.Owned); refusal != nil {
		return r, refusal
	}
	if msg.Subscription != nil {
		r.Subscription = subscriptionOf(msg.Subscription)
	}
	by := caller(ctx)
	r.Client = group.Client{ID: by.ID, Address: by.Address}
	return r, nil
}

// subscriptionOf reads a whole subscription.
func subscriptionOf(p *clientv1.Subscription) coordinator.Subscription {
	timeout := p.RebalanceTimeoutMs
	if timeout == 0 {
		timeout = defaultRebalanceTimeoutMS
	}
	topics := p.Topics
	if topics == nil {
		topics = []string{}
	}
	return coordinator.Subscription{Topics: topics, Pattern: &p.Pattern, Assignor: &p.Assignor, Rack: &p.Rack,
		RebalanceTimeout: time.Duration(timeout) * time.Millisecond}
}

// ownedOf reads what a member says that it reads; nil: it does not say.
func ownedOf(p *clientv1.Owned) ([]group.Partition, *clientv1.Error) {
	if p == nil {
		return nil, nil
	}
	list := []group.Partition{}
	for _, t := range p.Topics {
		id, err := metadata.ParseTopicID(t.TopicId)
		if err != nil {
			return nil, refused(reasonInvalidRequest, "owned", "", "owned has topic id %q, which is none", clip(t.TopicId))
		}
		for _, n := range t.Partitions {
			if n < 0 {
				return nil, refused(reasonInvalidRequest, "owned", "0", "owned has partition %d", n)
			}
			list = append(list, group.Partition{TopicID: group.TopicID(id), Number: n})
		}
	}
	return list, nil
}

func (s *service) protoAssignment(a coordinator.Assigned) *clientv1.JoinGroupResponse {
	p := &clientv1.JoinGroupResponse{
		Version: a.Version, MemberEpoch: a.Epoch,
		HeartbeatIntervalMs: int32(min(s.c.Groups.HeartbeatInterval().Milliseconds(), math.MaxInt32)),
		SessionTimeoutMs:    int32(min(s.c.Groups.SessionTimeout().Milliseconds(), math.MaxInt32)),
	}
	for _, t := range a.Topics {
		p.Topics = append(p.Topics, &clientv1.AssignedTopic{Topic: t.Topic, TopicId: metadata.TopicID(t.ID).String(), Partitions: t.Partitions})
	}
	return p
}
