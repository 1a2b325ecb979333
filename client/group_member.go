package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// membership keeps a member in its group: one goroutine holds the stream to the coordinator, is heard, joins again. What the member is to
// have it leaves for Poll, which does it and says so.
type membership struct {
	c           *Client
	cfg         GroupConfig
	coordinator *coordinator
	id          string
	news        chan struct{} // capacity 1: Poll should look
	spoken      chan struct{} // capacity 1: the stream has something to say

	mu sync.Mutex // guards what follows
	// epoch is the member's; 0: it is none.
	epoch int32
	// stream counts the streams, version what was pushed on the present one. told is what the member is to have; it waits
	// for Poll while pending.
	stream  uint64
	version uint64
	told    []*clientv1.AssignedTopic
	pending bool
	// lost: the member is none any more, which Poll has to take note of before it joins again.
	lost bool
	// topics are the ids of the topics that Poll reads. Replaced, not changed.
	topics *map[string]string
	// owned is what it reads, acked the version that this answers, on ackedStream. doing is what Poll is about to read as well.
	owned       []*clientv1.AssignedTopic
	doing       []*clientv1.AssignedTopic
	acked       uint64
	ackedStream uint64
	leaving     bool
	// polled is when Poll was last heard of. idle: it was not for too long, and the member has left meanwhile.
	polled time.Time
	idle   bool
	err    *Error // why it is over
}

// errLeft ends a stream whose member has left.
var errLeft = errors.New("left")

// run keeps the member in the group until ctx ends, or it has left, or the brokers refuse it for good.
func (m *membership) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		if !m.mayJoin(ctx) {
			return
		}
		began := time.Now()
		err := m.serve(ctx)
		if time.Since(began) > time.Second {
			failures = 0
		}
		switch {
		case errors.Is(err, errLeft) && m.isLeaving():
			return
		case errors.Is(err, errLeft): // for want of a Poll
			m.setLost()
			continue
		}
		e := fromCall(err, "")
		switch e.Reason {
		case "UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "GROUP_ID_NOT_FOUND":
			m.c.log.Info("is no member of the group any more, and joins again", "group", m.cfg.GroupID, "member", m.id, "err", e)
			m.setLost()
		case "UNRELEASED_INSTANCE_ID": // the one before has not been given up yet
		default:
			if !e.Retriable && e.Reason != ReasonCanceled {
				m.fail(e)
				return
			}
		}
		if ctx.Err() != nil || m.isLeaving() && e.Reason == ReasonClosed {
			return
		}
		failures++
		m.c.log.Debug("stream of the member ended", "group", m.cfg.GroupID, "member", m.id, "err", e)
		sleep(ctx, m.c.backoff(failures))
	}
}

func (m *membership) isLeaving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaving
}

// mayJoin waits until Poll has taken note of a loss, and is being called. false: it will not join any more.
func (m *membership) mayJoin(ctx context.Context) bool {
	for {
		m.mu.Lock()
		leave := m.leaving && (m.lost || m.epoch == 0)
		wait := m.lost || m.idle
		m.mu.Unlock()
		if leave || ctx.Err() != nil {
			return false
		}
		if !wait {
			return true
		}
		select {
		case <-m.spoken:
		case <-ctx.Done():
		}
	}
}

// setLost leaves it to Poll to take note that the partitions are somebody else's.
func (m *membership) setLost() {
	m.mu.Lock()
	m.epoch, m.lost, m.pending, m.told = 0, true, false, nil
	m.mu.Unlock()
	signal(m.news)
}

func (m *membership) fail(err *Error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	signal(m.news)
}

// serve holds one stream.
func (m *membership) serve(ctx context.Context) error {
	k := m.coordinator
	addr, err := k.find(ctx)
	if err != nil {
		return err
	}
	cc, err := k.conns.get(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := clientv1.NewGroupServiceClient(cc).JoinGroup(ctx)
	if err == nil {
		err = stream.Send(m.hello())
	}
	if err != nil && !errors.Is(err, io.EOF) {
		k.learn(addr, fromCall(err, addr))
		return err
	}
	answers, ended := make(chan *clientv1.JoinGroupResponse), make(chan error, 1)
	go func() { // ends with ctx
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- r:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	err = m.converse(ctx, addr, stream, answers, ended)
	cancel()
	if e := fromCall(err, addr); err != nil && !errors.Is(err, errLeft) {
		k.learn(addr, e)
	}
	return err
}

// converse hears and is heard until the stream ends.
func (m *membership) converse(ctx context.Context, addr string, stream grpc.BidiStreamingClient[clientv1.JoinGroupRequest, clientv1.JoinGroupResponse],
	answers <-chan *clientv1.JoinGroupResponse, ended <-chan error) error {
	interval := 3 * time.Second // until the first answer
	timer := time.NewTimer(interval)
	defer timer.Stop()
	moved := make(chan struct{}, 1)
	for {
		select {
		case r := <-answers:
			m.hear(r)
			if ms := r.GetHeartbeatIntervalMs(); ms > 0 {
				interval = time.Duration(ms) * time.Millisecond
			}
			timer.Reset(interval)
			continue
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return errLeft
			}
			return err
		case <-moved:
			m.coordinator.forget(addr)
			return refusal(ReasonNotCoordinator, "the coordinator has moved").retriable()
		case <-timer.C:
			timer.Reset(interval)
			m.checkPolled()
			go m.lookForCoordinator(ctx, addr, moved) // ends with ctx, or soon
		case <-m.spoken:
		}
		if err := stream.Send(m.message()); err != nil && !errors.Is(err, io.EOF) { // with EOF, ended says why
			return err
		}
	}
}

// retriable says that the same call may succeed later.
func (e *Error) retriable() *Error {
	e.Retriable = true
	return e
}

// lookForCoordinator asks whether a coordinator that is not heard of is still the coordinator: a paused broker keeps its connections open.
func (m *membership) lookForCoordinator(ctx context.Context, addr string, moved chan<- struct{}) {
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	if now, err := m.coordinator.ask(ctx); err == nil && now != addr {
		select {
		case moved <- struct{}{}:
		default:
		}
	}
}

// hello is the first message of a stream.
func (m *membership) hello() *clientv1.JoinGroupRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stream++
	m.version = 0
	r := &clientv1.JoinGroupRequest{
		GroupId: m.cfg.GroupID, MemberId: m.id, InstanceId: m.cfg.InstanceID, MemberEpoch: m.epoch,
		Subscription: &clientv1.Subscription{Topics: m.cfg.Topics, Pattern: m.cfg.Pattern, Assignor: m.cfg.Assignor, Rack: m.cfg.Rack,
			RebalanceTimeoutMs: int32(m.cfg.MaxPollInterval.Milliseconds())},
	}
	if m.epoch > 0 {
		r.Owned = &clientv1.Owned{Topics: slices.Concat(m.owned, m.doing)}
	}
	// What was told on the last stream and not begun yet will be told again, if it still holds: nothing is read that this message does
	// not own to.
	m.pending = false
	if m.leaving {
		signal(m.spoken)
	}
	return r
}

// message is what there is to say: at least that the member is there.
func (m *membership) message() *clientv1.JoinGroupRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &clientv1.JoinGroupRequest{}
	if m.ackedStream == m.stream {
		r.Ack = m.acked
		r.Owned = &clientv1.Owned{Topics: m.owned}
	}
	if m.leaving || m.idle {
		r.Leave = m.cfg.InstanceID == ""
		r.Away = !r.Leave
	}
	return r
}

// hear takes what the member is to have.
func (m *membership) hear(r *clientv1.JoinGroupResponse) {
	m.mu.Lock()
	m.version, m.epoch, m.told, m.pending = r.GetVersion(), r.GetMemberEpoch(), r.GetTopics(), true
	m.mu.Unlock()
	signal(m.news)
}

// checkPolled has the member leave if Poll is not called any more.
func (m *membership) checkPolled() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.idle && time.Since(m.polled) > m.cfg.MaxPollInterval {
		m.idle = true
		m.c.log.Warn("Poll is not called in time: the member leaves the group until it is", "group", m.cfg.GroupID, "member", m.id, "max_poll_interval", m.cfg.MaxPollInterval)
	}
}

// order is what Poll has to do.
type order struct {
	// lost: first, all that the member had is lost.
	lost bool
	// pending: the member is to have exactly these.
	pending bool
	topics  []*clientv1.AssignedTopic
	stream  uint64
	version uint64
}

// orders gives what is to be done, and notes that Poll was called.
func (m *membership) orders() (order, *Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.polled = time.Now()
	if m.idle {
		m.idle = false
		signal(m.spoken)
	}
	o := order{lost: m.lost, pending: m.pending, topics: m.told, stream: m.stream, version: m.version}
	if o.pending {
		m.doing = o.topics
	}
	return o, m.err
}

// done says that an order was carried out: the member reads what it said, and nothing else.
func (m *membership) done(o order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doing = nil
	switch {
	case o.lost:
		m.lost, m.owned = false, nil
	default:
		m.owned, m.acked, m.ackedStream = o.topics, o.version, o.stream
		m.pending = m.pending && (m.stream != o.stream || m.version != o.version)
	}
	signal(m.spoken)
}

// leave makes the member leave: for good, or with an instance id for a while.
func (m *membership) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = true
	signal(m.spoken)
}

// member is the member as commits show it.
func (m *membership) member() GroupMember {
	m.mu.Lock()
	defer m.mu.Unlock()
	return GroupMember{GroupID: m.cfg.GroupID, MemberID: m.id, InstanceID: m.cfg.InstanceID, Epoch: m.epoch, topics: m.topics}
}

// reads notes which topics Poll reads from now on.
func (m *membership) reads(list []*clientv1.AssignedTopic) {
	ids := make(map[string]string, len(list))
	for _, t := range list {
		ids[t.GetTopic()] = t.GetTopicId()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics = &ids
}

// partitionsOf lists what an order is about.
func partitionsOf(topics []*clientv1.AssignedTopic) []record.TopicPartition {
	var list []record.TopicPartition
	for _, t := range topics {
		for _, n := range t.GetPartitions() {
			list = append(list, record.TopicPartition{Topic: t.GetTopic(), Partition: n})
		}
	}
	sortPartitions(list)
	return list
}

func sortPartitions(list []record.TopicPartition) {
	slices.SortFunc(list, func(a, b record.TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
}
