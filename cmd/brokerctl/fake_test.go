package main

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/test/bufconn"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/record"
)

// fakeCluster is three brokers that answer from one memory, with fixed ids, times and offsets, so
// that what brokerctl prints can be compared byte by byte. All addresses lead to one server.
type fakeCluster struct {
	// listeners are what brokers advertise beside what brokerNames says.
	listeners map[int32][]client.Listener
	clientv1.UnimplementedLogServiceServer
	clientv1.UnimplementedAdminServiceServer
	clientv1.UnimplementedTransactionServiceServer
	clientv1.UnimplementedGroupServiceServer
	lis *bufconn.Listener

	mu     sync.Mutex // guards what follows
	topics map[string]*fakeTopic
	made   int
	dead   map[int32]bool // brokers that nobody hears of
	silent map[string]bool
	// refuse, by topic, is what every batch is answered with.
	refuse    map[string]*clientv1.Error
	twice     bool   // every batch is stored twice
	problem   string // of broker 3's replica of the first partition
	checksums map[int32]uint32
	groups    map[string]*fakeGroup
	draining  map[int32]bool
	txns      map[string]*clientv1.Transaction
	listed    int
	full      bool   // every disk is, and hangs
	hasty     string // the transaction that ends just before it is aborted
}

type fakeTopic struct {
	id      string
	configs map[string]string
	logs    []*fakeLog
}

type fakeLog struct {
	leader int32
	// replicas: nil for brokers 1 to 3. target: where it is going.
	replicas, target []int32
	batches          []record.Batch
	end              int64
	states           []*clientv1.ProducerState
	aborted          []*clientv1.AbortedTransaction
}

var brokerNames = map[int32]string{1: "b1.example:9095", 2: "b2.example:9095", 3: "b3.example:9095"}

func startFake(t *testing.T) *fakeCluster {
	f := &fakeCluster{
		lis: bufconn.Listen(1 << 20), topics: map[string]*fakeTopic{}, dead: map[int32]bool{}, silent: map[string]bool{},
		refuse: map[string]*clientv1.Error{}, checksums: map[int32]uint32{}, groups: map[string]*fakeGroup{}, draining: map[int32]bool{}, txns: map[string]*clientv1.Transaction{},
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(clientv1.Codec{}))
	clientv1.RegisterLogServiceServer(srv, f)
	clientv1.RegisterAdminServiceServer(srv, f)
	clientv1.RegisterTransactionServiceServer(srv, f)
	clientv1.RegisterGroupServiceServer(srv, f)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(f.lis) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return f
}

func (f *fakeCluster) dial(ctx context.Context, addr string) (net.Conn, error) {
	f.mu.Lock()
	silent := f.silent[addr]
	f.mu.Unlock()
	if silent || !slices.Contains(slices.Collect(maps.Values(brokerNames)), addr) {
		return nil, errors.New("connection refused")
	}
	return f.lis.DialContext(ctx)
}

// run executes a command line and gives what it printed and its exit code.
func (f *fakeCluster) run(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs lockedBuffer
	p := &program{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, dialer: f.dial, clock: func() time.Time { return fakeNow },
		environ: func(name string) string {
			return map[string]string{"BROKERCTL_BOOTSTRAP": "b1.example:9095,b2.example:9095"}[name]
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code = p.run(ctx, args)
	return out.String(), errs.String(), code
}

// lockedBuffer is a buffer that progress and results may write to at once.
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

func refusal(reason string, code codes.Code, message string, retriable bool) error {
	return clientv1.ToStatus(&clientv1.Error{
		Reason: reason, Message: message, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: retriable,
	}, code, 0).Err()
}

func (f *fakeCluster) proto(name string) *clientv1.Topic {
	t := f.topics[name]
	if t == nil {
		return &clientv1.Topic{Name: name, Error: &clientv1.Error{
			Reason: "UNKNOWN_TOPIC_OR_PARTITION", Message: "no topic " + name, Outcome: clientv1.Outcome_OUTCOME_DID_NOT_HAPPEN, Retriable: true,
		}}
	}
	out := &clientv1.Topic{Name: name, TopicId: t.id}
	for i, l := range t.logs {
		p := &clientv1.Partition{Partition: int32(i), Leader: l.leader, LeaderEpoch: 4, GroupId: uint64(1000 + i)}
		l.move(p)
		out.Partitions = append(out.Partitions, p)
	}
	return out
}

func (f *fakeCluster) GetMetadata(_ context.Context, req *clientv1.GetMetadataRequest) (*clientv1.GetMetadataResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &clientv1.GetMetadataResponse{ClusterId: "fake-cluster", ControllerId: 2, FeatureLevel: 1}
	for _, id := range slices.Sorted(maps.Keys(brokerNames)) {
		resp.Brokers = append(resp.Brokers, &clientv1.Broker{
			BrokerId: id, Address: brokerNames[id], Alive: !f.dead[id], Version: "v0.1.0", Draining: f.draining[id], Rack: map[int32]string{3: "west"}[id],
		})
		for _, l := range f.listeners[id] {
			b := resp.Brokers[len(resp.Brokers)-1]
			b.Listeners = append(b.Listeners, &clientv1.Listener{Name: l.Name, Address: l.Address, Protocol: l.Protocol})
		}
	}
	names := req.Topics
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(f.topics))
	}
	for _, name := range names {
		resp.Topics = append(resp.Topics, f.proto(name))
	}
	return resp, nil
}

func (f *fakeCluster) CreateTopic(_ context.Context, req *clientv1.CreateTopicRequest) (*clientv1.CreateTopicResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topics[req.Name] != nil {
		return nil, refusal("TOPIC_ALREADY_EXISTS", codes.AlreadyExists, "topic "+req.Name+" exists", false)
	}
	if req.ReplicationFactor > 3 {
		return nil, refusal("INVALID_REPLICATION_FACTOR", codes.InvalidArgument, "replication factor 5, the cluster has 3 brokers", false)
	}
	f.made++
	t := &fakeTopic{id: strings.Repeat("0", 31) + string(rune('0'+f.made)), configs: map[string]string{}}
	maps.Copy(t.configs, req.Configs)
	for i := range max(req.Partitions, 1) {
		t.logs = append(t.logs, &fakeLog{leader: i%3 + 1})
	}
	f.topics[req.Name] = t
	out := f.proto(req.Name)
	if req.ValidateOnly {
		delete(f.topics, req.Name)
	}
	return &clientv1.CreateTopicResponse{Topic: out}, nil
}

func (f *fakeCluster) AlterTopic(_ context.Context, req *clientv1.AlterTopicRequest) (*clientv1.AlterTopicResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[req.Name]
	if _, bad := req.SetConfigs["retention.mss"]; bad {
		return nil, refusal("INVALID_CONFIG", codes.InvalidArgument, "unknown setting retention.mss, did you mean retention.ms?", false)
	}
	maps.Copy(t.configs, req.SetConfigs)
	for int(req.Partitions) > len(t.logs) {
		t.logs = append(t.logs, &fakeLog{leader: int32(len(t.logs))%3 + 1})
	}
	return &clientv1.AlterTopicResponse{Topic: f.proto(req.Name)}, nil
}

func (f *fakeCluster) DeleteTopic(_ context.Context, req *clientv1.DeleteTopicRequest) (*clientv1.DeleteTopicResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.topics, req.Name)
	return &clientv1.DeleteTopicResponse{}, nil
}

func (f *fakeCluster) DescribeTopic(_ context.Context, req *clientv1.DescribeTopicRequest) (*clientv1.DescribeTopicResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[req.Name]
	if t == nil {
		return nil, refusal("UNKNOWN_TOPIC_OR_PARTITION", codes.NotFound, "no topic "+req.Name, true)
	}
	resp := &clientv1.DescribeTopicResponse{Topic: f.proto(req.Name)}
	for _, c := range [][3]string{
		{"retention.ms", "604800000", "How long records are kept, in ms; -1 keeps them for ever. Whole segments are dropped when all of their records are older."},
		{"cleanup.policy", "delete", "What happens to old records."},
	} {
		v, set := t.configs[c[0]]
		if !set {
			v = c[1]
		}
		resp.Configs = append(resp.Configs, &clientv1.ConfigEntry{Name: c[0], Value: v, Explicit: set, Documentation: c[2]})
	}
	return resp, nil
}

func (f *fakeCluster) log(topic string, p int32) *fakeLog {
	t := f.topics[topic]
	if t == nil || int(p) >= len(t.logs) {
		return nil
	}
	return t.logs[p]
}

func (f *fakeCluster) InitProducerId(context.Context, *clientv1.InitProducerIdRequest) (*clientv1.InitProducerIdResponse, error) {
	return &clientv1.InitProducerIdResponse{ProducerId: 4001}, nil
}

func (f *fakeCluster) Produce(stream grpc.BidiStreamingServer[clientv1.ProduceRequest, clientv1.ProduceResponse]) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil
		}
		resp := &clientv1.ProduceResponse{RequestId: req.RequestId, BaseOffset: -1, LogStartOffset: -1, LogAppendTimeMs: -1}
		f.mu.Lock()
		l := f.log(req.Topic, req.Partition)
		if resp.Error = f.refuse[req.Topic]; resp.Error == nil && l != nil {
			b := record.Batch(slices.Clone(req.Batch))
			resp.BaseOffset = l.end
			b.SetBaseOffset(record.Offset(l.end))
			l.end += int64(b.Count())
			l.batches = append(l.batches, b)
			if f.twice {
				again := record.Batch(slices.Clone(req.Batch))
				again.SetBaseOffset(record.Offset(l.end))
				l.end += int64(b.Count())
				l.batches = append(l.batches, again)
			}
		}
		f.mu.Unlock()
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func (f *fakeCluster) Fetch(ctx context.Context, req *clientv1.FetchRequest) (*clientv1.FetchResponse, error) {
	f.mu.Lock()
	resp := &clientv1.FetchResponse{}
	n := 0
	for _, fp := range req.Partitions {
		l := f.log(fp.Topic, fp.Partition)
		if l == nil {
			resp.Partitions = append(resp.Partitions, &clientv1.FetchedPartition{Topic: fp.Topic, Partition: fp.Partition, Error: f.proto("").Error})
			continue
		}
		out := &clientv1.FetchedPartition{Topic: fp.Topic, Partition: fp.Partition, HighWatermark: l.end, LastStableOffset: l.stable(), Aborted: l.aborted}
		end := l.end
		if req.IsolationLevel == clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED {
			end = l.stable()
		}
		for _, b := range l.batches {
			if last := int64(b.LastOffset()); last >= fp.Offset && last < end {
				out.Batches = append(out.Batches, slices.Clone(b))
				n += len(b)
			}
		}
		resp.Partitions = append(resp.Partitions, out)
	}
	f.mu.Unlock()
	if n == 0 {
		select {
		case <-time.After(time.Duration(req.MaxWaitMs) * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return resp, nil
}

func (f *fakeCluster) ListOffsets(_ context.Context, req *clientv1.ListOffsetsRequest) (*clientv1.ListOffsetsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &clientv1.ListOffsetsResponse{}
	for _, p := range req.Partitions {
		out := &clientv1.ListedOffset{Topic: p.Topic, Partition: p.Partition, TimestampMs: -1}
		l := f.log(p.Topic, p.Partition)
		switch p.TimestampMs {
		case -2:
		case -1:
			out.Offset = l.end
			if req.IsolationLevel == clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED {
				out.Offset = l.stable()
			}
		default:
			out.Offset = -1
			for _, b := range l.batches {
				if found, ok, err := b.FirstAtOrAfter(p.TimestampMs, 0, 0); err == nil && ok {
					out.Offset = int64(found.Offset)
					break
				}
			}
		}
		resp.Partitions = append(resp.Partitions, out)
	}
	return resp, nil
}

func (f *fakeCluster) DescribeProducers(_ context.Context, req *clientv1.DescribeProducersRequest) (*clientv1.DescribeProducersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &clientv1.DescribeProducersResponse{}
	for _, s := range f.log(req.Topic, req.Partition).states {
		if len(req.ProducerIds) == 0 || slices.Contains(req.ProducerIds, s.ProducerId) {
			resp.Producers = append(resp.Producers, s)
		}
	}
	return resp, nil
}

func (f *fakeCluster) ListRaftGroups(context.Context, *clientv1.ListRaftGroupsRequest) (*clientv1.ListRaftGroupsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &clientv1.ListRaftGroupsResponse{Groups: []*clientv1.RaftGroup{
		{GroupId: 1, Name: "metadata", Role: "follower", Term: 7, CommitIndex: 120, AppliedIndex: 120, LogStartOffset: -1, HighWatermark: -1, LastStableOffset: -1},
		{GroupId: 1000, Name: "orders/0", Role: "leader", Term: 4, CommitIndex: 93, AppliedIndex: 93, HighWatermark: 12345, LogBytes: 5 << 20, Producers: 2, Ready: true},
	}}
	if f.problem != "" {
		resp.Groups = append(resp.Groups, &clientv1.RaftGroup{GroupId: 1001, Name: "orders/1", Role: "quarantined", Problem: f.problem})
	}
	return resp, nil
}

func (f *fakeCluster) TransferLeadership(_ context.Context, req *clientv1.TransferLeadershipRequest) (*clientv1.TransferLeadershipResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log(req.Topic, req.Partition).leader = req.GetToBroker()
	return &clientv1.TransferLeadershipResponse{}, nil
}

func (f *fakeCluster) DeleteRecords(_ context.Context, req *clientv1.DeleteRecordsRequest) (*clientv1.DeleteRecordsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	start := req.GetBeforeOffset()
	if start < 0 {
		start = f.log(req.Topic, req.Partition).end
	}
	return &clientv1.DeleteRecordsResponse{LogStartOffset: start}, nil
}

// GetChecksums answers for brokers in turn, since all are one server.
func (f *fakeCluster) GetChecksums(_ context.Context, req *clientv1.GetChecksumsRequest) (*clientv1.GetChecksumsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &clientv1.GetChecksumsResponse{UpTo: f.log(req.Topic, req.Partition).end, Crc32C: f.checksums[req.Partition], Batches: 3}, nil
}
