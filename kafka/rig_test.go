package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/oncelog/oncelog/cluster"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/coordinator/group"
	"github.com/oncelog/oncelog/coordinator/group/classic"
	"github.com/oncelog/oncelog/coordinator/txn"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

// rig is a server on fake domains, which fail unless a test says otherwise.
type rig struct {
	t       testing.TB
	server  *Server
	log     *fakeLog
	cluster *fakeCluster
	txns    *fakeTransactions
	shared  *frontdoor.Shared
	addr    string
	said    lockedBuffer
	// panics is how many the test wants.
	panics float64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const testListener = "kafka.test"

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, log: &fakeLog{}, cluster: &fakeCluster{}, txns: &fakeTransactions{}, shared: frontdoor.NewShared(frontdoor.Limits{})}
	cfg := Config{Log: r.log, Replicas: fakeReplicas{}, Cluster: r.cluster, Transactions: r.txns, Coordinators: r.txns, Groups: fakeGroups{}, Markers: fakeMarkers{},
		Shared: r.shared, Logger: slog.New(slog.NewTextHandler(&r.said, nil)), Registerer: prometheus.NewRegistry()}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(testListener, l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.server.Stop(ctx)
		if err := <-served; !errors.Is(err, ErrStopped) {
			t.Errorf("Serve gave %v", err)
		}
		if r.server.metricOf(r.server.metrics.panics) != r.panics {
			t.Errorf("a request panicked:\n%s", r.said.String())
		}
	})
	return r
}

func (s *Server) metricOf(m prometheus.Metric) float64 {
	var d dto.Metric
	if m.Write(&d) != nil {
		return -1
	}
	if d.Gauge != nil {
		return d.Gauge.GetValue()
	}
	return d.Counter.GetValue()
}

// wire is one connection of a test.
type wire struct {
	t    testing.TB
	r    *rig
	conn net.Conn
	next int32
}

func (r *rig) dial() *wire {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &wire{t: r.t, r: r, conn: conn}
}

// ordered puts what a test does to its fakes before or after what the server does, as the race detector sees it: it knows nothing of
// sockets, but the server takes these locks when it begins a request and when it hands on an answer.
func (w *wire) ordered() {
	if w.r == nil {
		return
	}
	w.r.server.mu.Lock()
	defer w.r.server.mu.Unlock()
	for c := range w.r.server.conns {
		_ = c.busy()
	}
}

// encode makes the frame of a request.
func encode(req kmsg.Request, correlation int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, correlation)
}

// send sends a request and gives its correlation id.
func (w *wire) send(req kmsg.Request) int32 {
	w.t.Helper()
	w.ordered()
	w.next++
	if _, err := w.conn.Write(encode(req, w.next)); err != nil {
		w.t.Fatal(err)
	}
	return w.next
}

// frame reads one answer.
func (w *wire) frame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(w.conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(w.conn, b)
	w.ordered()
	return b, err
}

// recv reads the answer to a request.
func (w *wire) recv(correlation int32, req kmsg.Request) kmsg.Response {
	w.t.Helper()
	b, err := w.frame()
	if err != nil {
		w.t.Fatalf("no answer: %v", err)
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != correlation {
		w.t.Fatalf("answer %d, want that to %d", got, correlation)
	}
	b = b[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != keyAPIVersions {
		b = b[1:]
	}
	if err := resp.ReadFrom(b); err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *wire) ask(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	return w.recv(w.send(req), req)
}

// gone demands that the server has closed the connection.
func (w *wire) gone() {
	w.t.Helper()
	if b, err := w.frame(); err == nil {
		w.t.Fatalf("the connection is open and gave %x", b)
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		w.t.Fatal("the connection is open")
	}
}

// works demands that the server answers a new connection.
func (r *rig) works() {
	r.t.Helper()
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 0
	if resp := r.dial().ask(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 {
		r.t.Fatalf("ApiVersions gave %d", resp.ErrorCode)
	}
}

func batchOf(values ...string) []byte {
	b := record.NewBuilder(record.CodecNone)
	for _, v := range values {
		if err := b.Append(1000, nil, []byte(v), nil); err != nil {
			panic(err)
		}
	}
	return b.Finish(record.NoProducerID, record.NoEpoch, record.NoSequence, false)
}

func produceOf(version, acks int16, topic string, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 5000
	t := kmsg.ProduceRequestTopic{Topic: topic}
	for i, b := range batches {
		t.Partitions = append(t.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i), Records: b})
	}
	req.Topics = []kmsg.ProduceRequestTopic{t}
	return req
}

type fakeLog struct {
	produce func(partition.ProduceRequest, func(partition.ProduceResult, error))
	fetch   func(context.Context, partition.FetchRequest) []partition.FetchedPartition
	list    func(record.TopicPartition, int64) (partition.ListedOffset, error)
	end     func(record.TopicPartition, int32, int32) (int32, record.Offset, error)
	// describe is asked for producers.
	describe func(record.TopicPartition, int) ([]producer.Description, bool, error)
}

var errFake = &partition.Error{Code: partition.CodeNotLeader, Message: "fake"}

func (f *fakeLog) Limits(record.TopicPartition) (record.Limits, error) {
	return record.Limits{MaxBatchBytes: 1 << 20}, nil
}
func (f *fakeLog) LogStart(record.TopicPartition) record.Offset { return 3 }
func (f *fakeLog) Produce(req partition.ProduceRequest, done func(partition.ProduceResult, error)) {
	if f.produce == nil {
		done(partition.ProduceResult{BaseOffset: -1, LogStart: -1, LogAppendTime: -1}, errFake)
		return
	}
	f.produce(req, done)
}
func (f *fakeLog) Fetch(ctx context.Context, req partition.FetchRequest) []partition.FetchedPartition {
	if f.fetch != nil {
		return f.fetch(ctx, req)
	}
	var list []partition.FetchedPartition
	for _, q := range req.Partitions {
		list = append(list, partition.FetchedPartition{TopicPartition: q.TopicPartition, Err: errFake, HighWatermark: -1, LastStable: -1, LogStart: -1})
	}
	return list
}
func (f *fakeLog) ListOffsets(_ context.Context, tp record.TopicPartition, ts int64, _ bool) (partition.ListedOffset, error) {
	if f.list == nil {
		return partition.ListedOffset{}, errFake
	}
	return f.list(tp, ts)
}
func (f *fakeLog) EpochEnd(_ context.Context, tp record.TopicPartition, current, epoch int32) (int32, record.Offset, error) {
	if f.end == nil {
		return -1, -1, errFake
	}
	return f.end(tp, current, epoch)
}
func (f *fakeLog) CheckEpoch(record.TopicPartition, int32) error { return nil }
func (f *fakeLog) DescribeProducers(_ context.Context, tp record.TopicPartition, _ []record.ProducerID, limit int) ([]producer.Description, bool, error) {
	if f.describe == nil {
		return nil, false, errFake
	}
	return f.describe(tp, limit)
}

type fakeReplicas struct{}

func (fakeReplicas) Groups() []partition.GroupStatus { return nil }
func (fakeReplicas) DeleteRecords(context.Context, record.TopicPartition, record.Offset) (record.Offset, error) {
	return -1, errFake
}

type fakeCluster struct {
	// image, leaders and hand are what a test sets; nothing is there else.
	image   *metadata.Image
	leaders map[metadata.GroupID]int32
	dead    map[int32]bool
	// first is called for the wait for first leaders.
	first    func(context.Context, []metadata.GroupID)
	hand     func(tp record.TopicPartition, from, to int32) error
	reassign func(topic string, list []Reassignment, factor int32) error
	cancel   func(topic string, partitions []int32) error
}

var errNoCluster = &metadata.Error{Code: metadata.PolicyViolation, Message: "fake"}

func (*fakeCluster) Self() int32 { return 1 }
func (*fakeCluster) Quorum(context.Context) (cluster.Quorum, error) {
	heard := time.UnixMilli(1_700_000_000_000)
	return cluster.Quorum{Leader: 1, Term: 5, Commit: 8, Members: []raftgroup.Member{
		{ID: "1/1", Voter: true, LastIndex: 9, Heard: heard, Level: heard}, {ID: "2/2", Voter: true, LastIndex: 7, Heard: heard}, {ID: "3/3"}}}, nil
}
func (f *fakeCluster) Image() *metadata.Image {
	if f.image != nil {
		return f.image
	}
	return metadata.NewState().Image()
}
func (f *fakeCluster) Leader(g metadata.GroupID) (partition.Leader, bool) {
	id, ok := f.leaders[g]
	return partition.Leader{Broker: id, Epoch: 1}, ok
}
func (f *fakeCluster) AwaitFirstLeaders(ctx context.Context, groups []metadata.GroupID) {
	if f.first != nil {
		f.first(ctx, groups)
	}
}
func (f *fakeCluster) Alive(id int32) bool { return !f.dead[id] }
func (*fakeCluster) Controller() int32     { return 1 }
func (f *fakeCluster) HandOver(_ context.Context, tp record.TopicPartition, from, to int32) error {
	if f.hand == nil {
		return errFake
	}
	return f.hand(tp, from, to)
}
func (f *fakeCluster) Reassign(_ context.Context, topic string, list []Reassignment, factor int32) (*metadata.Topic, error) {
	if f.reassign == nil {
		return nil, errNoCluster
	}
	return nil, f.reassign(topic, list, factor)
}
func (f *fakeCluster) CancelReassignments(_ context.Context, topic string, partitions []int32) (*metadata.Topic, error) {
	if f.cancel == nil {
		return nil, errNoCluster
	}
	return nil, f.cancel(topic, partitions)
}
func (*fakeCluster) CreateTopic(context.Context, NewTopic) (*metadata.Topic, error) {
	return nil, errNoCluster
}
func (*fakeCluster) AlterTopic(context.Context, TopicChange) (*metadata.Topic, error) {
	return nil, errNoCluster
}
func (*fakeCluster) AlterAccess(context.Context, cluster.AccessChange) error   { return errNoCluster }
func (*fakeCluster) DeleteTopic(context.Context, string) error                 { return errNoCluster }
func (*fakeCluster) TopicReady(context.Context, string) error                  { return errNoCluster }
func (*fakeCluster) NextProducerID(context.Context) (record.ProducerID, error) { return 7, nil }

type fakeTransactions struct {
	init func(coordinator.InitRequest) (coordinator.Producer, error)
	add  func(coordinator.AddRequest) error
	end  func(coordinator.EndRequest) (coordinator.Producer, error)
	find func(coordinator.Kind, string) (int32, error)
	// listed are those that there are; nil: they cannot be asked for.
	listed []*txn.Transaction
}

var errNoTransactions = &coordinator.Error{Code: coordinator.CodeNotCoordinator, Message: "fake"}

func (f *fakeTransactions) InitProducer(_ context.Context, r coordinator.InitRequest) (coordinator.Producer, error) {
	if f.init == nil {
		return coordinator.NoProducer, errNoTransactions
	}
	return f.init(r)
}
func (f *fakeTransactions) AddPartitions(_ context.Context, r coordinator.AddRequest) error {
	if f.add == nil {
		return errNoTransactions
	}
	return f.add(r)
}
func (f *fakeTransactions) EndTransaction(_ context.Context, r coordinator.EndRequest) (coordinator.Producer, error) {
	if f.end == nil {
		return coordinator.NoProducer, errNoTransactions
	}
	return f.end(r)
}
func (f *fakeTransactions) List(_ context.Context, filter coordinator.TransactionFilter, _ int) (list []*txn.Transaction, _ bool, err error) {
	if f.listed == nil {
		return nil, false, errNoTransactions
	}
	for _, one := range f.listed {
		if filter.Pass(one) {
			list = append(list, one)
		}
	}
	return list, false, nil
}
func (f *fakeTransactions) Describe(context.Context, string) (*txn.Transaction, error) {
	return nil, errNoTransactions
}
func (f *fakeTransactions) Find(_ context.Context, k coordinator.Kind, name string) (int32, error) {
	if f.find != nil {
		return f.find(k, name)
	}
	return -1, errNoTransactions
}

type fakeGroups struct{ Groups }

func (fakeGroups) FetchOffsets(context.Context, coordinator.FetchRequest) ([]group.Fetched, error) {
	return nil, errNoTransactions
}
func (fakeGroups) CommitOffsets(context.Context, coordinator.CommitRequest) ([]coordinator.RefusedOffset, error) {
	return nil, errNoTransactions
}
func (fakeGroups) CommitInTransaction(context.Context, coordinator.TransactionalCommit) ([]coordinator.RefusedOffset, error) {
	return nil, errNoTransactions
}
func (fakeGroups) Heartbeat(context.Context, coordinator.MemberRequest) (coordinator.HeartbeatAnswer, error) {
	return coordinator.HeartbeatAnswer{}, errNoTransactions
}
func (fakeGroups) List(context.Context, coordinator.GroupFilter, int) ([]group.Description, bool, error) {
	return nil, false, errNoTransactions
}
func (fakeGroups) Describe(context.Context, string) (group.Description, error) {
	return group.Description{}, errNoTransactions
}
func (fakeGroups) Delete(context.Context, string) error { return errNoTransactions }
func (fakeGroups) DeleteOffsets(context.Context, string, []coordinator.WantedTopic) ([]string, error) {
	return nil, errNoTransactions
}

func (fakeGroups) JoinGroup(context.Context, coordinator.JoinRequest) (coordinator.JoinAnswer, error) {
	return coordinator.JoinAnswer{}, errNoTransactions
}
func (fakeGroups) SyncGroup(context.Context, coordinator.SyncRequest) (coordinator.SyncAnswer, error) {
	return coordinator.SyncAnswer{}, errNoTransactions
}
func (fakeGroups) ClassicHeartbeat(context.Context, string, group.Committer) error {
	return errNoTransactions
}
func (fakeGroups) LeaveGroup(context.Context, string, []classic.Leaving) ([]error, error) {
	return nil, errNoTransactions
}

type fakeMarkers struct{}

func (fakeMarkers) Write(_ context.Context, list []coordinator.Marker) []coordinator.MarkerResult {
	results := make([]coordinator.MarkerResult, len(list))
	for i, m := range list {
		results[i].State = coordinator.MarkerWritten
		if m.Partition == 7 {
			results[i].State = coordinator.MarkerCoordinatorFenced
		}
	}
	return results
}
