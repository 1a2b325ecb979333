package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// Metadata is what a broker says of the cluster.
type Metadata struct {
	ClusterID string
	// Controller is the broker that leads the metadata group; -1: unknown.
	Controller   int32
	FeatureLevel uint32
	Brokers      []Broker
	Topics       []Topic
}

// Broker is a member of the cluster.
type Broker struct {
	ID int32
	// Address is what it advertises for gRPC on the listener that was asked.
	Address     string
	PeerAddress string
	HTTPAddress string
	Rack        string
	Version     string
	// Alive: the broker that answered has heard from it lately.
	Alive bool
	// Draining: it gives its replicas to others.
	Draining bool
	// Replicas is how many are on it, or shall be, or are about to go; counted where no topics are named.
	Replicas int32
	// Listeners are all addresses that it advertises, by name; told where no topics are named.
	Listeners []Listener
}

// Listener is an address that a broker advertises. Protocol is grpc, kafka, http or peer.
type Listener struct{ Name, Address, Protocol string }

// Topic is a topic and who leads its partitions.
type Topic struct {
	Name string
	ID   string
	// Internal: it belongs to the brokers, and clients neither write nor read it.
	Internal bool
	// Err is set instead of partitions for a topic that was named and does not exist.
	Err        *Error
	Partitions []Partition
}

// Partition is one partition of a topic.
type Partition struct {
	Partition int32
	// Leader is -1 while none is known.
	Leader      int32
	LeaderEpoch int32
	// Replicas are the brokers whose replicas have or shall have a vote, the preferred leader first.
	Replicas []int32
	GroupID  uint64
	// Joining are those of Replicas that have not caught up yet, Lost those that lost what they had, Leaving
	// brokers whose replicas are being removed. Target is where it shall be while it is being reassigned.
	Joining, Lost, Leaving, Target []int32
}

// Changing tells whether the partition's members are not yet what they shall be.
func (p Partition) Changing() bool {
	return len(p.Joining)+len(p.Lost)+len(p.Leaving)+len(p.Target) > 0
}

// TopicSpec is a topic to be created.
type TopicSpec struct {
	Name string
	// Partitions: 0 is the broker's default, 1.
	Partitions int32
	// ReplicationFactor: 1, 3 or 5; 0 is min(3, brokers).
	ReplicationFactor int32
	// Configs by Kafka's names, such as retention.ms.
	Configs map[string]string
	// ValidateOnly checks and creates nothing.
	ValidateOnly bool
	// WaitReady waits at the broker until every partition can be written to, at most this long. A
	// topic that exists by then without being ready is an error with outcome Unknown that says so.
	WaitReady time.Duration
}

// TopicChange is what AlterTopic changes.
type TopicChange struct {
	Name string
	// Partitions is the new number, never lower than now; 0: unchanged.
	Partitions   int32
	Set          map[string]string
	Unset        []string
	ValidateOnly bool
}

// ConfigEntry is one setting of a topic.
type ConfigEntry struct {
	Name, Value string
	// Explicit: set on the topic; else it is the default.
	Explicit      bool
	Documentation string
}

// Metadata asks a broker about the cluster: about the named topics, or about all.
func (c *Client) Metadata(ctx context.Context, topics ...string) (Metadata, error) {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	r, err := c.meta.ask(ctx, topics)
	if err != nil {
		return Metadata{}, err
	}
	c.meta.learn(r)
	m := Metadata{ClusterID: r.GetClusterId(), Controller: r.GetControllerId(), FeatureLevel: r.GetFeatureLevel()}
	for _, b := range r.GetBrokers() {
		m.Brokers = append(m.Brokers, Broker{
			ID: b.GetBrokerId(), Address: b.GetAddress(), PeerAddress: b.GetPeerAddress(), HTTPAddress: b.GetHttpAddress(),
			Rack: b.GetRack(), Version: b.GetVersion(), Alive: b.GetAlive(),
			Draining: b.GetDraining(), Replicas: b.GetReplicas(), Listeners: listenersOf(b),
		})
	}
	for _, t := range r.GetTopics() {
		m.Topics = append(m.Topics, topicOf(t))
	}
	return m, nil
}

func listenersOf(b *clientv1.Broker) (list []Listener) {
	for _, l := range b.GetListeners() {
		list = append(list, Listener{Name: l.GetName(), Address: l.GetAddress(), Protocol: l.GetProtocol()})
	}
	return list
}

func topicOf(t *clientv1.Topic) Topic {
	out := Topic{Name: t.GetName(), ID: t.GetTopicId(), Internal: t.GetInternal()}
	if e := fromProto(t.GetError()); e != nil {
		e.TopicPartition = record.TopicPartition{Topic: t.GetName(), Partition: -1}
		out.Err = e
	}
	for _, p := range t.GetPartitions() {
		out.Partitions = append(out.Partitions, Partition{
			Partition: p.GetPartition(), Leader: p.GetLeader(), LeaderEpoch: p.GetLeaderEpoch(),
			Replicas: p.GetReplicas(), GroupID: p.GetGroupId(),
			Joining: p.GetJoining(), Lost: p.GetLost(), Leaving: p.GetLeaving(), Target: p.GetTarget(),
		})
	}
	return out
}

// CreateTopic creates a topic. Errors: TOPIC_ALREADY_EXISTS, INVALID_TOPIC_EXCEPTION,
// INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR, INVALID_CONFIG and others, with outcome
// NotWritten; Unknown when the answer was lost: look whether the topic is there.
func (c *Client) CreateTopic(ctx context.Context, t TopicSpec) (Topic, error) {
	var out Topic
	err := c.change(ctx, t.WaitReady, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		r, err := admin.CreateTopic(ctx, &clientv1.CreateTopicRequest{
			Name: t.Name, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Configs: t.Configs,
			ValidateOnly: t.ValidateOnly, WaitReadyMs: int32(t.WaitReady.Milliseconds()),
		})
		out = topicOf(r.GetTopic())
		return err
	})
	return out, err
}

// AlterTopic adds partitions, or sets and unsets configs. Outcomes are as for CreateTopic.
func (c *Client) AlterTopic(ctx context.Context, t TopicChange) (Topic, error) {
	var out Topic
	err := c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		r, err := admin.AlterTopic(ctx, &clientv1.AlterTopicRequest{
			Name: t.Name, Partitions: t.Partitions, SetConfigs: t.Set, UnsetConfigs: t.Unset, ValidateOnly: t.ValidateOnly,
		})
		out = topicOf(r.GetTopic())
		return err
	})
	return out, err
}

// DeleteTopic deletes a topic with all its records. Outcomes are as for CreateTopic.
func (c *Client) DeleteTopic(ctx context.Context, name string) error {
	return c.change(ctx, 0, func(ctx context.Context, admin clientv1.AdminServiceClient) error {
		_, err := admin.DeleteTopic(ctx, &clientv1.DeleteTopicRequest{Name: name})
		return err
	})
}

// DescribeTopic gives a topic with the configs that hold for it.
func (c *Client) DescribeTopic(ctx context.Context, name string) (Topic, []ConfigEntry, error) {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	var resp *clientv1.DescribeTopicResponse
	err := c.meta.anyBroker(ctx, func(ctx context.Context, addr string) (func(), error) {
		admin, err := c.conns.admin(addr)
		if err != nil {
			return nil, err
		}
		r, err := admin.DescribeTopic(ctx, &clientv1.DescribeTopicRequest{Name: name})
		return func() { resp = r }, err
	})
	if err != nil {
		return Topic{}, nil, err
	}
	configs := make([]ConfigEntry, 0, len(resp.GetConfigs()))
	for _, e := range resp.GetConfigs() {
		configs = append(configs, ConfigEntry{Name: e.GetName(), Value: e.GetValue(), Explicit: e.GetExplicit(), Documentation: e.GetDocumentation()})
	}
	return topicOf(resp.GetTopic()), configs, nil
}

// bounded limits a call to RequestTimeout and more, unless ctx ends sooner.
func (c *Client) bounded(ctx context.Context, more time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout+more)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// believeUnknown is how long a change of a topic that brokers do not know is tried again: it may have been made a moment ago.
const believeUnknown = time.Second

// change runs a call that must not happen twice. It goes to another broker only while it is
// certain that nothing has happened: the broker cannot be reached, or says so itself.
func (c *Client) change(ctx context.Context, more time.Duration, call func(context.Context, clientv1.AdminServiceClient) error) error {
	ctx, cancel := c.bounded(ctx, more)
	defer cancel()
	c.meta.know(ctx)
	var last *Error
	began := time.Now()
	for n := 1; ; n++ {
		for _, addr := range c.meta.addresses() {
			cc, err := c.conns.get(addr)
			if err != nil {
				return err
			}
			if err := connected(ctx, cc, addr, c.cfg.ConnectTimeout); err != nil {
				if last == nil { // what a broker says tells more than that another is out of reach
					last = err
				}
				continue
			}
			err = call(ctx, clientv1.NewAdminServiceClient(cc))
			if err == nil {
				c.meta.refresh()
				return nil
			}
			e := fromCall(err, addr)
			if e.Outcome != NotWritten || !e.Retriable {
				return e
			}
			if last == nil || e.Reason != ReasonNetwork {
				last = e
			}
		}
		if last != nil && last.Reason == ReasonUnknownTopicOrPartition && time.Since(began) > believeUnknown {
			return last
		}
		if ctx.Err() != nil || !sleep(ctx, c.backoff(n)) {
			if last == nil {
				last = canceled(ctx, NotWritten, "no broker was asked")
			}
			return last
		}
	}
}

// connected waits until a connection is up. Its error is NotWritten: nothing has been sent.
func connected(ctx context.Context, cc *grpc.ClientConn, addr string, most time.Duration) *Error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		cc.Connect()
		s := cc.GetState()
		switch s {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return &Error{Reason: ReasonNetwork, Outcome: NotWritten, Retriable: true, Message: "cannot connect to broker at " + addr}
		}
		if !cc.WaitForStateChange(ctx, s) {
			return &Error{Reason: ReasonNetwork, Outcome: NotWritten, Retriable: true, Message: "no connection to broker at " + addr + " in time", cause: ctx.Err()}
		}
	}
}

// atLeader runs a call at the leader of a partition, following it when it moves, until the call
// gets an answer that is no use to retry, or ctx ends.
func (c *Client) atLeader(ctx context.Context, tp record.TopicPartition, call func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	t, err := c.meta.topic(ctx, tp.Topic)
	if err != nil {
		return err
	}
	if tp.Partition < 0 || int(tp.Partition) >= len(t.parts) {
		return refusal(ReasonUnknownTopicOrPartition, "topic %s has partitions 0 to %d", tp.Topic, len(t.parts)-1).at(tp)
	}
	last := &Error{Reason: ReasonLeaderNotAvailable, Message: "the partition has no leader that is known", Outcome: NotWritten, Retriable: true}
	for n := 1; ; n++ {
		if broker, addr, _, ok := c.meta.view.Load().leaderOf(tp); ok {
			last, err = c.askOne(ctx, addr, call)
			if err == nil {
				return nil
			}
			if c.meta.hint(tp, last.Leader) {
				continue
			}
			if !last.Retriable {
				return last.at(tp)
			}
			c.log.Debug("leader did not answer well", "topic", tp.Topic, "partition", tp.Partition, "broker", broker, "err", last)
		}
		c.meta.refresh()
		if !sleep(ctx, c.backoff(n)) {
			return last.at(tp)
		}
	}
}

// askOne calls one broker, giving it a part of the time there is: it may hang, and another may lead
// by then.
func (c *Client) askOne(ctx context.Context, addr string, call func(context.Context, *grpc.ClientConn) error) (*Error, error) {
	cc, err := c.conns.get(addr)
	if err != nil {
		return fromCall(err, addr), err
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		left := time.Until(deadline)
		ctx, cancel = context.WithTimeout(ctx, max(left/4, min(left, 2*time.Second))+rand.N(time.Millisecond))
		defer cancel()
	}
	if err := call(ctx, cc); err != nil {
		return fromCall(err, addr), err
	}
	return nil, nil
}
