package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server with fakes behind it and a client before it.
type rig struct {
	t        *testing.T
	server   *Server
	log      *fakeLog
	replicas *fakeReplicas
	cluster  *fakeCluster
	health   *fakeHealth
	// transactions coordinates, and finds coordinators.
	transactions *fakeTransactions
	groups       *fakeGroups
	registry     *prometheus.Registry
	logged       *lockedBuilder

	conn   *grpc.ClientConn
	client clientv1.LogServiceClient
	admin  clientv1.AdminServiceClient
	// cut, when set, stands between client and server.
	listener *bufconn.Listener
}

// newRig starts a server on a listener called "default". change may alter the config before.
func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, log: &fakeLog{}, replicas: &fakeReplicas{}, cluster: newFakeCluster(t), health: newFakeHealth(true), transactions: &fakeTransactions{}, groups: &fakeGroups{},
		registry: prometheus.NewRegistry(), logged: &lockedBuilder{}}
	c := Config{Log: r.log, Replicas: r.replicas, Cluster: r.cluster, Health: r.health, Self: r.cluster, HTTPListener: "http", Reflection: true,
		Transactions: r.transactions, Groups: r.groups, Coordinators: r.transactions,
		Registerer: r.registry, Logger: slog.New(slog.NewTextHandler(r.logged, nil))}
	if change != nil {
		change(&c)
	}
	var err error
	if r.server, err = New(c); err != nil {
		t.Fatal(err)
	}
	r.listener = r.serve("default")
	r.conn = r.dial(r.listener)
	r.client, r.admin = clientv1.NewLogServiceClient(r.conn), clientv1.NewAdminServiceClient(r.conn)
	return r
}

// serve adds a listener.
func (r *rig) serve(name string) *bufconn.Listener {
	l := bufconn.Listen(256 << 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.server.Serve(name, l); !errors.Is(err, ErrStopped) {
			r.t.Errorf("Serve: %v", err)
		}
	}()
	r.t.Cleanup(func() {
		// Clients have gone by now; a test that wants to see more of Stop calls it itself.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.server.Stop(ctx); err != nil {
			r.t.Errorf("Stop: %v", err)
		}
		<-done
	})
	return l
}

func (r *rig) dial(l *bufconn.Listener, options ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	options = append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(clientv1.Codec{}), grpc.MaxCallRecvMsgSize(128<<20)),
	}, options...)
	conn, err := grpc.NewClient("passthrough:///broker", options...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// metric reads a counter or a gauge.
func (r *rig) metric(m prometheus.Metric) float64 {
	r.t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		r.t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// ctx ends with the test, or after long enough for any of them.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// produce opens a stream.
func (r *rig) produce() *testStream {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx())
	s, err := r.client.Produce(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cancel)
	return &testStream{t: r.t, BidiStreamingClient: s, cancel: cancel}
}

type testStream struct {
	t *testing.T
	grpc.BidiStreamingClient[clientv1.ProduceRequest, clientv1.ProduceResponse]
	cancel context.CancelFunc
}

func (s *testStream) send(req *clientv1.ProduceRequest) {
	s.t.Helper()
	if err := s.Send(req); err != nil {
		s.t.Fatalf("send: %v", err)
	}
}

func (s *testStream) recv() *clientv1.ProduceResponse {
	s.t.Helper()
	a, err := s.Recv()
	if err != nil {
		s.t.Fatalf("recv: %v", err)
	}
	return a
}

// end closes the sending side and wants the stream to end well.
func (s *testStream) end() {
	s.t.Helper()
	if err := s.CloseSend(); err != nil {
		s.t.Fatal(err)
	}
	if a, err := s.Recv(); err != io.EOF {
		s.t.Fatalf("the stream ended with %v, %v; want EOF", a, err)
	}
}

// batchOf makes a batch of one record for each value.
func batchOf(values ...string) record.Batch {
	b := record.NewBuilder(record.CodecNone)
	for _, v := range values {
		if err := b.Append(time.Now().UnixMilli(), []byte("k"), []byte(v), nil); err != nil {
			panic(err)
		}
	}
	return b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
}

func request(id uint64, topic string, values ...string) *clientv1.ProduceRequest {
	return &clientv1.ProduceRequest{RequestId: id, Topic: topic, Acks: clientv1.Acks_ACKS_ALL, Batch: batchOf(values...)}
}

// fakeLog answers by its function fields; without them Produce appends to memory at once.
type fakeLog struct {
	limits            func(record.TopicPartition) (record.Limits, error)
	onProduce         func(partition.ProduceRequest, func(partition.ProduceResult, error))
	onFetch           func(context.Context, partition.FetchRequest) []partition.FetchedPartition
	listOffsets       func(context.Context, record.TopicPartition, int64, bool) (partition.ListedOffset, error)
	describeProducers func(record.TopicPartition, []record.ProducerID, int) ([]producer.Description, bool, error)

	// forget: do not keep the requests.
	forget bool

	mu       sync.Mutex
	requests []partition.ProduceRequest
	end      map[record.TopicPartition]record.Offset
}

func (l *fakeLog) Limits(tp record.TopicPartition) (record.Limits, error) {
	if l.limits != nil {
		return l.limits(tp)
	}
	return record.Limits{MaxBatchBytes: 1 << 20, TimestampBeforeMax: record.NoTimestampLimit, TimestampAfterMax: 3_600_000, Now: time.Now().UnixMilli()}, nil
}

// LogStart is that of the tests.
func (l *fakeLog) LogStart(record.TopicPartition) record.Offset { return fakeLogStart }

const fakeLogStart = 4

func (l *fakeLog) Produce(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
	l.mu.Lock()
	if !l.forget {
		l.requests = append(l.requests, req)
	}
	if l.onProduce != nil {
		l.mu.Unlock()
		l.onProduce(req, done)
		return
	}
	if l.end == nil {
		l.end = make(map[record.TopicPartition]record.Offset)
	}
	base := l.end[req.TopicPartition]
	l.end[req.TopicPartition] += record.Offset(req.Batch.Count())
	l.mu.Unlock()
	done(partition.ProduceResult{BaseOffset: base, LogAppendTime: -1}, nil)
}

// produced is what has been proposed so far.
func (l *fakeLog) produced() []partition.ProduceRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]partition.ProduceRequest(nil), l.requests...)
}

func (l *fakeLog) Fetch(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
	return l.onFetch(ctx, req)
}

func (l *fakeLog) ListOffsets(ctx context.Context, tp record.TopicPartition, ts int64, committed bool) (partition.ListedOffset, error) {
	return l.listOffsets(ctx, tp, ts, committed)
}

func (l *fakeLog) DescribeProducers(_ context.Context, tp record.TopicPartition, ids []record.ProducerID, limit int) ([]producer.Description, bool, error) {
	return l.describeProducers(tp, ids, limit)
}

type fakeReplicas struct {
	groups    []partition.GroupStatus
	transfer  func(record.TopicPartition, int32) error
	checksums func(record.TopicPartition, record.Offset) (partition.Checksum, error)
	// deleteRecords answers with what it is given where it is nil.
	deleteRecords func(record.TopicPartition, record.Offset) (record.Offset, error)
}

func (r *fakeReplicas) Groups() []partition.GroupStatus { return r.groups }
func (r *fakeReplicas) TransferLeadership(_ context.Context, tp record.TopicPartition, to int32) error {
	return r.transfer(tp, to)
}
func (r *fakeReplicas) Checksums(tp record.TopicPartition, upTo record.Offset) (partition.Checksum, error) {
	return r.checksums(tp, upTo)
}

func (r *fakeReplicas) DeleteRecords(_ context.Context, tp record.TopicPartition, before record.Offset) (record.Offset, error) {
	if r.deleteRecords == nil {
		return before, nil
	}
	return r.deleteRecords(tp, before)
}

// fakeCluster has three brokers and the topics t (2 partitions) and orders (1).
type fakeCluster struct {
	t       *testing.T
	img     *metadata.Image
	ruled   atomic.Pointer[metadata.Image]
	leaders map[metadata.GroupID]partition.Leader

	create func(NewTopic) (*metadata.Topic, error)
	alter  func(TopicChange) (*metadata.Topic, error)
	remove func(string) error
	ready  func(context.Context, string) error
	nextID func(context.Context) (record.ProducerID, error)
	// members hears of changes of members, as text.
	members func(asked string) (*metadata.Topic, error)
}

func (c *fakeCluster) Self() int32 { return 1 }

func newFakeCluster(t *testing.T) *fakeCluster {
	state := metadata.NewState()
	index := uint64(0)
	apply := func(c *statev1.MetadataCommand) {
		index++
		if r, err := state.ApplyCommand(index, c); err != nil || r.Err != nil {
			t.Fatalf("metadata: %v, %v", err, r.Err)
		}
	}
	apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "fake", FeatureLevel: uint32(metadata.BaseLevel)}}})
	for id := range int32(3) {
		name := string(rune('a' + id))
		apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_RegisterBroker{RegisterBroker: &statev1.RegisterBroker{ClusterId: "fake",
			Broker: &statev1.BrokerState{BrokerId: id, NodeIncarnation: uint64(id) + 1, Rack: "r" + name, Version: "v0",
				MinFeatureLevel: uint32(metadata.BaseLevel), MaxFeatureLevel: uint32(metadata.CurrentLevel),
				Listeners: []*statev1.Listener{{Name: "default", Address: name + ".example:9095"}, {Name: "external", Address: name + ".public:19095"},
					{Name: "http", Address: name + ".example:9644"}, {Name: metadata.PeerListener, Address: name + ".example:9093"}}}}}})
	}
	for i, topic := range []struct {
		name       string
		partitions int
	}{{"t", 2}, {"orders", 1}} {
		id := make([]byte, 16)
		id[0] = byte(i + 1)
		create := &statev1.CreateTopic{TopicId: id, Name: topic.name}
		for range topic.partitions {
			create.Partitions = append(create.Partitions, &statev1.Placement{BrokerIds: []int32{0, 1, 2}})
		}
		apply(&statev1.MetadataCommand{Command: &statev1.MetadataCommand_CreateTopic{CreateTopic: create}})
	}
	return &fakeCluster{t: t, img: state.Image(), leaders: make(map[metadata.GroupID]partition.Leader)}
}

// group of a partition.
func (c *fakeCluster) group(topic string, p int) metadata.GroupID {
	t, ok := c.img.Topic(topic)
	if !ok {
		c.t.Fatalf("no topic %s", topic)
	}
	return t.Partitions[p].Group
}

// Image is img, with rules if there are any.
func (c *fakeCluster) Image() *metadata.Image {
	if ruled := c.ruled.Load(); ruled != nil {
		return ruled
	}
	return c.img
}

// rule gives rules to the image.
func (c *fakeCluster) rule(rules ...acl.Rule) { c.ruled.Store(c.img.WithAccess(nil, rules)) }

func (c *fakeCluster) Leader(g metadata.GroupID) (partition.Leader, bool) {
	l, ok := c.leaders[g]
	return l, ok
}
func (c *fakeCluster) Alive(broker int32) bool { return broker != 2 }
func (c *fakeCluster) Controller() int32       { return 1 }
func (c *fakeCluster) MetadataGroup() (raftgroup.Status, bool) {
	return raftgroup.Status{ID: 1, Role: raftgroup.RoleFollower, Term: 4, Voters: []raftgroup.ServerID{"0/1", "1/2"}, Leader: "1/2"}, true
}
func (c *fakeCluster) CreateTopic(_ context.Context, n NewTopic) (*metadata.Topic, error) {
	return c.create(n)
}
func (c *fakeCluster) AlterTopic(_ context.Context, n TopicChange) (*metadata.Topic, error) {
	return c.alter(n)
}
func (c *fakeCluster) DeleteTopic(_ context.Context, name string) error        { return c.remove(name) }
func (c *fakeCluster) AlterAccess(context.Context, cluster.AccessChange) error { return nil }
func (c *fakeCluster) Reassign(_ context.Context, topic string, list []Reassignment, replication int32, validateOnly bool) (*metadata.Topic, error) {
	return c.members(fmt.Sprint("reassign ", topic, list, replication, validateOnly))
}
func (c *fakeCluster) SetReplicationFactor(_ context.Context, topic string, n int32, validateOnly bool) (*metadata.Topic, error) {
	return c.members(fmt.Sprint("replication ", topic, n, validateOnly))
}
func (c *fakeCluster) CancelReassignments(_ context.Context, topic string, partitions []int32) (*metadata.Topic, error) {
	return c.members(fmt.Sprint("cancel ", topic, partitions))
}
func (c *fakeCluster) Drain(_ context.Context, broker int32, draining bool) error {
	_, err := c.members(fmt.Sprint("drain ", broker, draining))
	return err
}
func (c *fakeCluster) SetFeatureLevel(_ context.Context, level uint16) error {
	if level > 7 {
		return errors.New("broker 3 knows only level 7")
	}
	return nil
}
func (c *fakeCluster) UnregisterBroker(_ context.Context, broker int32) error {
	_, err := c.members(fmt.Sprint("unregister ", broker))
	return err
}
func (c *fakeCluster) TopicReady(ctx context.Context, name string) error { return c.ready(ctx, name) }
func (c *fakeCluster) NextProducerID(ctx context.Context) (record.ProducerID, error) {
	return c.nextID(ctx)
}

// Describe says what a broker may say (Self).
func (c *fakeCluster) Describe() SelfState {
	return SelfState{Warnings: []string{"the disk is slow"}, Disk: DiskState{Free: 5, Total: 10, SlowestSync: time.Second}, Now: time.UnixMilli(77), MaxFeatureLevel: 7}
}

// fakeHealth is what the test says.
type fakeHealth struct {
	mu      sync.Mutex
	serving bool
	changed chan struct{}
}

func newFakeHealth(serving bool) *fakeHealth {
	return &fakeHealth{serving: serving, changed: make(chan struct{})}
}

func (h *fakeHealth) Serving() (bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.serving, h.changed
}

func (h *fakeHealth) set(serving bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving = serving
	close(h.changed)
	h.changed = make(chan struct{})
}

// lockedBuilder collects log lines of many goroutines.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type closeCounter struct {
	net.Listener
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }
