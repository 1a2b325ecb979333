package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/record"
)

// fault is what a script does to one produce request.
type fault struct {
	// before the log decides
	cutBefore bool            // the connection breaks, nothing is written
	refuse    *clientv1.Error // answered, nothing is written
	delay     time.Duration   // answered late, decided at once
	// after the log has decided
	loseAck   bool // the connection breaks instead of the answer
	moveTo    int32
	uncertain bool          // REQUEST_TIMED_OUT, may have happened: written all the same
	later     time.Duration // REQUEST_TIMED_OUT, and written only after this long, if then in order
}

// fakeCluster is brokers that share one log per partition, as if replication were perfect. It
// deduplicates by P5 to P13, and breaks as the script says.
type fakeCluster struct {
	t       testing.TB
	net     *fakeNet
	brokers map[int32]*fakeBroker

	mu     sync.Mutex
	topics map[string]*fakeTopic
	pids   int64
	made   int                // topics, deleted ones too
	ghosts []*clientv1.Broker // dead brokers, where others may live now
	// maxRequest, when above 0, is the largest produce request that brokers read.
	maxRequest int
	// script, when set, is asked about every produce request that reaches a leader.
	script     func(req *clientv1.ProduceRequest, values []string) fault
	seen       []string                     // what reached leaders, for messages
	deny       *clientv1.Error              // of InitProducerId
	hooks      map[string]func(*fakeBroker) // by name of the call
	controller int32                        // who creates topics; 0: everybody
	// coordinates is the broker that coordinates all groups, found how often FindCoordinator was asked.
	coordinates int32
	found       int
	txn         *fakeTransactions
}

type fakeTopic struct {
	id         string
	partitions []*fakePartition
	configs    map[string]string
}

type fakePartition struct {
	c       *fakeCluster
	tp      record.TopicPartition
	leader  int32
	epoch   int32
	log     *modelLog
	batches []record.Batch
	values  []string // by offset; "" for a control record
	start   record.Offset
	stable  record.Offset // last stable offset; -1: high watermark
	aborted []*clientv1.AbortedTransaction
	changed chan struct{}
	fetches int
	aliases map[string]int
}

type fakeBroker struct {
	clientv1.UnimplementedLogServiceServer
	clientv1.UnimplementedAdminServiceServer
	clientv1.UnimplementedTransactionServiceServer
	clientv1.UnimplementedGroupServiceServer
	c    *fakeCluster
	id   int32
	addr string
	host *fakeHost
	// behind: the broker's metadata is that of the beginning.
	behind bool

	mu  sync.Mutex
	srv *grpc.Server
	wg  sync.WaitGroup
}

func newFakeCluster(t testing.TB, brokers int) *fakeCluster {
	c := &fakeCluster{t: t, net: newFakeNet(), brokers: make(map[int32]*fakeBroker), topics: make(map[string]*fakeTopic), pids: 1000, hooks: make(map[string]func(*fakeBroker))}
	for i := 1; i <= brokers; i++ {
		b := &fakeBroker{c: c, id: int32(i), addr: fmt.Sprintf("b%d:9095", i)}
		b.host = c.net.host(b.addr)
		c.brokers[b.id] = b
		b.start()
	}
	t.Cleanup(c.stop)
	return c
}

func (c *fakeCluster) stop() {
	for _, b := range c.brokers {
		b.host.resume()
		b.kill()
	}
}

func (b *fakeBroker) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.srv = grpc.NewServer(grpc.ForceServerCodecV2(clientv1.Codec{}), grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	clientv1.RegisterLogServiceServer(b.srv, b)
	clientv1.RegisterAdminServiceServer(b.srv, b)
	clientv1.RegisterTransactionServiceServer(b.srv, b)
	clientv1.RegisterGroupServiceServer(b.srv, b)
	lis, srv := b.host.listen(), b.srv
	b.wg.Go(func() { _ = srv.Serve(lis) })
}

// kill ends the broker with everything it had not answered.
func (b *fakeBroker) kill() {
	b.host.cut()
	b.mu.Lock()
	srv := b.srv
	b.mu.Unlock()
	srv.Stop()
	b.wg.Wait()
}

// topic makes a topic whose partitions are led by the brokers in turn.
func (c *fakeCluster) topic(name string, partitions int) *fakeTopic {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	t := &fakeTopic{id: fmt.Sprintf("%032d", c.made), configs: map[string]string{}}
	for i := range partitions {
		t.partitions = append(t.partitions, &fakePartition{
			c: c, tp: record.TopicPartition{Topic: name, Partition: int32(i)}, leader: int32(i%len(c.brokers)) + 1, epoch: 1,
			log: newModelLog(), changed: make(chan struct{}), aliases: make(map[string]int), stable: -1,
		})
	}
	c.topics[name] = t
	return t
}

func (c *fakeCluster) partition(topic string, p int32) *fakePartition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(topic, p)
}

func (c *fakeCluster) find(topic string, p int32) *fakePartition {
	t := c.topics[topic]
	if t == nil || int(p) >= len(t.partitions) || p < 0 {
		return nil
	}
	return t.partitions[p]
}

// move makes a broker the leader.
func (p *fakePartition) move(to int32) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.leader = to
	p.epoch++
	p.wake()
}

// wake tells long polls. Needs the cluster's lock.
func (p *fakePartition) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// stored gives the values in the log, in order.
func (p *fakePartition) stored() []string {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return slices.Clone(p.values)
}

// name gives a batch's content a number, so that the model can tell batches apart.
func (p *fakePartition) name(values []string) int {
	key := fmt.Sprint(values)
	n, ok := p.aliases[key]
	if !ok {
		n = len(p.aliases)
		p.aliases[key] = n
	}
	return n
}

// take lets the log decide about a batch. Needs the cluster's lock.
func (p *fakePartition) take(b record.Batch, values []string) (base record.Offset, dup bool, err *clientv1.Error) {
	id := identity{b.ProducerID(), b.ProducerEpoch()}
	base, dup, v := p.log.append(p.name(values), id, b.BaseSequence(), b.Count())
	switch v {
	case verdictOutOfOrder:
		return -1, false, &clientv1.Error{Reason: ReasonOutOfOrderSequence, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: false}
	case verdictFenced:
		return -1, false, &clientv1.Error{Reason: ReasonInvalidProducerEpoch, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
	}
	if !dup {
		own := append(record.Batch(nil), b...)
		own.SetBaseOffset(base)
		own.SetLeaderEpoch(p.epoch)
		p.batches = append(p.batches, own)
		p.values = append(p.values, values...)
		p.wake()
	}
	return base, dup, nil
}

func valuesOf(b record.Batch) ([]string, error) {
	rs, err := b.Records(0)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var values []string
	for rs.Next() {
		values = append(values, string(rs.Record().Value))
	}
	return values, rs.Err()
}

func (b *fakeBroker) notLeader(p *fakePartition) *clientv1.Error {
	e := &clientv1.Error{Reason: ReasonNotLeader, Message: "moved", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true}
	if p.leader > 0 {
		e.Leader = &clientv1.Leader{BrokerId: p.leader, Epoch: p.epoch, Address: b.c.brokers[p.leader].addr}
	}
	return e
}

// Produce decides in the order of the stream; answers may be delayed one by one.
func (b *fakeBroker) Produce(stream grpc.BidiStreamingServer[clientv1.ProduceRequest, clientv1.ProduceResponse]) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex // answers
	send := func(r *clientv1.ProduceResponse) {
		mu.Lock()
		defer mu.Unlock()
		_ = stream.Send(r)
	}
	b.c.mu.Lock()
	most := b.c.maxRequest
	b.c.mu.Unlock()
	if most > 0 {
		_ = stream.SendHeader(grpcmeta.Pairs(clientv1.MaxRequestBytesHeader, strconv.Itoa(most)))
	}
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil
		}
		if most > 0 && proto.Size(req) > most {
			return status.Error(codes.ResourceExhausted, "scripted: message larger than max")
		}
		b.host.wait()
		resp, f := b.decide(req)
		if f.cutBefore || f.loseAck {
			b.host.cut()
			return failure(ReasonNetwork, codes.Unavailable, true)
		}
		switch {
		case req.Acks == clientv1.Acks_ACKS_NONE:
			if resp.Error != nil {
				return failure(resp.Error.Reason, codes.Unavailable, true)
			}
		case f.delay > 0:
			wg.Go(func() {
				select {
				case <-time.After(f.delay):
					send(resp)
				case <-stream.Context().Done():
				}
			})
		default:
			send(resp)
		}
	}
}

func (b *fakeBroker) decide(req *clientv1.ProduceRequest) (*clientv1.ProduceResponse, fault) {
	resp := &clientv1.ProduceResponse{RequestId: req.RequestId, Topic: req.Topic, Partition: req.Partition, BaseOffset: -1, LogStartOffset: -1, LogAppendTimeMs: -1}
	batch, err := record.Validate(req.Batch, record.Limits{MaxBatchBytes: 16 << 20, MaxDecompressedBytes: 64 << 20, TimestampBeforeMax: 1<<63 - 1, TimestampAfterMax: 1<<63 - 1})
	if err != nil {
		resp.Error = &clientv1.Error{Reason: ReasonCorruptMessage, Message: err.Error(), Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}
		return resp, fault{}
	}
	values, err := valuesOf(batch)
	if err != nil {
		b.c.t.Errorf("batch that validates cannot be read: %v", err)
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	p := b.c.find(req.Topic, req.Partition)
	if p == nil {
		resp.Error = &clientv1.Error{Reason: ReasonUnknownTopicOrPartition, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true}
		return resp, fault{}
	}
	if id := b.c.topics[req.Topic].id; req.TopicId != "" && req.TopicId != id {
		resp.Error = &clientv1.Error{Reason: ReasonUnknownTopicID, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true}
		return resp, fault{}
	}
	if p.leader != b.id {
		resp.Error = b.notLeader(p)
		return resp, fault{}
	}
	b.c.seen = append(b.c.seen, fmt.Sprintf("b%d %v %d/%d+%d %v", b.id, p.tp, batch.ProducerID(), batch.ProducerEpoch(), batch.BaseSequence(), values))
	var f fault
	if b.c.script != nil {
		f = b.c.script(req, values)
	}
	timedOut := &clientv1.Error{Reason: ReasonRequestTimedOut, Outcome: clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED, Retriable: true}
	switch {
	case f.cutBefore:
		return resp, f
	case f.refuse != nil:
		resp.Error = f.refuse
		return resp, f
	case f.later > 0:
		own := append(record.Batch(nil), batch...)
		b.wg.Go(func() {
			time.Sleep(f.later) // virtual time
			b.c.mu.Lock()
			defer b.c.mu.Unlock()
			p.take(own, values)
		})
		resp.Error = timedOut
		return resp, f
	}
	base, dup, refused := p.take(batch, values)
	resp.Error, resp.Duplicate = refused, dup
	if refused == nil {
		resp.BaseOffset, resp.LogStartOffset = int64(base), int64(p.start)
	}
	if f.uncertain {
		resp.Error, resp.BaseOffset = timedOut, -1
	}
	if f.moveTo > 0 {
		p.leader, p.epoch = f.moveTo, p.epoch+1
		p.wake()
	}
	return resp, f
}

func (b *fakeBroker) InitProducerId(ctx context.Context, _ *clientv1.InitProducerIdRequest) (*clientv1.InitProducerIdResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.c.deny != nil {
		return nil, clientv1.ToStatus(b.c.deny, codes.Unavailable, 0).Err()
	}
	b.c.pids++
	resp := &clientv1.InitProducerIdResponse{ProducerId: b.c.pids}
	if b.c.txn != nil {
		resp.ProducerEpoch = b.c.txn.epoch
	}
	return resp, nil
}

func (b *fakeBroker) GetMetadata(ctx context.Context, req *clientv1.GetMetadataRequest) (*clientv1.GetMetadataResponse, error) {
	b.host.wait()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	resp := &clientv1.GetMetadataResponse{ClusterId: "fake", ControllerId: 1}
	for _, id := range slices.Sorted(maps.Keys(b.c.brokers)) {
		other := b.c.brokers[id]
		resp.Brokers = append(resp.Brokers, &clientv1.Broker{BrokerId: id, Address: other.addr, Alive: true, Version: "v0.1.0"})
	}
	resp.Brokers = append(resp.Brokers, b.c.ghosts...)
	names := req.Topics
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(b.c.topics))
	}
	for _, name := range names {
		resp.Topics = append(resp.Topics, b.describe(name))
	}
	return resp, nil
}

func (b *fakeBroker) describe(name string) *clientv1.Topic {
	t := b.c.topics[name]
	if t == nil {
		return &clientv1.Topic{Name: name, Error: &clientv1.Error{Reason: ReasonUnknownTopicOrPartition, Message: "no such topic", Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN}}
	}
	out := &clientv1.Topic{Name: name, TopicId: t.id}
	for i, p := range t.partitions {
		leader, epoch := p.leader, p.epoch
		if b.behind {
			leader, epoch = 1, 1
		}
		out.Partitions = append(out.Partitions, &clientv1.Partition{Partition: int32(i), Leader: leader, LeaderEpoch: epoch, Replicas: []int32{1, 2, 3}})
	}
	return out
}

// connect makes a client of the cluster that ends with the test.
func (c *fakeCluster) connect(t testing.TB, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{Bootstrap: []string{"b1:9095", "b2:9095"}, Dialer: c.net.dial}
	for _, f := range change {
		f(&cfg)
	}
	cl, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = cl.Close(ctx)
	})
	return cl
}

func producer(t testing.TB, c *Client, cfg ProducerConfig) *Producer {
	t.Helper()
	p, err := c.NewProducer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
