package api

import (
	"context"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/oncelog/oncelog/api/proto/client/v1"
	"github.com/oncelog/oncelog/cluster/metadata"
	"github.com/oncelog/oncelog/coordinator"
	"github.com/oncelog/oncelog/internal/frontdoor"
	"github.com/oncelog/oncelog/internal/raftgroup"
	"github.com/oncelog/oncelog/partition"
	"github.com/oncelog/oncelog/partition/producer"
	"github.com/oncelog/oncelog/record"
)

func TestMetadata(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.leaders[r.cluster.group("t", 1)] = partition.Leader{Broker: 2, Epoch: 7}
	all, err := r.admin.GetMetadata(r.ctx(), &clientv1.GetMetadataRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if all.ClusterId != "fake" || all.ControllerId != 1 || all.FeatureLevel != uint32(metadata.BaseLevel) || len(all.Brokers) != 3 || len(all.Topics) != 2 {
		t.Fatalf("metadata %v", all)
	}
	if b := all.Brokers[1]; b.BrokerId != 1 || b.Address != "b.example:9095" || b.PeerAddress != "b.example:9093" || b.HttpAddress != "b.example:9644" || b.Rack != "rb" || b.Version != "v0" || !b.Alive || all.Brokers[2].Alive {
		t.Errorf("broker %v", b)
	}
	external, err := clientv1.NewAdminServiceClient(r.dial(r.serve("external"))).GetMetadata(r.ctx(), &clientv1.GetMetadataRequest{Topics: []string{"t", "gone", "t", "b/d", "t"}})
	if err != nil {
		t.Fatal(err)
	}
	if external.Brokers[1].Address != "b.public:19095" {
		t.Errorf("the external listener tells address %s", external.Brokers[1].Address)
	}
	topics := external.Topics
	if len(topics) != 3 || topics[1].Error.GetReason() != reasonUnknownTopic || topics[1].Name != "gone" || topics[2].Error.GetReason() != "INVALID_TOPIC_EXCEPTION" {
		t.Fatalf("topics %v", topics)
	}
	known := topics[0]
	if known.Name != "t" || len(known.TopicId) != 32 || len(known.Partitions) != 2 || known.Error != nil {
		t.Fatalf("topic %v", known)
	}
	if p := known.Partitions[0]; p.Partition != 0 || p.Leader != -1 || p.LeaderEpoch != -1 || !reflect.DeepEqual(p.Replicas, []int32{0, 1, 2}) {
		t.Errorf("partition without a leader: %v", p)
	}
	if p := known.Partitions[1]; p.Leader != 2 || p.LeaderEpoch != 7 || p.GroupId != uint64(r.cluster.group("t", 1)) {
		t.Errorf("partition with a leader: %v", p)
	}
}

func TestTopicCalls(t *testing.T) {
	r := newRig(t, nil)
	topic, _ := r.cluster.img.Topic("t")
	var created NewTopic
	var changed TopicChange
	var waited string
	r.cluster.create = func(n NewTopic) (*metadata.Topic, error) { created = n; return topic, nil }
	r.cluster.alter = func(n TopicChange) (*metadata.Topic, error) { changed = n; return topic, nil }
	r.cluster.ready = func(_ context.Context, name string) error { waited = name; return nil }
	r.cluster.remove = func(name string) error {
		return &metadata.Error{Code: metadata.UnknownTopicOrPartition, Message: "no " + name}
	}
	answer, err := r.admin.CreateTopic(r.ctx(), &clientv1.CreateTopicRequest{Name: "t", Partitions: 2, ReplicationFactor: 3,
		Configs: map[string]string{"retention.ms": "5"}, WaitReadyMs: 1000})
	if err != nil || answer.Topic.GetName() != "t" || len(answer.Topic.Partitions) != 2 || waited != "t" {
		t.Fatalf("created %v, %v, waited for %q", answer, err, waited)
	}
	if want := (NewTopic{Name: "t", Partitions: 2, ReplicationFactor: 3, Configs: map[string]string{"retention.ms": "5"}}); !reflect.DeepEqual(created, want) {
		t.Errorf("asked for %+v", created)
	}
	waited = ""
	if _, err := r.admin.CreateTopic(r.ctx(), &clientv1.CreateTopicRequest{Name: "t", ValidateOnly: true, WaitReadyMs: 1000}); err != nil || waited != "" || !created.ValidateOnly {
		t.Errorf("validated: %v, waited for %q", err, waited)
	}
	if _, err := r.admin.AlterTopic(r.ctx(), &clientv1.AlterTopicRequest{Name: "t", Partitions: 4, SetConfigs: map[string]string{"a": "b"}, UnsetConfigs: []string{"c"}, ValidateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if want := (TopicChange{Name: "t", Partitions: 4, Set: map[string]string{"a": "b"}, Unset: []string{"c"}, ValidateOnly: true}); !reflect.DeepEqual(changed, want) {
		t.Errorf("asked for %+v", changed)
	}
	_, err = r.admin.DeleteTopic(r.ctx(), &clientv1.DeleteTopicRequest{Name: "t"})
	if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != reasonUnknownTopic || status.Code(err) != codes.NotFound {
		t.Errorf("delete failed with %v", err)
	}
	r.cluster.remove = func(string) error { return nil }
	if _, err := r.admin.DeleteTopic(r.ctx(), &clientv1.DeleteTopicRequest{Name: "t"}); err != nil {
		t.Error(err)
	}
	described, err := r.admin.DescribeTopic(r.ctx(), &clientv1.DescribeTopicRequest{Name: "t"})
	if err != nil || described.Topic.GetName() != "t" || len(described.Configs) < 10 {
		t.Fatalf("described %v, %v", described, err)
	}
	for _, c := range described.Configs {
		if c.Name == "" || c.Value == "" || c.Documentation == "" || c.Explicit {
			t.Errorf("config %v", c)
		}
	}
}

// A topic that was created and has no leader in time exists all the same, and the error says so.
func TestCreateTopicWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		topic, _ := r.cluster.img.Topic("t")
		r.cluster.create = func(NewTopic) (*metadata.Topic, error) { return topic, nil }
		r.cluster.ready = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		_, err := r.admin.CreateTopic(r.ctx(), &clientv1.CreateTopicRequest{Name: "t", WaitReadyMs: 1500})
		e, _, _ := clientv1.ErrorOf(err)
		if e.GetReason() != reasonTimedOut || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("failed with %v after %v", err, time.Since(start))
		}
		go func() {
			time.Sleep(time.Second)
			_ = r.server.Stop(context.Background())
		}()
		_, err = r.admin.CreateTopic(r.ctx(), &clientv1.CreateTopicRequest{Name: "t", WaitReadyMs: 60_000})
		if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != reasonStopping || e.Outcome != clientv1.Outcome_OUTCOME_MAY_HAVE_HAPPENED {
			t.Errorf("when the server stopped it failed with %v", err)
		}
	})
}

func TestRaftGroups(t *testing.T) {
	r := newRig(t, nil)
	spec := func(topic string, p int32, group raftgroup.GroupID) partition.ReplicaSpec {
		return partition.ReplicaSpec{TopicPartition: record.TopicPartition{Topic: topic, Partition: p}, Group: group}
	}
	r.replicas.groups = []partition.GroupStatus{
		{Spec: spec("orders", 0, 1002), Problem: "a bad frame", LogStart: -1, HighWater: -1, Stable: -1},
		{Spec: spec("t", 0, 1000), Raft: raftgroup.Status{ID: 1000, Role: raftgroup.RoleLeader, Term: 3, CommitIndex: 9, AppliedIndex: 8, LastIndex: 10, FirstIndex: 2, SnapshotIndex: 1,
			Leader: "0/5", Voters: []raftgroup.ServerID{"0/5", "1/6"}, Learners: []raftgroup.ServerID{"2/7"}, Ready: true}, LogStart: 1, HighWater: 100, Stable: 90, LogBytes: 5000, Producers: 3},
		{Spec: spec("t", 1, 1001), Raft: raftgroup.Status{ID: 1001, Role: raftgroup.RoleStopped, Problem: "disk"}, Problem: "disk"},
	}
	ask := func(req *clientv1.ListRaftGroupsRequest) []*clientv1.RaftGroup {
		t.Helper()
		a, err := r.admin.ListRaftGroups(r.ctx(), req)
		if err != nil {
			t.Fatal(err)
		}
		return a.Groups
	}
	all := ask(&clientv1.ListRaftGroupsRequest{})
	if len(all) != 4 || all[0].Name != "metadata" || all[0].GroupId != 1 || all[0].Leader != "1/2" || all[0].HighWatermark != -1 {
		t.Fatalf("groups %v", all)
	}
	if g := all[1]; g.Name != "orders/0" || g.Role != "quarantined" || g.Problem != "a bad frame" || g.GroupId != 1002 || g.HighWatermark != -1 {
		t.Errorf("quarantined %v", g)
	}
	want := &clientv1.RaftGroup{GroupId: 1000, Name: "t/0", Role: "leader", Term: 3, CommitIndex: 9, AppliedIndex: 8, LastIndex: 10, FirstIndex: 2, SnapshotIndex: 1,
		Leader: "0/5", Voters: []string{"0/5", "1/6"}, Learners: []string{"2/7"}, Ready: true, LogStartOffset: 1, HighWatermark: 100, LastStableOffset: 90, LogBytes: 5000, Producers: 3}
	if !proto.Equal(all[2], want) {
		t.Errorf("group %v, want %v", all[2], want)
	}
	if g := all[3]; g.Role != "stopped" || g.Problem != "disk" {
		t.Errorf("stopped %v", g)
	}
	r.transactions.shards = []coordinator.GroupStatus{{Spec: coordinator.Spec{Kind: coordinator.KindGroups, Number: 3, Group: 77}, Problem: "torn"}}
	if g := ask(&clientv1.ListRaftGroupsRequest{Topic: "__consumer_offsets", Partition: proto.Int32(3)}); len(g) != 1 || g[0].Name != "__consumer_offsets/3" || g[0].GroupId != 77 ||
		g[0].Role != "quarantined" || g[0].Problem != "torn" || g[0].HighWatermark != -1 {
		t.Errorf("shards: %v", g)
	}
	if g := ask(&clientv1.ListRaftGroupsRequest{Topic: "t"}); len(g) != 2 || g[0].Name != "t/0" {
		t.Errorf("groups of t: %v", g)
	}
	if g := ask(&clientv1.ListRaftGroupsRequest{Topic: "t", Partition: proto.Int32(1)}); len(g) != 1 || g[0].Name != "t/1" {
		t.Errorf("groups of t/1: %v", g)
	}
}

func TestTransferAndChecksums(t *testing.T) {
	r := newRig(t, nil)
	var to []int32
	r.replicas.transfer = func(tp record.TopicPartition, broker int32) error {
		to = append(to, broker)
		if tp.Topic == "gone" {
			return &partition.Error{Code: partition.CodeNotLeader, Message: "no replica", Outcome: raftgroup.DidNotHappen}
		}
		return nil
	}
	for _, b := range []*int32{nil, proto.Int32(-1), proto.Int32(2)} {
		if _, err := r.admin.TransferLeadership(r.ctx(), &clientv1.TransferLeadershipRequest{Topic: "t", ToBroker: b}); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(to, []int32{-1, -1, 2}) {
		t.Errorf("asked to transfer to %v", to)
	}
	_, err := r.admin.TransferLeadership(r.ctx(), &clientv1.TransferLeadershipRequest{Topic: "gone"})
	if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != reasonUnknownTopic {
		t.Errorf("transfer of an unknown topic failed with %v", err)
	}
	r.replicas.checksums = func(_ record.TopicPartition, upTo record.Offset) (partition.Checksum, error) {
		return partition.Checksum{From: 2, UpTo: upTo, CRC32C: 0xdeadbeef, Batches: 4}, nil
	}
	sum, err := r.admin.GetChecksums(r.ctx(), &clientv1.GetChecksumsRequest{Topic: "t", UpTo: proto.Int64(50)})
	if err != nil || sum.From != 2 || sum.UpTo != 50 || sum.Crc32C != 0xdeadbeef || sum.Batches != 4 {
		t.Errorf("checksum %v, %v", sum, err)
	}
	if sum, err := r.admin.GetChecksums(r.ctx(), &clientv1.GetChecksumsRequest{Topic: "t"}); err != nil || sum.UpTo != -1 {
		t.Errorf("checksum of all: asked up to %v, %v", sum, err)
	}
}

func TestDeleteRecords(t *testing.T) {
	r := newRig(t, nil)
	r.replicas.deleteRecords = func(tp record.TopicPartition, before record.Offset) (record.Offset, error) {
		if tp.Topic == "orders" {
			return record.NoOffset, &partition.Error{Code: partition.CodePolicyViolation, Message: "compacted"}
		}
		return before + 5, nil
	}
	got, err := r.admin.DeleteRecords(r.ctx(), &clientv1.DeleteRecordsRequest{Topic: "t", BeforeOffset: proto.Int64(50)})
	if err != nil || got.LogStartOffset != 55 {
		t.Errorf("delete before 50: %v, %v", got, err)
	}
	_, err = r.admin.DeleteRecords(r.ctx(), &clientv1.DeleteRecordsRequest{Topic: "orders", BeforeOffset: proto.Int64(-1)})
	if e, _, _ := clientv1.ErrorOf(err); e.GetReason() != "POLICY_VIOLATION" {
		t.Errorf("delete from a compacted topic: %v", err)
	}
}

func TestProducerCalls(t *testing.T) {
	r := newRig(t, nil)
	r.cluster.nextID = func(context.Context) (record.ProducerID, error) { return 4711, nil }
	id, err := r.client.InitProducerId(r.ctx(), &clientv1.InitProducerIdRequest{})
	if err != nil || id.ProducerId != 4711 || id.ProducerEpoch != 0 {
		t.Errorf("producer id %v, %v", id, err)
	}
	var asked []record.ProducerID
	r.log.describeProducers = func(tp record.TopicPartition, ids []record.ProducerID, limit int) ([]producer.Description, bool, error) {
		asked = ids
		if tp.String() != "t/1" || limit != maxProducers {
			t.Errorf("asked for %s, at most %d", tp, limit)
		}
		return []producer.Description{{ProducerID: 5, Epoch: 2, CoordinatorEpoch: -1, LastTimestamp: 99, OpenFrom: -1, LastSequence: 7,
			Batches: []producer.BatchDescription{{FirstSequence: 6, LastSequence: 7, FirstOffset: 10, LastOffset: 11, Timestamp: 98}}}}, true, nil
	}
	answer, err := r.client.DescribeProducers(r.ctx(), &clientv1.DescribeProducersRequest{Topic: "t", Partition: 1, ProducerIds: []int64{5, 6}})
	if err != nil || !reflect.DeepEqual(asked, []record.ProducerID{5, 6}) || !answer.Truncated || len(answer.Producers) != 1 {
		t.Fatalf("answer %v, %v, asked for %v", answer, err, asked)
	}
	want := &clientv1.ProducerState{ProducerId: 5, ProducerEpoch: 2, LastSequence: 7, LastTimestampMs: 99, CoordinatorEpoch: -1, TxnStartOffset: -1,
		Batches: []*clientv1.ProducerBatch{{BaseSequence: 6, LastSequence: 7, BaseOffset: 10, LastOffset: 11, TimestampMs: 98}}}
	if !proto.Equal(answer.Producers[0], want) {
		t.Errorf("producer %v, want %v", answer.Producers[0], want)
	}
}

func TestListOffsets(t *testing.T) {
	r := newRig(t, nil)
	r.log.listOffsets = func(_ context.Context, tp record.TopicPartition, ts int64, committed bool) (partition.ListedOffset, error) {
		if !committed {
			t.Error("asked for uncommitted data")
		}
		if tp.Topic == "orders" {
			return partition.ListedOffset{}, &partition.Error{Code: partition.CodeOffsetNotAvailable, Outcome: raftgroup.DidNotHappen}
		}
		return partition.ListedOffset{Offset: record.Offset(100 + tp.Partition), Timestamp: ts, LeaderEpoch: 4}, nil
	}
	req := &clientv1.ListOffsetsRequest{IsolationLevel: clientv1.IsolationLevel_ISOLATION_LEVEL_READ_COMMITTED}
	for p := range int32(40) {
		req.Partitions = append(req.Partitions, &clientv1.ListOffsetsPartition{Topic: "t", Partition: p, TimestampMs: int64(p) - 3})
	}
	req.Partitions = append(req.Partitions, &clientv1.ListOffsetsPartition{Topic: "orders"}, &clientv1.ListOffsetsPartition{Topic: "t", Partition: 50, TimestampMs: -4},
		&clientv1.ListOffsetsPartition{Topic: "twice"}, &clientv1.ListOffsetsPartition{Topic: "twice", TimestampMs: -1}, nil)
	answer, err := r.client.ListOffsets(r.ctx(), req)
	if err != nil || len(answer.Partitions) != 45 {
		t.Fatalf("answer %v, %v", answer, err)
	}
	for i, p := range answer.Partitions[:40] {
		if p.Topic != "t" || p.Partition != int32(i) || p.Offset != int64(100+i) || p.TimestampMs != int64(i)-3 || p.LeaderEpoch != 4 || p.Error != nil {
			t.Errorf("partition %d: %v", i, p)
		}
	}
	for i, reason := range []string{"OFFSET_NOT_AVAILABLE", reasonInvalidRequest, reasonInvalidRequest, reasonInvalidRequest, "INVALID_TOPIC_EXCEPTION"} {
		if p := answer.Partitions[40+i]; p.Error.GetReason() != reason || p.Offset != -1 || p.TimestampMs != -1 || p.LeaderEpoch != -1 {
			t.Errorf("partition %d: %v, want %s", 40+i, p, reason)
		}
	}
}

// SERVING follows what the broker says, for those who ask and those who watch, and ends with Stop.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Health.(*fakeHealth).set(false) })
		health := healthpb.NewHealthClient(r.conn)
		check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			synctest.Wait()
			a, err := health.Check(r.ctx(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || a.Status != want {
				t.Errorf("health of %q: %v, %v; want %v", service, a, err, want)
			}
		}
		watch, err := health.Watch(r.ctx(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next := func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			if a, err := watch.Recv(); err != nil || a.Status != want {
				t.Errorf("watch gave %v, %v; want %v", a, err, want)
			}
		}
		next(healthpb.HealthCheckResponse_NOT_SERVING)
		check("", healthpb.HealthCheckResponse_NOT_SERVING)
		r.health.set(true)
		next(healthpb.HealthCheckResponse_SERVING)
		for _, service := range []string{"", "oncelog.client.v1.LogService", "oncelog.client.v1.AdminService"} {
			check(service, healthpb.HealthCheckResponse_SERVING)
		}
		r.health.set(false)
		next(healthpb.HealthCheckResponse_NOT_SERVING)
		r.health.set(true)
		next(healthpb.HealthCheckResponse_SERVING)
		stopped := make(chan error, 1)
		go func() { stopped <- r.server.Stop(context.Background()) }()
		// The watch may see the last change or only its own end, but it must not keep Stop waiting.
		for {
			if _, err := watch.Recv(); err != nil {
				break
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestReflection(t *testing.T) {
	for _, on := range []bool{true, false} {
		r := newRig(t, func(c *Config) { c.Reflection = on })
		s, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(r.ctx())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		a, err := s.Recv()
		if !on {
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("reflection that is off gave %v, %v", a, err)
			}
			continue
		}
		names := map[string]bool{}
		for _, svc := range a.GetListServicesResponse().GetService() {
			names[svc.Name] = true
		}
		if err != nil || !names["oncelog.client.v1.LogService"] || !names["oncelog.client.v1.AdminService"] || !names["grpc.health.v1.Health"] {
			t.Errorf("services %v, %v", names, err)
		}
		_ = s.CloseSend()
	}
}

// Connections above the limit are closed at once, and there is room again when one ends.
func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Shared = frontdoor.NewShared(frontdoor.Limits{Connections: 2}) })
		ping := func(c clientv1.AdminServiceClient) error {
			ctx, cancel := context.WithTimeout(r.ctx(), time.Second)
			defer cancel()
			_, err := c.GetMetadata(ctx, &clientv1.GetMetadataRequest{})
			return err
		}
		second := r.dial(r.serve("external"))
		if err := errors.Join(ping(r.admin), ping(clientv1.NewAdminServiceClient(second))); err != nil {
			t.Fatal(err)
		}
		if got := r.metric(r.server.metrics.connections); got != 2 {
			t.Errorf("%v connections counted, want 2", got)
		}
		third := clientv1.NewAdminServiceClient(r.dial(r.listener))
		if err := ping(third); status.Code(err) != codes.Unavailable {
			t.Errorf("a third connection got %v, want UNAVAILABLE", err)
		}
		if got := r.metric(r.server.metrics.connectionsRefused); got < 1 {
			t.Error("no refusal was counted")
		}
		_ = second.Close()
		synctest.Wait()
		time.Sleep(20 * time.Second) // virtual: past the client's backoff
		if err := ping(third); err != nil {
			t.Errorf("after one had gone the third got %v", err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Log: &fakeLog{}, Replicas: &fakeReplicas{}, Cluster: newFakeCluster(t), Health: newFakeHealth(true), Self: newFakeCluster(t),
		Transactions: &fakeTransactions{}, Groups: &fakeGroups{}, Coordinators: &fakeTransactions{}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"Log":             func(c *Config) { c.Log = nil },
		"Replicas":        func(c *Config) { c.Replicas = nil },
		"Cluster":         func(c *Config) { c.Cluster = nil },
		"Health":          func(c *Config) { c.Health = nil },
		"Self":            func(c *Config) { c.Self = nil },
		"Transactions":    func(c *Config) { c.Transactions = nil },
		"Coordinators":    func(c *Config) { c.Coordinators = nil },
		"MaxMessageBytes": func(c *Config) { c.MaxMessageBytes = 65 << 20 },
		"StreamBytes":     func(c *Config) { c.StreamBytes = -1 },
		"StreamRequests":  func(c *Config) { c.StreamRequests = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("a bad %s was accepted", name)
		}
	}
}

func TestServeAfterStop(t *testing.T) {
	r := newRig(t, nil)
	if err := r.server.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	l := &closeCounter{Listener: r.listener}
	if err := r.server.Serve("late", l); !errors.Is(err, ErrStopped) || l.closed != 1 {
		t.Errorf("Serve after Stop: %v, closed %d times", err, l.closed)
	}
}
